//! Restarts a private server that died.
//!
//! Each server is looked at on its own, so both may die at once. A restart that fails is tried again
//! until it works or the caller stops.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::postgres::Postgres;
use super::redis::Redis;
use super::{DevError, Servers, blocking, held};

/// A death is noticed this late at most: a tenth of the second in which a restart has to happen.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The rest between two failed restarts.
const FAILED_REST: Duration = Duration::from_secs(1);

/// What supervision needs of a server.
trait Server: Send + 'static {
    const NAME: &'static str;
    fn exited(&mut self) -> Option<String>;
    fn restart(&mut self, halt: &CancellationToken) -> Result<(), DevError>;
    fn pid(&self) -> Option<u32>;
}

impl Server for Redis {
    const NAME: &'static str = "Redis";
    fn exited(&mut self) -> Option<String> {
        Redis::exited(self)
    }
    fn restart(&mut self, halt: &CancellationToken) -> Result<(), DevError> {
        Redis::restart(self, halt)
    }
    fn pid(&self) -> Option<u32> {
        Redis::pid(self)
    }
}

impl Server for Postgres {
    const NAME: &'static str = "Postgres";
    fn exited(&mut self) -> Option<String> {
        Postgres::exited(self)
    }
    fn restart(&mut self, halt: &CancellationToken) -> Result<(), DevError> {
        Postgres::restart(self, halt)
    }
    fn pid(&self) -> Option<u32> {
        Postgres::pid(self)
    }
}

/// Watches both servers until `stop`; a restart under way is broken off then.
pub(super) async fn run(servers: &Servers, stop: &CancellationToken) {
    let inner = &servers.inner;
    futures::join!(
        watch(servers, &inner.redis, &inner.redis_pid, stop),
        watch(servers, &inner.postgres, &inner.postgres_pid, stop),
    );
}

async fn watch<S: Server>(servers: &Servers, server: &Arc<Mutex<S>>, pid: &AtomicU32, stop: &CancellationToken) {
    let mut rest = LOOK_EVERY;
    while stop.run_until_cancelled(tokio::time::sleep(rest)).await.is_some() {
        rest = LOOK_EVERY;
        let Some(exit) = held(server).exited() else {
            continue;
        };
        let since = Instant::now();
        warn!(server = S::NAME, %exit, "it died: restarting");
        let (again, halt) = (Arc::clone(server), stop.clone());
        let outcome = blocking(move || {
            let mut server = held(&again);
            server.restart(&halt).map(|()| server.pid())
        })
        .await;
        match outcome {
            Ok(fresh) => {
                pid.store(fresh.unwrap_or_default(), Ordering::Relaxed);
                warn!(
                    server = S::NAME,
                    pid = fresh,
                    took_ms = since.elapsed().as_millis(),
                    "restarted"
                );
                if let Err(error) = servers.write_dev_file() {
                    error!(%error, "dev.json is out of date");
                }
            }
            Err(DevError::Halted) => {}
            Err(error) => {
                error!(server = S::NAME, %error, "it does not come up; trying again");
                rest = FAILED_REST;
            }
        }
    }
}
