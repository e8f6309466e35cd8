//! The baselines: each as a process of its own, over a Redis and a Postgres of the same kind and settings as ours.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use flashgate::dev;
use sqlx::PgPool;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::Failure;
use crate::cpu::Pids;
use crate::redis::Redis;
use crate::wrk::Target;

/// A private Redis and Postgres without a gateway.
pub(crate) struct Servers {
    program: PathBuf,
    servers: dev::Servers,
    /// The database.
    pub(crate) database: PgPool,
    /// The Redis.
    pub(crate) redis: Redis,
    _home: TempDir,
}

/// How a baseline runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing behind HTTP.
    NoOp,
    /// The usual script, and whether its writer runs.
    Usual { connections: u32, writes: bool },
    /// One of those over Postgres alone, by name.
    Postgres { name: &'static str, connections: u32 },
}

/// A running baseline. Dropped, it is killed.
pub(crate) struct Rival {
    child: Child,
    pub(crate) target: Target,
}

impl Servers {
    /// Starts them in a new directory; `program` is the baselines'.
    ///
    /// # Errors
    /// They did not come up.
    pub(crate) async fn start(program: &Path) -> Result<Servers, Failure> {
        let home = TempDir::with_prefix("flashgate-bench-")?;
        let settings = dev::Settings {
            dir: home.path().to_path_buf(),
        };
        let servers = dev::Servers::start(&settings).await?;
        Ok(Servers {
            program: program.to_path_buf(),
            database: PgPool::connect(&servers.database_url()).await?,
            redis: Redis::connect(&servers.redis_url()).await?,
            servers,
            _home: home,
        })
    }

    /// Starts a baseline.
    ///
    /// # Errors
    /// It does not say where it listens.
    pub(crate) async fn rival(&self, mode: Mode) -> Result<Rival, Failure> {
        let (redis, database) = (self.servers.redis_url(), self.servers.database_url());
        let mut command = Command::new(&self.program);
        let (redis_pid, postgres_pid) = (Some(self.servers.redis_pid()), Some(self.servers.postgres_pid()));
        let (redis_pid, postgres_pid) = match mode {
            Mode::NoOp => {
                command.args(["no-op", "127.0.0.1:0"]);
                (None, None)
            }
            Mode::Usual { connections, writes } => {
                command.args(["usual", "127.0.0.1:0", &redis, &connections.to_string()]);
                if writes {
                    command.arg(&database);
                }
                (redis_pid, postgres_pid.filter(|_| writes))
            }
            Mode::Postgres { name, connections } => {
                command.args([name, "127.0.0.1:0", &database, &connections.to_string()]);
                (None, postgres_pid)
            }
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command
            .spawn()
            .map_err(|error| format!("{}: {error}", self.program.display()))?;
        let out = child.stdout.take().ok_or("a baseline without output")?;
        let line = BufReader::new(out).lines().next_line().await?;
        let address: SocketAddr = line.ok_or_else(|| format!("{mode:?} says nothing"))?.parse()?;
        let gateway = child.id().ok_or("a baseline that has ended")?;
        let pids = Pids {
            gateway,
            redis: redis_pid,
            postgres: postgres_pid,
        };
        Ok(Rival {
            child,
            target: Target { address, pids },
        })
    }

    /// Stops them and removes everything.
    pub(crate) async fn stop(self) {
        self.database.close().await;
        self.redis.close().await;
        self.servers.stop().await;
    }
}

impl Rival {
    /// Ends it.
    ///
    /// # Errors
    /// It can't be killed.
    pub(crate) async fn stop(mut self) -> Result<(), Failure> {
        self.child.kill().await?;
        Ok(())
    }
}
