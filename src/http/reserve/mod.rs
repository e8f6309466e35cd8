//! `POST /api/inventory/reservations` and its verb form: parse, route, ask the lane, wait for the ledger, answer.

mod answer;
mod request;
mod route;
mod settle;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) use self::route::{RouteAsk, Routes};

use self::answer::{Answered, in_verb, not_live, reserved};
use self::request::{Asked, Reserve, ReserveVerb};
use self::route::{Routed, Way};
use super::Gateway;
use super::body::ReservationBody;
use super::code::Code;
use super::idempotency::SentKey;
use super::json::Json;
use super::prefer::Prefer;
use super::problem::Problem;
use super::trace::Traced;
use crate::domain::outcome::Decision;
use crate::flash::FlashError;
use crate::metric;

/// How long a request waits for a sale to come to its lanes, or for a stop to drain, before it is told to come back.
const CHANGE_WITHIN: Duration = Duration::from_secs(1);
const CHANGE_LOOK: Duration = Duration::from_millis(20);

/// The public listener's paths.
pub(super) fn routes() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new()
        .routes(routes!(reserve))
        .routes(routes!(reserve_verb))
}

/// Takes units.
#[utoipa::path(post, path = "/api/inventory/reservations", tag = "Checkout", request_body = Reserve, responses(
    (status = 201, description = "Durable: its rows are committed", body = ReservationBody),
    (status = 202, description = "Accepted: the units are taken and the record is queued", body = ReservationBody),
    (status = 200, description = "A replay of a reservation that has ended", body = ReservationBody),
    (status = 400, description = "`INVALID_REQUEST`, `USER_REQUIRED`"),
    (status = 404, description = "`UNKNOWN_SKU`, `UNKNOWN_LOCATION`"),
    (status = 409, description = "`SALE_NOT_LIVE` (+`state`, `startsAt`), `ORDER_ALREADY_RESERVED` (+`reservationId`), \
        `USER_LIMIT_EXCEEDED` (+`limit`, `held`), `INSUFFICIENT_STOCK` (+`available`)"),
    (status = 422, description = "`IDEMPOTENCY_KEY_REUSED`"),
    (status = 429, description = "`RATE_LIMITED`"),
    (status = 503, description = "`STOCK_UNAVAILABLE`, `LEDGER_UNAVAILABLE`, `OVERLOADED`"),
))]
async fn reserve(
    State(gateway): State<Arc<Gateway>>,
    trace: Traced,
    prefer: Prefer,
    key: SentKey,
    Json(body): Json<Reserve>,
) -> Result<Response, Problem> {
    let key = key.or_body(body.idem_key.as_deref())?;
    let asked = Asked::new(body, key, trace.0)?;
    take(&gateway, &asked, prefer).await.map(reserved)
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
    Json(body): Json<ReserveVerb>,
) -> Result<Response, Problem> {
    let key = key.or_body(body.idem_key.as_deref())?;
    let asked = Asked::new(body.into(), key, trace.0)?;
    take(&gateway, &asked, prefer).await.map(in_verb)
}

/// Takes units, or finds the reservation that did.
async fn take(gateway: &Gateway, asked: &Asked, prefer: Prefer) -> Result<Answered, Problem> {
    let started = Instant::now();
    let taken = try_take(gateway, asked, prefer, started).await;
    let outcome = match &taken {
        Ok(answered) if answered.replayed => "REPLAYED",
        Ok(_) => "RESERVED",
        Err(problem) => problem.code().as_str(),
    };
    metrics::counter!(metric::RESERVATIONS, "outcome" => outcome).increment(1);
    taken
}

async fn try_take(gateway: &Gateway, asked: &Asked, prefer: Prefer, started: Instant) -> Result<Answered, Problem> {
    let mut routed = gateway.routes.known(asked);
    let mut drain_is_known = false;
    loop {
        let Routed { mut sale, fresh } = match routed {
            Some(routed) => routed,
            None => match gateway.routes.find(&gateway.calls, asked).await? {
                Way::Sale(routed) => routed,
                // A replay is served whatever the sale's state, also of what is not in the ledger yet.
                Way::Draining(sale) if !drain_is_known => {
                    drain_is_known = true;
                    Routed { sale, fresh: false }
                }
                Way::Draining(_) if started.elapsed() < CHANGE_WITHIN => {
                    tokio::time::sleep(CHANGE_LOOK).await;
                    routed = None;
                    continue;
                }
                Way::Draining(_) => return Err(changing("the item's sale is being stopped")),
                Way::Refused(problem) => return settle::replay_or(gateway, asked, prefer, problem).await,
            },
        };
        let slip = asked.slip(&sale.item);
        let watches = prefer.wait_or(CHANGE_WITHIN) > Duration::ZERO;
        let outcome = gateway
            .flash
            .reserve(&sale, &slip, watches)
            .await
            .map_err(unavailable)?;
        if gateway.routes.is_outdated(&sale, &slip, outcome.set) && !fresh {
            // The lane has settings that came after ours: how long to wait may be among them.
            gateway.routes.forget(asked);
            if let Way::Sale(newer) = gateway.routes.find(&gateway.calls, asked).await?
                && newer.sale.no == sale.no
            {
                sale = newer.sale;
            }
        }
        match outcome.decision {
            Decision::NotLive(None) => {
                gateway.routes.forget(asked);
                if fresh {
                    if started.elapsed() >= CHANGE_WITHIN {
                        return Err(changing("the sale has not come to its lane yet"));
                    }
                    tokio::time::sleep(CHANGE_LOOK).await;
                }
                routed = None;
            }
            // The lane knows the keys of its sale; those of the item's earlier ones are in the ledger.
            Decision::NotLive(Some(state)) if fresh => {
                let problem = not_live(state, sale.starts_at);
                return settle::replay_or(gateway, asked, prefer, problem).await;
            }
            // Another sale of the item may have begun since.
            Decision::NotLive(Some(_)) => {
                gateway.routes.forget(asked);
                routed = None;
            }
            _ => return settle::settle(gateway, asked, &sale, prefer, outcome, started).await,
        }
    }
}

fn changing(what: &str) -> Problem {
    Problem::new(Code::StockUnavailable, format!("{what}; come back in a moment"))
}

fn unavailable(error: FlashError) -> Problem {
    match error {
        FlashError::Overloaded => Problem::new(Code::Overloaded, "as many requests wait for the item as can be served"),
        FlashError::Undecided => Problem::new(
            Code::StockUnavailable,
            "units are moving between the item's buckets; whether there are enough could not be found out in time",
        ),
        FlashError::Broken(_) => Problem::internal(error),
        FlashError::Unavailable(_) | FlashError::NotLoaded | FlashError::Stale => Problem::new(
            Code::StockUnavailable,
            "live stock could not answer; a retry with the same idempotency key is safe",
        )
        .because(error),
    }
}
