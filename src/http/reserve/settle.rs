//! From the lane's decision to an answer: waits for the ledger, finds replays, words refusals.

use std::time::{Duration, Instant};

use super::answer::{Answered, Told};
use super::request::Asked;
use crate::domain::outcome::{Decision, Durability};
use crate::domain::reservation::{Ack, Cause, Line, Reservation, Status};
use crate::domain::reservation_id::ReservationId;
use crate::domain::sale::Sale;
use crate::flash::{DurableWatch, Outcome};
use crate::http::Gateway;
use crate::http::code::Code;
use crate::http::prefer::Prefer;
use crate::http::problem::Problem;
use crate::http::standing::{self, Standing};
use crate::metric;

/// How long the ledger may take to say whether an accepted reservation is durable, when no notice has said so.
const ASK_WITHIN: Duration = Duration::from_millis(250);

/// Answers a decision.
pub(super) async fn settle(
    gateway: &Gateway,
    asked: &Asked,
    sale: &Sale,
    prefer: Prefer,
    outcome: Outcome,
    started: Instant,
) -> Result<Answered, Problem> {
    let wait = prefer.wait_or(Duration::from_millis(sale.ack_wait_ms.into()));
    match outcome.decision {
        Decision::Reserved {
            id,
            created_at,
            expires_at,
        } => {
            metrics::histogram!(metric::ACKNOWLEDGEMENT_SECONDS, "level" => "accepted").record(started.elapsed());
            let mut reservation = Reservation {
                id,
                order: asked.order.clone(),
                user: asked.user.clone(),
                lines: vec![Line {
                    item: sale.item.clone(),
                    quantity: asked.quantity.into(),
                }],
                status: Status::Reserved,
                cause: None,
                first: None,
                ack: Ack::Accepted,
                expires_at,
                created_at,
                updated_at: created_at,
            };
            match durable(gateway, id, outcome.watch, wait).await {
                Some(Durability::Durable) => {
                    metrics::histogram!(metric::ACKNOWLEDGEMENT_SECONDS, "level" => "durable")
                        .record(started.elapsed());
                    reservation.ack = Ack::Durable;
                }
                Some(Durability::Rejected { cause, first }) => {
                    return rejected(gateway, asked, sale, prefer, cause, first).await;
                }
                None => {}
            }
            Ok(Answered {
                told: Told::Whole(Box::new(reservation)),
                replayed: false,
            })
        }
        Decision::Replayed(id) => {
            if let Some(Durability::Rejected { cause, first }) = durable(gateway, id, outcome.watch, wait).await
                && outcome.ours
            {
                return rejected(gateway, asked, sale, prefer, cause, first).await;
            }
            Ok(Answered {
                told: tell(gateway, id).await?,
                replayed: !outcome.ours,
            })
        }
        Decision::Ended(id) => match find_key(gateway, asked).await? {
            Found::Other => Err(key_reused()),
            Found::Same(_) | Found::None => Ok(Answered {
                told: tell(gateway, id).await?,
                replayed: true,
            }),
        },
        Decision::KeyReused => Err(key_reused()),
        Decision::OrderAlreadyReserved(id) => Err(order_already_reserved(Some(id))),
        Decision::UserRequired => {
            Err(Problem::new(Code::UserRequired, "the sale limits units per user: send userId").with("field", "userId"))
        }
        Decision::TtlTooLong { hold_max_ms } => Err(Problem::invalid(
            "ttlSeconds",
            format!("must be at most {}", hold_max_ms / 1000),
        )),
        Decision::RateLimited { retry_after_ms } => Err(Problem::new(Code::RateLimited, "the user tries too often")
            .retry_after(Duration::from_millis(retry_after_ms))),
        Decision::UserLimit { limit, held } => Err(user_limit(limit, Some(held))),
        Decision::Insufficient { available } => Err(insufficient(available)),
        Decision::QueueFull => Err(Problem::new(
            Code::LedgerUnavailable,
            "as many reservations wait for the ledger as may; nothing was taken",
        )),
        Decision::NotLive(_) => Err(Problem::internal("a sale that is not live was to be settled")),
    }
}

