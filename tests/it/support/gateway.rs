//! Whole gateways on loopback, with every worker: within the test's process, or as one of their own that can be killed.

use std::env;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::process::{self, Command, Stdio};
use std::time::Duration;

use flashgate::app::{self, Listeners};
use flashgate::config::Role;
use flashgate::domain::choice::Weights;
use flashgate::flash;
use flashgate::http::{admission, listen};
use flashgate::ledger::{self, Ledger};
use flashgate::telemetry;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::door::{Door, PATIENCE, until};
use super::servers::{Home, home, shared};

pub(crate) const LANES: u16 = 4;

/// A gateway within this process. [`Whole::stop`] ends it in order; dropped, it ends with the test's runtime.
pub(crate) struct Whole {
    door: Door,
    stop: DropGuard,
    running: JoinHandle<()>,
}

/// A gateway in a process of its own, which dropping kills.
pub(crate) struct Child {
    door: Door,
    process: Process,
    _home: Home,
}

/// A process that does not outlive this value.
struct Process(process::Child);

/// Brings the schema of this database up to date.
pub(crate) async fn migrate(database_url: &str) {
    migrate_lanes(database_url, LANES).await;
}

/// The same, with so many lanes where it is new.
pub(crate) async fn migrate_lanes(database_url: &str, lanes: u16) {
    let ledger = Ledger::new(&ledger::Settings::new(database_url)).expect("an address");
    ledger.migrate(lanes).await.expect("migrates");
    ledger.close().await;
}

impl Whole {
    /// With the SKU `hot` and 100 units of it at `wh1`, over servers that others use too.
    pub(crate) async fn open() -> Whole {
        let whole = Whole::empty().await;
        whole.receive("hot", 100).await;
        whole
    }

    /// With nothing in it, over servers that others use too.
    pub(crate) async fn empty() -> Whole {
        let database_url = shared().await.database().await;
        migrate(&database_url).await;
        Whole::over(&shared().await.redis(), &database_url).await
    }

    /// Over these servers, of which the database is migrated; returns when every lane is open.
    pub(crate) async fn over(redis_url: &str, database_url: &str) -> Whole {
        let whole = Whole::start(redis_url, database_url).await;
        whole.until_open().await;
        whole
    }

    /// Over these servers, whether they answer or not.
    pub(crate) async fn start(redis_url: &str, database_url: &str) -> Whole {
        Whole::start_as(Role::ALL, redis_url, database_url).await
    }

    /// The same with these roles alone.
    pub(crate) async fn start_as(roles: &[Role], redis_url: &str, database_url: &str) -> Whole {
        Whole::told(redis_url, database_url, settings(roles, redis_url, database_url)).await
    }

    /// Over servers that others use too, letting in so many requests a second of one client.
    pub(crate) async fn limited(client_rate: u32, client_burst: u32) -> Whole {
        let database_url = shared().await.database().await;
        migrate(&database_url).await;
        let whole = Whole::changed(&shared().await.redis(), &database_url, |settings| {
            (settings.admission.client_rate, settings.admission.client_burst) = (client_rate, client_burst);
        })
        .await;
        whole.until_open().await;
        whole
    }

    /// Over these servers, with changed settings.
    pub(crate) async fn changed(redis_url: &str, database_url: &str, change: impl FnOnce(&mut app::Settings)) -> Whole {
        let mut settings = settings(Role::ALL, redis_url, database_url);
        change(&mut settings);
        Whole::told(redis_url, database_url, settings).await
    }

    /// With these settings. What it logs is shown where `FLASHGATE_LOG_FILTER` asks for it.
    async fn told(redis_url: &str, database_url: &str, settings: app::Settings) -> Whole {
        if let Ok(log_filter) = env::var("FLASHGATE_LOG_FILTER") {
            telemetry::init(&telemetry::Settings {
                log_format: telemetry::Format::Text,
                log_filter,
            });
        }
        let bind = async || TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let listeners = Listeners {
            public: bind().await,
            admin: bind().await,
        };
        let address = |listener: &TcpListener| listener.local_addr().expect("it is bound");
        let (public, admin) = (address(&listeners.public), address(&listeners.admin));
        let door = Door::at(public, admin, redis_url, database_url);
        let stop = CancellationToken::new();
        let served = app::serve(settings, listeners, stop.clone());
        Whole {
            door,
            stop: stop.drop_guard(),
            running: tokio::spawn(async move { served.await.expect("the settings are good") }),
        }
    }

