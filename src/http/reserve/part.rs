//! A cart's line on a live sale: held in its lane for a few seconds, until the transaction that makes the cart.
//!
//! It is an ordinary reservation with a short time to pay. A gateway that dies leaves it to expire; a repeat of the cart,
//! through whichever gateway, finds it by its key.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::Told;
use super::at::{Not, not_selling};
use super::fallback::{self, Decided};
use super::request::Asked;
use super::settle;
use crate::domain::outcome::{Decision, Durability};
use crate::domain::quantity::Quantity;
use crate::domain::reservation::{Ack, Cause, Ending, Reservation, Status};
use crate::domain::reservation_id::ReservationId;
use crate::domain::sale::Sale;
use crate::flash::Outcome;
use crate::http::Gateway;
use crate::http::code::Code;
use crate::http::endings::restocked;
use crate::http::problem::Problem;
use crate::ledger::{EndAnswer, EndAsk};

/// Longest wait for a line to become durable.
const DURABLE_WITHIN: Duration = Duration::from_secs(1);

/// What became of a line.
pub(super) enum Part {
    /// It is durable, and held.
    Held(ReservationId),
    /// The lane does not sell the item (any more).
    Elsewhere,
    /// What the lane knows is of the past; in a moment it will know more.
    Again,
    /// It can't be had.
    Failed(Problem),
}

/// Holds a line. `fresh`: the sale was read for this attempt.
pub(super) async fn hold(
    gateway: &Gateway,
    asked: &Asked,
    sale: &Arc<Sale>,
    fresh: bool,
    quantity: Quantity,
    started: Instant,
) -> Part {
    let slip = asked.part(&sale.item, quantity, sale.hold_max_ms);
    let outcome = match fallback::decide(gateway, sale, &slip, true).await {
        Ok(Decided::Said(outcome)) => outcome,
        Ok(Decided::Durable { id, .. }) => return Part::Held(id),
        Err(problem) => return Part::Failed(problem),
    };
    match not_selling(sale, fresh, &outcome, started) {
        Some(Not::Live(problem) | Not::Yet(problem)) => return Part::Failed(problem),
        Some(Not::Here) => return Part::Elsewhere,
        None => {}
    }
    let Outcome { decision, watch, .. } = outcome;
    let id = match decision {
        Decision::Reserved { id, .. } => id,
        Decision::Replayed(id) => {
            settle::durable(gateway, id, watch, DURABLE_WITHIN).await;
            return standing(gateway, asked, sale, id, quantity).await;
        }
        Decision::Ended(_) => return Part::Again,
        refused => {
            let (Ok(problem) | Err(problem)) = settle::refused_in_lane(gateway, asked, sale, refused).await;
            return Part::Failed(problem);
        }
    };
    match settle::durable(gateway, id, watch, DURABLE_WITHIN).await {
        Some(Durability::Durable) => Part::Held(id),
        Some(Durability::Rejected { cause, first }) => rejected(gateway, asked, sale, cause, first).await,
        None => standing(gateway, asked, sale, id, quantity).await,
    }
}

async fn standing(gateway: &Gateway, asked: &Asked, sale: &Sale, id: ReservationId, quantity: Quantity) -> Part {
    let found = match settle::tell(gateway, id, DURABLE_WITHIN).await {
        Ok(Told::Whole(found)) => found,
        Ok(Told::Lost(_)) => return rejected(gateway, asked, sale, Cause::Lost, None).await,
        Err(problem) => return Part::Failed(problem),
    };
    match (found.status, found.cause) {
        (Status::Reserved, _) if found.ack == Ack::Durable => {
            if is_of(&found, quantity.into()) {
                return Part::Held(id);
            }
            give_back(gateway, asked, id).await;
            Part::Again
        }
        (Status::Reserved, _) => Part::Failed(Problem::new(
            Code::LedgerUnavailable,
            "the ledger is behind; nothing of the cart stays held",
        )),
        (Status::Rejected, Some(cause)) => rejected(gateway, asked, sale, cause, found.first).await,
        _ => Part::Again,
    }
}

/// An earlier attempt may have split a line otherwise.
pub(super) fn is_of(part: &Reservation, units: i64) -> bool {
    part.lines.iter().map(|line| line.quantity).sum::<i64>() == units
}

async fn rejected(gateway: &Gateway, asked: &Asked, sale: &Sale, cause: Cause, first: Option<ReservationId>) -> Part {
    match (cause, first) {
        (Cause::Replay, _) => Part::Again,
        (Cause::OrderAlreadyReserved, Some(first)) => Part::Failed(settle::order_holds(gateway, first).await),
        (cause, first) => Part::Failed(settle::rejection(gateway, asked, sale, cause, first).await),
    }
}

/// Gives a line back, unless it belongs to a cart by now: another gateway may have made it of the same lines. Returns
/// when its units can be had again, within a second.
pub(super) async fn give_back(gateway: &Gateway, asked: &Asked, id: ReservationId) {
    let ask = EndAsk {
        id,
        ending: Ending::Release,
        detail: Some("its cart was not made".to_owned()),
        key: None,
        trace: asked.trace,
        operator: None,
        unless_in_cart: true,
        from_newer_sales: false,
    };
    match gateway.calls.end.ask(ask).await {
        Ok(EndAnswer::Done { tickets, .. }) => {
            restocked(gateway, &tickets).await;
        }
        Ok(_) => {}
        // It expires by itself.
        Err(problem) => tracing::warn!(trace = %asked.trace, reservation = %id, code = problem.code().as_str(),
            "a line of a cart that was not made could not be given back at once"),
    }
}
