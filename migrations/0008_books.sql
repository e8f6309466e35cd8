-- Reading the ledger: by item, by place and kind, by order. Pages run along event_id, which the primary key serves where
-- nothing is filtered. New days inherit these; the builds lock out writers of the days that are there, for some seconds
-- per million events, so a large ledger is migrated while nothing is sold.

-- An item's events in the order in which they happened; also those of a SKU, location by location.
CREATE INDEX event_by_item ON inventory_event (sku_id, location_id, event_id);
-- A location's events of one kind; those of a location, kind by kind; those of a kind, location by location.
CREATE INDEX event_by_place ON inventory_event (location_id, event_type, event_id);
-- An order's events; a reservation's are found among those of its order.
CREATE INDEX event_by_order ON inventory_event (order_id, event_id) WHERE order_id IS NOT NULL;

-- An adjustment that takes another one back names its event. Once: the second finds the first.
ALTER TABLE adjustment ADD COLUMN undoes bigint; -- event_id of the other one; null: an adjustment of its own
CREATE UNIQUE INDEX adjustment_undone_once ON adjustment (undoes) WHERE undoes IS NOT NULL;
CREATE INDEX adjustment_by_event ON adjustment (event_id);
