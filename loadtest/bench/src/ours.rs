//! A gateway of our own: its servers are private, its directory is new, its stock is what a measurement needs. It is a
//! `flashgate dev`; or, where it has to be started again while its servers stay, a `flashgate serve`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use flashgate::dev;
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
/// Between two looks at what is awaited.
const LOOK: Duration = Duration::from_millis(20);
/// Time to pay, as a sale has it that says nothing.
const HOLD_SECONDS: u32 = 900;
/// Longest time until the queue is in the ledger, or all units are on sale again.
const DRAIN_MAX: Duration = Duration::from_secs(120);

/// A running gateway with its servers. Dropped, it ends with them.
pub(crate) struct Ours {
    program: PathBuf,
    child: Child,
    at: Place,
    // Before the directory that they use, and after the gateway that uses them.
    servers: Option<dev::Servers>,
    _home: TempDir,
    /// Its database.
    pub(crate) database: PgPool,
    /// Its Redis.
    pub(crate) redis: Redis,
}

/// Where everything is: what `dev.json` says.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Place {
    listen: SocketAddr,
    admin_listen: SocketAddr,
    redis_url: String,
    database_url: String,
    pids: PlacePids,
}

#[derive(Clone, Copy, Deserialize)]
struct PlacePids {
    gateway: u32,
    redis: u32,
    postgres: u32,
}

/// A live sale.
#[derive(Clone, Debug)]
pub(crate) struct Sale {
    /// Its id, and that of its SKU.
    pub(crate) name: String,
    units: i64,
}

/// How far a sale's reservations have got.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) accepted: i64,
    pub(crate) durable: i64,
    pub(crate) committed: i64,
    pub(crate) released: i64,
    pub(crate) expired: i64,
    pub(crate) rejected: i64,
    pub(crate) drift: i64,
    /// Reservations that wait for the ledger.
    pub(crate) queue: i64,
    /// Units that can't be bought just now.
    pub(crate) taken: i64,
}

