//! Reservations that are made: their rows, as every way that makes some writes them.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::statement::Posting;
use crate::domain::id::Item;
use crate::ledger::column::column;

/// A reservation's row.
pub(in crate::ledger) struct MadeRow<'a> {
    pub(in crate::ledger) id: Uuid,
    pub(in crate::ledger) order: &'a str,
    pub(in crate::ledger) user: Option<&'a str>,
    pub(in crate::ledger) item: &'a Item,
    pub(in crate::ledger) quantity: i64,
    /// Why it is rejected; none: it is reserved.
    pub(in crate::ledger) cause: Option<&'static str>,
    /// Who had its key or its order's line before.
    pub(in crate::ledger) first: Option<Uuid>,
    pub(in crate::ledger) sale_no: Option<i32>,
    /// The lane that gave the units, where one did.
    pub(in crate::ledger) lane: Option<i16>,
    pub(in crate::ledger) key: Uuid,
    pub(in crate::ledger) fingerprint: i64,
    pub(in crate::ledger) explicit: bool,
    pub(in crate::ledger) trace: Uuid,
    /// The cart, and how many parts it has.
    pub(in crate::ledger) cart: Option<(Uuid, i16)>,
    /// When it was made; none: at this instant.
    pub(in crate::ledger) created_at: Option<DateTime<Utc>>,
    /// Time to pay from then on.
    pub(in crate::ledger) hold_ms: i64,
}

/// The time of what a transaction writes.
#[derive(Clone, Copy, Debug, sqlx::FromRow)]
pub(in crate::ledger) struct Instant {
    pub(in crate::ledger) now: DateTime<Utc>,
    /// Stalls up to this one move no deadline that is set now.
    pub(in crate::ledger) stall_no: i64,
}

/// Reservations that are made at once.
pub(in crate::ledger) struct Made<'a>(pub(in crate::ledger) Vec<MadeRow<'a>>);

/// The part of a statement that makes them, of the 18 parameters with these numbers, as [`Made::bind`] gives them. It
/// follows a part `clock`: the time, and whether to do anything at all.
macro_rules! made_rows {
    (after posting) => {
        made_rows!("", 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52)
    };
    ($and:literal) => {
        made_rows!($and, 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18)
    };
    (
        $and:literal,
        $id:literal $order:literal $user:literal $sku:literal $location:literal $quantity:literal $cause:literal
        $first:literal $sale:literal $key:literal $fingerprint:literal $explicit:literal $trace:literal $cart:literal
        $parts:literal $hold:literal $created:literal $lane:literal
    ) => {
        concat!(
            "made AS (
             INSERT INTO inventory_reservation (reservation_id, order_id, user_id, sku_id, location_id, quantity, status,
                 cause, first_id, sale_no, lane, key_hash, fingerprint, explicit_key, trace_id, cart_id, cart_parts,
                 stall_no, expires_at, created_at, updated_at)
             SELECT reservation_id, order_id, user_id, sku_id, location_id, quantity,
                 CASE WHEN cause IS NULL THEN 'RESERVED' ELSE 'REJECTED' END::reservation_status, cause, first_id,
                 sale_no, lane, key_hash, fingerprint, explicit_key, trace_id, cart_id, cart_parts, stall_no,
                 coalesce(created_at, now) + hold_ms * interval '1 ms', coalesce(created_at, now), now
             FROM UNNEST($", $id, "::uuid[], $", $order, "::text[], $", $user, "::text[], $", $sku, "::text[],
                         $", $location, "::text[], $", $quantity, "::int8[], $", $cause, "::text[], $", $first, "::uuid[],
                         $", $sale, "::int4[], $", $key, "::uuid[], $", $fingerprint, "::int8[], $", $explicit, "::bool[],
                         $", $trace, "::uuid[], $", $cart, "::uuid[], $", $parts, "::int2[], $", $hold, "::int8[],
                         $", $created, "::timestamptz[], $", $lane, "::int2[])
                  AS r(reservation_id, order_id, user_id, sku_id, location_id, quantity, cause, first_id, sale_no,
                       key_hash, fingerprint, explicit_key, trace_id, cart_id, cart_parts, hold_ms, created_at, lane), clock
             WHERE go ", $and, "
             RETURNING 1
         )"
        )
    };
}
pub(in crate::ledger) use made_rows;

/// The part `clock` that is given the time, as the two parameters with these numbers.
macro_rules! given_clock {
    ($now:literal, $stall_no:literal) => {
        concat!(
            "clock AS (SELECT true AS go, $",
            $now,
            "::timestamptz AS now, $",
            $stall_no,
            "::int8 AS stall_no), "
        )
    };
}
pub(super) use given_clock;

impl Made<'_> {
    /// Gives the statement its 18 parameters.
    pub(in crate::ledger) fn bind<'q, R>(&'q self, posting: Posting<'q, R>) -> Posting<'q, R> {
        let rows = &self.0;
        posting
            .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.order).collect::<Vec<_>>())
            .bind(column(rows, &None, |row| row.user))
            .bind(rows.iter().map(|row| row.item.sku.as_str()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.item.location.as_str()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.quantity).collect::<Vec<_>>())
            .bind(column(rows, &None, |row| row.cause))
            .bind(column(rows, &None, |row| row.first))
            .bind(column(rows, &None, |row| row.sale_no))
            .bind(rows.iter().map(|row| row.key).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.fingerprint).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.explicit).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.trace).collect::<Vec<_>>())
            .bind(column(rows, &None, |row| row.cart.map(|(cart, _)| cart)))
            .bind(column(rows, &None, |row| row.cart.map(|(_, parts)| parts)))
            .bind(rows.iter().map(|row| row.hold_ms).collect::<Vec<_>>())
            .bind(column(rows, &None, |row| row.created_at))
            .bind(column(rows, &None, |row| row.lane))
    }
}
