//! Micro-batches for calls to the ledger: while one call is in flight the next gathers.
//!
//! No timer: an idle gateway calls at once, a busy one makes each transaction carry more. One call at a time: two that
//! overlap share what one could carry, and cost twice what each transaction costs. One bad ask never hurts others: where
//! Postgres refuses what is in a batch, the batch is halved until the bad ask stands alone.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::code::Code;
use super::problem::Problem;
use crate::ledger::LedgerError;
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
    /// Batches calls to `call`, which answers every ask of the slice in order, on this runtime. `name` labels its
    /// metrics.
    pub fn start<F, Fut>(on: &Handle, name: &'static str, call: F) -> Self
    where
        F: Fn(Arc<[A]>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<R>, LedgerError>> + Send + 'static,
    {
        let (asks, waiting) = mpsc::channel(WAITING_MAX);
        on.spawn(run(name, Arc::new(call), waiting));
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

/// Calls until nobody can ask any more, then waits for the last call.
async fn run<A, R, F, Fut>(name: &'static str, call: Arc<F>, mut waiting: mpsc::Receiver<(A, Reply<R>)>)
where
    A: Clone + Send + Sync + 'static,
    R: Send + 'static,
    F: Fn(Arc<[A]>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Vec<R>, LedgerError>> + Send + 'static,
{
    let mut running: Option<JoinHandle<()>> = None;
    loop {
        let mut batch: Vec<(A, Reply<R>)> = Vec::new();
        if waiting.recv_many(&mut batch, 1).await == 0 {
            break;
        }
        if let Some(running) = running.take() {
            // A call that panicked has answered nobody, and says so by that.
            running.await.ok();
        }
        // Gathering comes last: whoever asked meanwhile is in.
        let more = waiting.len().min(BATCH_MAX - batch.len());
        waiting.recv_many(&mut batch, more).await;
        let size = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        metrics::histogram!(metric::ENDING_BATCH_SIZE, "call" => name).record(size);
        let call = Arc::clone(&call);
        running = Some(tokio::spawn(async move {
            let started = Instant::now();
            answer_all(&*call, batch).await;
            metrics::histogram!(metric::POSTGRES_CALL_SECONDS, "call" => name).record(started.elapsed());
        }));
    }
    if let Some(running) = running {
        running.await.ok();
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::join_all;
    use std::sync::Mutex;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn asks_gather_while_a_call_is_in_flight() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&sizes);
        let batcher = Batcher::start(&Handle::current(), "test", move |asks: Arc<[u32]>| {
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
    async fn the_next_call_waits_while_one_goes_on() {
        let (seen, mut begun) = mpsc::unbounded_channel();
        let end = Arc::new(Semaphore::new(0));
        let may_end = Arc::clone(&end);
        let call = move |asks: Arc<[u32]>| {
            let may_end = Arc::clone(&may_end);
            seen.send(asks.to_vec()).expect("the test listens");
            async move {
                may_end.acquire().await.expect("open").forget();
                Ok(asks.to_vec())
            }
        };
        let batcher = Batcher::start(&Handle::current(), "test", call);
        let ask = |n| {
            let batcher = batcher.clone();
            tokio::spawn(async move { batcher.ask(n).await.expect("an answer") })
        };
        let first = ask(1);
        assert_eq!(begun.recv().await, Some(vec![1]));
        let (second, third) = (ask(2), ask(3));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(begun.try_recv().is_err(), "the first call goes on");
        end.add_permits(1);
        assert_eq!(begun.recv().await, Some(vec![2, 3]));
        end.add_permits(1);
        for (asked, n) in [(first, 1), (second, 2), (third, 3)] {
            assert_eq!(asked.await.expect("no panic"), n);
        }
    }

    #[tokio::test]
    async fn a_bad_ask_stands_alone() {
        let batcher = Batcher::start(&Handle::current(), "test", |asks: Arc<[u32]>| async move {
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
