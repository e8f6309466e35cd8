-- Stock that moves otherwise than by a sale: returns, transfers, and changes that wait for a second person.

-- A return of units of a committed reservation, as it was answered. Its id is the client's and names it for ever, so no
-- key is needed beside it.
CREATE TABLE inventory_return (
    return_id      text PRIMARY KEY,
    reservation_id uuid   NOT NULL,         -- as clients know it: of a cart, the cart's
    order_id       text   NOT NULL,
    condition      text   NOT NULL,
    reason         text,                    -- in the client's words
    fingerprint    bigint NOT NULL,         -- of the request
    returnable     bigint NOT NULL,         -- units of the reservation that could still come back after it
    operator       text,
    trace_id       uuid,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT return_condition_is_known CHECK (condition IN ('sellable', 'damaged')),
    CONSTRAINT return_returnable_not_negative CHECK (returnable >= 0)
);

-- Its lines: what came back, of which row of inventory_reservation, and the event that says so.
CREATE TABLE inventory_return_line (
    return_id      text   NOT NULL REFERENCES inventory_return,
    reservation_id uuid   NOT NULL,         -- the row: of a cart, the part's
    sku_id         text   NOT NULL,
    location_id    text   NOT NULL,
    quantity       bigint NOT NULL,         -- units
    event_id       bigint NOT NULL,
    PRIMARY KEY (return_id, reservation_id),
    CONSTRAINT return_quantity_is_positive CHECK (quantity > 0)
);
CREATE INDEX return_line_by_reservation ON inventory_return_line (reservation_id);

-- A transfer between two locations, as it was answered. Both sides move in the one transaction that writes this row.
CREATE TABLE transfer (
    transfer_id   text PRIMARY KEY,
    sku_id        text   NOT NULL REFERENCES sku,
    from_location text   NOT NULL REFERENCES location,
    to_location   text   NOT NULL REFERENCES location,
    quantity      bigint NOT NULL,          -- units
    from_event    bigint NOT NULL,
    to_event      bigint NOT NULL,
    images        jsonb  NOT NULL,          -- {from: {before, after}, to: {before, after}}
    operator      text   NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT transfer_quantity_is_positive CHECK (quantity > 0),
    CONSTRAINT transfer_goes_somewhere CHECK (from_location <> to_location)
);

-- An adjustment that waits for a second person, and what came of it. Approved, it is the adjustment of the same id.
CREATE TABLE approval (
    approval_no   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    approval_id   uuid   NOT NULL,
    status        text   NOT NULL DEFAULT 'PENDING',
    sku_id        text   NOT NULL REFERENCES sku,
    location_id   text   NOT NULL REFERENCES location,
    delta         bigint NOT NULL,          -- units
    reason        text   NOT NULL,
    reference_id  text   NOT NULL,
    note          text,
    why           text   NOT NULL,          -- the rule that wants a second person
    operator      text   NOT NULL,          -- who asked
    trace_id      uuid,                     -- of the request that asked
    key_hash      uuid,                     -- of the request; given back when nothing comes of it, so it may be asked anew
    before        jsonb  NOT NULL,          -- the balance when it was asked
    after         jsonb  NOT NULL,          -- and as it would have been after it
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at    timestamptz NOT NULL,
    decided_by    text,
    decision_note text,
    decided_at    timestamptz,
    CONSTRAINT approval_id_is_unique UNIQUE (approval_id),
    CONSTRAINT approval_status_is_known CHECK (status IN ('PENDING', 'APPROVED', 'REJECTED', 'EXPIRED')),
    CONSTRAINT approval_why_is_known CHECK (why IN ('size', 'safety_stock')),
    CONSTRAINT approval_takes_two CHECK (status <> 'APPROVED' OR decided_by <> operator)
);
CREATE INDEX approval_due ON approval (expires_at) WHERE status = 'PENDING';
