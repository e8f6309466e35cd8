-- The comparison of Redis with the ledger that never ends: what it finds, alarms of the writer, and sales that froze
-- themselves.

ALTER TABLE reconciliation_report DROP CONSTRAINT report_kind_is_known;
ALTER TABLE reconciliation_report ADD CONSTRAINT report_kind_is_known
    CHECK (kind IN ('ledger', 'warehouse', 'seller_feed', 'order_state', 'live'));

ALTER TABLE reconciliation_discrepancy
    ADD COLUMN sale_id  text,
    ADD COLUMN lane     smallint,
    ADD COLUMN buyer    text,   -- whose record
    ADD COLUMN grant_id bigint; -- the correcting grant
-- What stands in the way of an unfreeze.
CREATE INDEX discrepancy_open_by_sale ON reconciliation_discrepancy (sale_id)
    WHERE status = 'manual_review' AND sale_id IS NOT NULL;

-- Why it froze by itself; null where a person froze it, and where it is not frozen.
ALTER TABLE sale ADD COLUMN frozen_for text
    CONSTRAINT sale_frozen_for_is_known CHECK (frozen_for IN ('oversell_attempt', 'drift'));

-- What the writer noticed, in the transaction in which it did; a row leaves when it has been heeded.
CREATE TABLE alarm (
    alarm_no   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sale_no    int      NOT NULL REFERENCES sale,
    lane       smallint NOT NULL,
    cause      text     NOT NULL,
    units      bigint   NOT NULL, -- oversell_attempt: refused; drift: in Redis, minus what should be there
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT alarm_cause_is_known CHECK (cause IN ('oversell_attempt', 'drift'))
);
CREATE INDEX alarm_by_sale ON alarm (sale_no);

-- One row: when any gateway last began to compare.
CREATE TABLE live_comparison (
    "only"   boolean PRIMARY KEY DEFAULT true,
    begun_at timestamptz NOT NULL DEFAULT '-infinity',
    CONSTRAINT live_comparison_is_one_row CHECK ("only")
);
INSERT INTO live_comparison DEFAULT VALUES;
