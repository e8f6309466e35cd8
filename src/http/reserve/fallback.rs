//! A request of a sale whose lane can't be asked: the ledger decides, where the sale wants that, at a lower ceiling.
//!
//! Which of the two decides is not for this gateway to say: a lane that was left to the ledger refuses what Redis takes,
//! and the ledger answers that a lane is not its own (any more). What can't be decided by either is 503.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::at::unavailable;
use crate::domain::entry::Slip;
use crate::domain::lane::Nonce;
use crate::domain::outcome::Decision;
use crate::domain::reservation_id::ReservationId;
use crate::domain::sale::{Sale, UserRate};
use crate::domain::time::Millis;
use crate::flash::{FlashError, Outcome};
use crate::http::Gateway;
use crate::http::code::Code;
use crate::http::limit::Limit;
use crate::http::problem::Problem;
use crate::ledger::fallback::{FallbackAnswer, FallbackAsk};
use crate::metric;

/// Users whose attempts are remembered, over all sales; beyond, all are forgotten.
const USERS_MAX: usize = 100_000;

/// What a sale's lane, or the ledger in its place, says.
pub(super) enum Decided {
    /// Either's word, but for what follows.
    Said(Outcome),
    /// The ledger has taken units; it is durable.
    Durable {
        id: ReservationId,
        created_at: Millis,
        expires_at: Millis,
    },
}

/// The ceilings of this gateway while the ledger decides.
#[derive(Debug, Default)]
pub(in crate::http) struct Ceilings {
    /// By sale, with the rate they were made for.
    sales: Mutex<HashMap<i32, Arc<Limit>>>,
    /// What is left of users' attempts, by sale and buyer, and since when. Lanes keep theirs in Redis.
    users: Mutex<HashMap<(i32, String), (f64, Instant)>>,
}

/// Asks the buyer's lane, or the ledger where that decides for it.
pub(super) async fn decide(
    gateway: &Gateway,
    sale: &Arc<Sale>,
    slip: &Slip,
    watches: bool,
) -> Result<Decided, Problem> {
    let home = sale.home(&slip.buyer());
    let mut asked_ledger = false;
    loop {
        if gateway.flash.is_aside(home) && !asked_ledger {
            asked_ledger = true;
            if let Some(decided) = in_ledger(gateway, sale, slip).await? {
                return Ok(decided);
            }
            // Its recovery has begun, or is over.
            gateway.flash.set_aside(home, false);
        }
        match gateway.flash.reserve(sale, slip, watches).await {
            Ok(outcome) => return Ok(Decided::Said(outcome)),
            Err(FlashError::Unavailable(_) | FlashError::NotLoaded | FlashError::Stale)
                if gateway.flash.is_aside(home) && !asked_ledger => {}
            Err(error) => return Err(unavailable(error)),
        }
    }
}

/// `None`: the ledger does not decide for the lane.
async fn in_ledger(gateway: &Gateway, sale: &Arc<Sale>, slip: &Slip) -> Result<Option<Decided>, Problem> {
    gateway.ceilings.enter(sale)?;
    let ask = FallbackAsk {
        sale: Arc::clone(sale),
        slip: slip.clone(),
        rate_wait_ms: gateway.ceilings.user_wait_ms(sale, &slip.buyer(), Instant::now()),
        id_key: gateway.flash.id_key().clone(),
        nonce: Nonce(rand::random()),
    };
    let decision = match gateway.calls.fallback.ask(ask).await? {
        FallbackAnswer::Decided(decision) => decision,
        FallbackAnswer::NotAside => return Ok(None),
        FallbackAnswer::KeptBack => {
            return Err(away(
                "live stock is away, and what is left is kept back for what it may have accepted; come back in a moment",
            ));
        }
        FallbackAnswer::Refuses => {
            return Err(away(
                "live stock could not answer; a retry with the same idempotency key is safe",
            ));
        }
    };
    gateway.flash.count_refusal(sale.no, &decision);
    if let Decision::Reserved {
        id,
        created_at,
        expires_at,
    } = decision
    {
        metrics::counter!(metric::FALLBACK_RESERVATIONS).increment(1);
        return Ok(Some(Decided::Durable {
            id,
            created_at,
            expires_at,
        }));
    }
    Ok(Some(Decided::Said(decision.into())))
}

