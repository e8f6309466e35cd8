//! From a decision, the lane's or the ledger engine's, to an answer: waits for the ledger, finds replays, words refusals.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use metrics::Histogram;

use super::answer::{Answered, Told};
use super::earlier::Before;
use super::repeat::{Found, find_key, holder, made_before, replay, replay_or};
use super::request::Asked;
use crate::domain::outcome::{Decision, Durability};
use crate::domain::quantity::Quantity;
use crate::domain::reservation::{Ack, Cause, Line, Reservation, Status};
use crate::domain::reservation_id::ReservationId;
use crate::domain::sale::Sale;
use crate::flash::{DurableWatch, Outcome};
use crate::http::Gateway;
use crate::http::code::Code;
use crate::http::measure::Level;
use crate::http::prefer::Prefer;
use crate::http::problem::Problem;
use crate::http::standing::{self, Standing};
use crate::ledger::{Short, TakeAnswer};
use crate::metric::{self, Handles};

/// How long the ledger may take to say whether an accepted reservation is durable, when no notice has said so.
const ASK_WITHIN: Duration = Duration::from_millis(250);

/// Answers a decision.
pub(super) async fn settle(
    gateway: &Gateway,
    asked: &Asked,
    quantity: Quantity,
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
            acknowledged(Level::Accepted, started);
            let mut reservation = Reservation {
                id,
                order: asked.order.clone(),
                user: asked.user.clone(),
                lines: vec![Line {
                    item: sale.item.clone(),
                    quantity: quantity.into(),
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
                    acknowledged(Level::Durable, started);
                    reservation.ack = Ack::Durable;
                }
                Some(Durability::Rejected { cause, first }) => {
                    return rejected(gateway, asked, sale, cause, first).await;
                }
                // The ledger may refuse it yet: what is known to have been made before is not told of as new.
                None => {
                    if let Some(first) = made_before(gateway, asked, sale, id).await? {
                        return Ok(first);
                    }
                }
            }
            Ok(Answered {
                told: Told::Whole(Box::new(reservation)),
                replayed: false,
            })
        }
        Decision::Replayed(id) => {
            // Its notice may have come long ago, or before this gateway was there to hear it.
            let known = match outcome.ours || wait.is_zero() {
                true => None,
                false => ask_once(gateway, id).await,
            };
            let known = match known {
                None => durable(gateway, id, outcome.watch, wait).await,
                known => known,
            };
            match known {
                Some(Durability::Rejected { cause, first }) if outcome.ours || cause == Cause::Replay => {
                    return rejected(gateway, asked, sale, cause, first).await;
                }
                Some(_) => {}
                None => {
                    if let Some(first) = made_before(gateway, asked, sale, id).await? {
                        return Ok(first);
                    }
                }
            }
            // As long as the caller wants to wait, it has.
            Ok(Answered {
                told: tell(gateway, id, Duration::ZERO).await?,
                replayed: !outcome.ours,
            })
        }
        Decision::Ended(id) => match find_key(gateway, asked).await? {
            Found::Other => Err(key_reused()),
            Found::Same(_) | Found::None => Ok(Answered {
                told: tell(gateway, id, wait).await?,
                replayed: true,
            }),
        },
        refused => refuse(gateway, asked, sale, refused).await,
    }
}

/// Counts how long it took until a reservation had come so far.
fn acknowledged(level: Level, started: Instant) {
    static SECONDS: LazyLock<Handles<Histogram>> = LazyLock::new(Handles::default);
    let level = level.as_str();
    let seconds = SECONDS.of(
        level,
        || metrics::histogram!(metric::ACKNOWLEDGEMENT_SECONDS, "level" => level),
    );
    seconds.record(started.elapsed());
}

/// Words a lane's refusal, unless something from before the sale comes first: the request's own answer, or what the order
/// holds.
async fn refuse(gateway: &Gateway, asked: &Asked, sale: &Sale, refused: Decision) -> Result<Answered, Problem> {
    if refused != Decision::KeyReused
        && gateway.earlier.look(sale, || [asked.key, asked.line(&sale.item)]) != Before::No
        && let Some(answered) = replay(gateway, asked).await?
    {
        return Ok(answered);
    }
    Err(refused_in_lane(gateway, asked, sale, refused).await?)
}

