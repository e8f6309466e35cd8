//! A private Postgres under a directory: made, started, killed, restarted and stopped.
//!
//! It listens on a Unix socket and on a loopback port, trusts whoever reaches these, and keeps both
//! over restarts. The URL it hands out is that of the socket. Nothing here is async, so that a server
//! is tied to no runtime.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::cluster::{Cluster, NAME};
use super::error::DevError;
use super::port;
use super::process::{self, LOOK_EVERY, Ladder, Process};

/// Fast shutdown, then immediate (recovery at the next start), then the hard way.
const LADDER: Ladder = &[
    (Signal::SIGINT, Duration::from_secs(10)),
    (Signal::SIGQUIT, Duration::from_secs(5)),
    (Signal::SIGKILL, Duration::from_secs(2)),
];
/// Recovery after a crash replays at most about `max_wal_size`.
const READY_MAX: Duration = Duration::from_secs(120);
/// A killed Postgres' backends notice its death and go; until then a new one refuses to start.
const ORPHANS_MAX: Duration = Duration::from_secs(30);

/// Where a private Postgres lives and how careful it is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory under which it keeps `postgres/` (its data) and `postgres.log`.
    pub dir: PathBuf,
    /// Whether commits reach the disk. Only data that nobody misses can do without.
    pub fsync: bool,
}

impl Settings {
    /// A Postgres under `dir` whose commits survive a crash of the machine.
    pub fn new(dir: impl Into<PathBuf>) -> Settings {
        Settings {
            dir: dir.into(),
            fsync: true,
        }
    }
}

/// A private Postgres. Dropping it stops it.
#[derive(Debug)]
pub struct Postgres {
    cluster: Cluster,
    settings: Settings,
    port: u16,
    process: Option<Process>,
}

impl Postgres {
    /// Starts a Postgres with the data found under the directory, or a new cluster, and makes sure
    /// that the database `flashgate` exists; one that an earlier, killed run left there is stopped
    /// first. Blocks until it takes connections, or until `halt`.
    ///
    /// # Errors
    /// [`DevError`] where no fitting binaries are found, the directory can't be used, or Postgres
    /// doesn't come up.
    pub fn start(settings: Settings, halt: &CancellationToken) -> Result<Postgres, DevError> {
        fs::create_dir_all(&settings.dir).map_err(DevError::io("create", &settings.dir))?;
        let dir = settings
            .dir
            .canonicalize()
            .map_err(DevError::io("find", &settings.dir))?;
        let cluster = Cluster::prepare(&dir, settings.fsync)?;
        let mut postgres = Postgres {
            cluster,
            settings: Settings { dir, ..settings },
            port: port::free()?,
            process: None,
        };
        postgres.end_leftover();
        process::rotate(&postgres.log());
        postgres.launch(false, halt)?;
        let there = format!("SELECT 1 FROM pg_database WHERE datname = '{NAME}'");
        if postgres.cluster.query(postgres.port, &there)?.is_empty() {
            postgres.create_database(NAME)?;
        }
        Ok(postgres)
    }

    /// The URL of the database `flashgate`, over the Unix socket; the same as long as this value lives.
    pub fn url(&self) -> String {
        self.url_of(NAME)
    }

    /// The URL of any database here, over the Unix socket: its path, percent-encoded, is the host.
    pub fn url_of(&self, database: &str) -> String {
        self.cluster.url(self.port, database)
    }

    /// The URL of any database here, over TCP.
    pub fn tcp_url_of(&self, database: &str) -> String {
        format!("postgres://{NAME}@127.0.0.1:{}/{database}", self.port)
    }

    /// The process id, or that of the last process where none runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// How it ended, in words, or `None` while it runs. Never blocks.
    pub fn exited(&mut self) -> Option<String> {
        match &mut self.process {
            Some(process) => process.exited().map(|exit| exit.to_string()),
            None => Some("not started".to_owned()),
        }
    }