fn away(what: &str) -> Problem {
    Problem::new(Code::StockUnavailable, what)
}

impl Ceilings {
    /// Counts a request of this sale.
    fn enter(&self, sale: &Sale) -> Result<(), Problem> {
        let limit = {
            let mut sales = self.sales.lock().unwrap_or_else(PoisonError::into_inner);
            let known = sales.get(&sale.no).filter(|limit| limit.rate() == sale.redis_down_rate);
            match known
                .cloned()
                .or_else(|| Limit::new("fallback", sale.redis_down_rate, 0).map(Arc::new))
            {
                Some(limit) => {
                    sales.insert(sale.no, Arc::clone(&limit));
                    limit
                }
                None => return Ok(()),
            }
        };
        match limit.judge(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).wait {
            None => Ok(()),
            Some(wait) => Err(Problem::new(
                Code::Overloaded,
                "live stock is away, and as many requests of the sale as it allows are decided without",
            )
            .retry_after(wait)),
        }
    }

    /// Where the sale limits a user's attempts: takes one, or says in how many ms there is one.
    fn user_wait_ms(&self, sale: &Sale, buyer: &str, now: Instant) -> Option<u64> {
        let UserRate { per_second, burst } = sale.user_rate?;
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if users.len() >= USERS_MAX {
            users.clear();
        }
        let burst = f64::from(burst);
        let (left, since) = users.entry((sale.no, buyer.to_owned())).or_insert((burst, now));
        let filled = burst.min(*left + now.duration_since(*since).as_secs_f64() * per_second);
        *since = now;
        if filled >= 1.0 {
            *left = filled - 1.0;
            return None;
        }
        *left = filled;
        let wait = std::time::Duration::from_secs_f64((1.0 - filled) / per_second);
        Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{Item, LocationId, SaleId, Sku};
    use crate::domain::lane::LaneNo;
    use crate::domain::sale::{RedisDown, SaleState};
    use std::time::Duration;

    fn sale() -> Sale {
        Sale {
            no: 1,
            id: SaleId::try_from("s").expect("an id"),
            item: Item {
                sku: Sku::try_from("sku").expect("an id"),
                location: LocationId::try_from("here").expect("an id"),
            },
            state: SaleState::Live,
            thaws_to: None,
            allocation: 100,
            per_user_limit: None,
            user_rate: Some(UserRate {
                per_second: 2.0,
                burst: 2,
            }),
            hold_ms: 1,
            hold_max_ms: 1,
            lanes: vec![LaneNo(0)],
            starts_at: None,
            ends_at: None,
            ack_wait_ms: 0,
            redis_down: RedisDown::Ledger,
            redis_down_rate: 3,
            undurable_max: None,
            drained: false,
        }
    }

    #[test]
    fn a_user_has_a_burst_and_then_a_rate() {
        let (ceilings, now) = (Ceilings::default(), Instant::now());
        let wait = |buyer: &str, ms: u64| ceilings.user_wait_ms(&sale(), buyer, now + Duration::from_millis(ms));
        assert_eq!([wait("u:a", 0), wait("u:a", 0)], [None, None]);
        assert_eq!(wait("u:a", 100), Some(401), "another one every half second");
        assert_eq!(wait("u:b", 100), None);
        assert_eq!([wait("u:a", 600), wait("u:a", 600)], [None, Some(401)]);
        assert_eq!(
            ceilings.user_wait_ms(
                &Sale {
                    user_rate: None,
                    ..sale()
                },
                "u:a",
                now
            ),
            None
        );
    }

    #[test]
    fn past_its_ceiling_a_sale_is_shed() {
        let ceilings = Ceilings::default();
        let passed = (0..10).filter(|_| ceilings.enter(&sale()).is_ok()).count();
        assert!((3..=4).contains(&passed), "{passed}");
        let problem = ceilings.enter(&sale()).expect_err("past it");
        assert_eq!(problem.code(), Code::Overloaded);
        let raised = Sale {
            redis_down_rate: 5,
            ..sale()
        };
        assert!(ceilings.enter(&raised).is_ok(), "a new rate begins anew");
    }
}
