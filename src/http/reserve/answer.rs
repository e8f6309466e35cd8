//! How a reservation is answered: the status code by its level, the body, the mark of a replay.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::domain::reservation::{Ack, Reservation, Status};
use crate::domain::reservation_id::ReservationId;
use crate::domain::sale::SaleState;
use crate::domain::time::Millis;
use crate::http::body::{LostBody, ReservationBody};
use crate::http::code::Code;
use crate::http::idempotency::mark_replayed;
use crate::http::json::Json;
use crate::http::measure::Level;
use crate::http::problem::Problem;

/// What is left to tell of a reservation.
#[derive(Debug)]
pub(super) enum Told {
    /// All of it.
    Whole(Box<Reservation>),
    /// It was lost before it was durable.
    Lost(ReservationId),
}

/// A reservation to answer with.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) told: Told,
    /// The client has seen it before, or could have.
    pub(super) replayed: bool,
}

/// What the verb style says of a reservation.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct VerbBody {
    reservation_id: String,
    status: Status,
}

/// The answer in the resource style.
pub(super) fn reserved(answered: Answered) -> Response {
    respond(&answered, |told| match told {
        Told::Whole(reservation) => Json(ReservationBody::from((**reservation).clone())).into_response(),
        Told::Lost(id) => Json(LostBody::new(*id)).into_response(),
    })
}

/// The answer in the verb style.
pub(super) fn in_verb(answered: Answered) -> Response {
    respond(&answered, |told| {
        let (id, status) = match told {
            Told::Whole(reservation) => (reservation.id, reservation.status),
            Told::Lost(id) => (*id, Status::Rejected),
        };
        Json(VerbBody {
            reservation_id: id.to_string(),
            status,
        })
        .into_response()
    })
}

fn respond(answered: &Answered, body: impl FnOnce(&Told) -> Response) -> Response {
    let mut response = body(&answered.told);
    let (status, level) = match &answered.told {
        Told::Whole(reservation) if reservation.status == Status::Reserved => match reservation.ack {
            Ack::Durable => (StatusCode::CREATED, Some(Level::Durable)),
            Ack::Accepted => (StatusCode::ACCEPTED, Some(Level::Accepted)),
        },
        _ => (StatusCode::OK, None),
    };
    *response.status_mut() = status;
    if let Some(level) = level {
        response.extensions_mut().insert(level);
    }
    if answered.replayed {
        mark_replayed(&mut response);
    }
    response
}

/// The sale does not sell now.
pub(super) fn not_live(state: SaleState, starts_at: Option<Millis>) -> Problem {
    let starts_at = starts_at.map(|at| at.to_string());
    Problem::new(Code::SaleNotLive, format!("the item's sale is {}", state.as_str()))
        .with("state", state.as_str())
        .with("startsAt", starts_at)
}
