//! One line at one place: by the lane of the item's live sale, else by the ledger engine, and from one to the other while
//! a sale begins or ends.
//!
//! Nobody is refused because of a change: `INSUFFICIENT_STOCK` of the ledger engine is believed only where no sale of
//! the item came or went around it, and while a stop drains, a request waits for the units to come home.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::{Answered, not_live};
use super::fallback::{self, Decided};
use super::request::{Asked, Wish};
use super::route::{OffSale, Routed, Way};
use super::{CHANGE_LOOK, CHANGE_WITHIN, changing, repeat, settle};
use crate::domain::outcome::Decision;
use crate::domain::reservation::Line;
use crate::domain::reservation_id::Kind;
use crate::domain::sale::{Sale, SaleState};
use crate::flash::{FlashError, Outcome};
use crate::http::Gateway;
use crate::http::code::Code;
use crate::http::prefer::Prefer;
use crate::http::problem::Problem;
use crate::ledger::route::RouteAsk;
use crate::ledger::{TakeAnswer, TakeAsk};

/// Takes the wish where it says, or at the SKU's only place. `None`: there are several.
pub(super) async fn take(
    gateway: &Gateway,
    asked: &Asked,
    wish: &Wish,
    prefer: Prefer,
    started: Instant,
) -> Result<Option<Answered>, Problem> {
    let ask = RouteAsk::from(wish);
    let mut way = gateway.routes.way(&gateway.calls, &ask).await?;
    let mut asked_lane_of = None;
    loop {
        way = match way {
            Way::Several => return Ok(None),
            Way::Refused(problem) => return repeat::replay_or(gateway, asked, problem).await.map(Some),
            Way::Sale(routed) => match in_lane(gateway, asked, wish, &ask, routed, prefer, started).await? {
                Some(answered) => return Ok(Some(answered)),
                None => gateway.routes.find(&gateway.calls, &ask).await?,
            },
            // A replay is served whatever the sale's state, also of what is not in the ledger yet.
            Way::Draining(sale) if asked_lane_of != Some(sale.no) => {
                asked_lane_of = Some(sale.no);
                let routed = Routed {
                    sale: Arc::clone(&sale),
                    fresh: false,
                };
                match in_lane(gateway, asked, wish, &ask, routed, prefer, started).await? {
                    Some(answered) => return Ok(Some(answered)),
                    None => Way::Draining(sale),
                }
            }
            Way::Draining(sale) => match in_ledger(gateway, asked, wish, &OffSale::draining(&sale), started).await? {
                Taken::Told(told) => return told.map(Some),
                Taken::Short(_) if started.elapsed() >= CHANGE_WITHIN => {
                    return Err(changing("the item's sale is being stopped"));
                }
                Taken::Short(_) | Taken::OnSale => {
                    tokio::time::sleep(CHANGE_LOOK).await;
                    gateway.routes.find(&gateway.calls, &ask).await?
                }
            },
            Way::Ledger(off_sale) => {
                let taken = in_ledger(gateway, asked, wish, &off_sale, started).await?;
                if let Taken::Told(told) = taken {
                    return told.map(Some);
                }
                gateway.routes.forget(&ask);
                let now = gateway.routes.find(&gateway.calls, &ask).await?;
                let same = matches!(&now, Way::Ledger(now) if *now == off_sale);
                match taken {
                    Taken::Short(available) if same => return Err(settle::insufficient(available)),
                    _ if started.elapsed() >= CHANGE_WITHIN => {
                        return Err(changing("the item's sale is beginning or ending"));
                    }
                    _ => now,
                }
            }
        };
    }
}

