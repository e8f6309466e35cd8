//! Deciding on one request to reserve: the local sold-out answer, the home lane, the desk of dry buckets.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use metrics::Counter;
use tokio::sync::oneshot;

use super::batcher::{Answered, Ask, Asker};
use super::call::{Answer, Request};
use super::desk::{DryAsk, Verdict};
use super::lane::Lane;
use super::soldout::{Mark, Want};
use super::{DurableWatch, Flash, FlashError};
use crate::domain::entry::{Slip, set_repeated};
use crate::domain::lane::LaneNo;
use crate::domain::outcome::Decision;
use crate::domain::reservation_id::Place;
use crate::domain::sale::Sale;
use crate::metric;

/// Pauses of a request that finds as many units of its sale on their way to the ledger as may be; a healthy writer is
/// done with them before the first ends. Where the ledger is further behind than all of them, there is no point.
const BEHIND_STEPS: [Duration; 4] = [
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(65),
    Duration::from_millis(150),
];

/// What came of a request to reserve.
#[derive(Debug)]
pub struct Outcome {
    /// The decision.
    pub decision: Decision,
    /// Where it can become durable and the caller wants to wait: how.
    pub watch: Option<DurableWatch>,
    /// A replay of an attempt of this very request whose answer was lost on the way: the client has not seen it.
    pub ours: bool,
    /// Number of the sale's last settings in its home lane, where the lane was asked.
    pub set: Option<i64>,
}

impl From<Decision> for Outcome {
    fn from(decision: Decision) -> Self {
        Outcome {
            decision,
            watch: None,
            ours: false,
            set: None,
        }
    }
}

impl Flash {
    /// Decides on a request. `watches`: the caller wants to wait for durable.
    ///
    /// # Errors
    /// It could not be found out; a repeat with the same key is safe.
    pub async fn reserve(&self, sale: &Arc<Sale>, slip: &Slip, watches: bool) -> Result<Outcome, FlashError> {
        let outcome = self.decide(sale, slip, watches).await?;
        self.refusals.count(sale.no, &outcome.decision);
        Ok(outcome)
    }

    async fn decide(&self, sale: &Arc<Sale>, slip: &Slip, watches: bool) -> Result<Outcome, FlashError> {
        let buyer = slip.buyer();
        let lane = self.lane(sale.home(&buyer));
        let want = Want {
            sale_no: sale.no,
            buyer: &buyer,
            names_user: slip.user.is_some(),
            units: slip.quantity,
            ttl_ms: slip.ttl_ms,
        };
        if self.sold_out.refuses(want, &self.clock).await {
            static LOCAL: LazyLock<Counter> = LazyLock::new(|| metrics::counter!(metric::SOLD_OUT_LOCAL));
            LOCAL.increment(1);
            return Ok(Decision::Insufficient { available: 0 }.into());
        }
        let deadline = Instant::now() + self.settings.dry_wait;
        let mut packed = slip.pack(sale.no);
        let mut pauses = BEHIND_STEPS.iter();
        loop {
            let request = Request {
                sale_no: sale.no,
                buyer: buyer.clone(),
                slip: packed.clone(),
                ttl_ms: slip.ttl_ms,
            };
            let answered = self.ask(lane, request, watches).await?;
            if answered.answer == Answer::Behind
                && self.lag(lane.no) < BEHIND_STEPS.iter().sum()
                && let Some(pause) = pauses.next()
            {
                tokio::time::sleep(*pause).await;
                set_repeated(&mut packed);
                continue;
            }
            let Answer::Insufficient { free } = answered.answer else {
                return Ok(self.outcome(lane.no, answered));
            };
            if sale.lanes.len() == 1 {
                return Ok(self.insufficient(sale, free, None));
            }
            match self.at_the_desk(sale, lane.no, slip.quantity, deadline).await {
                Verdict::Retry if Instant::now() < deadline => set_repeated(&mut packed),
                Verdict::SoldOut { available, marks } => return Ok(self.insufficient(sale, available, Some(marks))),
                Verdict::Retry | Verdict::Undecided => return Err(FlashError::Undecided),
            }
        }
    }

