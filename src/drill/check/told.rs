//! C2: every durable answer is in the ledger, once, as it was asked for. C3: every accepted one is too, or lost inside a
//! declared window, and told so.
//!
//! Durable is what came with `ack: durable`, and every answer to a commit, release or extension. It may be missing only
//! where Postgres failed over to a standby that was behind. Accepted is what came with `ack: accepted` and never as durable.
//! The ledger may have refused it because another reservation has its key or its order's line; any other refusal, and
//! its absence, needs a declared loss. What is absent needs in addition that its lane has been recovered since (its epoch
//! is over), and an answer `REJECTED`, cause `lost`, since the fault; who was told that must not find it in the ledger after
//! all.
//!
//! Can't be seen: an answer that was lost within a window although the fault had not touched it.

use std::collections::{HashMap, HashSet};

use super::case::{Case, Said, said, told_at};
use super::verdict::Findings;
use crate::domain::account::{Kept, LaneAccount};
use crate::domain::lane::LaneNo;
use crate::domain::reservation::Status;
use crate::domain::reservation_id::{Kind as IdKind, ReservationId};
use crate::drill::history::{Kind, Operation};

pub(super) fn durable(case: &Case<'_>, out: &mut Findings) {
    let mut told: HashSet<ReservationId> = HashSet::new();
    for id in &case.repeated {
        if told.insert(*id) {
            out.add(|| (format!("{id} is in the ledger more than once"), ops_of(case, *id)));
        }
    }
    for op in &case.history.operations {
        let Some((id, Said::Durable)) = said(op) else { continue };
        out.looked();
        let wrong = match case.rows.get(&id) {
            None => Some("and the ledger does not have it".to_owned()),
            Some(row) if row.status == Status::Rejected => {
                Some(format!("and the ledger has rejected it: {:?}", row.cause))
            }
            Some(row) => differs(op, row),
        };
        if let Some(wrong) = wrong
            && !case.windows.may_lose_durable(op)
            && told.insert(id)
        {
            out.add(|| (format!("{id} was answered as durable, {wrong}"), vec![op.op]));
        }
    }
    for row in case.each_row().filter(|row| row.status != Status::Rejected) {
        let life = case.lives.get(&row.id).copied().unwrap_or_default();
        let wrong = match (life.status, life.made_twice) {
            (None, _) if life.ended_twice.is_none() => "has no event that made it".to_owned(),
            (_, Some(event)) => format!("was made again by event {event}"),
            _ => continue,
        };
        if told.insert(row.id) {
            out.add(|| (format!("{} {wrong}", row.id), ops_of(case, row.id)));
        }
    }
    let mut strays: Vec<&ReservationId> = case.lives.keys().filter(|id| !case.rows.contains_key(id)).collect();
    strays.sort_unstable();
    for id in strays {
        // A return names its reservation too, and moves none of its units.
        let moved = case.lives[id].status.is_some() || case.lives[id].ended_twice.is_some();
        if moved && told.insert(*id) {
            out.add(|| (format!("{id} has events, and is not in the ledger"), ops_of(case, *id)));
        }
    }
}

/// What the ledger has otherwise than it was asked for.
fn differs(op: &Operation, row: &Kept) -> Option<String> {
    if op.kind != Kind::Reserve {
        return None;
    }
    let differs = |what: &str, asked: &dyn std::fmt::Display, kept: &dyn std::fmt::Display| {
        Some(format!("for {what} {asked}; the ledger has {kept}"))
    };
    let none = || "nobody".to_owned();
    if let Some(order) = op.order_id.as_ref().filter(|order| **order != row.order) {
        return differs("order", order, &row.order);
    }
    if op.user_id != row.user {
        let name = |user: &Option<_>| user.as_ref().map_or_else(none, ToString::to_string);
        return differs("user", &name(&op.user_id), &name(&row.user));
    }
    if let Some(sku) = op.sku_id.as_ref().filter(|sku| **sku != row.item.sku) {
        return differs("SKU", sku, &row.item.sku);
    }
    if let Some(location) = op
        .location_id
        .as_ref()
        .filter(|location| **location != row.item.location)
    {
        return differs("location", location, &row.item.location);
    }
    let quantity = op.quantity.filter(|quantity| *quantity != row.quantity)?;
    differs("units", &quantity, &row.quantity)
}

