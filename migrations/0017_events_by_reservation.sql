-- A reservation's events; an order's are those of its reservations, whose own index by order tells which these are.
-- Every event that names an order names a reservation. An index of events by order would be twice as wide and cost every
-- reservation as much again, since orders come in no order. The build locks out writers of the days that are there, for
-- some seconds per million events, so a large ledger is migrated while nothing is sold.
DROP INDEX event_by_order;
CREATE INDEX event_by_reservation ON inventory_event (reservation_id, event_id) WHERE reservation_id IS NOT NULL;
