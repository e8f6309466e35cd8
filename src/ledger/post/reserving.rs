//! The posting of new reservations that all get their units: what nearly every batch comes to.
//!
//! Their events say nothing that their rows don't, so both are written from the same parameters, and balances move in two
//! columns. That costs Postgres less than [`posting!`](super::posting), which takes apart columns of its own for whatever
//! moves.

use std::collections::BTreeMap;

use super::made::Made;
use super::statement::Posting;
use crate::domain::id::Item;
use crate::ledger::claims::Columns;

/// Reservations that are made at once, each reserved, and the keys that they claim.
pub(in crate::ledger) struct Reserving<'a> {
    pub(in crate::ledger) made: Made<'a>,
    pub(in crate::ledger) keys: Columns,
}

/// The beginning of a statement that claims keys, makes reservations, takes their units from the balances and appends
/// their events, of `$1` to `$26` as [`Reserving::bind`] gives them. `$with` has a part `clock`: the time, and whether to do
/// anything at all; `$and` is what else the keys wait for. Balances and events as in [`posting!`](super::posting).
macro_rules! reserving {
    ($name:literal, $with:expr, $and:literal, from stock) => {
        reserving!($name, $with, $and, "", "", "NULL", "b.escrowed")
    };
    ($name:literal, $with:expr, $and:literal, from escrow) => {
        reserving!(
            $name, $with, $and, "escrowed = b.escrowed - d.units, ", " + d.units", "-m.quantity", "b.escrowed - m.so_far"
        )
    };
    ($name:literal, $with:expr, $and:literal, $take:literal, $back:literal, $delta:literal, $image:literal) => {
        concat!(
            $name,
            "
         WITH ",
            $with,
            ", claimed AS (
             INSERT INTO inventory_key (key_hash, subject_id, fingerprint, derived)
             SELECT key.* FROM UNNEST($23::uuid[], $24::uuid[], $25::int8[], $26::bool[]) AS key, clock
             WHERE go ",
            $and,
            "
             RETURNING 1
         ), ",
            made_rows!("AND (SELECT count(*) FROM claimed) = cardinality($23::uuid[])"),
            ", sums AS (
             SELECT d.* FROM UNNEST($19::text[], $20::text[], $21::int8[]) AS d(sku_id, location_id, units), clock
             WHERE go AND (SELECT count(*) FROM made) = cardinality($1::uuid[])
         ), before AS (
             UPDATE inventory_balance b SET reserved = b.reserved + d.units, ",
            $take,
            "version = b.version + 1, updated_at = clock_timestamp()
             FROM sums d
             WHERE b.sku_id = d.sku_id AND b.location_id = d.location_id
             RETURNING b.sku_id, b.location_id, b.on_hand, b.reserved - d.units AS reserved, b.unavailable, b.safety_stock,
                 b.escrowed",
            $back,
            " AS escrowed, b.sold, b.damaged, b.returned, d.units
         ), event AS (
             INSERT INTO inventory_event (event_type, sku_id, location_id, quantity_delta, reserved_delta, escrowed_delta,
                 on_hand, reserved, unavailable, escrowed, sold, damaged, returned, reservation_id, order_id, trace_id)
             SELECT 'inventory_reserved', sku_id, location_id, -m.quantity, m.quantity, ",
            $delta,
            ", nullif(b.on_hand, 0), nullif(b.reserved + m.so_far, 0), nullif(b.unavailable, 0), nullif(",
            $image,
            ", 0), nullif(b.sold, 0), nullif(b.damaged, 0), nullif(b.returned, 0), m.reservation_id, m.order_id, m.trace_id
             FROM UNNEST($1::uuid[], $2::text[], $4::text[], $5::text[], $6::int8[], $13::uuid[], $22::int8[]) WITH ORDINALITY
                  AS m(reservation_id, order_id, sku_id, location_id, quantity, trace_id, so_far, n)
             JOIN before b USING (sku_id, location_id)
             ORDER BY m.n
             RETURNING 1
         )"
        )
    };
}
pub(in crate::ledger) use reserving;

impl Reserving<'_> {
    /// Gives the statement its `$1` to `$26`.
    pub(in crate::ledger) fn bind<'q, R>(&'q self, posting: Posting<'q, R>) -> Posting<'q, R> {
        let mut sums: BTreeMap<&Item, i64> = BTreeMap::new();
        let mut so_far = Vec::with_capacity(self.made.0.len());
        for row in &self.made.0 {
            let units = sums.entry(row.item).or_default();
            *units += row.quantity;
            so_far.push(*units);
        }
        self.made
            .bind(posting)
            .bind(sums.keys().map(|item| item.sku.as_str()).collect::<Vec<_>>())
            .bind(sums.keys().map(|item| item.location.as_str()).collect::<Vec<_>>())
            .bind(sums.into_values().collect::<Vec<_>>())
            .bind(so_far)
            .bind(&self.keys.hashes)
            .bind(&self.keys.subjects)
            .bind(&self.keys.fingerprints)
            .bind(&self.keys.derived)
    }
}
