-- Safe while selling: the locks are held for some milliseconds, and where somebody keeps one of them, this gives up rather
-- than have everybody wait behind it; run it again.
SET LOCAL lock_timeout = '2s';

-- A zero in an event, as change or in the image after it, takes no room: it is stored as NULL, from now on. Most of an
-- event is zeros.
ALTER TABLE inventory_event
    ALTER COLUMN on_hand_delta DROP NOT NULL, ALTER COLUMN on_hand_delta DROP DEFAULT,
    ALTER COLUMN reserved_delta DROP NOT NULL, ALTER COLUMN reserved_delta DROP DEFAULT,
    ALTER COLUMN unavailable_delta DROP NOT NULL, ALTER COLUMN unavailable_delta DROP DEFAULT,
    ALTER COLUMN escrowed_delta DROP NOT NULL, ALTER COLUMN escrowed_delta DROP DEFAULT,
    ALTER COLUMN sold_delta DROP NOT NULL, ALTER COLUMN sold_delta DROP DEFAULT,
    ALTER COLUMN damaged_delta DROP NOT NULL, ALTER COLUMN damaged_delta DROP DEFAULT,
    ALTER COLUMN returned_delta DROP NOT NULL, ALTER COLUMN returned_delta DROP DEFAULT,
    ALTER COLUMN on_hand DROP NOT NULL,
    ALTER COLUMN reserved DROP NOT NULL,
    ALTER COLUMN unavailable DROP NOT NULL,
    ALTER COLUMN escrowed DROP NOT NULL,
    ALTER COLUMN sold DROP NOT NULL,
    ALTER COLUMN damaged DROP NOT NULL,
    ALTER COLUMN returned DROP NOT NULL;

-- Events as they are read: with their zeros, and with the transaction that wrote them.
CREATE VIEW inventory_movement AS
SELECT event_id, event_type, sku_id, location_id, quantity_delta,
    coalesce(on_hand_delta, 0) AS on_hand_delta,
    coalesce(reserved_delta, 0) AS reserved_delta,
    coalesce(unavailable_delta, 0) AS unavailable_delta,
    coalesce(escrowed_delta, 0) AS escrowed_delta,
    coalesce(sold_delta, 0) AS sold_delta,
    coalesce(damaged_delta, 0) AS damaged_delta,
    coalesce(returned_delta, 0) AS returned_delta,
    coalesce(on_hand, 0) AS on_hand,
    coalesce(reserved, 0) AS reserved,
    coalesce(unavailable, 0) AS unavailable,
    coalesce(escrowed, 0) AS escrowed,
    coalesce(sold, 0) AS sold,
    coalesce(damaged, 0) AS damaged,
    coalesce(returned, 0) AS returned,
    reason, reference_id, reservation_id, order_id, operator, trace_id, created_at, metadata, xmin AS transaction
FROM inventory_event;
