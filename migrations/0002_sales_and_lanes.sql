-- The sale, its buckets, the lanes they lie in, and the two roads' bookkeeping.

CREATE TYPE sale_state AS ENUM ('draft', 'scheduled', 'live', 'paused', 'frozen', 'ended');

CREATE TABLE sale (
    sale_no          int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- short name, in Redis keys and queue entries
    sale_id          text NOT NULL,
    sku_id           text NOT NULL,
    location_id      text NOT NULL,
    state            sale_state NOT NULL,
    thaws_to         sale_state,              -- the state that unfreeze returns to
    frozen_at        timestamptz,
    allocation       bigint NOT NULL,         -- units of the sale, sold ones included
    recalled         bigint NOT NULL DEFAULT 0, -- units taken back from counters and not yet returned to the balance or granted again
    recalled_at      timestamptz,
    per_user_limit   int,                     -- units a user may hold and have bought
    rate_per_second  double precision,        -- attempts a second and user
    rate_burst       int,                     -- attempts at once and user
    hold_ms          bigint NOT NULL,
    hold_max_ms      bigint NOT NULL,
    lanes            smallint[] NOT NULL,     -- lane of each bucket
    starts_at        timestamptz,
    ends_at          timestamptz,
    ack_wait_ms      int NOT NULL,
    redis_down       text NOT NULL DEFAULT 'refuse',
    drained          boolean NOT NULL DEFAULT false, -- ended, and every unsold unit is back in the balance
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT sale_id_is_unique UNIQUE (sale_id),
    FOREIGN KEY (sku_id, location_id) REFERENCES inventory_balance,
    CONSTRAINT sale_allocation_not_negative CHECK (allocation >= 0),
    CONSTRAINT sale_recalled_not_negative CHECK (recalled >= 0),
    CONSTRAINT sale_limit_is_positive CHECK (per_user_limit > 0),
    CONSTRAINT sale_hold_in_range CHECK (hold_ms > 0 AND hold_ms <= hold_max_ms),
    CONSTRAINT sale_has_buckets CHECK (cardinality(lanes) > 0),
    CONSTRAINT sale_redis_down_is_known CHECK (redis_down IN ('refuse', 'ledger'))
);

-- An item has one sale at a time; the next may be made when the last unit of the former is back.
CREATE UNIQUE INDEX sale_one_per_item ON sale (sku_id, location_id) WHERE NOT drained;

-- Cumulative units of a sale, by ending; and requests refused. Apart from sale, whose row the granter locks.
CREATE TABLE sale_tally (
    sale_no       int PRIMARY KEY REFERENCES sale,
    committed     bigint NOT NULL DEFAULT 0,
    released      bigint NOT NULL DEFAULT 0,
    expired       bigint NOT NULL DEFAULT 0,
    refused_stock bigint NOT NULL DEFAULT 0, -- requests
    refused_limit bigint NOT NULL DEFAULT 0, -- requests
    refused_rate  bigint NOT NULL DEFAULT 0  -- requests
) WITH (fillfactor = 50);

-- A sale's units in one lane as the ledger sees them: the counter after the last durable queue entry. Written by
-- the lane's owner alone.
CREATE TABLE sale_bucket (
    sale_no        int      NOT NULL REFERENCES sale,
    lane           smallint NOT NULL,
    counter        bigint   NOT NULL DEFAULT 0, -- units free
    durable        bigint   NOT NULL DEFAULT 0, -- units reserved, cumulative
    rejected       bigint   NOT NULL DEFAULT 0, -- units refused here although Redis had accepted them, cumulative
    drift          bigint   NOT NULL DEFAULT 0, -- counter in Redis minus ours, at the last durable entry
    per_user_limit int,                         -- in force in the lane at the last durable entry
    PRIMARY KEY (sale_no, lane),
    CONSTRAINT bucket_counter_not_negative CHECK (counter >= 0)
) WITH (fillfactor = 50);

-- Greater than every epoch ever used; recovery alone draws from it.
CREATE SEQUENCE lane_epoch AS bigint;

CREATE TYPE lane_state AS ENUM ('closed', 'open');

