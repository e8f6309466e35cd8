//! Builds everything once and passes it down: one function per command.
//!
//! [`serve`] takes its listeners and its stop signal from the caller, so that tests own both. It answers from the first
//! moment and says in `/readyz` what it still waits for. At the end it first takes no more requests, then lets those in
//! flight end while the workers still work, then stops the workers.

mod bring_up;
mod capacity;
mod demo;
mod halves;
mod limits;
mod replay;
mod report;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::{self, Command, Dev, Migrate, Role, Serve};
use crate::dev::{self, DevError, Servers};
use crate::domain::choice::Weights;
use crate::drill;
use crate::flash::{self, FlashError};
use crate::health::Stage;
use crate::http::admission::{self, Admission};
use crate::http::{self, Gateway, listen, openapi, overload};
use crate::ledger::{self, Ledger, LedgerError};
use crate::metric;

/// Longest time for workers to end their last batch.
const WORKERS_STOP_MAX: Duration = Duration::from_secs(10);

/// How often counters are folded and quiet clients forgotten.
const UPKEEP: Duration = Duration::from_secs(1);

/// Longest time one statement of a migration may take: it may have to rewrite a table.
const MIGRATION_STATEMENT_MAX: Duration = Duration::from_secs(3600);

/// What a gateway process is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What it does.
    pub roles: Vec<Role>,
    /// How connections are served.
    pub http: listen::Settings,
    /// How much is let in.
    pub admission: admission::Settings,
    /// How to reach Postgres.
    pub ledger: ledger::Settings,
    /// How to use Redis.
    pub flash: flash::Settings,
    /// How locations are chosen.
    pub choice: Weights,
}

impl Settings {
    /// Whether the servers can be looked for at all.
    ///
    /// # Errors
    /// `Setting`, naming the one that can't be read.
    pub fn check(&self) -> Result<(), AppError> {
        let wrong = |name: &'static str, error: &dyn std::error::Error| AppError::Setting(name, error.to_string());
        let primary = ledger::Settings {
            read_url: None,
            ..self.ledger.clone()
        };
        Ledger::new(&primary).map_err(|error| wrong("--database-url", &error))?;
        Ledger::new(&self.ledger).map_err(|error| wrong("--read-database-url", &error))?;
        self.flash.check().map_err(|error| wrong("--redis-url", &error))
    }
}

