-- A late payment takes the units of an expired reservation again. The row remembers it, so that every repeat of the commit
-- can say so, also where the first answer got lost. Both tiers, since days move from one to the other.
ALTER TABLE inventory_reservation
    ADD COLUMN rescued_at timestamptz; -- when its units were taken again for a payment that came after its expiry
ALTER TABLE inventory_reservation_cold
    ADD COLUMN rescued_at timestamptz;

-- What the ledger engine sold of an item: read when a sale of it starts, whose lanes don't know those keys.
CREATE INDEX reservation_by_item ON inventory_reservation (sku_id, location_id) WHERE sale_no IS NULL;
CREATE INDEX reservation_cold_by_item ON inventory_reservation_cold (sku_id, location_id) WHERE sale_no IS NULL;
