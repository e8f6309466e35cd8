-- An undo that waits for a second person, like any other adjustment; its event may wait once at a time.
ALTER TABLE approval ADD COLUMN undoes bigint; -- event_id of the adjustment to take back; null: an adjustment of its own
CREATE UNIQUE INDEX approval_undo_waits_once ON approval (undoes) WHERE undoes IS NOT NULL AND status = 'PENDING';
