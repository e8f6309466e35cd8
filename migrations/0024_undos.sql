-- A count asks which adjustments of its items were taken back since. Undos are few, but a count has thousands of lines.
SET LOCAL lock_timeout = '2s';
CREATE INDEX adjustment_undo_by_item ON adjustment (sku_id, location_id) WHERE undoes IS NOT NULL;