impl Ours {
    /// Starts a `flashgate dev` in a new directory, with one location.
    ///
    /// # Errors
    /// It did not become ready.
    pub(crate) async fn start(program: &Path) -> Result<Ours, Failure> {
        let home = TempDir::with_prefix("flashgate-bench-")?;
        let mut command = gateway(program, "dev");
        command.args(["--no-demo", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command.arg("--data").arg(home.path());
        let mut child = command.spawn()?;
        let file = home.path().join("dev.json");
        let begin = Instant::now();
        let at: Place = loop {
            if let Some(status) = child.try_wait()? {
                return Err(format!("flashgate dev ended: {status}").into());
            }
            match std::fs::read_to_string(&file)
                .ok()
                .and_then(|text| serde_json::from_str(&text).ok())
            {
                Some(at) => break at,
                None if begin.elapsed() > READY_MAX => return Err("flashgate dev does not come up".into()),
                None => sleep(LOOK).await,
            }
        };
        Ours::with(program, home, None, child, at).await
    }

    /// Starts a `flashgate serve` on servers of its own, with one location.
    ///
    /// # Errors
    /// It did not become ready.
    pub(crate) async fn serve(program: &Path) -> Result<Ours, Failure> {
        let home = TempDir::with_prefix("flashgate-bench-")?;
        let settings = dev::Settings {
            dir: home.path().to_path_buf(),
        };
        let servers = dev::Servers::start(&settings).await?;
        let mut at = Place {
            listen: free_address()?,
            admin_listen: free_address()?,
            redis_url: servers.redis_url(),
            database_url: servers.database_url(),
            pids: PlacePids {
                gateway: 0,
                redis: servers.redis_pid(),
                postgres: servers.postgres_pid(),
            },
        };
        let migrated = gateway(program, "migrate")
            .env("FLASHGATE_DATABASE_URL", &at.database_url)
            .status()
            .await?;
        if !migrated.success() {
            return Err(format!("flashgate migrate ended: {migrated}").into());
        }
        let child = at.serve(program)?;
        at.pids.gateway = child.id().unwrap_or_default();
        Ours::with(program, home, Some(servers), child, at).await
    }

    async fn with(
        program: &Path,
        home: TempDir,
        servers: Option<dev::Servers>,
        child: Child,
        at: Place,
    ) -> Result<Ours, Failure> {
        let ours = Ours {
            program: program.to_path_buf(),
            child,
            servers,
            _home: home,
            database: PgPool::connect(&at.database_url).await?,
            redis: Redis::connect(&at.redis_url).await?,
            at,
        };
        ours.serving().await?;
        let place = json!({"name": "w", "kind": "warehouse", "region": "r", "active": true});
        ours.admin().call("PUT", "/admin/locations/wh1", &place).await?;
        Ok(ours)
    }

    /// Waits until it serves with all its lanes; how long that took.
    ///
    /// # Errors
    /// It takes too long.
    pub(crate) async fn serving(&self) -> Result<Duration, Failure> {
        let begin = Instant::now();
        loop {
            let shown = call(self.at.admin_listen, "GET", "/readyz", &Value::Null).await;
            if shown.is_ok_and(|shown| shown["mode"] == "serving" && shown["lanes"]["closed"] == 0) {
                return Ok(begin.elapsed());
            }
            if begin.elapsed() > READY_MAX {
                return Err("the gateway does not become ready".into());
            }
            sleep(LOOK).await;
        }
    }

    /// Ends a `flashgate serve` and starts it again on the same servers; how long from its start until it serves.
    ///
    /// # Errors
    /// It does not end, or does not become ready.
    pub(crate) async fn restart(&mut self) -> Result<Duration, Failure> {
        self.end().await?;
        self.child = self.at.serve(&self.program)?;
        self.at.pids.gateway = self.child.id().unwrap_or_default();
        self.serving().await
    }

    /// For calls of operators; also from other tasks.
    pub(crate) fn admin(&self) -> Admin {
        Admin(self.at.admin_listen)
    }

    /// Whom to send to, and whose CPU time to read.
    pub(crate) fn target(&self) -> Target {
        Target {
            address: self.at.listen,
            pids: Pids {
                gateway: self.at.pids.gateway,
                redis: Some(self.at.pids.redis),
                postgres: Some(self.at.pids.postgres),
            },
        }
    }

    /// A new SKU with a million units and no sale: the ledger engine serves it.
    ///
    /// # Errors
    /// The gateway refuses it.
    pub(crate) async fn item(&self) -> Result<String, Failure> {
        let sku = tag::next();
        self.admin().item(&sku, UNITS).await?;
        Ok(sku)
    }

    /// A live sale of so many units of a new SKU, one a user.
    ///
    /// # Errors
    /// The gateway refuses it.
    pub(crate) async fn sale(&self, allocation: i64) -> Result<Sale, Failure> {
        self.admin().sale(tag::next(), allocation, HOLD_SECONDS).await
    }

    /// # Errors
    /// The gateway does not tell.
    pub(crate) async fn progress(&self, sale: &Sale) -> Result<Progress, Failure> {
        let shown = self
            .admin()
            .call("GET", &format!("/admin/sales/{}", sale.name), &Value::Null)
            .await?;
        let figure = |value: &Value| value.as_i64().ok_or("a sale without its figures");
        Ok(Progress {
            accepted: figure(&shown["counts"]["accepted"])?,
            durable: figure(&shown["counts"]["durable"])?,
            committed: figure(&shown["counts"]["committed"])?,
            released: figure(&shown["counts"]["released"])?,
            expired: figure(&shown["counts"]["expired"])?,
            rejected: figure(&shown["counts"]["rejected"])?,
            drift: figure(&shown["drift"])?,
            queue: figure(&shown["queueDepth"])?,
            taken: sale.units - figure(&shown["remaining"])?,
        })
    }

    /// Waits until everything accepted is in the ledger; how long that took.
    ///
    /// # Errors
    /// It took too long.
    pub(crate) async fn drained(&self, sale: &Sale) -> Result<Duration, Failure> {
        self.comes_to(sale, |now| now.queue == 0 && now.accepted == now.durable + now.rejected)
            .await
    }

    /// Waits until every unit is on sale again, which grants carry there one after the other: whatever a sale is told
    /// meanwhile waits behind them. How long that took.
    ///
    /// # Errors
    /// It took too long.
    pub(crate) async fn back_on_sale(&self, sale: &Sale) -> Result<Duration, Failure> {
        self.comes_to(sale, |now| now.taken == 0).await
    }

    async fn comes_to(&self, sale: &Sale, is_there: impl Fn(&Progress) -> bool) -> Result<Duration, Failure> {
        let begin = Instant::now();
        loop {
            let progress = self.progress(sale).await?;
            if is_there(&progress) {
                return Ok(begin.elapsed());
            }
            if begin.elapsed() > DRAIN_MAX {
                return Err(format!("{} does not settle: {progress:?}", sale.name).into());
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
        let output = self.at.servers(command.arg("verify")).output().await?;
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
        self.end().await?;
        if let Some(servers) = self.servers.take() {
            servers.stop().await;
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<(), Failure> {
        if let Some(pid) = self.child.id() {
            kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
        }
        timeout(READY_MAX, self.child.wait())
            .await
            .map_err(|_| "the gateway does not end")??;
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

impl Place {
    fn servers<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("FLASHGATE_REDIS_URL", &self.redis_url)
            .env("FLASHGATE_DATABASE_URL", &self.database_url)
    }

    fn serve(&self, program: &Path) -> Result<Child, Failure> {
        let mut command = gateway(program, "serve");
        command.args([
            "--listen",
            &self.listen.to_string(),
            "--admin-listen",
            &self.admin_listen.to_string(),
        ]);
        Ok(self.servers(&mut command).spawn()?)
    }
}

/// Calls of operators.
#[derive(Clone, Copy)]
pub(crate) struct Admin(SocketAddr);

impl Admin {
    async fn call(self, method: &str, path: &str, body: &Value) -> Result<Value, Failure> {
        call(self.0, method, path, body).await
    }

    async fn item(self, sku: &str, units: i64) -> Result<(), Failure> {
        self.call("PUT", &format!("/admin/skus/{sku}"), &json!({"display": "exact"}))
            .await?;
        let receipt = json!({"skuId": sku, "locationId": "wh1", "delta": units, "reason": "stock_received"});
        self.call("POST", "/api/inventory/adjustments", &receipt).await?;
        Ok(())
    }

    /// A live sale of all units of a new SKU, one a user, who has so long to pay.
    ///
    /// # Errors
    /// The gateway refuses it.
    pub(crate) async fn sale(self, name: String, allocation: i64, hold_seconds: u32) -> Result<Sale, Failure> {
        self.item(&name, allocation).await?;
        let body = json!({
            "saleId": name, "skuId": name, "locationId": "wh1", "allocation": allocation, "perUserLimit": 1,
            "holdSeconds": hold_seconds,
        });
        self.call("POST", "/admin/sales", &body).await?;
        self.call("POST", &format!("/admin/sales/{name}/start"), &Value::Null)
            .await?;
        Ok(Sale {
            name,
            units: allocation,
        })
    }
}

fn gateway(program: &Path, role: &str) -> Command {
    let mut command = Command::new(program);
    command.arg(role).env("FLASHGATE_LOG_FILTER", "warn");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// One that nobody listens on now.
fn free_address() -> std::io::Result<SocketAddr> {
    std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()
}
