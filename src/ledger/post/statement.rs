//! The statement that posts, alone or with what else is written in the same round trip.
//!
//! A round trip costs Postgres and us as much as some ten rows, so what can be written together is. Balances come last, so
//! that a hot one is locked for an update and a commit, and not while rows are written. Several have to be locked before,
//! in the order of their key, by a statement of their own: one that locks a row and updates it meets the version that
//! it saw at first twice, and whoever queues there has what the update waits for. One that updates several without a lock
//! does so in the order of `$1` and `$2`, which no plan is bound to: only who can do without may try.

use std::collections::BTreeMap;

use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::QueryAs;
use sqlx::types::Json;

use super::{Deltas, Movement};
use crate::domain::balance::Balance;
use crate::domain::id::Item;
use crate::ledger::column::column;

/// The balance of an item before all movements.
#[derive(sqlx::FromRow)]
pub(super) struct BeforeRow {
    /// Of all events, lowest first; the same in each row.
    pub(super) event_ids: Vec<i64>,
    pub(super) sku_id: String,
    pub(super) location_id: String,
    on_hand: i64,
    reserved: i64,
    unavailable: i64,
    safety_stock: i64,
    escrowed: i64,
    sold: i64,
    damaged: i64,
    returned: i64,
}

impl BeforeRow {
    pub(super) fn balance(&self) -> Balance {
        Balance {
            on_hand: self.on_hand,
            reserved: self.reserved,
            unavailable: self.unavailable,
            safety_stock: self.safety_stock,
            escrowed: self.escrowed,
            sold: self.sold,
            damaged: self.damaged,
            returned: self.returned,
        }
    }
}

/// What the movements of one item come to, up to one of them.
fn so_far(movements: &[Movement]) -> (BTreeMap<&Item, Deltas>, Vec<Deltas>) {
    let mut sums: BTreeMap<&Item, Deltas> = BTreeMap::new();
    let mut steps = Vec::with_capacity(movements.len());
    for movement in movements {
        let sum = sums.entry(&movement.item).or_default();
        sum.add(&movement.deltas);
        steps.push(*sum);
    }
    (sums, steps)
}

/// The beginning of a statement that moves balances and appends events, of `$1` to `$34` as [`bind`] gives them: one
/// update per item, whatever the number of its movements. The numbers of an item's events are drawn when its balance is
/// ours, and in the order of the movements: who pages relies on it. Before all this it does what stands in `$with`, for
/// which `$where` waits, and without which it does nothing.
macro_rules! posting {
    ($name:literal, $with:expr, $where:expr) => {
        concat!(
            $name,
            "
         WITH ",
            $with,
            " sums AS (
             SELECT * FROM UNNEST($1::text[], $2::text[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::int8[],
                                  $8::int8[], $9::int8[])
                           AS d(sku_id, location_id, on_hand, reserved, unavailable, escrowed, sold, damaged, returned)
             ",
            $where,
            "
         ), before AS (
             UPDATE inventory_balance b SET
                 on_hand = b.on_hand + d.on_hand, reserved = b.reserved + d.reserved,
                 unavailable = b.unavailable + d.unavailable, escrowed = b.escrowed + d.escrowed,
                 sold = b.sold + d.sold, damaged = b.damaged + d.damaged, returned = b.returned + d.returned,
                 version = b.version + 1, updated_at = clock_timestamp()
             FROM sums d
             WHERE b.sku_id = d.sku_id AND b.location_id = d.location_id
             RETURNING b.sku_id, b.location_id, b.on_hand - d.on_hand AS on_hand, b.reserved - d.reserved AS reserved,
                 b.unavailable - d.unavailable AS unavailable, b.safety_stock, b.escrowed - d.escrowed AS escrowed,
                 b.sold - d.sold AS sold, b.damaged - d.damaged AS damaged, b.returned - d.returned AS returned
         ), event AS (
             INSERT INTO inventory_event (event_type, sku_id, location_id, quantity_delta, on_hand_delta,
                 reserved_delta, unavailable_delta, escrowed_delta, sold_delta, damaged_delta, returned_delta, on_hand,
                 reserved, unavailable, escrowed, sold, damaged, returned, reason, reference_id, reservation_id,
                 order_id, operator, trace_id, metadata)
             SELECT m.event_type, m.sku_id, m.location_id, m.quantity_delta, nullif(m.on_hand, 0), nullif(m.reserved, 0),
                 nullif(m.unavailable, 0), nullif(m.escrowed, 0), nullif(m.sold, 0), nullif(m.damaged, 0),
                 nullif(m.returned, 0), nullif(b.on_hand + coalesce(m.to_on_hand, 0), 0),
                 nullif(b.reserved + coalesce(m.to_reserved, 0), 0),
                 nullif(b.unavailable + coalesce(m.to_unavailable, 0), 0),
                 nullif(b.escrowed + coalesce(m.to_escrowed, 0), 0), nullif(b.sold + coalesce(m.to_sold, 0), 0),
                 nullif(b.damaged + coalesce(m.to_damaged, 0), 0), nullif(b.returned + coalesce(m.to_returned, 0), 0),
                 m.reason, m.reference_id, m.reservation_id, m.order_id, m.operator, m.trace_id, m.metadata
             FROM UNNEST($10::inventory_event_type[], $11::text[], $12::text[], $13::int8[], $14::int8[], $15::int8[],
                         $16::int8[], $17::int8[], $18::int8[], $19::int8[], $20::int8[], $21::int8[], $22::int8[],
                         $23::int8[], $24::int8[], $25::int8[], $26::int8[], $27::int8[], $28::text[], $29::text[],
                         $30::uuid[], $31::text[], $32::text[], $33::uuid[], $34::jsonb[]) WITH ORDINALITY
                  AS m(event_type, sku_id, location_id, quantity_delta, on_hand, reserved, unavailable, escrowed, sold,
                       damaged, returned, to_on_hand, to_reserved, to_unavailable, to_escrowed, to_sold, to_damaged,
                       to_returned, reason, reference_id, reservation_id, order_id, operator, trace_id, metadata, n)
             JOIN before b USING (sku_id, location_id)
             ORDER BY m.n
             RETURNING event_id
         )
         "
        )
    };
}
pub(super) use posting;

