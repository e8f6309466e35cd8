-- A sale may go on in the ledger while Redis is away. What Redis had accepted by then and the ledger does not know is
-- bounded, lane by lane, and so much is kept back. New columns with constant defaults: no row is rewritten.
ALTER TABLE sale
    ADD COLUMN redis_down_rate int NOT NULL DEFAULT 1000, -- requests a second and gateway that the ledger decides
    ADD COLUMN undurable_max   int,                       -- units accepted and not durable, over all lanes; null: a tenth of the allocation
    ADD CONSTRAINT sale_redis_down_rate_is_positive CHECK (redis_down_rate > 0) NOT VALID,
    ADD CONSTRAINT sale_undurable_max_is_positive CHECK (undurable_max > 0) NOT VALID;
ALTER TABLE sale VALIDATE CONSTRAINT sale_redis_down_rate_is_positive;
ALTER TABLE sale VALIDATE CONSTRAINT sale_undurable_max_is_positive;

ALTER TABLE sale_bucket
    ADD COLUMN undurable_max bigint NOT NULL DEFAULT 0;   -- in force in the lane at the last durable entry; 0: no bound

-- While fallback_epoch is the lane's epoch, and the lane closed, the ledger decides for it. Whoever raises the epoch, a
-- recovery, ends that; whoever writes for an older one was shut out when it began.
ALTER TABLE lane
    ADD COLUMN fallback_epoch bigint,
    ADD COLUMN fallback_seq   bigint NOT NULL DEFAULT 0,  -- transactions of that epoch: part of the ids
    ADD COLUMN fallback_at    timestamptz;

-- Lanes that a gateway could ask at its last beat; null: it does not say, so all count as reached.
ALTER TABLE gateway ADD COLUMN reaches smallint[];
