//! Micro-batches for calls to the ledger: while one call is in flight the next gathers.
//!
//! No timer: an idle gateway calls at once, a busy one makes each transaction carry more. One bad ask never hurts
//! others: where Postgres refuses what is in a batch, the batch is halved until the bad ask stands alone.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::code::Code;
use super::problem::Problem;
use super::reserve::RouteAsk;
use crate::domain::id::Sku;
use crate::domain::key::KeyHash;
use crate::domain::reservation::Reservation;
use crate::domain::reservation_id::{Kind, ReservationId};
use crate::ledger::places::Place;
use crate::ledger::route::Route;
use crate::ledger::{EndAnswer, EndAsk, ExtendAnswer, ExtendAsk, KeyFound, Ledger, LedgerError, TakeAnswer, TakeAsk};
use crate::metric;

/// Most asks a call: a transaction of a few milliseconds, in which a hot row is updated once.
pub const BATCH_MAX: usize = 256;
/// Most asks that wait for the next call; beyond, they are shed.
pub const WAITING_MAX: usize = 8_192;
/// Longest wait for an answer: by then Postgres is as good as away.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);

type Reply<R> = oneshot::Sender<Result<R, Problem>>;

/// The way to one kind of call. Clones share it; the task behind it ends with the last of them.
pub struct Batcher<A, R> {
    asks: mpsc::Sender<(A, Reply<R>)>,
}

impl<A, R> Clone for Batcher<A, R> {
    fn clone(&self) -> Self {
        Batcher {
            asks: self.asks.clone(),
        }
    }
}

impl<A, R> fmt::Debug for Batcher<A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batcher")
            .field("room", &self.asks.capacity())
            .finish_non_exhaustive()
    }
}

impl<A, R> Batcher<A, R>
where
    A: Clone + Send + Sync + 'static,
    R: Send + 'static,
{
    /// Batches calls to `call`, which answers every ask of the slice in order; `name` labels its metric.
    pub fn start<F, Fut>(name: &'static str, call: F) -> Self
    where
        F: Fn(Arc<[A]>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<R>, LedgerError>> + Send + 'static,
    {
        let (asks, mut waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(async move {
            let mut batch: Vec<(A, Reply<R>)> = Vec::new();
            while waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
                let size = u32::try_from(batch.len()).unwrap_or(u32::MAX);
                metrics::histogram!(metric::ENDING_BATCH_SIZE, "call" => name).record(size);
                let started = Instant::now();
                answer_all(&call, std::mem::take(&mut batch)).await;
                metrics::histogram!(metric::POSTGRES_CALL_SECONDS, "call" => name).record(started.elapsed());
            }
        });
        Batcher { asks }
    }

    /// The answer to one ask.
    ///
    /// # Errors
    /// `OVERLOADED` where too many wait; `LEDGER_UNAVAILABLE` where it could not be found out, and then it may have
    /// happened; `INTERNAL` where Postgres refused what is in it.
    pub async fn ask(&self, ask: A) -> Result<R, Problem> {
        let (reply, answer) = oneshot::channel();
        self.asks.try_send((ask, reply)).map_err(|_| {
            Problem::new(
                Code::Overloaded,
                "as many requests wait for the ledger as can be served",
            )
        })?;
        match tokio::time::timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(_)) => Err(Problem::internal("the batcher stopped")),
            Err(_) => Err(Problem::new(
                Code::LedgerUnavailable,
                "the ledger did not answer in time; nothing is known about this request",
            )),
        }
    }
}

async fn answer_all<A, R, F, Fut>(call: &F, batch: Vec<(A, Reply<R>)>)
where
    A: Clone,
    F: Fn(Arc<[A]>) -> Fut,
    Fut: Future<Output = Result<Vec<R>, LedgerError>>,
{
    let mut parts = VecDeque::from([batch]);
    while let Some(mut part) = parts.pop_front() {
        let asks: Arc<[A]> = part.iter().map(|(ask, _)| ask.clone()).collect();
        match call(asks).await {
            Ok(answers) => {
                for ((_, reply), answer) in part.into_iter().zip(answers) {
                    // Whoever has gone away does not want it any more.
                    reply.send(Ok(answer)).ok();
                }
            }
            Err(LedgerError::Data { .. } | LedgerError::Broken(_)) if part.len() > 1 => {
                let rest = part.split_off(part.len() / 2);
                parts.extend([part, rest]);
            }
            Err(error) => {
                let problem = Problem::from(error);
                for (_, reply) in part {
                    reply.send(Err(problem.clone())).ok();
                }
            }
        }
    }
}

/// The calls that are batched.
#[derive(Clone, Debug)]
pub struct LedgerCalls {
    /// Commit and release.
    pub end: Batcher<EndAsk, EndAnswer>,
    /// Extend.
    pub extend: Batcher<ExtendAsk, ExtendAnswer>,
    /// Reads of single reservations.
    pub read: Batcher<ReservationId, Option<Reservation>>,
    /// Reservations without a live sale, and carts.
    pub take: Batcher<TakeAsk, TakeAnswer>,
    /// Which sale an item has.
    pub(super) route: Batcher<RouteAsk, Route>,
    /// Where a SKU lies.
    pub(super) places: Batcher<Sku, Vec<Place>>,
    /// Who has a key.
    pub(super) key: Batcher<KeyHash, Option<KeyFound>>,
}