/// The end of one that tells what was posted.
macro_rules! tell_posted {
    () => {
        "SELECT (SELECT coalesce(array_agg(event_id ORDER BY event_id), '{}') FROM event) AS event_ids, sku_id, location_id,
             on_hand, reserved, unavailable, safety_stock, escrowed, sold, damaged, returned FROM before"
    };
}
pub(super) use tell_posted;

/// A statement that posts and answers with such rows.
pub(in crate::ledger) type Posting<'q, R> = QueryAs<'q, Postgres, R, PgArguments>;

/// Gives the statement its `$1` to `$34`.
pub(super) fn bind<'q, R>(posting: Posting<'q, R>, movements: &'q [Movement]) -> Posting<'q, R> {
    let (sums, steps) = so_far(movements);
    let of_item = |pick: fn(&Deltas) -> i64| sums.values().map(pick).collect::<Vec<i64>>();
    let delta = |pick: fn(&Deltas) -> i64| column(movements, &0, |m| pick(&m.deltas));
    let step = |pick: fn(&Deltas) -> i64| column(&steps, &0, pick);
    let text = |pick: fn(&Movement) -> Option<&str>| column(movements, &None, pick);
    posting
        .bind(sums.keys().map(|item| item.sku.as_str()).collect::<Vec<_>>())
        .bind(sums.keys().map(|item| item.location.as_str()).collect::<Vec<_>>())
        .bind(of_item(|d| d.on_hand))
        .bind(of_item(|d| d.reserved))
        .bind(of_item(|d| d.unavailable))
        .bind(of_item(|d| d.escrowed))
        .bind(of_item(|d| d.sold))
        .bind(of_item(|d| d.damaged))
        .bind(of_item(|d| d.returned))
        .bind(movements.iter().map(|m| m.event.as_str()).collect::<Vec<_>>())
        .bind(movements.iter().map(|m| m.item.sku.as_str()).collect::<Vec<_>>())
        .bind(movements.iter().map(|m| m.item.location.as_str()).collect::<Vec<_>>())
        .bind(movements.iter().map(|m| m.quantity_delta).collect::<Vec<_>>())
        .bind(delta(|d| d.on_hand))
        .bind(delta(|d| d.reserved))
        .bind(delta(|d| d.unavailable))
        .bind(delta(|d| d.escrowed))
        .bind(delta(|d| d.sold))
        .bind(delta(|d| d.damaged))
        .bind(delta(|d| d.returned))
        .bind(step(|d| d.on_hand))
        .bind(step(|d| d.reserved))
        .bind(step(|d| d.unavailable))
        .bind(step(|d| d.escrowed))
        .bind(step(|d| d.sold))
        .bind(step(|d| d.damaged))
        .bind(step(|d| d.returned))
        .bind(text(|m| m.reason.as_deref()))
        .bind(text(|m| m.reference_id.as_deref()))
        .bind(column(movements, &None, |m| m.reservation_id))
        .bind(text(|m| m.order_id.as_deref()))
        .bind(text(|m| m.operator.as_deref()))
        .bind(column(movements, &None, |m| m.trace_id))
        .bind(column(movements, &None, |m| m.metadata.as_ref().map(Json)))
}