    /// Ends it in order.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        let ended = tokio::time::timeout(PATIENCE, self.running).await;
        ended.expect("it ends in time").expect("it does not panic");
    }
}

fn settings(roles: &[Role], redis_url: &str, database_url: &str) -> app::Settings {
    app::Settings {
        roles: roles.to_vec(),
        http: listen::Settings {
            connections_max: 1_000,
            header_timeout_ms: 30_000,
            drain_ms: 1_000,
        },
        admission: admission::Settings {
            in_flight_max: 1_000,
            in_flight_reserved: 100,
            in_flight_min: 10,
            in_flight_start: 10,
            delay_target_ms: 0,
            client_rate: 0,
            client_burst: 0,
            global_rate: 0,
            global_burst: 0,
            reads_rate: 0,
            proxies: 0,
        },
        ledger: ledger::Settings {
            connections_max: 8,
            // Tests keep locks to see what waits.
            lock_patience: Duration::from_secs(60),
            ..ledger::Settings::new(database_url)
        },
        flash: flash::Settings::new(redis_url),
        choice: Weights::default(),
    }
}

impl Deref for Whole {
    type Target = Door;

    fn deref(&self) -> &Door {
        &self.door
    }
}

impl Child {
    /// Over these servers, of which the database is migrated; returns when every lane is open.
    pub(crate) async fn over(redis_url: &str, database_url: &str) -> Child {
        Child::of(Path::new(env!("CARGO_BIN_EXE_flashgate")), redis_url, database_url).await
    }

    /// The same, of another release.
    pub(crate) async fn of(program: &Path, redis_url: &str, database_url: &str) -> Child {
        let home = home();
        // Its command line names the directory, by which the guard knows it.
        let config = home.path().join("gateway.toml");
        let text = format!(
            "redis_url = \"{redis_url}\"\ndatabase_url = \"{database_url}\"\npostgres_connections = 8\n\
             postgres_lock_patience_ms = 60000\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\nlog_format = \"json\"\n"
        );
        fs::write(&config, text).expect("the directory can be written");
        let log = home.path().join("gateway.log");
        let process = Process(
            Command::new(program)
                .arg("--config")
                .arg(&config)
                .args(["serve", "--log-filter", "info"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(File::create(&log).expect("the directory can be written"))
                .spawn()
                .expect("the gateway starts"),
        );
        fs::write(home.path().join("gateway.pid"), process.0.id().to_string()).expect("the directory can be written");
        let (public, admin) = until("its addresses", async || listening(&log)).await;
        let child = Child {
            door: Door::at(public, admin, redis_url, database_url),
            process,
            _home: home,
        };
        child.until_open().await;
        child
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("it is our child");
    }

    /// Asks it to end, and waits until it has, in order.
    pub(crate) async fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        let status = until("its end", async || self.process.0.try_wait().expect("it is our child")).await;
        assert!(status.success(), "{status}");
    }

    /// Kills it outright, as a crash would, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }
}

impl Deref for Child {
    type Target = Door;

    fn deref(&self) -> &Door {
        &self.door
    }
}

impl Process {
    fn kill(&mut self) {
        // Either fails only where it is gone.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where the log says that it listens: public and admin.
fn listening(log: &Path) -> Option<(SocketAddr, SocketAddr)> {
    let text = fs::read_to_string(log).ok()?;
    let line = text.lines().find(|line| line.contains("\"listening\""))?;
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let address = |name: &str| {
        let shown = line[name].as_str()?;
        shown.trim_start_matches("Some(").trim_end_matches(')').parse().ok()
    };
    Some((address("public")?, address("admin")?))
}