impl LedgerCalls {
    /// Batches calls to this ledger.
    #[must_use]
    pub fn start(ledger: &Ledger) -> Self {
        let (end, extend, read) = (ledger.clone(), ledger.clone(), ledger.clone());
        let (take, route) = (ledger.clone(), ledger.clone());
        let (places, key) = (ledger.clone(), ledger.clone());
        LedgerCalls {
            end: Batcher::start("end", move |asks: Arc<[EndAsk]>| {
                let ledger = end.clone();
                async move { ledger.end(&asks).await }
            }),
            extend: Batcher::start("extend", move |asks: Arc<[ExtendAsk]>| {
                let ledger = extend.clone();
                async move { ledger.extend(&asks).await }
            }),
            read: Batcher::start("read", move |ids: Arc<[ReservationId]>| {
                let ledger = read.clone();
                async move { reservations_of(&ledger, &ids).await }
            }),
            take: Batcher::start("take", move |asks: Arc<[TakeAsk]>| {
                let ledger = take.clone();
                async move { ledger.take(&asks).await }
            }),
            route: Batcher::start("route", move |asks: Arc<[RouteAsk]>| {
                let ledger = route.clone();
                async move { routes_of(&ledger, &asks).await }
            }),
            places: Batcher::start("places", move |skus: Arc<[Sku]>| {
                let ledger = places.clone();
                async move { places_of(&ledger, &skus).await }
            }),
            key: Batcher::start("key", move |keys: Arc<[KeyHash]>| {
                let ledger = key.clone();
                async move {
                    let found = ledger.find_keys(&keys).await?;
                    let of = |key: &KeyHash| found.iter().find(|known| known.key == *key).copied();
                    Ok(keys.iter().map(of).collect())
                }
            }),
        }
    }
}

/// One read for all. The id of a part of a cart reads as its cart: which, only a read of its own can tell.
async fn reservations_of(ledger: &Ledger, ids: &[ReservationId]) -> Result<Vec<Option<Reservation>>, LedgerError> {
    let found = ledger.reservations(ids).await?;
    let has_carts = found.iter().any(|found| found.id.kind() == Some(Kind::Cart));
    let mut reservations = Vec::with_capacity(ids.len());
    for id in ids {
        let named = found.iter().find(|found| found.id == *id).cloned();
        reservations.push(match named {
            None if has_carts => ledger.reservation(*id).await?,
            named => named,
        });
    }
    Ok(reservations)
}

/// One read for all.
async fn places_of(ledger: &Ledger, skus: &[Sku]) -> Result<Vec<Vec<Place>>, LedgerError> {
    let mut wanted = skus.to_vec();
    wanted.sort_unstable();
    wanted.dedup();
    let found = ledger.places(&wanted).await?;
    let of = |sku: &Sku| found.iter().filter(|place| place.item.sku == *sku).cloned().collect();
    Ok(skus.iter().map(of).collect())
}

/// One read for all who ask for the same item.
async fn routes_of(ledger: &Ledger, asks: &[RouteAsk]) -> Result<Vec<Route>, LedgerError> {
    let mut known: HashMap<&RouteAsk, Route> = HashMap::new();
    let mut routes = Vec::with_capacity(asks.len());
    for ask in asks {
        let route = match known.get(ask) {
            Some(route) => route.clone(),
            None => ledger.route(&ask.sku, ask.location.as_ref()).await?,
        };
        known.insert(ask, route.clone());
        routes.push(route);
    }
    Ok(routes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::join_all;
    use std::sync::Mutex;

    #[tokio::test]
    async fn asks_gather_while_a_call_is_in_flight() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&sizes);
        let batcher = Batcher::start("test", move |asks: Arc<[u32]>| {
            seen.lock().expect("nobody panics").push(asks.len());
            async move {
                tokio::task::yield_now().await;
                Ok(asks.iter().map(|n| n * 2).collect())
            }
        });
        let answers = join_all((0..600).map(|n| batcher.ask(n))).await;
        let answers: Vec<u32> = answers.into_iter().map(|a| a.expect("an answer")).collect();
        assert_eq!(answers, (0..600).map(|n| n * 2).collect::<Vec<_>>(), "each got its own");
        let sizes = sizes.lock().expect("nobody panics").clone();
        assert_eq!(sizes.iter().sum::<usize>(), 600);
        assert_eq!(sizes.iter().max(), Some(&BATCH_MAX), "{sizes:?}");
    }

    #[tokio::test]
    async fn a_bad_ask_stands_alone() {
        let batcher = Batcher::start("test", |asks: Arc<[u32]>| async move {
            if asks.contains(&7) {
                return Err(LedgerError::Broken("seven".into()));
            }
            Ok(asks.to_vec())
        });
        let answers = join_all((0..20).map(|n| batcher.ask(n))).await;
        for (n, answer) in (0..).zip(answers) {
            match answer {
                Ok(answer) => assert!(answer == n && n != 7),
                Err(problem) => assert!(n == 7 && problem.code() == Code::Internal),
            }
        }
    }
}