    async fn ask(&self, lane: &Lane, request: Request, watches: bool) -> Result<Answered, FlashError> {
        let (reply, answer) = oneshot::channel();
        let ask = Ask {
            request,
            asker: Asker { watches, reply },
        };
        lane.asks.try_send(ask).map_err(|_| FlashError::Overloaded)?;
        answer
            .await
            .map_err(|_| FlashError::Unavailable("the batcher stopped".into()))?
    }

    /// Brings so many units of a sale to one of its lanes, where other buckets have them. `false`: there are not so many.
    ///
    /// # Errors
    /// It could not be found out in time.
    pub async fn gather(&self, sale: &Arc<Sale>, lane: LaneNo, units: u32) -> Result<bool, FlashError> {
        let deadline = Instant::now() + self.settings.dry_wait;
        match self.at_the_desk(sale, lane, units, deadline).await {
            Verdict::Retry => Ok(true),
            Verdict::SoldOut { .. } => Ok(false),
            Verdict::Undecided => Err(FlashError::Undecided),
        }
    }

    async fn at_the_desk(&self, sale: &Arc<Sale>, lane: LaneNo, units: u32, deadline: Instant) -> Verdict {
        metrics::counter!(metric::MOVER_WAITS).increment(1);
        let (reply, verdict) = oneshot::channel();
        let ask = DryAsk {
            sale: Arc::clone(sale),
            lane,
            units,
            reply,
        };
        if self.desk.try_send(ask).is_err() {
            return Verdict::Undecided;
        }
        let within = deadline.saturating_duration_since(Instant::now());
        match tokio::time::timeout(within, verdict).await {
            Ok(Ok(verdict)) => verdict,
            _ => Verdict::Undecided,
        }
    }

    fn insufficient(&self, sale: &Arc<Sale>, available: i64, known: Option<Vec<Mark>>) -> Outcome {
        if available <= 0 && self.sold_out.may_mark(sale.no) {
            let lanes = sale.lanes.iter().map(|no| Arc::clone(self.lane(*no))).collect();
            let marking = Arc::clone(&self.sold_out).mark(self.redis.clone(), sale.no, lanes, known);
            tokio::spawn(async move {
                if let Err(error) = marking.await {
                    tracing::debug!(%error, "no sold-out flag");
                }
            });
        }
        Decision::Insufficient {
            // A counter that a correction brought below 0 has nothing to offer.
            available: available.max(0),
        }
        .into()
    }

    fn outcome(&self, lane: LaneNo, answered: Answered) -> Outcome {
        let seal = |place: Place| self.id_key.seal(lane, place);
        let Answered {
            answer,
            watch,
            ours,
            set,
        } = answered;
        let set = Some(set);
        let decision = match answer {
            Answer::Reserved {
                place,
                created_at,
                expires_at,
            } => {
                let decision = Decision::Reserved {
                    id: seal(place),
                    created_at,
                    expires_at,
                };
                return Outcome {
                    decision,
                    watch,
                    ours,
                    set,
                };
            }
            Answer::Replayed(place) => {
                return Outcome {
                    decision: Decision::Replayed(seal(place)),
                    watch,
                    ours,
                    set,
                };
            }
            Answer::Ended(place) => Decision::Ended(seal(place)),
            Answer::KeyReused => Decision::KeyReused,
            Answer::Unknown => Decision::NotLive(None),
            Answer::NotLive(state) => Decision::NotLive(Some(state)),
            Answer::UserRequired => Decision::UserRequired,
            Answer::TooLong { hold_max_ms } => Decision::TtlTooLong { hold_max_ms },
            Answer::Order(place) => Decision::OrderAlreadyReserved(seal(place)),
            Answer::Rate { wait_ms } => Decision::RateLimited {
                retry_after_ms: wait_ms,
            },
            Answer::Limit { limit, held } => Decision::UserLimit { limit, held },
            Answer::Insufficient { free } => Decision::Insufficient { available: free },
            Answer::Full => Decision::QueueFull,
            Answer::Behind => Decision::Behind,
        };
        Outcome { set, ..decision.into() }
    }
}
