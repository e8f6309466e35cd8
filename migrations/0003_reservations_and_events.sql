-- Reservations, their keys, and the event ledger.

CREATE TYPE reservation_status AS ENUM ('RESERVED', 'COMMITTED', 'RELEASED', 'EXPIRED', 'REJECTED');

-- Hot tier, by day of creation. A day all of whose reservations ended 48 h ago is detached from here and attached
-- to inventory_reservation_cold: readable, never dropped.
CREATE TABLE inventory_reservation (
    reservation_id uuid   NOT NULL,             -- its 16 bytes name lane, epoch, seq and place (domain::reservation_id)
    order_id       text   NOT NULL,
    user_id        text,
    sku_id         text   NOT NULL,
    location_id    text   NOT NULL,
    quantity       bigint NOT NULL,
    status         reservation_status NOT NULL,
    cause          text,                        -- of a rejection
    first_id       uuid,                        -- the reservation that had the key or the order's line before
    sale_no        int,
    lane           smallint,
    key_hash       uuid   NOT NULL,
    fingerprint    bigint NOT NULL,
    explicit_key   boolean NOT NULL,
    stall_no       bigint NOT NULL DEFAULT 0,   -- stalls up to here are in expires_at
    payment_id     text,
    end_reason     text,
    trace_id       uuid   NOT NULL,
    expires_at     timestamptz NOT NULL,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    PRIMARY KEY (reservation_id, created_at),
    CONSTRAINT reservation_quantity_is_positive CHECK (quantity > 0)
) PARTITION BY RANGE (created_at);
CREATE INDEX reservation_due ON inventory_reservation (expires_at) WHERE status = 'RESERVED';
-- A buyer's reservations in a sale lie in the one lane that is the buyer's home (domain::entry::Slip::buyer).
CREATE INDEX reservation_by_buyer ON inventory_reservation
    (sale_no, lane, (coalesce('u:' || user_id, 'o:' || order_id) COLLATE "C")) WHERE sale_no IS NOT NULL;

CREATE TABLE inventory_reservation_cold (LIKE inventory_reservation INCLUDING ALL) PARTITION BY RANGE (created_at);

-- Idempotency keys and the live lines of orders. A line's hash is that of the key derived from (order, reserve, SKU,
-- location), so one row serves both. Unpartitioned, because it must be unique over all time; purged after 72 h.
CREATE TABLE inventory_key (
    key_hash    uuid PRIMARY KEY,               -- first 16 bytes of a keyed hash of tenant, operation and key
    subject_id  uuid NOT NULL,                  -- reservation or adjustment
    fingerprint bigint NOT NULL,                -- of the request
    derived     boolean NOT NULL,               -- a derived key; false: the client's own, or an order's line alone
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX inventory_key_by_age ON inventory_key USING brin (created_at);

CREATE TYPE inventory_event_type AS ENUM (
    'inventory_received', 'inventory_reserved', 'inventory_committed', 'inventory_released', 'inventory_expired',
    'inventory_adjusted', 'inventory_damaged', 'inventory_returned', 'inventory_transferred'
);

CREATE SEQUENCE inventory_event_id AS bigint;

-- Append-only. Every change of a balance, in the transaction that made it. The image after the change stands in the
-- plain columns; the image before it is that minus the deltas.
CREATE TABLE inventory_event (
    event_id          bigint NOT NULL DEFAULT nextval('inventory_event_id'),
    event_type        inventory_event_type NOT NULL,
    sku_id            text   NOT NULL,
    location_id       text   NOT NULL,
    quantity_delta    bigint NOT NULL,
    on_hand_delta     bigint NOT NULL DEFAULT 0,
    reserved_delta    bigint NOT NULL DEFAULT 0,
    unavailable_delta bigint NOT NULL DEFAULT 0,
    escrowed_delta    bigint NOT NULL DEFAULT 0,
    sold_delta        bigint NOT NULL DEFAULT 0,
    damaged_delta     bigint NOT NULL DEFAULT 0,
    returned_delta    bigint NOT NULL DEFAULT 0,
    on_hand           bigint NOT NULL,
    reserved          bigint NOT NULL,
    unavailable       bigint NOT NULL,
    escrowed          bigint NOT NULL,
    sold              bigint NOT NULL,
    damaged           bigint NOT NULL,
    returned          bigint NOT NULL,
    reason            text,
    reference_id      text,
    reservation_id    uuid,
    order_id          text,
    operator          text,
    trace_id          uuid,
    created_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    metadata          jsonb,
    PRIMARY KEY (event_id, created_at)
) PARTITION BY RANGE (created_at);

CREATE FUNCTION inventory_event_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'inventory_event is append-only';
END $$;
CREATE TRIGGER inventory_event_append_only BEFORE UPDATE OR DELETE ON inventory_event
    FOR EACH ROW EXECUTE FUNCTION inventory_event_is_append_only();

-- An adjustment as it was answered.
CREATE TABLE adjustment (
    adjustment_id uuid PRIMARY KEY,
    event_id      bigint NOT NULL,
    sku_id        text   NOT NULL,
    location_id   text   NOT NULL,
    delta         bigint NOT NULL,
    reason        text   NOT NULL,
    reference_id  text   NOT NULL,
    note          text,
    operator      text   NOT NULL,
    before        jsonb  NOT NULL,
    after         jsonb  NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now()
);

-- The day partition of both tables for the day that holds `at`, if it is not there. One maker at a time.
CREATE FUNCTION ensure_day(at timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    day  date := (at AT TIME ZONE 'UTC')::date;
    name text;
    base text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('flashgate.ensure_day'));
    FOREACH base IN ARRAY ARRAY['inventory_reservation', 'inventory_event'] LOOP
        name := base || to_char(day, '_YYYY_MM_DD');
        IF to_regclass(name) IS NULL THEN
            EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)', name, base,
                           day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
        END IF;
    END LOOP;
END $$;

-- The deadline of a reservation with the stalls that it has not yet been given: each that overlaps its hold moves it
-- by the overlap plus 30 s, so that who could not pay in time gets that time back.
CREATE FUNCTION deadline(expires_at timestamptz, created_at timestamptz, of_sale int, since_stall bigint)
RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
DECLARE
    due timestamptz := expires_at;
    s   record;
BEGIN
    FOR s IN SELECT from_at, until_at FROM stall
             WHERE stall_no > since_stall AND (sale_no IS NULL OR sale_no = of_sale) ORDER BY stall_no
    LOOP
        IF s.from_at < due AND s.until_at > created_at THEN
            due := due + (s.until_at - greatest(s.from_at, created_at)) + interval '30 seconds';
        END IF;
    END LOOP;
    RETURN due;
END $$;
