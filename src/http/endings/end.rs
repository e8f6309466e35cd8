//! Ending a reservation: from the ask to the answer, and what stands in its way.

use std::sync::Arc;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use futures::future::join_all;
use serde::Serialize;
use tokio::time::Instant;

use crate::domain::key::{Fingerprint, KeyHash};
use crate::domain::reservation::{Cause, Ending, Reservation, Status};
use crate::domain::reservation_id::{Kind, ReservationId};
use crate::domain::text::Text;
use crate::http::Gateway;
use crate::http::admin_sales::{IN_FORCE_MAX, late};
use crate::http::body::ReservationBody;
use crate::http::code::Code;
use crate::http::idempotency::mark_replayed;
use crate::http::problem::Problem;
use crate::http::reserve::{CHANGE_LOOK, CHANGE_WITHIN, changing};
use crate::http::standing::{DURABLE_WITHIN, Standing, find, not_durable_yet, parse_id, unknown};
use crate::http::trace::Traced;
use crate::ledger::{CallBack, EndAnswer, EndAsk, GrantTicket, LaneRescue, Scattered};
use crate::metric;
use crate::recall::taken_back;

/// A payment id or a reason.
pub(super) type Detail = Text<255>;

/// A release waits for its units in these steps, one second in all; after each the ledger is asked too, for a notice
/// can get lost.
const RESTOCK_STEPS: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(600),
];

/// A reservation that has ended.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndedBody {
    #[serde(flatten)]
    pub(super) reservation: ReservationBody,
    /// Of the commit that counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) payment_id: Option<String>,
    /// `false`: the units are on their way and not yet usable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) restocked: Option<bool>,
    /// `true`: it had expired, and its units were taken anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rescued: Option<bool>,
}

/// What came of an ending that succeeded.
pub(super) struct Ended {
    pub(super) body: EndedBody,
    pub(super) replayed: bool,
}

/// Who asks, and under which key.
pub(super) struct Caller {
    pub(super) trace: Traced,
    pub(super) key: Option<String>,
}

/// Ends a reservation, waiting for it to become durable where it is not; and counts what came of it.
pub(super) async fn end(
    gateway: &Gateway,
    id: &str,
    ending: Ending,
    detail: Option<Detail>,
    caller: Caller,
) -> Result<Ended, Problem> {
    let ended = try_end(gateway, id, ending, detail, caller).await;
    let code = match &ended {
        Ok(ended) if ended.replayed => "REPLAYED",
        Ok(_) => "OK",
        Err(problem) => problem.code().as_str(),
    };
    let name = if ending == Ending::Commit {
        metric::COMMITS
    } else {
        metric::RELEASES
    };
    metrics::counter!(name, "code" => code).increment(1);
    ended
}

async fn try_end(
    gateway: &Gateway,
    id: &str,
    ending: Ending,
    detail: Option<Detail>,
    caller: Caller,
) -> Result<Ended, Problem> {
    let id = parse_id(id)?;
    let detail = detail.map(Text::into_string);
    let operation = if ending == Ending::Commit { "commit" } else { "release" };
    let fingerprint = Fingerprint::of(&[&id.to_string(), detail.as_deref().unwrap_or("")]);
    let mut ask = EndAsk {
        id,
        ending,
        detail,
        key: caller.key.map(|key| (KeyHash::explicit(operation, &key), fingerprint)),
        trace: caller.trace.0,
        operator: None,
        unless_in_cart: false,
        from_newer_sales: false,
    };
    let started = Instant::now();
    let mut taking = Anew::Look;
    loop {
        match gateway.calls.end.ask(ask.clone()).await? {
            EndAnswer::Done {
                reservation,
                payment_id,
                tickets,
                replayed,
                rescued,
            } => {
                let restocked = restocked(gateway, &tickets).await;
                let body = EndedBody {
                    reservation: reservation.into(),
                    payment_id,
                    restocked: (!restocked).then_some(false),
                    rescued: rescued.then_some(true),
                };
                return Ok(Ended { body, replayed });
            }
            EndAnswer::Refused(reservation) if ending == Ending::Commit => {
                if reservation.status == Status::Expired && taking == Anew::Look {
                    taking = taken_anew(gateway, id, started).await?;
                    continue;
                }
                return Err(not_sold(gateway, &reservation).await?);
            }
            EndAnswer::Refused(reservation) => return Err(refused(&reservation)),
            EndAnswer::Short(reservation) => {
                if !called_back(gateway, id, started).await? {
                    return Err(not_sold(gateway, &reservation).await?);
                }
                ask.from_newer_sales = true;
                // Such a sale may have been stopped meanwhile.
                taking = Anew::Look;
            }
            EndAnswer::Frozen => return Err(frozen()),
            EndAnswer::KeyReused => {
                return Err(Problem::new(
                    Code::IdempotencyKeyReused,
                    "the key was sent with another request",
                ));
            }
            EndAnswer::Unknown => wait_for(gateway, id).await?,
        }
    }
}

/// Where the units for a late payment may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Anew {
    /// To be found out.
    Look,
    /// No lane and no stop had any on their way: if the balance does not have them now, nobody has.
    Asked,
}