/// Asks the sale's lane. `None`: the sale is not there, or is over; the ledger knows more.
async fn in_lane(
    gateway: &Gateway,
    asked: &Asked,
    wish: &Wish,
    ask: &RouteAsk,
    Routed { mut sale, fresh }: Routed,
    prefer: Prefer,
    started: Instant,
) -> Result<Option<Answered>, Problem> {
    if fresh {
        gateway.earlier.prepare(&sale);
    }
    let slip = asked.slip(&sale.item, wish.quantity);
    let watches = prefer.wait_or(CHANGE_WITHIN) > Duration::ZERO;
    let outcome = match fallback::decide(gateway, &sale, &slip, watches).await? {
        Decided::Said(outcome) => {
            gateway.admission.decided(started.elapsed());
            outcome
        }
        Decided::Durable {
            id,
            created_at,
            expires_at,
        } => {
            let reservation = asked.reserved(&sale, wish.quantity, id, created_at, expires_at);
            let answer = TakeAnswer::Taken(reservation);
            return settle::taken(gateway, answer, started).await.map(Some);
        }
    };
    if gateway.routes.is_outdated(&sale, &slip, outcome.set) && !fresh {
        // The lane has settings that came after ours: how long to wait may be among them.
        gateway.routes.forget(ask);
        if let Way::Sale(newer) = gateway.routes.find(&gateway.calls, ask).await?
            && newer.sale.no == sale.no
        {
            sale = newer.sale;
        }
    }
    match not_selling(&sale, fresh, &outcome, started) {
        None => settle::settle(gateway, asked, wish.quantity, &sale, prefer, outcome, started)
            .await
            .map(Some),
        // The lane knows the keys of its sale; those of the item's earlier ones are in the ledger.
        Some(Not::Live(problem)) => repeat::replay_or(gateway, asked, problem).await.map(Some),
        Some(Not::Yet(problem)) => Err(problem),
        Some(Not::Here) => {
            gateway.routes.forget(ask);
            if fresh {
                tokio::time::sleep(CHANGE_LOOK).await;
            }
            Ok(None)
        }
    }
}

/// Why a lane does not sell.
pub(super) enum Not {
    /// Its sale is paused or frozen.
    Live(Problem),
    /// What the ledger says has not come to the lane in a second.
    Yet(Problem),
    /// It does not have the sale, or has seen its end; or we may know it by an old name.
    Here,
}

/// What a lane's answer says about its sale, where that is not for sale. `fresh`: the sale was read for this request.
pub(super) fn not_selling(sale: &Sale, fresh: bool, outcome: &Outcome, started: Instant) -> Option<Not> {
    let Decision::NotLive(state) = outcome.decision else {
        return None;
    };
    Some(match state {
        Some(state) if fresh && state != SaleState::Ended => Not::Live(not_live(state, sale.starts_at)),
        _ if fresh && started.elapsed() >= CHANGE_WITHIN => {
            Not::Yet(changing("the sale's beginning or end has not come to its lane yet"))
        }
        _ => Not::Here,
    })
}

/// What the ledger engine says.
enum Taken {
    Told(Result<Answered, Problem>),
    /// So many units are free.
    Short(i64),
    OnSale,
}

async fn in_ledger(
    gateway: &Gateway,
    asked: &Asked,
    wish: &Wish,
    off_sale: &OffSale,
    started: Instant,
) -> Result<Taken, Problem> {
    let line = Line {
        item: off_sale.item.clone(),
        quantity: wish.quantity.into(),
    };
    let answer = gateway
        .calls
        .take
        .ask(take_ask(gateway, asked, Kind::Ledger, vec![line], Vec::new())?)
        .await?;
    Ok(match answer {
        TakeAnswer::Insufficient(short) => Taken::Short(short.first().map_or(0, |short| short.available)),
        TakeAnswer::OnSale(_) => Taken::OnSale,
        answer => Taken::Told(settle::taken(gateway, answer, started).await),
    })
}

/// A request to the ledger engine, under a new id.
pub(super) fn take_ask(
    gateway: &Gateway,
    asked: &Asked,
    kind: Kind,
    lines: Vec<Line>,
    parts: Vec<crate::domain::reservation_id::ReservationId>,
) -> Result<TakeAsk, Problem> {
    let now = gateway.flash.now().ok_or_else(|| {
        Problem::new(
            Code::LedgerUnavailable,
            "the ledger has not told the time yet; come back in a moment",
        )
    })?;
    Ok(TakeAsk {
        id: gateway.flash.id_key().mint(kind, now, (gateway.random)()),
        order: asked.order.clone(),
        user: asked.user.clone(),
        lines,
        parts,
        key: asked.key,
        fingerprint: asked.fingerprint,
        explicit: asked.explicit,
        ttl_ms: asked.ttl_ms(),
        trace: asked.trace,
    })
}

/// Why a lane could not be asked.
pub(super) fn unavailable(error: FlashError) -> Problem {
    match error {
        FlashError::Overloaded => Problem::new(Code::Overloaded, "as many requests wait for the item as can be served"),
        FlashError::Undecided => Problem::new(
            Code::StockUnavailable,
            "units are moving between the item's buckets; whether there are enough could not be found out in time",
        ),
        FlashError::Broken(_) => Problem::internal(error),
        FlashError::Unavailable(_) | FlashError::Refused(_) | FlashError::NotLoaded | FlashError::Stale => {
            Problem::new(
                Code::StockUnavailable,
                "live stock could not answer; a retry with the same idempotency key is safe",
            )
            .because(error)
        }
    }
}
