-- The units of a sale that was stopped come home later, lane by lane: their events say who stopped it.
SET LOCAL lock_timeout = '2s';
ALTER TABLE sale
    ADD COLUMN ended_by    text, -- operator of the stop; null: the clock
    ADD COLUMN ended_trace uuid; -- of the request
