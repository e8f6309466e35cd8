//! What runs without a request: everything that carries something between the live stock and the ledger.
//!
//! Most workers have a `run_once` that does one batch and reports what it did; the loop around it only sleeps, backs off
//! and stops. None trusts the nudge that woke it: it looks at the state.

mod ahead;
pub mod books;
pub mod drift;
pub mod expiry;
pub mod fallback;
pub mod granter;
mod holders;
pub mod mover;
mod owner;
pub mod pulse;
pub mod read_model;
pub mod reconcile;
pub mod recovery;
pub mod sales;
mod survivors;
mod telling;
mod together;
pub mod upkeep;
pub mod verify;
mod writer;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::clock::Clock;
use crate::domain::lane::LaneNo;
use crate::flash::Flash;
use crate::health::Health;
use crate::ledger::{Ledger, Pace};
use crate::metric;
use crate::thread::Thread;

/// Lanes whose queues are carried into the ledger at the same instant; others wait some ms for their turn.
const LANES_CONNECTIONS_MAX: u32 = 8;
/// Before lanes are served again after their owner broke off: time for others to claim some.
const OWN_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Work that a process takes on beside HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Owns lanes: carries their queues into the ledger, and recovers them.
    pub writer: bool,
    /// Numbers and delivers grants of the lanes it owns, and runs the sales' clock.
    pub granter: bool,
    /// Expires reservations.
    pub expiry: bool,
    /// Carries the ledger to the read model.
    pub relay: bool,
    /// Keeps partitions and keys, and compares the halves.
    pub reconcile: bool,
}

/// What every worker needs.
#[derive(Clone, Debug)]
pub struct Context {
    /// The durable record.
    pub ledger: Ledger,
    /// The live stock.
    pub flash: Flash,
    /// Postgres' time.
    pub clock: Arc<Clock>,
    /// What this process can do right now.
    pub health: Arc<Health>,
    /// Ends every loop.
    pub stop: CancellationToken,
    /// This process, as others know it.
    pub gateway: Uuid,
    /// Its name, for people.
    pub name: String,
}

impl Context {
    /// The same over so many connections of its own, for statements that are [planned once](Ledger::apart).
    fn apart(&self, connections_max: u32, pace: Pace) -> Context {
        Context {
            ledger: self.ledger.apart(connections_max, pace),
            ..self.clone()
        }
    }
}

/// Starts the workers of these roles; they end when `context.stop` is cancelled. Whoever serves requests needs the
/// mover and the recovery task too: without them its lanes would never open.
pub fn start(context: &Context, roles: Roles) -> TaskTracker {
    let tasks = TaskTracker::new();
    tasks.spawn(pulse::run(context.clone()));
    tasks.spawn(holders::run(context.clone()));
    tasks.spawn(recovery::run(context.clone()));
    tasks.spawn(mover::run(context.clone()));
    tasks.spawn(fallback::run(context.clone()));
    tasks.spawn(sales::count_refusals(context.clone()));
    if roles.writer || roles.granter {
        tasks.spawn(own_lanes(context.clone()));
    }
    if roles.granter {
        tasks.spawn(granter::nudge(context.clone()));
        tasks.spawn(sales::run(context.clone()));
    }
    if roles.expiry {
        tasks.spawn(expiry::run(context.clone()));
    }
    if roles.relay {
        tasks.spawn(read_model::run(context.clone()));
    }
    if roles.reconcile {
        tasks.spawn(upkeep::run(context.clone()));
        tasks.spawn(drift::run(context.clone()));
        tasks.spawn(books::run(context.clone()));
    }
    tasks.close();
    tasks
}

/// Serves lanes until stopped, on a thread of their own, over connections of their own. The thread ends with this future,
/// at the latest.
async fn own_lanes(context: Context) {
    while !context.stop.is_cancelled() {
        let thread = Thread::start("lanes");
        let own = context.clone();
        let served = thread.handle().spawn(async move {
            let own = own.apart(LANES_CONNECTIONS_MAX, Pace::Waited);
            owner::run(own.clone()).await;
            own.ledger.close().await;
        });
        let Err(error) = served.await else { return };
        tracing::error!(%error, "the owner of lanes broke off; what others reach is left to them, and it begins anew");
        metrics::counter!(metric::WORKER_FAILURES, "worker" => "owner").increment(1);
        // With it end the writers that it has started.
        drop(thread);
        // This process beats on, so nobody would take them for forsaken.
        let lanes: Vec<LaneNo> = context.flash.lane_numbers().collect();
        if let Err(error) = context.ledger.leave_lanes(context.gateway, &lanes).await {
            tracing::warn!(%error, "lanes could not be given back: they stay this gateway's");
        }
        tokio::select! {
            () = tokio::time::sleep(OWN_AGAIN_AFTER) => {}
            () = context.stop.cancelled() => {}
        }
    }
}

/// Runs `step` until stopped: again at once when it says so, after `pause` otherwise, and with growing pauses, up to a
/// second, while it fails. `what` also stands in a label.
async fn repeat<E, F>(context: &Context, what: &'static str, pause: Duration, mut step: impl FnMut() -> F)
where
    E: std::fmt::Display,
    F: Future<Output = Result<bool, E>>,
{
    let mut failures = 0u32;
    while !context.stop.is_cancelled() {
        let wait = match step().await {
            Ok(more) => {
                failures = 0;
                if more { Duration::ZERO } else { pause }
            }
            Err(error) => {
                failures = (failures + 1).min(6);
                metrics::counter!(metric::WORKER_FAILURES, "worker" => what).increment(1);
                tracing::warn!(%error, what, "a worker could not do its step; it tries again");
                Duration::from_millis(20 << failures).min(Duration::from_secs(1))
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = context.stop.cancelled() => return,
        }
    }
}