/// Where a gateway listens; bound by the caller.
#[derive(Debug)]
pub struct Listeners {
    /// For checkout and reading; used where the process has the role `http`.
    pub public: TcpListener,
    /// For stock, admin and operations.
    pub admin: TcpListener,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A setting that can't be used, and why.
    #[error("{0}: {1}")]
    Setting(&'static str, String),
    /// An address is taken, or not ours.
    #[error("can't listen on {address}: {source}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system refuses signals or output.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Postgres.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Redis.
    #[error(transparent)]
    Flash(#[from] FlashError),
    /// The embedded servers.
    #[error(transparent)]
    Dev(#[from] DevError),
}

/// Runs a command until it is done, or until SIGINT or SIGTERM.
///
/// # Errors
/// What kept it from doing its work.
pub async fn run(command: Command) -> Result<ExitCode, AppError> {
    match command {
        // It holds every setting while it waits; the other commands need not make room for it.
        Command::Dev(dev) => Box::pin(run_dev(*dev, stop_signal()?)).await?,
        Command::Serve(serve) => run_serve(*serve, stop_signal()?).await?,
        Command::Migrate(migrate) => run_migrate(migrate).await?,
        Command::Verify(verify) => return Ok(halves::verify(verify).await),
        Command::Reconcile(reconcile) => return Ok(halves::reconcile(reconcile).await),
        Command::Replay(replay) => return Ok(replay::run(replay).await?),
        Command::Drill(drill) => return Ok(run_drill(drill, stop_signal()?).await?),
        Command::Capacity(command) => capacity::run(&command, &mut io::stdout())?,
        Command::Openapi => writeln!(io::stdout(), "{}", openapi::document_json())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Cancelled by the first SIGINT or SIGTERM. Later ones change nothing: what follows is bounded in time.
fn stop_signal() -> io::Result<CancellationToken> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("stopping");
        cancel.cancel();
    });
    Ok(stop)
}

async fn run_serve(command: Serve, stop: CancellationToken) -> Result<(), AppError> {
    let process = command.process;
    let settings = Settings {
        roles: command.roles,
        ledger: ledger::Settings {
            read_url: command.read_database_url,
            ..process.ledger(&command.database_url)
        },
        flash: process.flash(&command.redis_url),
        choice: process.choice(),
        http: process.http,
        admission: process.admission,
    };
    // A process that can never serve must not take the ports first.
    settings.check()?;
    let listeners = bind(process.listen, process.admin_listen)?;
    serve(settings, listeners, stop).await
}

async fn run_drill(command: config::Drill, stop: CancellationToken) -> io::Result<ExitCode> {
    if command.list {
        return drill::list();
    }
    Box::pin(drill::run(command.settings(), stop)).await
}

async fn run_migrate(command: Migrate) -> Result<(), AppError> {
    migrate(&command.database_url, command.lanes).await?;
    tracing::info!("the schema is up to date");
    Ok(())
}

async fn migrate(database_url: &str, lanes: u16) -> Result<(), LedgerError> {
    let ledger = Ledger::new(&ledger::Settings {
        statement_timeout: MIGRATION_STATEMENT_MAX,
        ..ledger::Settings::new(database_url)
    })?;
    let done = ledger.migrate(lanes).await;
    ledger.close().await;
    done
}

async fn run_dev(command: Dev, stop: CancellationToken) -> Result<(), AppError> {
    let home = dev::Settings {
        dir: command.data.clone(),
    };
    let servers = tokio::select! {
        servers = Servers::start(&home) => servers?,
        () = stop.cancelled() => return Ok(()),
    };
    let supervision = CancellationToken::new();
    let (served, ()) = tokio::join!(
        async {
            let served = serve_dev(command, &servers, stop).await;
            supervision.cancel();
            served
        },
        servers.supervise(supervision.clone()),
    );
    servers.stop().await;
    served
}

async fn serve_dev(command: Dev, servers: &Servers, stop: CancellationToken) -> Result<(), AppError> {
    let process = command.process;
    migrate(&servers.database_url(), command.lanes).await?;
    let listeners = bind(process.listen, process.admin_listen)?;
    let (public, admin) = (listeners.public.local_addr()?, listeners.admin.local_addr()?);
    servers.announce(public, admin)?;
    let settings = Settings {
        roles: Role::ALL.to_vec(),
        ledger: process.ledger(&servers.database_url()),
        flash: process.flash(&servers.redis_url()),
        choice: process.choice(),
        http: process.http,
        admission: process.admission,
    };
    let gateway = build(&settings)?;
    let demo = async {
        let wanted = !command.no_demo;
        if let Some(Err(error)) = stop
            .run_until_cancelled(demo::run(&gateway, wanted, public, admin))
            .await
        {
            tracing::error!(%error, "the demo could not be loaded");
        }
    };
    let (served, ()) = tokio::join!(run_gateway(&settings, &gateway, listeners, &stop), demo);
    served
}

fn bind(public: SocketAddr, admin: SocketAddr) -> Result<Listeners, AppError> {
    let at = |address| listen::bind(address).map_err(|source| AppError::Bind { address, source });
    Ok(Listeners {
        public: at(public)?,
        admin: at(admin)?,
    })
}

/// Runs a gateway until `stop`.
///
/// # Errors
/// The settings can't be used. Later failures are told in `/readyz` and mended, not returned.
pub async fn serve(settings: Settings, listeners: Listeners, stop: CancellationToken) -> Result<(), AppError> {
    let gateway = build(&settings)?;
    run_gateway(&settings, &gateway, listeners, &stop).await
}

fn build(settings: &Settings) -> Result<Arc<Gateway>, AppError> {
    settings.check()?;
    limits::raise_open_files();
    let ledger = Ledger::new(&settings.ledger)?;
    let admission = Arc::new(Admission::new(&settings.admission));
    let gateway = Gateway::new(ledger, admission, metric::install(), rand::random);
    Ok(Arc::new(gateway.choosing_by(settings.choice)))
}

async fn run_gateway(
    settings: &Settings,
    gateway: &Arc<Gateway>,
    listeners: Listeners,
    stop: &CancellationToken,
) -> Result<(), AppError> {
    let workers_stop = CancellationToken::new();
    let tidying = tokio::spawn(upkeep(Arc::clone(gateway), workers_stop.clone()));
    let watched = Arc::clone(&gateway.admission);
    let watching = tokio::spawn(async move { overload::watch(&watched).await });
    let id = Uuid::new_v4();
    let (workers, ()) = tokio::join!(bring_up::run(settings, gateway, id, &workers_stop), async {
        answer(settings, gateway, listeners, stop).await;
        workers_stop.cancel();
    });
    if let Some(workers) = workers?
        && tokio::time::timeout(WORKERS_STOP_MAX, workers.wait()).await.is_err()
    {
        tracing::warn!(workers = workers.len(), "workers did not end in time");
    }
    // It only sleeps and counts.
    tidying.abort();
    watching.abort();
    if let Some(flash) = gateway.flash.get() {
        flash.quit().await;
    }
    gateway.calls.close().await;
    gateway.ledger.close().await;
    gateway.ledger.close_reads().await;
    Ok(())
}

/// Serves both listeners until `stop`, and then until they are drained.
async fn answer(settings: &Settings, gateway: &Arc<Gateway>, listeners: Listeners, stop: &CancellationToken) {
    let Listeners { public, admin } = listeners;
    tracing::info!(public = ?public.local_addr().ok(), admin = ?admin.local_addr().ok(), roles = ?settings.roles, "listening");
    let answer_public = async {
        if settings.roles.contains(&Role::Http) {
            let served = (Some(gateway.gate()), http::public(gateway));
            listen::serve("public", public, served, &settings.http, stop.clone()).await;
        } else {
            drop(public);
        }
    };
    let answer_admin = listen::serve(
        "admin",
        admin,
        (None, http::admin(gateway)),
        &settings.http,
        stop.clone(),
    );
    let tell = async {
        stop.cancelled().await;
        gateway.health.change(|state| state.stage = Stage::Stopping);
    };
    tokio::join!(answer_public, answer_admin, tell);
}

async fn upkeep(gateway: Arc<Gateway>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(UPKEEP);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        gateway.metrics.run_upkeep();
        gateway.admission.upkeep();
    }
}
