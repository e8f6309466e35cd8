//! `POST /api/inventory/reservations` and its verb form: parse, route, ask the lane or the ledger engine, answer.

mod answer;
mod at;
mod cart;
mod choose;
mod earlier;
mod fallback;
mod parcels;
mod part;
mod repeat;
mod request;
mod route;
mod settle;

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::Response;
use metrics::Counter;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) use self::choose::Choice;
pub(super) use self::earlier::Earlier;
pub(super) use self::fallback::Ceilings;
pub(super) use self::route::Routes;

use self::answer::{Answered, in_verb, reserved};
use self::request::{Asked, Reserve, ReserveVerb, Wanted};
use super::Gateway;
use super::body::ReservationBody;
use super::code::Code;
use super::idempotency::SentKey;
use super::json::{Json, Unchecked};
use super::prefer::Prefer;
use super::problem::Problem;
use super::trace::Traced;
use crate::metric::{self, Handles};

/// How long a request waits for a sale to come to its lanes, or for a stop to drain, before it is told to come back; and
/// between two looks.
pub(super) const CHANGE_WITHIN: Duration = Duration::from_secs(1);
pub(super) const CHANGE_LOOK: Duration = Duration::from_millis(20);

/// The public listener's paths.
pub(super) fn routes() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new()
        .routes(routes!(reserve))
        .routes(routes!(reserve_verb))
}

/// Takes units.
#[utoipa::path(post, path = "/api/inventory/reservations", tag = "Checkout", request_body = Reserve, responses(
    (status = 201, description = "Durable: its rows are committed", body = ReservationBody),
    (status = 202, description = "Accepted: the units are taken and the record is queued; never for a cart, which \
        is durable when it is made, whatever `Prefer` says, nor without a live sale", body = ReservationBody),
    (status = 200, description = "A replay of a reservation that has ended", body = ReservationBody),
    (status = 400, description = "`INVALID_REQUEST`, `USER_REQUIRED`"),
    (status = 404, description = "`UNKNOWN_SKU`, `UNKNOWN_LOCATION`"),
    (status = 409, description = "`SALE_NOT_LIVE` (+`state`, `startsAt`), `ORDER_ALREADY_RESERVED` (+`reservationId`), \
        `USER_LIMIT_EXCEEDED` (+`limit`, `held`), `INSUFFICIENT_STOCK` (+`available`); of a cart also +`lines`: those \
        that failed, each with its `code`"),
    (status = 422, description = "`IDEMPOTENCY_KEY_REUSED`"),
    (status = 429, description = "`RATE_LIMITED`"),
    (status = 503, description = "`STOCK_UNAVAILABLE`, `LEDGER_UNAVAILABLE`, `OVERLOADED`"),
))]
async fn reserve(
    State(gateway): State<Arc<Gateway>>,
    trace: Traced,
    prefer: Prefer,
    key: SentKey,
    body: Unchecked<Json<Reserve>>,
) -> Result<Response, Problem> {
    let (asked, wanted) = body.check(|Json(body)| {
        let key = key.or_body(body.idem_key.as_deref())?;
        Asked::new(body, key, trace.0)
    })?;
    take(&gateway, &asked, wanted, prefer).await.map(reserved)
}

/// Takes units, in the verb style.
#[utoipa::path(post, path = "/api/inventory/reserve", tag = "Checkout", request_body = ReserveVerb, responses(
    (status = 201, description = "As for a reservation", body = answer::VerbBody),
    (status = 202, description = "As for a reservation", body = answer::VerbBody),
    (status = 409, description = "As for a reservation"),
))]
async fn reserve_verb(
    State(gateway): State<Arc<Gateway>>,
    trace: Traced,
    prefer: Prefer,
    key: SentKey,
    body: Unchecked<Json<ReserveVerb>>,
) -> Result<Response, Problem> {
    let (asked, wanted) = body.check(|Json(body)| {
        let key = key.or_body(body.idem_key.as_deref())?;
        Asked::new(body.into(), key, trace.0)
    })?;
    take(&gateway, &asked, wanted, prefer).await.map(in_verb)
}

/// Takes units, or finds the reservation that did.
async fn take(gateway: &Gateway, asked: &Asked, wanted: Wanted, prefer: Prefer) -> Result<Answered, Problem> {
    let started = Instant::now();
    let taken = match wanted {
        Wanted::Line(wish) => match at::take(gateway, asked, &wish, prefer, started).await {
            Ok(Some(answered)) => Ok(answered),
            // Boxed: these wait in many places, and the way of a hot item should not carry their weight.
            Ok(None) => Box::pin(choose::take(gateway, asked, &wish, prefer, started)).await,
            Err(problem) => Err(problem),
        },
        Wanted::Cart(wishes) => Box::pin(cart::take(gateway, asked, &wishes, started)).await,
    };
    let outcome = match &taken {
        Ok(answered) if answered.replayed => "REPLAYED",
        Ok(_) => "RESERVED",
        Err(problem) => problem.code().as_str(),
    };
    count(outcome);
    taken
}

fn count(outcome: &'static str) {
    static COUNTERS: LazyLock<Handles<Counter>> = LazyLock::new(Handles::default);
    let counter = COUNTERS.of(
        outcome,
        || metrics::counter!(metric::RESERVATIONS, "outcome" => outcome),
    );
    counter.increment(1);
}

/// A sale changes just now.
pub(super) fn changing(what: &str) -> Problem {
    Problem::new(Code::StockUnavailable, format!("{what}; come back in a moment"))
}
