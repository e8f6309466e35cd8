-- The read model: what shoppers' pages read, so that they never touch a row that a reservation waits for; and what
-- follows from watching it, the low-stock alerts.

-- A copy of inventory_balance, at most seconds old. Columns and units are those of the balance; one transaction at a
-- time writes it, and what that commits is the balances as they all were at one instant (snapshot_feed.as_of).
CREATE TABLE inventory_snapshot (
    sku_id       text   NOT NULL,
    location_id  text   NOT NULL,
    on_hand      bigint NOT NULL,
    reserved     bigint NOT NULL,
    unavailable  bigint NOT NULL,
    escrowed     bigint NOT NULL,
    safety_stock bigint NOT NULL,
    available    bigint NOT NULL GENERATED ALWAYS AS
        (greatest(0, on_hand - reserved - unavailable - safety_stock)) STORED,
    sold         bigint NOT NULL,
    damaged      bigint NOT NULL,
    returned     bigint NOT NULL,
    version      bigint NOT NULL,      -- of the balance
    updated_at   timestamptz NOT NULL, -- of the balance
    PRIMARY KEY (sku_id, location_id)
) WITH (fillfactor = 50); -- hot SKUs change several times a second

-- One row, or none while the snapshot has to be made anew: how far it has followed the events. Their ids are drawn
-- before their transactions commit, so one with a lower id may show up after one with a higher.
CREATE TABLE snapshot_feed (
    "only"     boolean PRIMARY KEY DEFAULT true,
    settled_id bigint NOT NULL,      -- no event up to here can show up any more
    seen_id    bigint NOT NULL,      -- last id that was drawn when a mark was set
    seen_xmax  xid8   NOT NULL,      -- transactions that could hold an id up to there are all older than this one
    seen_at    timestamptz NOT NULL, -- when that was
    as_of      timestamptz NOT NULL, -- every change committed before this instant is in the snapshot
    CONSTRAINT snapshot_feed_is_one_row CHECK ("only"),
    CONSTRAINT snapshot_feed_settles_what_was_seen CHECK (settled_id <= seen_id)
) WITH (fillfactor = 50);

-- A SKU whose available units, over all locations, came down to its threshold; low until recovered_at.
CREATE TABLE low_stock_alert (
    alert_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sku_id       text   NOT NULL,
    threshold    bigint NOT NULL,    -- units, as it was then
    available    bigint NOT NULL,    -- units, as they were then
    crossed_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    recovered_at timestamptz         -- it was above the threshold again, or the threshold was taken away
);
-- Once per crossing: a SKU that is low is not told again.
CREATE UNIQUE INDEX low_stock_alert_one_per_crossing ON low_stock_alert (sku_id) WHERE recovered_at IS NULL;

-- SKUs whose threshold was changed, so that the feed looks at them although no units moved.
CREATE TABLE low_stock_look (sku_id text NOT NULL);

CREATE FUNCTION sku_threshold_is_looked_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO low_stock_look VALUES (NEW.sku_id);
    RETURN NULL;
END $$;
CREATE TRIGGER sku_threshold_changed AFTER UPDATE OF low_stock_threshold ON sku FOR EACH ROW
    WHEN (OLD.low_stock_threshold IS DISTINCT FROM NEW.low_stock_threshold)
    EXECUTE FUNCTION sku_threshold_is_looked_at();

-- An order's reservations, for its status. New days inherit it; the build locks out writers of the days that are
-- there, for some seconds per million rows.
CREATE INDEX reservation_by_order ON inventory_reservation (order_id);
CREATE INDEX reservation_cold_by_order ON inventory_reservation_cold (order_id);