    /// Kills the postmaster with SIGKILL and waits until it is gone; its backends go by themselves.
    pub fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }

    /// Stops it cleanly: sessions are ended, a checkpoint is written.
    pub fn stop(&mut self) {
        if let Some(process) = &mut self.process {
            process.stop();
        }
    }

    /// Starts it again on the same socket, port and data, ending it first where it still runs.
    /// Blocks until it takes connections, or until `halt`.
    ///
    /// # Errors
    /// [`DevError`] where it doesn't come up.
    pub fn restart(&mut self, halt: &CancellationToken) -> Result<(), DevError> {
        self.stop();
        self.launch(true, halt)
    }

    /// Creates an empty database.
    ///
    /// # Errors
    /// [`DevError::Unusable`] for a name other than lower-case letters, digits and `_`;
    /// [`DevError::Tool`] where Postgres refuses.
    pub fn create_database(&self, name: &str) -> Result<(), DevError> {
        if name.is_empty()
            || !name
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
        {
            return Err(DevError::Unusable {
                what: name.to_owned(),
                why: "it is not a plain database name",
            });
        }
        let sql = format!("CREATE DATABASE \"{name}\"");
        self.cluster.query(self.port, &sql).map(drop)
    }

    /// Runs one statement in the database `postgres`, as its owner, and returns its rows, columns apart by `|`.
    ///
    /// # Errors
    /// [`DevError::Tool`] with what psql says.
    pub fn query(&self, sql: &str) -> Result<String, DevError> {
        self.cluster.query(self.port, sql)
    }

    /// The directory of the cluster; outside of the given one where that is closed to the user
    /// that runs Postgres.
    pub fn data(&self) -> PathBuf {
        self.cluster.data()
    }

    fn log(&self) -> PathBuf {
        self.settings.dir.join("postgres.log")
    }

    /// Ends the server that a killed run left, and removes a lock file whose pid is now somebody
    /// else's, which Postgres itself would take for a live server.
    fn end_leftover(&self) {
        let Some((pid, _)) = self.cluster.lock() else {
            return;
        };
        if process::end_leftover(pid, &self.data().to_string_lossy(), LADDER) {
            info!(pid, "stopped the Postgres that an earlier run left behind");
        } else if process::is_alive(pid) {
            // Where this fails, the start will tell. The file of a pid that is gone stays: by it
            // Postgres finds out whether backends of the dead server still write.
            fs::remove_file(self.cluster.lock_path()).ok();
        }
    }

    /// Runs Postgres until it takes connections. A taken port is replaced unless `keep_port`; what
    /// passes by itself (the port, backends of a killed one) is waited for.
    fn launch(&mut self, keep_port: bool, halt: &CancellationToken) -> Result<(), DevError> {
        let since = Instant::now();
        loop {
            let Err((exit, said)) = self.run_once(halt)? else {
                return Ok(());
            };
            let taken = said.contains("Address already in use");
            let orphans = said.contains("is still in use");
            if !(taken || orphans) || since.elapsed() > ORPHANS_MAX {
                return Err(DevError::Exited {
                    server: "Postgres",
                    exit,
                    log: self.log(),
                    tail: said,
                });
            }
            if taken && !keep_port {
                self.port = port::free()?;
            }
            thread::sleep(LOOK_EVERY * 5);
        }
    }

    /// One try: the outer error is final, the inner one is Postgres ending by itself.
    fn run_once(&mut self, halt: &CancellationToken) -> Result<Result<(), (String, String)>, DevError> {
        let command = self.cluster.server(self.port, self.settings.fsync)?;
        let mut process = Process::spawn(command, &self.log(), LADDER)?;
        let since = Instant::now();
        loop {
            if let Some(exit) = process.exited() {
                return Ok(Err((exit.to_string(), process.said())));
            }
            if self.cluster.lock() == Some((process.id(), true)) {
                self.process = Some(process);
                return Ok(Ok(()));
            }
            if halt.is_cancelled() {
                return Err(DevError::Halted);
            }
            if since.elapsed() > READY_MAX {
                return Err(DevError::TimedOut {
                    server: "Postgres",
                    limit: READY_MAX,
                    log: self.log(),
                });
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}
