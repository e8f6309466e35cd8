//! C6: sold out was answered only where stock may have been empty.
//!
//! The rule is [`interval`](super::interval)'s. Of what a client does not know, everything counts as taken: a key takes its
//! units once from the first attempt that may have had an effect (and once more for each further reservation that was
//! answered for it), whether it was lost later or has expired; a reservation that nobody asked for was there from the
//! beginning. Only releases that were answered as usable again give back. The units of a sale are the fewest that any of
//! its changes under way allows. And who is refused is told fewer units than asked for.
//!
//! Can't be seen, and is not judged: refusals after a sale's end may have begun, those of items that were never on sale,
//! and those of a sale that falls back to the ledger below a ceiling while a fault lasts. Expired units are not known to be
//! back, so after many expiries little is left to judge.

use std::collections::{HashMap, HashSet};

use super::case::{Case, said, told_at};
use super::interval::{Book, Refusal};
use super::verdict::Findings;
use crate::domain::account::SaleAccount;
use crate::domain::reservation::Status;
use crate::domain::reservation_id::ReservationId;
use crate::drill::history::{Action, Kind, Operation, Outcome};

/// How far the moments of a history may be off Postgres' clock, where a sale ends by it.
const WALL_SLACK_US: i64 = 10_000_000;

/// A sale, and what is known of its units.
struct Trade<'a> {
    sale: &'a SaleAccount,
    book: Book<i64>,
    /// The operation of each refusal.
    refused: Vec<&'a Operation>,
    changes: Vec<&'a Operation>,
}

pub(super) fn honest(case: &Case<'_>, out: &mut Findings) {
    let mut by_item: HashMap<(&str, &str), Vec<usize>> = HashMap::new();
    let mut trades: Vec<Trade<'_>> = Vec::new();
    for sale in &case.account.sales {
        let item = (sale.item.sku.as_str(), sale.item.location.as_str());
        by_item.entry(item).or_default().push(trades.len());
        trades.push(Trade {
            sale,
            book: Book::default(),
            refused: Vec::new(),
            changes: Vec::new(),
        });
    }
    // An item's only sale; with several, who sold what is not known.
    let only = |item: (&str, &str)| match by_item.get(&item).map(Vec::as_slice) {
        Some([at]) => Some(*at),
        _ => None,
    };
    let item_of = |op: &Operation| only((op.sku_id.as_ref()?.as_str(), op.location_id.as_ref()?.as_str()));
    let mut taken = Taken::default();
    let mut released: HashSet<ReservationId> = HashSet::new();
    for op in &case.history.operations {
        match op.kind {
            Kind::Reserve => {
                if let Some(at) = item_of(op) {
                    match op.code.as_deref() {
                        Some("INSUFFICIENT_STOCK") if op.outcome == Outcome::Refused => {
                            refuse(&mut trades[at], op, out)
                        }
                        _ => taken.add(at, op),
                    }
                }
            }
            Kind::Release => {
                let row = op.reservation_id.and_then(|id| case.rows.get(&id));
                let at = row.and_then(|row| only((row.item.sku.as_str(), row.item.location.as_str())));
                if let Some((row, at)) = row.zip(at).filter(|_| gives_back(case, op))
                    && released.insert(row.id)
                {
                    trades[at].book.released(told_at(op), row.quantity);
                }
            }
            Kind::Sale => {
                let of = trades
                    .iter_mut()
                    .filter(|trade| op.sale_id.as_ref() == Some(&trade.sale.id));
                of.for_each(|trade| trade.changes.push(op));
            }
            Kind::Commit | Kind::Extend | Kind::Get => {}
        }
    }
    taken.into(&mut trades);
    for row in case
        .each_row()
        .filter(|row| row.sale_no.is_some() && case.is_strange(row))
    {
        if let Some(at) = only((row.item.sku.as_str(), row.item.location.as_str())) {
            trades[at].book.granted(i64::MIN, row.quantity);
        }
    }
    for trade in &trades {
        judge(case, trade, out);
    }
}

fn refuse<'a>(trade: &mut Trade<'a>, op: &'a Operation, out: &mut Findings) {
    let Some(units) = op.quantity else { return };
    if let Some(available) = op.available.filter(|available| *available >= units) {
        out.add(|| {
            let what = format!("{units} units were refused, and told that {available} are free");
            (what, vec![op.op])
        });
    }
    trade.refused.push(op);
    trade.book.refused(Refusal {
        begun: op.invoked.mono_us,
        heard: told_at(op),
        units,
    });
}

fn gives_back(case: &Case<'_>, op: &Operation) -> bool {
    op.outcome == Outcome::Ok
        && op.reservation_status == Some(Status::Released)
        && op.restocked != Some(false)
        && !case.windows.may_lose_durable(op)
}