-- A lane's cursor (epoch, seq, nonce) names the last queue entry whose rows are committed here. Whoever moves it must
-- name it: that, not a timer, decides who owns the lane.
CREATE TABLE lane (
    lane         smallint PRIMARY KEY,
    epoch        bigint NOT NULL DEFAULT 0,
    state        lane_state NOT NULL DEFAULT 'closed',
    cursor_epoch bigint NOT NULL DEFAULT 0, -- behind epoch from the start of a recovery until survivors are settled
    cursor_seq   bigint NOT NULL DEFAULT 0,
    cursor_nonce bigint NOT NULL DEFAULT 0,
    cursor_total bigint NOT NULL DEFAULT 0, -- reservations up to the cursor in this epoch
    grant_no     bigint NOT NULL DEFAULT 0, -- last number given to a grant of this lane
    owner        uuid,
    owner_at     timestamptz NOT NULL DEFAULT now(), -- when it came or went
    cursor_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT lane_epoch_in_range CHECK (epoch BETWEEN 0 AND 16777215),
    CONSTRAINT lane_cursor_not_ahead CHECK (cursor_epoch <= epoch)
) WITH (fillfactor = 50);

CREATE TYPE grant_kind AS ENUM ('units', 'end', 'open', 'settings', 'drop', 'take', 'retake', 'correct', 'record');

-- Messages to a lane, delivered in the order of their numbers, once each. A row leaves when the queue entry that
-- delivered it is durable. Endings insert without a number; the lane's owner numbers.
CREATE TABLE lane_grant (
    grant_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lane           smallint NOT NULL REFERENCES lane,
    grant_no       bigint,
    kind           grant_kind NOT NULL,
    sale_no        int NOT NULL REFERENCES sale,
    units          bigint NOT NULL DEFAULT 0, -- units, end: added; take: at most taken; retake: taken; correct: added, may be negative
    reservation_id uuid,                      -- end, retake
    buyer          text,                      -- end, retake, record
    body           bytea NOT NULL,            -- the message as the script reads it (domain::grant)
    target_lane    smallint,                  -- take: where the units go; null: recalled to the sale
    created_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT grant_number_is_unique UNIQUE (lane, grant_no)
);
CREATE INDEX lane_grant_unnumbered ON lane_grant (lane, grant_id) WHERE grant_no IS NULL;
CREATE INDEX lane_grant_by_sale ON lane_grant (sale_no);
CREATE INDEX lane_grant_by_reservation ON lane_grant (reservation_id) WHERE reservation_id IS NOT NULL;

-- Gateways that are alive say so here every second; a lane whose owner is silent may be taken over.
CREATE TABLE gateway (
    gateway_id uuid PRIMARY KEY,
    name       text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    beat_at    timestamptz NOT NULL DEFAULT now()
);

-- One row: when any gateway last could end reservations.
CREATE TABLE pulse (
    "only"  boolean PRIMARY KEY DEFAULT true,
    beat_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pulse_is_one_row CHECK ("only")
);
INSERT INTO pulse DEFAULT VALUES;

-- Times in which endings could not be taken. Deadlines move by the overlap with the reservation's hold plus 30 s.
CREATE TABLE stall (
    stall_no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sale_no  int REFERENCES sale,          -- null: all reservations
    from_at  timestamptz NOT NULL,
    until_at timestamptz NOT NULL,
    CONSTRAINT stall_is_an_interval CHECK (until_at >= from_at)
);

-- Entries that Postgres could not take for what is in them.
CREATE TABLE quarantine (
    quarantine_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lane           smallint NOT NULL,
    epoch          bigint NOT NULL,
    seq            bigint NOT NULL,
    idx            smallint NOT NULL,   -- place in the call; -1: the whole entry
    sale_no        int,
    reservation_id uuid,
    quantity       bigint,
    cause          text NOT NULL,
    body           bytea NOT NULL,      -- as it stood in the queue
    state          text NOT NULL DEFAULT 'waiting',
    note           text,
    operator       text,
    created_at     timestamptz NOT NULL DEFAULT now(),
    resolved_at    timestamptz,
    CONSTRAINT quarantine_state_is_known CHECK (state IN ('waiting', 'replayed', 'rejected'))
);