/// Asks the lanes of an expired reservation for its units, where sales sell them, and waits for a sale that is being
/// stopped; the commit is to be tried again.
async fn taken_anew(gateway: &Gateway, id: ReservationId, started: Instant) -> Result<Anew, Problem> {
    let gathered = gateway.ledger.scattered(id).await?.into_iter().map(async |needs| {
        let Scattered { sale, lane, units } = needs;
        gateway.flash.gather(&Arc::new(sale), lane, units).await
    });
    for enough in join_all(gathered).await {
        // Where there are too few the lane says so; another payment of the same reservation may have them by now.
        enough.map_err(|error| {
            let what = "the reservation had expired; whether there are units for it could not be found out in time";
            Problem::new(Code::StockUnavailable, what).because(error)
        })?;
    }
    let tickets = match gateway.ledger.rescue_in_lane(id).await? {
        LaneRescue::Asked(tickets) => tickets,
        LaneRescue::Changed | LaneRescue::NoLane => return Ok(Anew::Asked),
        LaneRescue::Draining if started.elapsed() < CHANGE_WITHIN => {
            tokio::time::sleep(CHANGE_LOOK).await;
            return Ok(Anew::Look);
        }
        LaneRescue::Draining => {
            return Err(changing(
                "the reservation had expired, and its item's sale is being stopped",
            ));
        }
    };
    let deadline = Instant::now() + IN_FORCE_MAX;
    if taken_back(&gateway.ledger, &gateway.flash, &tickets, deadline).await? {
        return Ok(Anew::Asked);
    }
    Err(late(
        gateway,
        "the reservation had expired; its units are asked for, and a repeat tells what came of it",
    ))
}

/// Has newer sales of its items give what a late payment needs; the commit is to be tried again. `false`: they can't.
async fn called_back(gateway: &Gateway, id: ReservationId, started: Instant) -> Result<bool, Problem> {
    let deadline = started + IN_FORCE_MAX;
    let in_time = match gateway.ledger.call_back(id).await? {
        CallBack::Refused => return Ok(false),
        CallBack::Asked(tickets) => taken_back(&gateway.ledger, &gateway.flash, &tickets, deadline).await?,
        // Who was quicker may have taken them.
        CallBack::Ready => Instant::now() < deadline,
    };
    if in_time {
        return Ok(true);
    }
    Err(late(
        gateway,
        "the reservation had expired; its units are asked for from the sale that its item is on by now",
    ))
}

/// The answer to a commit of what is not to be sold any more.
async fn not_sold(gateway: &Gateway, reservation: &Reservation) -> Result<Problem, Problem> {
    let problem = refused(reservation);
    if reservation.status != Status::Expired {
        return Ok(problem);
    }
    if reservation.id.kind() == Some(Kind::Cart) {
        // Lanes may have taken some of its parts.
        let tickets = gateway.ledger.give_up_rescue(reservation.id).await?;
        restocked(gateway, &tickets).await;
    }
    // Whoever commits has been paid.
    Ok(problem.with("refundRequired", true))
}

/// Whether the units of an ending are usable again, within a second.
pub(in crate::http) async fn restocked(gateway: &Gateway, tickets: &[GrantTicket]) -> bool {
    let mut left: Vec<i64> = tickets.iter().map(|ticket| ticket.grant_id).collect();
    for ticket in tickets {
        gateway.flash.nudge_grants(ticket.lane);
    }
    for step in RESTOCK_STEPS {
        let heard = join_all(left.iter().map(|grant| gateway.flash.wait_delivered(*grant, step))).await;
        let mut heard = heard.into_iter();
        left.retain(|_| heard.next() != Some(true));
        if left.is_empty() {
            return true;
        }
        // Where the ledger can't be asked, the answer stays what is known: not yet.
        if gateway
            .ledger
            .grants_left(&left)
            .await
            .is_ok_and(|left| left.is_empty())
        {
            return true;
        }
    }
    left.is_empty()
}

/// Returns once the ledger has the reservation.
pub(super) async fn wait_for(gateway: &Gateway, id: ReservationId) -> Result<(), Problem> {
    match find(gateway, id, DURABLE_WITHIN).await? {
        Standing::Durable => Ok(()),
        Standing::Lost => Err(rejected(id, Some(Cause::Lost))),
        Standing::Never => Err(unknown(&id.to_string())),
        Standing::Ahead => Err(not_durable_yet(gateway, id).await),
    }
}

/// Why a reservation that has ended can't be ended or extended.
pub(super) fn refused(reservation: &Reservation) -> Problem {
    let (code, detail) = match reservation.status {
        Status::Committed => (Code::ReservationCommitted, "it was committed before"),
        Status::Released => (Code::ReservationReleased, "it was released before"),
        Status::Expired => (Code::ReservationExpired, "its time was over"),
        Status::Rejected => return rejected(reservation.id, reservation.cause),
        Status::Reserved => return Problem::internal("a reservation that is open refused its end"),
    };
    Problem::new(code, detail).with("reservationId", reservation.id.to_string())
}

fn rejected(id: ReservationId, cause: Option<Cause>) -> Problem {
    let problem = Problem::new(
        Code::ReservationRejected,
        "it was accepted and never became durable; nothing is held",
    )
    .with("reservationId", id.to_string());
    match cause {
        Some(cause) => problem.with("cause", cause.as_str()),
        None => problem,
    }
}

/// The sale of the reservation is frozen.
pub(super) fn frozen() -> Problem {
    Problem::new(
        Code::SaleFrozen,
        "the sale is frozen; deadlines stand still until it is not",
    )
}

/// A success, marked where it was given before.
pub(super) fn answer(body: impl IntoResponse, replayed: bool) -> Response {
    let mut response = body.into_response();
    if replayed {
        mark_replayed(&mut response);
    }
    response
}