/// What each key may have taken: of which sale, since when, how many units, and the reservations answered for it.
#[derive(Default)]
struct Taken<'a> {
    by_key: HashMap<&'a str, (usize, i64, i64, Vec<ReservationId>)>,
    /// Of requests without a key, by reservation.
    by_id: HashMap<ReservationId, (usize, i64, i64)>,
    /// Of requests without a key of which nothing is known.
    unknown: Vec<(usize, i64, i64)>,
}

impl<'a> Taken<'a> {
    fn add(&mut self, at: usize, op: &'a Operation) {
        let Some(units) = op.quantity.filter(|_| op.outcome != Outcome::Refused) else {
            return;
        };
        let (begun, id) = (op.invoked.mono_us, said(op).map(|(id, _)| id));
        match (op.key.as_deref(), id) {
            (Some(key), id) => {
                let of = self.by_key.entry(key).or_insert((at, begun, units, Vec::new()));
                of.1 = of.1.min(begun);
                if let Some(id) = id.filter(|id| !of.3.contains(id)) {
                    of.3.push(id);
                }
            }
            (None, Some(id)) => {
                let of = self.by_id.entry(id).or_insert((at, begun, units));
                of.1 = of.1.min(begun);
            }
            (None, None) => self.unknown.push((at, begun, units)),
        }
    }

    fn into(self, trades: &mut [Trade<'_>]) {
        for (at, begun, units, ids) in self.by_key.into_values() {
            let times = i64::try_from(ids.len().max(1)).unwrap_or(i64::MAX);
            trades[at].book.granted(begun, units.saturating_mul(times));
        }
        for (at, begun, units) in self.by_id.into_values().chain(self.unknown) {
            trades[at].book.granted(begun, units);
        }
    }
}

fn judge(case: &Case<'_>, trade: &Trade<'_>, out: &mut Findings) {
    let allocations = Allocations::of(trade);
    let faults: Vec<(i64, i64)> = if trade.sale.falls_back {
        fallbacks(case)
    } else {
        Vec::new()
    };
    let ends_us = trade.sale.ends_at.map(|at| at.0.saturating_mul(1_000) - WALL_SLACK_US);
    let all = |refusal: &Refusal<i64>| {
        let fallen_back = faults
            .iter()
            .any(|(from, to)| *from <= refusal.heard && refusal.begun <= *to);
        if fallen_back { None } else { allocations.least(refusal) }
    };
    let ended = |op: &Operation| ends_us.is_some_and(|ends| op.returned.unwrap_or(op.invoked).wall_us >= ends);
    trade.refused.iter().for_each(|_| out.looked());
    for (at, free) in trade.book.lies(all) {
        let op = trade.refused[at];
        if !ended(op) {
            out.add(|| {
                let asked = op.quantity.unwrap_or_default();
                let what = format!(
                    "{asked} units of sale {} were refused, while {free} were free",
                    trade.sale.id
                );
                (what, vec![op.op])
            });
        }
    }
}

/// From each fault until its round has healed.
fn fallbacks(case: &Case<'_>) -> Vec<(i64, i64)> {
    let healed = |round: u32| case.history.healed.iter().find(|healed| healed.round == round);
    let faults = case.history.faults.iter();
    faults
        .map(|fault| {
            let to = healed(fault.round).map_or(i64::MAX, |healed| healed.healed.mono_us);
            (fault.from.mono_us, to)
        })
        .collect()
}

/// How many units a sale had, and when.
struct Allocations {
    /// Changes that were answered, by when they came: since when the number is certain, and the number.
    known: Vec<(i64, i64)>,
    /// Changes under way, or of which nothing is known: from, until, and the number; none: the sale may be over.
    open: Vec<(i64, i64, Option<i64>)>,
}

impl Allocations {
    fn of(trade: &Trade<'_>) -> Self {
        let (mut known, mut open) = (Vec::new(), Vec::new());
        let changed = trade.changes.iter().any(|op| op.allocation.is_some());
        if !changed {
            known.push((i64::MIN, trade.sale.allocation));
        }
        for op in trade.changes.iter().filter(|op| op.outcome != Outcome::Refused) {
            let stops = op.action == Some(Action::Stop);
            let number = op.allocation.filter(|_| !stops);
            if number.is_none() && !stops {
                continue;
            }
            let certain = op.outcome == Outcome::Ok && !stops;
            open.push((op.invoked.mono_us, if certain { told_at(op) } else { i64::MAX }, number));
            if let Some(number) = number.filter(|_| certain) {
                known.push((told_at(op), number));
            }
        }
        known.sort_unstable();
        Allocations { known, open }
    }

    /// The fewest units that the sale may have had while a request was under way. An admin makes few changes.
    fn least(&self, refusal: &Refusal<i64>) -> Option<i64> {
        let before = self.known.partition_point(|(since, _)| *since <= refusal.begun);
        let mut least = self.known.get(before.checked_sub(1)?)?.1;
        for (from, to, number) in &self.open {
            if *from <= refusal.heard && refusal.begun < *to {
                least = least.min((*number)?);
            }
        }
        Some(least)
    }
}