/// What became of an accepted reservation, as far as it is known within `wait`. Where the ledger is further behind than
/// that, there is no point in waiting; where no notice came, the ledger is asked once.
async fn durable(
    gateway: &Gateway,
    id: ReservationId,
    watch: Option<DurableWatch>,
    wait: Duration,
) -> Option<Durability> {
    let watch = watch.filter(|_| wait > Duration::ZERO)?;
    if gateway.flash.lag(id.lane()) > wait {
        return watch.wait(Duration::ZERO).await;
    }
    if let Some(durability) = watch.wait(wait).await {
        return Some(durability);
    }
    let found = tokio::time::timeout(ASK_WITHIN, gateway.calls.read.ask(id))
        .await
        .ok()?
        .ok()??;
    Some(match (found.status, found.cause) {
        (Status::Rejected, Some(cause)) => Durability::Rejected {
            cause,
            first: found.first,
        },
        _ => Durability::Durable,
    })
}

/// Words what the ledger refused although the lane had accepted it.
async fn rejected(
    gateway: &Gateway,
    asked: &Asked,
    sale: &Sale,
    prefer: Prefer,
    cause: Cause,
    first: Option<ReservationId>,
) -> Result<Answered, Problem> {
    match cause {
        Cause::Replay => {
            let problem = Problem::internal("a replay names no reservation");
            match first {
                Some(first) => Ok(Answered {
                    told: tell(gateway, first).await?,
                    replayed: true,
                }),
                None => replay_or(gateway, asked, prefer, problem).await,
            }
        }
        Cause::KeyReused => Err(key_reused()),
        Cause::OrderAlreadyReserved => Err(order_already_reserved(first)),
        Cause::UserLimit => Err(user_limit(sale.per_user_limit.unwrap_or(0), None)),
        Cause::Surplus => Err(insufficient(0)),
        Cause::Lost => Err(Problem::new(
            Code::StockUnavailable,
            "live stock lost the reservation before it was durable; nothing is held",
        )),
        Cause::Poison => Err(Problem::internal(
            "the ledger could not store the reservation; it is in quarantine",
        )),
    }
}

/// Who has the request's key in the ledger.
enum Found {
    None,
    Same(ReservationId),
    Other,
}

async fn find_key(gateway: &Gateway, asked: &Asked) -> Result<Found, Problem> {
    Ok(match gateway.calls.key.ask(asked.key).await? {
        None => Found::None,
        // An order's line that another key holds is not this request's.
        Some(found) if found.derived == asked.explicit => Found::None,
        Some(found) if found.fingerprint == asked.fingerprint => Found::Same(found.reservation),
        Some(_) => Found::Other,
    })
}

/// The first answer again where the ledger knows the key, whatever else would be answered: a replay comes first.
pub(super) async fn replay_or(
    gateway: &Gateway,
    asked: &Asked,
    _: Prefer,
    problem: Problem,
) -> Result<Answered, Problem> {
    match find_key(gateway, asked).await? {
        Found::None => Err(problem),
        Found::Same(id) => Ok(Answered {
            told: tell(gateway, id).await?,
            replayed: true,
        }),
        Found::Other => Err(key_reused()),
    }
}

/// A reservation as it stands now.
async fn tell(gateway: &Gateway, id: ReservationId) -> Result<Told, Problem> {
    loop {
        if let Some(found) = gateway.calls.read.ask(id).await? {
            return Ok(Told::Whole(Box::new(found)));
        }
        match standing::find(gateway, id).await? {
            Standing::Durable => {}
            Standing::Lost => return Ok(Told::Lost(id)),
            Standing::Never => return Err(Problem::internal("a lane replayed a reservation that was never made")),
            Standing::Ahead => return Ok(Told::Whole(Box::new(standing::accepted(gateway, id).await?))),
        }
    }
}

fn key_reused() -> Problem {
    Problem::new(Code::IdempotencyKeyReused, "the key was used for another request")
}

fn order_already_reserved(first: Option<ReservationId>) -> Problem {
    let first = first.map(|id| id.to_string());
    Problem::new(Code::OrderAlreadyReserved, "the order holds the item under another key").with("reservationId", first)
}

fn user_limit(limit: u32, held: Option<u32>) -> Problem {
    Problem::new(Code::UserLimitExceeded, format!("a user may hold and buy {limit}"))
        .with("limit", limit)
        .with("held", held)
}

fn insufficient(available: i64) -> Problem {
    Problem::new(Code::InsufficientStock, format!("{available} are free")).with("available", available)
}
