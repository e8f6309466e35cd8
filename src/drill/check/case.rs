//! What all checks look things up in: the ledger's rows by id, the life that events tell of each reservation, the windows
//! in which answers may have been lost, and what was asked for.

use std::collections::{HashMap, HashSet};

use super::lives::{Life, lives};
use super::windows::Windows;
use crate::domain::account::{Account, Kept};
use crate::domain::id::Item;
use crate::domain::reservation::{Ack, Status};
use crate::domain::reservation_id::{Kind as IdKind, ReservationId};
use crate::drill::history::{History, Kind, Operation, Outcome};

/// A SKU at a location, borrowed.
type Place<'a> = (&'a str, &'a str);

/// A history, the ledger's account, and what both are looked up in.
pub(super) struct Case<'a> {
    pub(super) history: &'a History,
    pub(super) account: &'a Account,
    /// The first row of each id.
    pub(super) rows: HashMap<ReservationId, &'a Kept>,
    /// Ids of further rows.
    pub(super) repeated: Vec<ReservationId>,
    pub(super) lives: HashMap<ReservationId, Life>,
    pub(super) windows: Windows,
    /// Items that the history asks for.
    asked_items: HashSet<Place<'a>>,
    /// Orders and items that the history asks for.
    asked: HashSet<(&'a str, Place<'a>)>,
}

impl<'a> Case<'a> {
    pub(super) fn new(history: &'a History, account: &'a Account) -> Self {
        let mut rows = HashMap::with_capacity(account.reservations.len());
        let mut repeated = Vec::new();
        for row in &account.reservations {
            if !std::ptr::eq(*rows.entry(row.id).or_insert(row), row) {
                repeated.push(row.id);
            }
        }
        let (mut asked_items, mut asked) = (HashSet::new(), HashSet::new());
        for (order, item) in history.operations.iter().filter_map(asked_for) {
            asked_items.insert(item);
            asked.insert((order, item));
        }
        Case {
            history,
            account,
            rows,
            repeated,
            lives: lives(account),
            windows: Windows::of(history),
            asked_items,
            asked,
        }
    }

    /// The ledger has it, and has not refused it.
    pub(super) fn made(&self, id: ReservationId) -> Option<&'a Kept> {
        self.rows.get(&id).copied().filter(|row| row.status != Status::Rejected)
    }

    /// All rows, each id once.
    pub(super) fn each_row(&self) -> impl Iterator<Item = &'a Kept> {
        let is_first = |row: &&Kept| std::ptr::eq(self.rows[&row.id], *row);
        self.account.reservations.iter().filter(is_first)
    }

    /// Nobody in the history asked for it, though the history buys this item.
    pub(super) fn is_strange(&self, row: &Kept) -> bool {
        let item = place_of(&row.item);
        self.asked_items.contains(&item) && !self.asked.contains(&(row.order.as_str(), item))
    }

    /// The reserves of an order, for a violation that is named.
    pub(super) fn ops_of_order(&self, row: &Kept) -> Vec<u64> {
        let of = |op: &&Operation| {
            asked_for(op).is_some_and(|(order, item)| order == row.order.as_str() && item == place_of(&row.item))
        };
        self.history.operations.iter().filter(of).map(|op| op.op).collect()
    }
}

fn place_of(item: &Item) -> Place<'_> {
    (item.sku.as_str(), item.location.as_str())
}

/// The order and item of a reserve.
fn asked_for(op: &Operation) -> Option<(&str, Place<'_>)> {
    let of_reserve = (op.kind == Kind::Reserve).then_some(op)?;
    let item = (
        of_reserve.sku_id.as_ref()?.as_str(),
        of_reserve.location_id.as_ref()?.as_str(),
    );
    Some((of_reserve.order_id.as_ref()?.as_str(), item))
}

/// What an answer says of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Its rows are committed.
    Durable,
    /// Redis has taken its units.
    Accepted,
    /// It was refused after it had been accepted; true: for it was lost.
    Rejected { lost: bool },
}

/// What an answer says of a reservation of one line, if it says anything.
pub(super) fn said(op: &Operation) -> Option<(ReservationId, Said)> {
    let id = op.reservation_id.filter(|id| id.kind() != Some(IdKind::Cart))?;
    if op.outcome != Outcome::Ok || op.kind == Kind::Sale {
        return None;
    }
    if op.reservation_status == Some(Status::Rejected) {
        let lost = op.cause == Some(crate::domain::reservation::Cause::Lost);
        return Some((id, Said::Rejected { lost }));
    }
    let level = match (op.ack, op.status) {
        (Some(Ack::Accepted), _) | (None, Some(202)) => Said::Accepted,
        _ => Said::Durable,
    };
    Some((id, level))
}

/// When an operation was over, on the clients' clock.
pub(super) fn told_at(op: &Operation) -> i64 {
    op.returned.unwrap_or(op.invoked).mono_us
}
