-- Who we are, what is sold and where it lies.

-- One row: what every gateway of this database must agree on.
CREATE TABLE deployment (
    "only"      boolean PRIMARY KEY DEFAULT true,
    namespace   text  NOT NULL,  -- prefix of every Redis key of this database
    id_secret   bytea NOT NULL,  -- 32 bytes; keys the MAC in reservation ids
    lanes       int   NOT NULL,  -- number of lanes; fixed for the life of the data
    CONSTRAINT deployment_is_one_row CHECK ("only"),
    CONSTRAINT deployment_lanes_in_range CHECK (lanes BETWEEN 1 AND 512),
    CONSTRAINT deployment_secret_is_32_bytes CHECK (length(id_secret) = 32)
);

CREATE TABLE location (
    location_id    text PRIMARY KEY,
    name           text NOT NULL,
    kind           text NOT NULL,
    region         text NOT NULL,
    latitude       double precision,       -- degrees north
    longitude      double precision,       -- degrees east
    shipping_cost  double precision,       -- per parcel, in the shop's currency
    handling_hours double precision,       -- from order to hand-over
    daily_capacity bigint,                 -- parcels a day
    priority       int NOT NULL DEFAULT 0, -- higher is preferred
    active         boolean NOT NULL DEFAULT true,
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT location_kind_is_known CHECK (kind IN ('warehouse', 'store', 'fulfillment_center', 'region', 'seller_location')),
    CONSTRAINT location_latitude_in_range CHECK (latitude BETWEEN -90 AND 90),
    CONSTRAINT location_longitude_in_range CHECK (longitude BETWEEN -180 AND 180)
);

CREATE TABLE sku (
    sku_id              text PRIMARY KEY,
    name                text,
    display             text NOT NULL DEFAULT 'exact',
    low_stock_threshold bigint,                    -- units
    safety_stock        bigint NOT NULL DEFAULT 0, -- units kept back at each location that sets none apart
    created_at          timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT sku_display_is_known CHECK (display IN ('exact', 'limited')),
    CONSTRAINT sku_safety_stock_not_negative CHECK (safety_stock >= 0)
);

-- The balance of one SKU at one location, in units. It changes only together with an inventory_event.
-- available = greatest(0, on_hand - reserved - unavailable - safety_stock); sold, damaged and returned are cumulative.
CREATE TABLE inventory_balance (
    sku_id             text   NOT NULL REFERENCES sku,
    location_id        text   NOT NULL REFERENCES location,
    on_hand            bigint NOT NULL DEFAULT 0, -- physically there, damaged ones included
    reserved           bigint NOT NULL DEFAULT 0, -- promised to a durable reservation that has not ended
    unavailable        bigint NOT NULL DEFAULT 0, -- there, but not for sale (damaged)
    escrowed           bigint NOT NULL DEFAULT 0, -- set aside for a sale: in its counters or on the way there
    safety_stock       bigint NOT NULL DEFAULT 0, -- not offered to shoppers
    safety_stock_apart boolean NOT NULL DEFAULT false, -- safety_stock is this location's own, not the SKU's
    sold               bigint NOT NULL DEFAULT 0,
    damaged            bigint NOT NULL DEFAULT 0,
    returned           bigint NOT NULL DEFAULT 0,
    version            bigint NOT NULL DEFAULT 0, -- one more with every change
    updated_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (sku_id, location_id),
    CONSTRAINT balance_promises_are_covered CHECK (on_hand >= reserved + unavailable + escrowed),
    CONSTRAINT balance_on_hand_not_negative CHECK (on_hand >= 0),
    CONSTRAINT balance_reserved_not_negative CHECK (reserved >= 0),
    CONSTRAINT balance_unavailable_not_negative CHECK (unavailable >= 0),
    CONSTRAINT balance_escrowed_not_negative CHECK (escrowed >= 0),
    CONSTRAINT balance_safety_stock_not_negative CHECK (safety_stock >= 0)
) WITH (fillfactor = 50); -- room for HOT updates: hot SKUs change thousands of times between vacuums
