-- What lies at a closed location is not offered, so it does not keep a SKU from being low: whatever lies at one that is
-- closed or opened is looked at again, and now all that has a threshold.
SET LOCAL lock_timeout = '2s';
CREATE FUNCTION location_is_looked_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO low_stock_look
    SELECT sku_id FROM inventory_balance JOIN sku USING (sku_id)
    WHERE location_id = NEW.location_id AND low_stock_threshold IS NOT NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER location_active_changed AFTER UPDATE OF active ON location
    FOR EACH ROW WHEN (OLD.active <> NEW.active) EXECUTE FUNCTION location_is_looked_at();
INSERT INTO low_stock_look SELECT sku_id FROM sku WHERE low_stock_threshold IS NOT NULL;
