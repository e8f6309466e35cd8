//! C4: one reservation a key, whatever was answered, lost or repeated.
//!
//! A key that a client chose is kept for as long as a history lasts: of all reservations that were answered for it, and of
//! all rows that bear it, the ledger has made at most one (a second may be there as rejected). No reservation answers
//! two keys. An order holds an item once, whatever its keys. And nothing is there that nobody asked for: what a client
//! does not know about resolves to at most one reservation, of that client's order.
//!
//! Can't be seen: whether the right one of two attempts counts, where the ledger has one.

use std::collections::{HashMap, HashSet};

use super::case::{Case, said};
use super::verdict::Findings;
use crate::domain::account::Kept;
use crate::domain::id::Item;
use crate::domain::key::KeyHash;
use crate::domain::reservation::Status;
use crate::domain::reservation_id::ReservationId;
use crate::drill::history::Kind;

pub(super) fn once(case: &Case<'_>, out: &mut Findings) {
    let mut told: HashSet<ReservationId> = HashSet::new();
    answered(case, &mut told, out);
    kept(case, &mut told, out);
}

/// By what clients were answered.
fn answered(case: &Case<'_>, told: &mut HashSet<ReservationId>, out: &mut Findings) {
    let mut by_key: HashMap<&str, Vec<(ReservationId, u64)>> = HashMap::new();
    let mut by_id: HashMap<ReservationId, (&str, u64)> = HashMap::new();
    for op in case.history.operations.iter().filter(|op| op.kind == Kind::Reserve) {
        let (Some(key), Some((id, _))) = (op.key.as_deref(), said(op)) else {
            continue;
        };
        let (other, first) = *by_id.entry(id).or_insert((key, op.op));
        if other != key {
            out.add(|| {
                (
                    format!("{id} was answered for the keys {other} and {key}"),
                    vec![first, op.op],
                )
            });
            continue;
        }
        let of_key = by_key.entry(key).or_default();
        if of_key.iter().any(|(known, _)| *known == id) {
            continue;
        }
        if case.made(id).is_some()
            && let Some((before, first)) = of_key.iter().find(|(before, _)| case.made(*before).is_some())
        {
            told.insert(id);
            out.add(|| {
                let what = format!("{before} and {id} were answered for the key {key}, and the ledger has both");
                (what, vec![*first, op.op])
            });
        }
        of_key.push((id, op.op));
    }
}

/// By what the ledger has.
fn kept(case: &Case<'_>, told: &mut HashSet<ReservationId>, out: &mut Findings) {
    let mut by_key: HashMap<KeyHash, &Kept> = HashMap::new();
    let mut by_line: HashMap<(&str, &Item), &Kept> = HashMap::new();
    let made = |row: &&Kept| row.status != Status::Rejected && !row.in_cart;
    for row in case.each_row().filter(made) {
        out.looked();
        let mut again = Vec::new();
        if row.explicit_key
            && let Some(first) = by_key.insert(row.key, row)
        {
            again.push((first, "bear one key"));
        }
        if matches!(row.status, Status::Reserved | Status::Committed)
            && let Some(first) = by_line.insert((row.order.as_str(), &row.item), row)
        {
            again.push((first, "are of one order and item"));
        }
        for (first, says) in again {
            if !told.contains(&first.id) && told.insert(row.id) {
                out.add(|| (format!("{} and {} {says}", first.id, row.id), case.ops_of_order(row)));
            }
        }
        if case.is_strange(row) && told.insert(row.id) {
            let (order, item) = (&row.order, &row.item);
            out.add(|| {
                let what = format!(
                    "nobody asked for {}: order {order}, {} at {}",
                    row.id, item.sku, item.location
                );
                (what, Vec::new())
            });
        }
    }
}
