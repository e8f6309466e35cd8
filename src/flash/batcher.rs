//! The micro-batcher: one task a lane. While a call is in flight, requests gather; the next call takes them all.
//!
//! It clocks itself: idle, a request leaves at once and alone; under load, calls are as large as a round trip lets them
//! become. No timer, no added delay.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::call::{self, Answer, Fence, Request};
use super::error::FlashError;
use super::lane::Lane;
use super::redis::Redis;
use super::script::RESERVE;
use super::waiters::{CallWatch, DurableWatch};
use crate::clock::Clock;
use crate::domain::entry::set_repeated;
use crate::domain::lane::Nonce;
use crate::metric;

/// How long requests wait for a lane that is not open: a reconnect or an adoption fits, an outage does not.
const USABLE_WITHIN: Duration = Duration::from_millis(150);
/// A server that refuses, because its slot is on its way elsewhere or it has just lost its place, may not in a moment.
const REFUSED_PAUSE: Duration = Duration::from_millis(50);
/// How long requests of a call whose answer was lost wait for the lane before they are repeated.
const REPEAT_WITHIN: Duration = Duration::from_millis(600);

/// A request and where its answer goes.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) request: Request,
    pub(crate) asker: Asker,
}

/// Who waits for an answer.
#[derive(Debug)]
pub(crate) struct Asker {
    /// The caller will wait for durable.
    pub(crate) watches: bool,
    pub(crate) reply: oneshot::Sender<Result<Answered, FlashError>>,
}

/// The lane's answer, and a watch on the reservation that it names.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) answer: Answer,
    pub(crate) watch: Option<DurableWatch>,
    /// A replay of this very request: an earlier attempt of ours was carried out and its answer lost.
    pub(crate) ours: bool,
    /// Number of the sale's last settings in the lane.
    pub(crate) set: i64,
}

/// How calls are made.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    /// Most requests a call.
    pub(crate) batch_max: usize,
    /// Most calls in flight a lane; 1 is self-clocking.
    pub(crate) calls_max: usize,
    /// Most reservations that may wait for the ledger, a lane.
    pub(crate) queue_max: u64,
}

/// Serves a lane until its senders are gone.
pub(crate) async fn run(lane: Arc<Lane>, redis: Redis, clock: Arc<Clock>, pace: Pace, mut asks: mpsc::Receiver<Ask>) {
    let in_flight = Arc::new(Semaphore::new(pace.calls_max));
    let mut batch = Vec::with_capacity(pace.batch_max);
    loop {
        let Ok(permit) = Arc::clone(&in_flight).acquire_owned().await else {
            return;
        };
        if asks.recv_many(&mut batch, pace.batch_max).await == 0 {
            return;
        }
        // Whoever has gone away must not take units that nobody will pay for.
        batch.retain(|ask: &Ask| !ask.asker.reply.is_closed());
        if batch.is_empty() {
            continue;
        }
        let asks_now = std::mem::replace(&mut batch, Vec::with_capacity(pace.batch_max));
        let caller = Caller {
            lane: Arc::clone(&lane),
            redis: redis.clone(),
            clock: Arc::clone(&clock),
            queue_max: pace.queue_max,
        };
        if !caller.is_usable().await {
            // Better a quick "come back" for all who wait than a late answer for some.
            let mut refused = asks_now;
            while let Ok(ask) = asks.try_recv() {
                refused.push(ask);
            }
            refuse(
                refused.into_iter().map(|ask| ask.asker),
                &FlashError::Unavailable("the lane is not open".into()),
            );
        } else if pace.calls_max == 1 {
            caller.serve(asks_now).await;
        } else {
            tokio::spawn(async move {
                caller.serve(asks_now).await;
                drop(permit);
            });
        }
    }
}

fn refuse(askers: impl IntoIterator<Item = Asker>, error: &FlashError) {
    for asker in askers {
        // Whoever has gone away does not want it any more.
        asker.reply.send(Err(error.clone())).ok();
    }
}

struct Caller {
    lane: Arc<Lane>,
    redis: Redis,
    clock: Arc<Clock>,
    queue_max: u64,
}

impl Caller {
    /// Whether the lane is open and Redis connected, or is so in a moment.
    async fn is_usable(&self) -> bool {
        self.lane.open_epoch(USABLE_WITHIN).await.is_ok() && self.is_connected(USABLE_WITHIN).await
    }