/// The problem that a lane's refusal is, or `ORDER_ALREADY_RESERVED` where the order has the item from before the sale.
pub(super) async fn refused_in_lane(
    gateway: &Gateway,
    asked: &Asked,
    sale: &Sale,
    refused: Decision,
) -> Result<Problem, Problem> {
    use Decision::{Insufficient, OrderAlreadyReserved, RateLimited, UserLimit};
    let line = asked.line(&sale.item);
    if matches!(
        refused,
        // What the lane names may be a repeat that the ledger refuses.
        OrderAlreadyReserved(_) | RateLimited { .. } | UserLimit { .. } | Insufficient { .. }
    ) && gateway.earlier.look(sale, || [line]) != Before::No
        && let Some(first) = holder(gateway, line).await?
    {
        return Ok(order_holds(gateway, first).await);
    }
    Ok(refusal(refused))
}

/// What the ledger engine decided; what is short or on sale is for who asked.
pub(super) async fn taken(gateway: &Gateway, answer: TakeAnswer, started: Instant) -> Result<Answered, Problem> {
    match answer {
        TakeAnswer::Taken(reservation) => {
            acknowledged(Level::Durable, started);
            Ok(Answered {
                told: Told::Whole(Box::new(reservation)),
                replayed: false,
            })
        }
        TakeAnswer::Replayed(id) => Ok(Answered {
            told: tell(gateway, id, Duration::ZERO).await?,
            replayed: true,
        }),
        TakeAnswer::KeyReused => Err(key_reused()),
        TakeAnswer::OrderAlreadyReserved(id) => Err(order_holds(gateway, id).await),
        TakeAnswer::TtlTooLong { hold_max_ms } => Err(ttl_too_long(hold_max_ms)),
        TakeAnswer::Insufficient(short) => Err(insufficient(
            short.first().map_or(0, |Short { available, .. }| *available),
        )),
        TakeAnswer::OnSale(_) => Err(super::changing("the item's sale has begun")),
        TakeAnswer::PartEnded(_) => Err(super::changing("a line of the cart was held for too long")),
    }
}

/// The problem that a lane's refusal is.
pub(super) fn refusal(decision: Decision) -> Problem {
    match decision {
        Decision::KeyReused => key_reused(),
        Decision::OrderAlreadyReserved(id) => order_already_reserved(Some(id)),
        Decision::UserRequired => Problem::new(
            Code::UserRequired,
            "the sale limits what a user may take or try: send userId",
        )
        .with("field", "userId"),
        Decision::TtlTooLong { hold_max_ms } => ttl_too_long(hold_max_ms.into()),
        Decision::RateLimited { retry_after_ms } => Problem::new(Code::RateLimited, "the user tries too often")
            .retry_after(Duration::from_millis(retry_after_ms)),
        Decision::UserLimit { limit, held } => user_limit(limit, held),
        Decision::Insufficient { available } => insufficient(available),
        Decision::QueueFull => Problem::new(
            Code::LedgerUnavailable,
            "as many reservations wait for the ledger as may; nothing was taken",
        ),
        Decision::Behind => Problem::new(
            Code::Overloaded,
            "as many units of the sale wait for the ledger as may; nothing was taken",
        ),
        Decision::NotLive(_) | Decision::Reserved { .. } | Decision::Replayed(_) | Decision::Ended(_) => {
            Problem::internal("this is no refusal")
        }
    }
}

/// What became of an accepted reservation, as far as it is known within `wait`. Where the ledger is further behind than
/// that, there is no point in waiting; where no notice came, the ledger is asked once.
pub(super) async fn durable(
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
    ask_once(gateway, id).await
}

