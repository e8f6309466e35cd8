-- Reconciliation: reports, what they found, how far each item's counts have got, and what shops say of their orders.

-- One comparison. Its row is there from the start; until ended_at is set it runs, or its process died.
CREATE TABLE reconciliation_report (
    report_id   uuid PRIMARY KEY,
    report_no   bigint GENERATED ALWAYS AS IDENTITY, -- in the order in which they began
    kind        text NOT NULL,
    count_id    text,        -- of a count, as its sender named it
    fingerprint bigint,      -- of a count: of all that it says
    location_id text,        -- of a count
    counted_at  timestamptz, -- of a count
    operator    text NOT NULL,
    trace_id    uuid,
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at    timestamptz,
    compared    bigint NOT NULL DEFAULT 0, -- ledger: items; counts: lines; order_state: orders
    CONSTRAINT report_no_is_unique UNIQUE (report_no),
    CONSTRAINT report_count_is_unique UNIQUE (count_id),
    CONSTRAINT report_kind_is_known CHECK (kind IN ('ledger', 'warehouse', 'seller_feed', 'order_state')),
    CONSTRAINT report_count_is_whole CHECK ((kind IN ('warehouse', 'seller_feed')) =
        (count_id IS NOT NULL AND fingerprint IS NOT NULL AND location_id IS NOT NULL AND counted_at IS NOT NULL))
);
CREATE INDEX report_by_kind ON reconciliation_report (kind, started_at DESC);

-- One thing that was not as expected, and what became of it.
CREATE TABLE reconciliation_discrepancy (
    discrepancy_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    report_id      uuid NOT NULL REFERENCES reconciliation_report,
    sku_id         text,
    location_id    text,
    order_id       text,
    reservation_id uuid,
    figure         text,           -- of the balance, where a figure differs
    expected       jsonb NOT NULL, -- units, or a word
    found          jsonb NOT NULL, -- units, or a word
    cause          text NOT NULL,
    review         text,           -- why it is not corrected; null: it is
    status         text NOT NULL,
    event_id       bigint,         -- the correcting event
    note           text,
    operator       text,           -- who repaired or closed it by hand
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    resolved_at    timestamptz,
    CONSTRAINT discrepancy_status_is_known CHECK (status IN ('corrected', 'manual_review', 'superseded', 'closed'))
);
CREATE INDEX discrepancy_by_report ON reconciliation_discrepancy (report_id, discrepancy_id);
CREATE INDEX discrepancy_open ON reconciliation_discrepancy (report_id) WHERE status = 'manual_review';
-- Corrections of an item, which later counts of it take into account.
CREATE INDEX discrepancy_by_item ON reconciliation_discrepancy (sku_id, location_id) WHERE event_id IS NOT NULL;

-- The newest count of an item that is in its balance; what is not newer than this is stale.
CREATE TABLE count_mark (
    sku_id      text NOT NULL,
    location_id text NOT NULL,
    counted_at  timestamptz NOT NULL,
    report_id   uuid NOT NULL REFERENCES reconciliation_report,
    PRIMARY KEY (sku_id, location_id),
    FOREIGN KEY (sku_id, location_id) REFERENCES inventory_balance
);

-- What became of orders, as the order system tells it; every state once.
CREATE TABLE order_state (
    order_id    text NOT NULL,
    state       text NOT NULL,
    at          timestamptz NOT NULL, -- when it became so, by the order system's clock
    operator    text NOT NULL,
    trace_id    uuid,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    judged_at   timestamptz,          -- when reservations were compared with it; null: not yet
    PRIMARY KEY (order_id, state, at),
    CONSTRAINT order_state_is_known CHECK (state IN ('paid', 'cancelled', 'shipped', 'refunded'))
);
CREATE INDEX order_state_waiting ON order_state (received_at) WHERE judged_at IS NULL;
