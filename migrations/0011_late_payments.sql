-- A late payment takes the units of an expired reservation again. The row remembers it, so that every repeat of the commit
-- can say so, also where the first answer got lost. Both tiers, since days move from one to the other.
ALTER TABLE inventory_reservation
    ADD COLUMN rescued_at timestamptz; -- when its units were taken again for a payment that came after its expiry
ALTER TABLE inventory_reservation_cold
    ADD COLUMN rescued_at timestamptz;
