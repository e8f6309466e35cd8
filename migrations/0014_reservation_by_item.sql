-- What the ledger engine sold of an item: read when a sale of it starts, whose lanes don't know those keys.
CREATE INDEX reservation_by_item ON inventory_reservation (sku_id, location_id) WHERE sale_no IS NULL;
CREATE INDEX reservation_cold_by_item ON inventory_reservation_cold (sku_id, location_id) WHERE sale_no IS NULL;
-- Apart from 0011, which locks readers out for as long as it takes: these builds lock out writers alone, for some seconds
-- per million reservations off sale, so a large ledger is migrated while nothing is sold.
