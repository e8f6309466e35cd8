-- A cart is several reservations, its parts, one for each item, that stand and end together: same status, same deadline,
-- same payment. Parts taken in the ledger have neither sale nor lane.
ALTER TABLE inventory_reservation
    ADD COLUMN cart_id    uuid,     -- the cart's own id, which no part has
    ADD COLUMN cart_parts smallint, -- parts of the cart, this one included
    ADD COLUMN pinned_at  timestamptz, -- when a payment began that got a grace beyond the longest hold
    ADD CONSTRAINT reservation_cart_is_whole CHECK ((cart_id IS NULL) = (cart_parts IS NULL) AND cart_parts BETWEEN 1 AND 100);
ALTER TABLE inventory_reservation_cold
    ADD COLUMN cart_id    uuid,
    ADD COLUMN cart_parts smallint,
    ADD COLUMN pinned_at  timestamptz,
    ADD CONSTRAINT reservation_cart_is_whole CHECK ((cart_id IS NULL) = (cart_parts IS NULL) AND cart_parts BETWEEN 1 AND 100);
CREATE INDEX reservation_by_cart ON inventory_reservation (cart_id) WHERE cart_id IS NOT NULL;
CREATE INDEX reservation_cold_by_cart ON inventory_reservation_cold (cart_id) WHERE cart_id IS NOT NULL;