/// What the ledger has made of an accepted reservation, if it has come to it and says so in time.
async fn ask_once(gateway: &Gateway, id: ReservationId) -> Option<Durability> {
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
    cause: Cause,
    first: Option<ReservationId>,
) -> Result<Answered, Problem> {
    match (cause, first) {
        (Cause::Replay, Some(first)) => Ok(Answered {
            told: tell(gateway, first, Duration::ZERO).await?,
            replayed: true,
        }),
        (Cause::Replay, None) => replay_or(gateway, asked, Problem::internal("a replay names no reservation")).await,
        (Cause::OrderAlreadyReserved, Some(first)) => Err(order_holds(gateway, first).await),
        (cause, first) => Err(rejection(gateway, asked, sale, cause, first).await),
    }
}

/// The problem that a rejection is.
pub(super) async fn rejection(
    gateway: &Gateway,
    asked: &Asked,
    sale: &Sale,
    cause: Cause,
    first: Option<ReservationId>,
) -> Problem {
    match cause {
        Cause::Replay => Problem::internal("a replay is no refusal"),
        Cause::KeyReused => key_reused(),
        Cause::OrderAlreadyReserved => order_already_reserved(first),
        // Boxed: it is rare, and the way of a hot item should not carry its weight.
        Cause::UserLimit => Box::pin(past_limit(gateway, asked, sale)).await,
        Cause::Surplus => insufficient(0),
        Cause::Lost => Problem::new(
            Code::StockUnavailable,
            "live stock lost the reservation before it was durable; nothing is held",
        ),
        Cause::Poison => Problem::internal("the ledger could not store the reservation; it is in quarantine"),
    }
}

/// A reservation as it stands now. Where the ledger has not come to it, that may be waited for so long; what the ledger
/// itself has named it has.
pub(super) async fn tell(gateway: &Gateway, id: ReservationId, within: Duration) -> Result<Told, Problem> {
    loop {
        if let Some(found) = gateway.calls.read.ask(id).await? {
            return Ok(Told::Whole(Box::new(found)));
        }
        match standing::find(gateway, id, within).await? {
            Standing::Durable => {}
            Standing::Lost => return Ok(Told::Lost(id)),
            Standing::Never => return Err(Problem::internal("a lane replayed a reservation that was never made")),
            Standing::Ahead => return Ok(Told::Whole(Box::new(standing::accepted(gateway, id).await?))),
        }
    }
}

pub(super) fn key_reused() -> Problem {
    Problem::new(Code::IdempotencyKeyReused, "the key was used for another request")
}

/// The same, naming what the ledger holds for the order: of a cart's line, the cart, for that is what clients know.
pub(super) async fn order_holds(gateway: &Gateway, id: ReservationId) -> Problem {
    let found = gateway.calls.read.ask(id).await.ok().flatten();
    order_already_reserved(Some(found.map_or(id, |found| found.id)))
}

fn order_already_reserved(first: Option<ReservationId>) -> Problem {
    let first = first.map(|id| id.to_string());
    Problem::new(Code::OrderAlreadyReserved, "the order holds the item under another key").with("reservationId", first)
}

/// What the ledger refuses for a limit that the lane did not see reached: the ledger says how much the user has.
async fn past_limit(gateway: &Gateway, asked: &Asked, sale: &Sale) -> Problem {
    let Some(user) = &asked.user else {
        return Problem::internal("a limit per user, and no user");
    };
    match gateway.ledger.held_by(sale, &["u:", user.as_str()].concat()).await {
        // A sale that was read before it had a limit: what is held is what may be.
        Ok(held) => user_limit(sale.per_user_limit.unwrap_or(held), held),
        Err(error) => error.into(),
    }
}

fn user_limit(limit: u32, held: u32) -> Problem {
    Problem::new(Code::UserLimitExceeded, format!("a user may hold and buy {limit}"))
        .with("limit", limit)
        .with("held", held)
}

pub(super) fn insufficient(available: i64) -> Problem {
    Problem::new(Code::InsufficientStock, format!("{available} are free")).with("available", available)
}

fn ttl_too_long(hold_max_ms: i64) -> Problem {
    Problem::invalid("ttlSeconds", format!("must be at most {}", hold_max_ms / 1000))
}