    async fn is_connected(&self, within: Duration) -> bool {
        self.redis.connected(&self.lane.keys.meta(), within).await.is_ok()
    }

    /// Makes the call and hands out the answers. A lost answer is asked for once more: the records in the lane know
    /// what was carried out, so a repeat takes nothing twice.
    async fn serve(&self, asks: Vec<Ask>) {
        metrics::histogram!(metric::RESERVE_CALL_SIZE).record(u32::try_from(asks.len()).unwrap_or(u32::MAX));
        let (mut requests, askers): (Vec<Request>, Vec<Asker>) =
            asks.into_iter().map(|ask| (ask.request, ask.asker)).unzip();
        let first = Nonce(rand::random());
        let mut outcome = self.call(first, &requests).await;
        let mut lost = None;
        if let Err(
            error @ (FlashError::Unavailable(_) | FlashError::Refused(_) | FlashError::Stale | FlashError::NotLoaded),
        ) = &outcome
        {
            lost = Some(first);
            if matches!(error, FlashError::Refused(_)) {
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
            if self.lane.open_epoch(REPEAT_WITHIN).await.is_ok() {
                self.is_connected(REPEAT_WITHIN).await;
                requests.iter_mut().for_each(|request| set_repeated(&mut request.slip));
                outcome = self.call(Nonce(rand::random()), &requests).await;
            }
        }
        match outcome {
            Ok(answers) => self.hand_out(askers, answers, lost),
            Err(error) => refuse(askers, &error),
        }
    }

    async fn call(&self, nonce: Nonce, requests: &[Request]) -> Result<Vec<(Answer, i64)>, FlashError> {
        let epoch = self.lane.open_epoch(REPEAT_WITHIN).await?;
        let now = self
            .clock
            .now()
            .ok_or_else(|| FlashError::Unavailable("the time is not known yet".into()))?;
        let fence = Fence {
            epoch,
            seen: self.lane.seen(),
            nonce,
            now,
        };
        let (keys, args) = call::pack(&self.lane.keys, &fence, self.queue_max, requests);
        let started = Instant::now();
        let called = match self.redis.eval(&RESERVE, keys, args).await {
            Ok(reply) => call::unpack(reply, &fence, requests),
            Err(error) => Err(error),
        };
        metrics::histogram!(metric::REDIS_CALL_SECONDS, "call" => "reserve").record(started.elapsed());
        match called {
            Ok(called) => {
                self.lane.saw(epoch, called.seq);
                Ok(called.answers)
            }
            Err(error) => {
                match error {
                    FlashError::Stale | FlashError::NotLoaded => self.lane.suspect(epoch),
                    FlashError::Unavailable(_) => self.distrust().await,
                    _ => {}
                }
                Err(error)
            }
        }
    }

    /// Where there is a connection still, its answers can't be trusted any more.
    async fn distrust(&self) {
        let key = self.lane.keys.meta();
        if self.redis.is_connected_to(&key) {
            self.redis.distrust(&key).await;
        }
    }

    fn hand_out(&self, askers: Vec<Asker>, answers: Vec<(Answer, i64)>, lost: Option<Nonce>) {
        // One watch a call serves everyone who waits for it.
        let mut made: Option<Arc<CallWatch>> = None;
        for (asker, (answer, set)) in askers.into_iter().zip(answers) {
            let mut ours = false;
            let mut watch_of = None;
            match &answer {
                Answer::Reserved { place, .. } if asker.watches => {
                    let name = (place.epoch, place.seq, place.nonce);
                    let call = made.get_or_insert_with(|| self.lane.waiters.made(name)).clone();
                    watch_of = Some(DurableWatch::made(call, place.index));
                }
                Answer::Replayed(place) => {
                    ours = lost.is_some_and(|nonce| nonce.tail() == place.nonce);
                    if asker.watches {
                        watch_of = Some(DurableWatch::asked(&self.lane.waiters, *place));
                    }
                }
                _ => {}
            }
            // A caller that has gone away leaves its reservation to its key's next try, or to its expiry.
            let _ = asker.reply.send(Ok(Answered {
                answer,
                watch: watch_of,
                ours,
                set,
            }));
        }
    }
}
