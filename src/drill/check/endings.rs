//! C9: each reservation ends once, and a commit never follows an expiry that it lost to.
//!
//! The events of a reservation lead from one state to the next as the state machine allows: made, ended once, and made again
//! only by a late payment of one that had expired. Where they lead is its status. What a client was told of an ending is
//! what the ledger has: committed and released stay so for ever, expired is in its events (a late payment may have
//! undone it), and who was told of a rescue finds the second taking. An answer that a ledger may have forgotten, because
//! Postgres failed over to a standby that was behind, is not held against it.
//!
//! Can't be seen: whether an expiry came too early.

use std::collections::HashSet;

use super::case::Case;
use super::verdict::Findings;
use crate::domain::account::Kept;
use crate::domain::reservation::{Ending, Status};
use crate::domain::reservation_id::ReservationId;
use crate::drill::history::{Kind, Operation, Outcome};

pub(super) fn once(case: &Case<'_>, out: &mut Findings) {
    let mut told: HashSet<ReservationId> = HashSet::new();
    for row in case.each_row() {
        out.looked();
        let life = case.lives.get(&row.id).copied().unwrap_or_default();
        let wrong = match (life.ended_twice, life.status) {
            (Some((event, ending, status)), _) => Some(second(event, ending, status)),
            (None, Some(status)) if status != row.status => Some(format!(
                "is {}, and its events say {}",
                row.status.as_str(),
                status.as_str()
            )),
            _ => None,
        };
        if let Some(wrong) = wrong
            && told.insert(row.id)
        {
            out.add(|| (format!("{} {wrong}", row.id), case.ops_of_order(row)));
        }
    }
    for op in &case.history.operations {
        let Some(row) = op.reservation_id.and_then(|id| case.rows.get(&id)) else {
            continue;
        };
        let Some(wrong) = contradicts(case, op, row) else {
            continue;
        };
        if !case.windows.may_lose_durable(op) && told.insert(row.id) {
            out.add(|| (format!("{} {wrong}", row.id), vec![op.op]));
        }
    }
}

fn second(event: i64, ending: Ending, status: Option<Status>) -> String {
    let verb = match ending {
        Ending::Commit => "committed",
        Ending::Release => "released",
        Ending::Expire => "expired",
    };
    match status {
        None => format!("was {verb} by event {event}, and never made"),
        Some(status) => format!("was {verb} by event {event}, and was {} already", status.as_str()),
    }
}

/// What an answer says of the end of a reservation, and the ledger does not.
fn contradicts(case: &Case<'_>, op: &Operation, row: &Kept) -> Option<String> {
    let said = match (op.outcome, op.code.as_deref()) {
        (Outcome::Ok, _) => op.reservation_status.or_else(|| done(op.kind))?,
        (Outcome::Refused, Some("RESERVATION_EXPIRED")) => Status::Expired,
        (Outcome::Refused, Some("RESERVATION_RELEASED")) => Status::Released,
        (Outcome::Refused, Some("RESERVATION_COMMITTED")) => Status::Committed,
        _ => return None,
    };
    let life = case.lives.get(&row.id).copied().unwrap_or_default();
    let holds = match said {
        Status::Committed | Status::Released => row.status == said,
        Status::Expired => life.expired,
        // That it was made is for others; that it was rejected too.
        Status::Reserved | Status::Rejected => true,
    };
    if !holds {
        return Some(format!("was told as {}, and is {}", said.as_str(), row.status.as_str()));
    }
    (op.rescued && life.retaken == 0).then(|| "was told as rescued, and its units were taken once".to_owned())
}

/// What an ending without a word about the reservation says.
fn done(kind: Kind) -> Option<Status> {
    (kind == Kind::Commit).then_some(Status::Committed)
}
