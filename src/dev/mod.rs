//! The embedded servers of `flashgate dev`: a private Redis and a private Postgres under one
//! directory, from the binaries on this machine.
//!
//! [`Servers`] holds both: it takes the directory for itself, starts them, restarts whichever dies
//! within a second on the same port and data, tells others about them in `dev.json`, and stops them.
//! What a killed run left behind is stopped first. [`redis::Redis`] and [`postgres::Postgres`] are
//! the same servers one at a time, for tests that kill them. What is stored in them is not known
//! here: migrations and the rebuilding of an emptied Redis are the gateway's.

pub mod postgres;
pub mod redis;

pub mod binaries;
mod cluster;
mod error;
mod place;
mod port;
mod process;
mod state;
mod supervise;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio_util::sync::CancellationToken;
use tracing::info;

pub use self::error::DevError;

/// The addresses of Redis and Postgres, as the `dev` that runs on this directory tells them; none where none runs.
#[must_use]
pub fn addresses(dir: &Path) -> Option<(String, String)> {
    state::DevFile::read(dir).map(|file| (file.redis_url, file.database_url))
}
use self::postgres::Postgres;
use self::redis::Redis;
use self::state::{DevFile, Lock, Pids};

/// What the embedded servers need to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory of everything: data, logs, `dev.json`. Made where it is missing.
    pub dir: PathBuf,
}

/// A running private Redis and Postgres. Clones are the same servers; when the last one is dropped
/// without [`Servers::stop`], both are stopped all the same.
#[derive(Debug, Clone)]
pub struct Servers {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    redis_url: String,
    database_url: String,
    postgres_dir: PathBuf,
    redis_pid: AtomicU32,
    postgres_pid: AtomicU32,
    announced: Mutex<Option<(SocketAddr, SocketAddr)>>,
    // Both before the lock: a dropped value ends its servers before it gives the directory away.
    redis: Arc<Mutex<Redis>>,
    postgres: Arc<Mutex<Postgres>>,
    lock: Mutex<Option<Lock>>,
}

impl Servers {
    /// Starts both under `settings.dir` and waits until they answer; dropping the future stops them
    /// again. The same directory later carries on with the same data, on other ports.
    ///
    /// # Errors
    /// [`DevError::Busy`] where another live process has the directory, [`DevError::Missing`] where
    /// a server is not installed or too old, and whatever else keeps one from coming up.
    pub async fn start(settings: &Settings) -> Result<Servers, DevError> {
        let halt = CancellationToken::new();
        let _halt_on_drop = halt.clone().drop_guard();
        let settings = settings.clone();
        blocking(move || start(&settings, &halt)).await
    }

    /// Where Redis listens: `redis://127.0.0.1:<port>`.
    pub fn redis_url(&self) -> String {
        self.inner.redis_url.clone()
    }

    /// The database `flashgate`, over Postgres' Unix socket.
    pub fn database_url(&self) -> String {
        self.inner.database_url.clone()
    }

    /// The process id of Redis; another one after a restart.
    pub fn redis_pid(&self) -> u32 {
        self.inner.redis_pid.load(Ordering::Relaxed)
    }

    /// The process id of Postgres; another one after a restart.
    pub fn postgres_pid(&self) -> u32 {
        self.inner.postgres_pid.load(Ordering::Relaxed)
    }

    /// Writes `dev.json`, and keeps it true from now on: with the two addresses that the gateway
    /// listens on, the servers' URLs and all pids.
    ///
    /// # Errors
    /// [`DevError::Io`] where it can't be written.
    pub fn announce(&self, listen: SocketAddr, admin_listen: SocketAddr) -> Result<(), DevError> {
        *held(&self.inner.announced) = Some((listen, admin_listen));
        self.write_dev_file()
    }

    /// Watches both until `stop`, restarting either within a second of its death.
    pub async fn supervise(&self, stop: CancellationToken) {
        supervise::run(self, &stop).await;
    }

    /// Stops both cleanly, within bounds, removes `dev.json` and gives the directory free.
    /// Supervision has to be stopped before, or it would start them again.
    pub async fn stop(self) {
        blocking(move || {
            thread::scope(|scope| {
                scope.spawn(|| held(&self.inner.redis).stop());
                held(&self.inner.postgres).stop();
            });
            if let Err(error) = DevFile::remove(&self.inner.dir) {
                tracing::warn!(%error, "dev.json stays behind");
            }
            held(&self.inner.lock).take();
            info!("Redis and Postgres are stopped");
        })
        .await;
    }

    /// Writes `dev.json` as things are now, if anything was announced.
    fn write_dev_file(&self) -> Result<(), DevError> {
        // Held while writing, so that two restarts at once leave the newer pids.
        let announced = held(&self.inner.announced);
        let Some((listen, admin_listen)) = *announced else {
            return Ok(());
        };
        let pids = Pids {
            gateway: std::process::id(),
            redis: self.redis_pid(),
            postgres: self.postgres_pid(),
        };
        DevFile {
            listen,
            admin_listen,
            redis_url: self.redis_url(),
            database_url: self.database_url(),
            pids,
            postgres_dir: self.inner.postgres_dir.clone(),
        }
        .write(&self.inner.dir)
    }
}

fn start(settings: &Settings, halt: &CancellationToken) -> Result<Servers, DevError> {
    fs::create_dir_all(&settings.dir).map_err(DevError::io("create", &settings.dir))?;
    let dir = settings
        .dir
        .canonicalize()
        .map_err(DevError::io("find", &settings.dir))?;
    let lock = Lock::take(&dir)?;
    DevFile::remove(&dir)?;
    let redis = Redis::start(redis::Settings::new(&dir), halt)?;
    let postgres = Postgres::start(postgres::Settings::new(&dir), halt)?;
    if halt.is_cancelled() {
        return Err(DevError::Halted);
    }
    info!(dir = %dir.display(), redis = redis.url(), postgres = postgres.url(), "Redis and Postgres are up");
    Ok(Servers {
        inner: Arc::new(Inner {
            dir,
            redis_url: redis.url(),
            database_url: postgres.url(),
            postgres_dir: postgres.data(),
            redis_pid: AtomicU32::new(redis.pid().unwrap_or_default()),
            postgres_pid: AtomicU32::new(postgres.pid().unwrap_or_default()),
            announced: Mutex::new(None),
            redis: Arc::new(Mutex::new(redis)),
            postgres: Arc::new(Mutex::new(postgres)),
            lock: Mutex::new(Some(lock)),
        }),
    })
}

/// A server is sound whatever a thread that held it did: every call looks at the process anew.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => unreachable!("a started blocking task can't be cancelled: {error}"),
        },
    }
}
