-- Every reservation of an item without a route in memory asks for its newest sale, drained or not. Safe while selling:
-- the table holds a row per sale, so the build is over in an instant.
CREATE INDEX sale_by_item ON sale (sku_id, location_id, sale_no DESC);
