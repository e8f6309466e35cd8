//! A `flashgate dev` of our own: its servers are private, its directory is new, its stock is what a measurement needs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::PgPool;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::Failure;
use crate::cpu::Pids;
use crate::http::call;
use crate::redis::Redis;
use crate::tag;
use crate::wrk::Target;

/// Most units that a sale can be given.
pub(crate) const UNITS: i64 = 1_000_000;
/// Longest time to a ready gateway, and to an ended one.
const READY_MAX: Duration = Duration::from_secs(120);
/// Longest time until the queue is in the ledger.
const DRAIN_MAX: Duration = Duration::from_secs(120);

/// A running gateway with its servers.
pub(crate) struct Ours {
    program: PathBuf,
    home: TempDir,
    child: Child,
    public: SocketAddr,
    admin: SocketAddr,
    pids: DevPids,
    /// Its database.
    pub(crate) database: PgPool,
    /// Its Redis.
    pub(crate) redis: Redis,
}

/// What `dev.json` says.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DevFile {
    listen: SocketAddr,
    admin_listen: SocketAddr,
    redis_url: String,
    database_url: String,
    pids: DevPids,
}

#[derive(Clone, Copy, Deserialize)]
struct DevPids {
    gateway: u32,
    redis: u32,
    postgres: u32,
}

/// A live sale.
#[derive(Clone, Debug)]
pub(crate) struct Sale {
    /// Its id, and that of its SKU.
    pub(crate) name: String,
}

/// How far a sale's reservations have got.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) accepted: i64,
    pub(crate) durable: i64,
    pub(crate) rejected: i64,
    pub(crate) drift: i64,
    /// Reservations that wait for the ledger.
    pub(crate) queue: i64,
}

impl Ours {
    /// Starts it in a new directory, with one location.
    ///
    /// # Errors
    /// It did not become ready.
    pub(crate) async fn start(program: &Path) -> Result<Ours, Failure> {
        let home = TempDir::with_prefix("flashgate-bench-")?;
        let mut command = Command::new(program);
        command.args([
            "dev",
            "--no-demo",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ]);
        command
            .arg("--data")
            .arg(home.path())
            .env("FLASHGATE_LOG_FILTER", "warn");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let file = home.path().join("dev.json");
        let ready = async {
            loop {
                if let Some(status) = child.try_wait()? {
                    return Err(format!("flashgate dev ended: {status}").into());
                }
                if let Some(dev) = std::fs::read_to_string(&file)
                    .ok()
                    .and_then(|text| serde_json::from_str(&text).ok())
                {
                    let dev: DevFile = dev;
                    if call(dev.admin_listen, "GET", "/readyz", &Value::Null).await.is_ok() {
                        return Ok::<DevFile, Failure>(dev);
                    }
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        let dev = timeout(READY_MAX, ready)
            .await
            .map_err(|_| "flashgate dev does not become ready")??;
        let ours = Ours {
            program: program.to_path_buf(),
            home,
            child,
            public: dev.listen,
            admin: dev.admin_listen,
            pids: dev.pids,
            database: PgPool::connect(&dev.database_url).await?,
            redis: Redis::connect(&dev.redis_url).await?,
        };
        let place = json!({"name": "w", "kind": "warehouse", "region": "r", "active": true});
        ours.admin("PUT", "/admin/locations/wh1", &place).await?;
        Ok(ours)
    }

    /// Whom to send to, and whose CPU time to read.
    pub(crate) fn target(&self) -> Target {
        Target {
            address: self.public,
            pids: Pids {
                gateway: self.pids.gateway,
                redis: Some(self.pids.redis),
                postgres: Some(self.pids.postgres),
            },
        }
    }

    async fn admin(&self, method: &str, path: &str, body: &Value) -> Result<Value, Failure> {
        call(self.admin, method, path, body).await
    }

    /// A new SKU with a million units and no sale: the ledger engine serves it.
    ///
    /// # Errors
    /// The gateway refuses it.
    pub(crate) async fn item(&self) -> Result<String, Failure> {
        let sku = tag::next();
        self.admin("PUT", &format!("/admin/skus/{sku}"), &json!({"display": "exact"}))
            .await?;
        let receipt = json!({"skuId": sku, "locationId": "wh1", "delta": UNITS, "reason": "stock_received"});
        self.admin("POST", "/api/inventory/adjustments", &receipt).await?;
        Ok(sku)
    }

    /// A live sale of so many units of a new SKU, one a user.
    ///
    /// # Errors
    /// The gateway refuses it.
    pub(crate) async fn sale(&self, allocation: i64) -> Result<Sale, Failure> {
        let name = self.item().await?;
        let body =
            json!({"saleId": name, "skuId": name, "locationId": "wh1", "allocation": allocation, "perUserLimit": 1});
        self.admin("POST", "/admin/sales", &body).await?;
        self.admin("POST", &format!("/admin/sales/{name}/start"), &Value::Null)
            .await?;
        Ok(Sale { name })
    }

    /// # Errors
    /// The gateway does not tell.
    pub(crate) async fn progress(&self, sale: &Sale) -> Result<Progress, Failure> {
        let shown = self
            .admin("GET", &format!("/admin/sales/{}", sale.name), &Value::Null)
            .await?;
        let figure = |value: &Value| value.as_i64().ok_or("a sale without its figures");
        Ok(Progress {
            accepted: figure(&shown["counts"]["accepted"])?,
            durable: figure(&shown["counts"]["durable"])?,
            rejected: figure(&shown["counts"]["rejected"])?,
            drift: figure(&shown["drift"])?,
            queue: figure(&shown["queueDepth"])?,
        })
    }

    /// Waits until everything accepted is in the ledger; how long that took.
    ///
    /// # Errors
    /// It took too long.
    pub(crate) async fn drained(&self, sale: &Sale) -> Result<Duration, Failure> {
        let begin = Instant::now();
        loop {
            let progress = self.progress(sale).await?;
            if progress.queue == 0 && progress.accepted == progress.durable + progress.rejected {
                return Ok(begin.elapsed());
            }
            if begin.elapsed() > DRAIN_MAX {
                return Err(format!("the queue of {} does not drain: {progress:?}", sale.name).into());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Runs `flashgate verify`; what it said where it found something.
    ///
    /// # Errors
    /// It could not run.
    pub(crate) async fn verify(&self) -> Result<Option<String>, Failure> {
        let mut command = Command::new(&self.program);
        let output = command
            .arg("verify")
            .arg("--data")
            .arg(self.home.path())
            .output()
            .await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        Ok((!output.status.success()).then_some(said))
    }

    /// Ends it and its servers, and removes everything.
    ///
    /// # Errors
    /// It does not end.
    pub(crate) async fn stop(mut self) -> Result<(), Failure> {
        self.database.close().await;
        self.redis.close().await;
        if let Some(pid) = self.child.id() {
            kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
        }
        timeout(READY_MAX, self.child.wait())
            .await
            .map_err(|_| "flashgate dev does not end")??;
        Ok(())
    }
}

impl Drop for Ours {
    /// A run that failed in between: told to end, `dev` stops its servers too.
    fn drop(&mut self) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok())
            && kill(Pid::from_raw(pid), Signal::SIGTERM).is_ok()
        {
            for _ in 0..100 {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}
