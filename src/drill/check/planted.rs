//! Violations, each of one kind: what turns a history and an account that can both be true into a pair that can't.
//!
//! A plant says whether the history gave occasion for it.

use super::Check;
use super::sim::{LIMIT, ask, item, unknown_id};
use crate::domain::account::{Account, Deed, Kept};
use crate::domain::id::{OrderId, UserId};
use crate::domain::reservation::{Ack, Cause, Ending, Status};
use crate::domain::reservation_id::ReservationId;
use crate::domain::time::Millis;
use crate::drill::history::{History, Kind, Loses, Operation, Outcome};

pub(super) type Plant = fn(&mut History, &mut Account) -> Option<()>;

/// What is planted, the check that must find it and no other, and how.
pub(super) const PLANTED: [(&str, Check, Plant); 35] = [
    ("more is promised than ever came", Check::C1, |_, account| {
        let stock = &mut account.stock[0];
        let came = stock.changes[0].delta.on_hand;
        stock.changes[0].delta.on_hand = 0;
        stock.changes.iter_mut().for_each(|change| change.after.on_hand -= came);
        stock.balance.on_hand -= came;
        Some(())
    }),
    ("an event tells another image", Check::C1, |_, account| {
        let changes = &mut account.stock[0].changes;
        // The last of its transaction: what is between them nobody sees.
        let last = changes.len().checked_sub(1)?;
        changes[last].after.on_hand += 1;
        Some(())
    }),
    ("a balance changed without an event", Check::C1, |_, account| {
        account.stock[0].balance.sold += 1;
        Some(())
    }),
    ("a durable answer of nothing", Check::C2, |history, account| {
        like_a_reserve(history, unknown_id(account))?;
        Some(())
    }),
    (
        "a durable answer of what was rejected",
        Check::C2,
        |history, account| {
            let id = row(account, |row| row.status == Status::Rejected)?.id;
            ask(history, Kind::Get, id).reservation_status = Some(Status::Reserved);
            Some(())
        },
    ),
    ("a reservation that is there twice", Check::C2, |_, account| {
        let again = row(account, |row| row.status == Status::Reserved)?.clone();
        account.reservations.push(again);
        Some(())
    }),
    ("a durable answer for other units", Check::C2, |history, _| {
        let op = history.operations.iter_mut().find(|op| is_durable(op))?;
        op.quantity = op.quantity.map(|units| units + 1);
        Some(())
    }),
    ("a durable answer for another user", Check::C2, |history, _| {
        let op = history.operations.iter_mut().find(|op| is_durable(op))?;
        op.user_id = UserId::try_from("somebody").ok();
        Some(())
    }),
    ("an accepted answer that went nowhere", Check::C3, |history, account| {
        let op = like_a_reserve(history, unknown_id(account))?;
        op.ack = Some(Ack::Accepted);
        op.status = Some(202);
        Some(())
    }),
    ("lost, and nobody was told", Check::C3, |history, account| {
        let lost = lost(history, account)?;
        history
            .operations
            .retain(|op| op.kind != Kind::Get || op.reservation_id != Some(lost));
        Some(())
    }),
    ("lost, and no loss declared", Check::C3, |history, account| {
        lost(history, account)?;
        history.faults.iter_mut().for_each(|fault| fault.loses = Loses::Nothing);
        Some(())
    }),
    ("lost, and its epoch goes on", Check::C3, |history, account| {
        let place = lost(history, account)?.place();
        account.lanes.iter_mut().for_each(|lane| {
            lane.epoch = place.epoch;
            lane.cursor_epoch = place.epoch;
        });
        Some(())
    }),
    ("told as lost, and there", Check::C3, |history, account| {
        let id = row(account, |row| row.status == Status::Reserved)?.id;
        let op = ask(history, Kind::Get, id);
        op.reservation_status = Some(Status::Rejected);
        op.cause = Some(Cause::Lost);
        op.ack = Some(Ack::Accepted);
        Some(())
    }),
    ("two reservations answered for a key", Check::C4, |history, account| {
        let (one, other) = two(account, |row| row.status != Status::Rejected)?;
        let key_of = |id| {
            history
                .operations
                .iter()
                .find(|op| op.kind == Kind::Reserve && op.reservation_id == Some(id))
        };
        let (one, other) = (key_of(one.id)?.key.clone(), key_of(other.id)?.key.clone());
        let of_other = history.operations.iter_mut().filter(|op| op.key == other);
        of_other.for_each(|op| op.key.clone_from(&one));
        Some(())
    }),
    ("two reservations of a key", Check::C4, |_, account| {
        let key = two(account, |row| row.status != Status::Rejected)?.0.key;
        let id = two(account, |row| row.status != Status::Rejected)?.1.id;
        let row = account.reservations.iter_mut().find(|row| row.id == id)?;
        row.key = key;
        Some(())
    }),
    ("an order that has an item twice", Check::C4, |history, account| {
        let holds = |row: &Kept| matches!(row.status, Status::Reserved | Status::Committed);
        let (one, other) = two(account, holds)?;
        let (one, other): (OrderId, OrderId) = (one.order.clone(), other.order.clone());
        let rows = account.reservations.iter_mut().filter(|row| row.order == other);
        rows.for_each(|row| row.order = one.clone());
        let ops = history
            .operations
            .iter_mut()
            .filter(|op| op.order_id.as_ref() == Some(&other));
        ops.for_each(|op| op.order_id = Some(one.clone()));
        Some(())
    }),
    ("a reservation that nobody asked for", Check::C4, |history, account| {
        let row = row(account, |row| row.status == Status::Reserved)?;
        history
            .operations
            .retain(|op| op.reservation_id != Some(row.id) && op.order_id.as_ref() != Some(&row.order));
        // Of an item that the history does not buy it can't be told.
        let buys = |op: &Operation| op.kind == Kind::Reserve && op.sku_id.as_ref() == Some(&row.item.sku);
        history.operations.iter().any(buys).then_some(())
    }),
    ("a reservation answered for two keys", Check::C4, |history, _| {
        let mut op = history.operations.iter().find(|op| is_durable(op))?.clone();
        op.key = Some("another".to_owned());
        history.operations.push(op);
        Some(())
    }),
    ("a user above the limit", Check::C5, |_, account| {
        let late = |row: &&Kept| {
            let mut retaken = account.stock[0]
                .changes
                .iter()
                .filter(|change| change.deed == Deed::Retaken);
            retaken.any(|change| change.reservation == Some(row.id))
        };
        let left_out: Vec<_> = account.reservations.iter().filter(late).map(|row| &row.user).collect();
        let holds = |row: &Kept| row.status != Status::Rejected && i64::from(LIMIT - 2) < row.quantity;
        row(account, |row| holds(row) && !left_out.contains(&&row.user))?;
        account.sales[0].limit_peak = Some(LIMIT - 2);
        Some(())
    }),
    ("refused before anybody asked", Check::C6, |history, _| {
        refusal(history, 100);
        Some(())
    }),
    ("refused what was told to be free", Check::C6, |history, account| {
        let op = refusal(history, 100);
        op.quantity = Some(account.sales[0].allocation + 1);
        op.available = op.quantity;
        Some(())
    }),
    ("a lane that counts a unit too many", Check::C7, |_, account| {
        account.sales[0].buckets[1].durable += 1;
        Some(())
    }),
    ("a unit out of nothing", Check::C7, |_, account| {
        account.sales[0].buckets[0].counter += 1;
        Some(())
    }),
    ("a unit that got lost on its way", Check::C7, |_, account| {
        account.sales[0].buckets[1].on_the_way -= 1;
        Some(())
    }),
    ("a lane that stays closed", Check::C8, |_, account| {
        account.lanes[0].open = false;
        Some(())
    }),
    ("a lane that drifts", Check::C8, |_, account| {
        account.sales[0].buckets[0].drift = -1;
        Some(())
    }),
    ("a grant that nobody delivers", Check::C8, |_, account| {
        account.lanes[1].waits_since = Some(Millis(account.read_at.0 - 3_600_000));
        Some(())
    }),
    ("a fault that does not heal", Check::C8, |history, _| {
        let last = history.healed.pop()?.round;
        history.settled.retain(|settled| settled.round != last);
        Some(())
    }),
    ("a backlog that is left", Check::C8, |history, _| {
        history.settled.last_mut()?.backlog = 3;
        Some(())
    }),
    ("a rest that comes too late", Check::C8, |history, _| {
        history.settled.last_mut()?.settled.mono_us += 3_600_000_000;
        Some(())
    }),
    ("nobody saw it rest", Check::C8, |history, _| {
        history.settled.pop()?;
        Some(())
    }),
    ("an ending that its events don't tell", Check::C9, |_, account| {
        let row = account
            .reservations
            .iter_mut()
            .find(|row| row.status == Status::Released)?;
        row.status = Status::Expired;
        Some(())
    }),
    ("told as paid, and given back", Check::C9, |history, account| {
        let id = row(account, |row| row.status == Status::Released)?.id;
        ask(history, Kind::Commit, id).reservation_status = Some(Status::Committed);
        Some(())
    }),
    ("a commit after an expiry", Check::C9, |_, account| {
        let changes = &mut account.stock[0].changes;
        let retaken = changes.iter_mut().find(|change| change.deed == Deed::Retaken)?;
        retaken.deed = Deed::Moved;
        let (id, units) = (retaken.reservation?, retaken.delta.reserved);
        let lane = usize::from(id.lane().0);
        account.sales[0].buckets[lane].durable -= units;
        Some(())
    }),
    ("told as rescued, and taken once", Check::C9, |history, account| {
        let once = |id: &ReservationId| {
            let changes = account.stock[0].changes.iter();
            let mut of = changes
                .filter(|change| change.reservation == Some(*id))
                .map(|change| change.deed);
            (of.next(), of.next(), of.next()) == (Some(Deed::Taken), Some(Deed::Ended(Ending::Commit)), None)
        };
        let committed = |op: &&mut Operation| op.kind == Kind::Commit && op.reservation_id.as_ref().is_some_and(once);
        history
            .operations
            .iter_mut()
            .find(|op| committed(op) && op.outcome == Outcome::Ok)?
            .rescued = true;
        Some(())
    }),
];