/// What clients heard of a reservation that was at some time merely accepted.
#[derive(Default)]
struct Heard {
    /// The first answer that had it as accepted: its operation, and when it came.
    first: Option<(u64, i64)>,
    /// When the last question was asked that such an answer came to.
    last_asked: i64,
    durable: bool,
    /// The last answer that it was lost, and when it was asked for.
    lost: Option<(u64, i64)>,
}

pub(super) fn accepted(case: &Case<'_>, out: &mut Findings) {
    let mut heard: HashMap<ReservationId, Heard> = HashMap::new();
    let mut order = Vec::new();
    for op in &case.history.operations {
        let Some((id, what)) = said(op) else { continue };
        let of = heard.entry(id).or_insert_with(|| {
            order.push(id);
            Heard::default()
        });
        match what {
            Said::Durable => of.durable = true,
            Said::Accepted => {
                of.first.get_or_insert((op.op, told_at(op)));
                of.last_asked = of.last_asked.max(op.invoked.mono_us);
            }
            Said::Rejected { lost: true } => of.lost = Some((op.op, op.invoked.mono_us)),
            Said::Rejected { lost: false } => {}
        }
    }
    let lanes: HashMap<LaneNo, &LaneAccount> = case.account.lanes.iter().map(|lane| (lane.lane, lane)).collect();
    for id in order {
        let of = &heard[&id];
        if let Some((op, _)) = of.lost
            && case.made(id).is_some()
        {
            out.looked();
            out.add(|| (format!("{id} was told as lost, and the ledger has it"), vec![op]));
            continue;
        }
        let Some((op, first_told)) = of.first else { continue };
        out.looked();
        // Then it is C2's.
        if of.durable {
            continue;
        }
        let declared = match case.rows.get(&id) {
            Some(_) => case.windows.may_refuse_accepted(first_told, of.last_asked),
            None => case.windows.may_lose_accepted(first_told, of.last_asked),
        };
        let wrong = match case.rows.get(&id) {
            Some(row) if row.status == Status::Rejected => (!declared && !is_second(case, row))
                .then(|| format!("the ledger has rejected it ({:?}), and no loss is declared", row.cause)),
            Some(_) => None,
            None if !declared => Some("the ledger does not have it, and no loss is declared".to_owned()),
            None if !is_over(&lanes, id) => Some("the ledger does not have it, and its epoch is not over".to_owned()),
            None if of.lost.is_none_or(|(_, asked)| asked < first_told) => {
                Some("it is lost, and nobody was told so".to_owned())
            }
            None => None,
        };
        if let Some(wrong) = wrong {
            out.add(|| (format!("{id} was accepted: {wrong}"), vec![op]));
        }
    }
}

/// Refused because another reservation came first, which the ledger has.
fn is_second(case: &Case<'_>, row: &Kept) -> bool {
    let first = row.first.and_then(|first| case.rows.get(&first));
    first.is_some_and(|first| first.key == row.key || (first.order == row.order && first.item == row.item))
}

/// What a lane made in an epoch before the one that its cursor is in is in the ledger, or lost for good.
fn is_over(lanes: &HashMap<LaneNo, &LaneAccount>, id: ReservationId) -> bool {
    id.kind() == Some(IdKind::Lane)
        && lanes
            .get(&id.lane())
            .is_some_and(|lane| id.place().epoch < lane.cursor_epoch)
}

/// The operations that name a reservation, for a violation that is named.
fn ops_of(case: &Case<'_>, id: ReservationId) -> Vec<u64> {
    let of = |op: &&Operation| op.reservation_id == Some(id);
    case.history.operations.iter().filter(of).map(|op| op.op).collect()
}