fn is_durable(op: &Operation) -> bool {
    op.kind == Kind::Reserve
        && op.outcome == Outcome::Ok
        && op.ack == Some(Ack::Durable)
        && op.reservation_status != Some(Status::Rejected)
}

fn row(account: &Account, fits: impl Fn(&Kept) -> bool) -> Option<&Kept> {
    account.reservations.iter().find(|row| fits(row))
}

/// Two of different orders and of as many units.
fn two(account: &Account, fits: impl Fn(&Kept) -> bool) -> Option<(&Kept, &Kept)> {
    let one = row(account, &fits)?;
    let other = row(account, |row| {
        fits(row) && row.order != one.order && row.quantity == one.quantity
    })?;
    Some((one, other))
}

/// One that a client had been told as accepted, and that the ledger does not have.
fn lost(history: &History, account: &Account) -> Option<ReservationId> {
    let is_lost = |op: &&Operation| op.cause == Some(Cause::Lost);
    let mut told = history
        .operations
        .iter()
        .filter(is_lost)
        .filter_map(|op| op.reservation_id);
    told.find(|id| account.reservations.iter().all(|row| row.id != *id))
}

/// A repeat of a request that has been asked for, answered as durable with this id.
fn like_a_reserve(history: &mut History, id: ReservationId) -> Option<&mut Operation> {
    let model = history.operations.iter().find(|op| op.kind == Kind::Reserve)?.clone();
    let op = ask(history, Kind::Reserve, id);
    op.order_id = model.order_id;
    op.user_id = model.user_id;
    op.sku_id = model.sku_id;
    op.location_id = model.location_id;
    op.quantity = model.quantity;
    op.key = Some("new".to_owned());
    op.status = Some(201);
    op.reservation_status = Some(Status::Reserved);
    Some(op)
}

/// A client who is told that the sale is sold out, at an instant soon after its start.
fn refusal(history: &mut History, at: i64) -> &mut Operation {
    let mut op = Operation::asked(2_000_000, Kind::Reserve, history.operations[0].invoked);
    op.invoked.mono_us = at;
    op.returned = Some(op.invoked);
    op.outcome = Outcome::Refused;
    op.status = Some(409);
    op.code = Some("INSUFFICIENT_STOCK".to_owned());
    op.available = Some(0);
    op.quantity = Some(1);
    op.order_id = OrderId::try_from("early").ok();
    op.sku_id = Some(item().sku);
    op.location_id = Some(item().location);
    history.operations.insert(0, op);
    &mut history.operations[0]
}
