//! The command line: flags, then `FLASHGATE_*` environment variables, then a TOML file, then defaults.
//!
//! Every setting is one argument here or in the `Settings` of the module that it is for. The file's values become the
//! arguments' defaults, so all three sources are read, checked and told about by the same code; its keys are the
//! arguments' names with `_`. What is wrong is told before anything is started, and names the setting.

mod capacity;
mod choice;
mod drill;
mod file;
mod halves;
mod replay;
mod servers;

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

pub use capacity::Capacity;
pub use drill::Drill;
pub use halves::{Halves, Reconcile, Verify};
pub use replay::Replay;

use crate::domain::choice::Weights;
use crate::http::{admission, listen};
use crate::{flash, ledger, telemetry};

/// Redis-first flash-sale reservation gateway with database confirmation.
#[derive(Debug, Parser)]
#[command(name = "flashgate", version, about, max_term_width = 100)]
pub struct Cli {
    /// TOML file with settings; flags and environment variables win over it
    #[arg(long, env = "FLASHGATE_CONFIG", global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Logs.
    #[command(flatten)]
    pub telemetry: telemetry::Settings,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything in one process, with a private Redis and Postgres under a directory
    Dev(Box<Dev>),
    /// Run a gateway against a Redis and a Postgres; several may run at once
    Serve(Box<Serve>),
    /// Bring the database's schema up to date
    Migrate(Migrate),
    /// Compare everything with everything, changing nothing; exit 0: all agrees, 1: differences, 2: could not find out
    Verify(Verify),
    /// List drift between Redis and the ledger, and repair it on request; exit codes as for verify
    Reconcile(Reconcile),
    /// Tell from the ledger's events what a SKU or an order was at an instant; exit codes as for verify
    Replay(Replay),
    /// Break a stack of its own in every way there is, under load, and see whether all promises hold; exit 0: they do,
    /// 1: something did not hold, 2: could not find out
    Drill(Drill),
    /// Tell what a stream of orders takes in cores, memory, disk and shards, from measured costs
    Capacity(Capacity),
    /// Print the OpenAPI document
    Openapi,
}

/// `flashgate dev`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Dev {
    /// Where the servers keep their data
    #[arg(long, env = "FLASHGATE_DATA", value_name = "DIR", default_value = ".flashgate")]
    pub data: PathBuf,

    /// Load no demo catalogue and no demo sale
    #[arg(long, env = "FLASHGATE_NO_DEMO")]
    pub no_demo: bool,

    /// Number of lanes, where the database is new
    #[arg(long, env = "FLASHGATE_LANES", value_name = "COUNT", default_value_t = LANES,
          value_parser = clap::value_parser!(u16).range(1..=512))]
    pub lanes: u16,

    /// Everything else.
    #[command(flatten)]
    pub process: Process,
}

/// `flashgate serve`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Serve {
    /// Where Redis is: redis://, redis-cluster:// or redis-sentinel://; over TLS rediss:// or rediss-cluster://
    #[arg(long, env = "FLASHGATE_REDIS_URL", hide_env_values = true, value_name = "URL")]
    pub redis_url: String,

    /// Where Postgres is
    #[arg(long, env = "FLASHGATE_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: String,

    /// Where a replica of Postgres is, for reads that may be some seconds old; without it the primary serves them
    #[arg(
        long,
        env = "FLASHGATE_READ_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub read_database_url: Option<String>,

    /// What this process does
    #[arg(long, env = "FLASHGATE_ROLES", value_name = "ROLES", value_delimiter = ',', value_enum,
          default_values = ["http", "writer", "granter", "expiry", "relay", "reconcile"])]
    pub roles: Vec<Role>,

    /// Everything else.
    #[command(flatten)]
    pub process: Process,
}

/// `flashgate migrate`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Migrate {
    /// Where Postgres is
    #[arg(long, env = "FLASHGATE_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: String,

    /// Number of lanes, where the database is new
    #[arg(long, env = "FLASHGATE_LANES", value_name = "COUNT", default_value_t = LANES,
          value_parser = clap::value_parser!(u16).range(1..=512))]
    pub lanes: u16,
}

/// Enough to spread a cluster's slots, few enough to look at: the number can't change later.
const LANES: u16 = 16;

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Role {
    /// Answers on the public listener.
    Http,
    /// Carries queues into the ledger.
    Writer,
    /// Carries grants into Redis.
    Granter,
    /// Ends what was not committed in time.
    Expiry,
    /// Carries the ledger to the read model.
    Relay,
    /// Compares what should agree.
    Reconcile,
}

impl Role {
    /// All of them.
    pub const ALL: &[Role] = &[
        Role::Http,
        Role::Writer,
        Role::Granter,
        Role::Expiry,
        Role::Relay,
        Role::Reconcile,
    ];
}

/// What any gateway process can be told.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Process {
    /// Where checkout and reading are served
    #[arg(long, env = "FLASHGATE_LISTEN", value_name = "ADDR", default_value = ":8080", value_parser = address)]
    pub listen: SocketAddr,

    /// Where stock, admin and metrics are served
    #[arg(long, env = "FLASHGATE_ADMIN_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8081", value_parser = address)]
    pub admin_listen: SocketAddr,

    /// Connections.
    #[command(flatten)]
    pub http: listen::Settings,

    /// Bounds of what is let in.
    #[command(flatten)]
    pub admission: admission::Settings,

    /// Which adjustments wait for a second person.
    #[command(flatten)]
    pub approval: ledger::approval::Settings,

    #[command(flatten)]
    postgres: servers::Postgres,

    /// What reconciliation may do by itself.
    #[command(flatten)]
    pub recon: ledger::recon::Settings,

    /// How much more time a reservation may get.
    #[command(flatten)]
    pub extend: ledger::extend::Settings,

    #[command(flatten)]
    redis: servers::Redis,

    #[command(flatten)]
    choice: choice::Choice,
}

impl Process {
    /// How locations are chosen.
    #[must_use]
    pub fn choice(&self) -> Weights {
        self.choice.weights()
    }

    /// How to reach Postgres at `url`.
    #[must_use]
    pub fn ledger(&self, url: &str) -> ledger::Settings {
        ledger::Settings {
            approval: self.approval.clone(),
            recon: self.recon,
            extend: self.extend,
            ..self.postgres.settings(url)
        }
    }

    /// How to use Redis at `url`.
    #[must_use]
    pub fn flash(&self, url: &str) -> flash::Settings {
        self.redis.settings(url)
    }

    fn check(&self) -> Result<(), String> {
        if self.admission.in_flight_reserved >= self.admission.in_flight_max {
            return Err("--in-flight-reserved must be below --in-flight-max, or nothing could be reserved".to_owned());
        }
        if self.admission.in_flight_start < self.admission.in_flight_min {
            return Err("--in-flight-start must not be below --in-flight-min".to_owned());
        }
        if self.listen == self.admin_listen && self.listen.port() != 0 {
            return Err("--listen and --admin-listen must differ".to_owned());
        }
        Ok(())
    }
}

impl Command {
    /// What no single value shows to be wrong; and URLs, which clap would repeat with their passwords.
    fn check(&self) -> Result<(), String> {
        match self {
            Command::Dev(dev) => dev.process.check(),
            Command::Serve(serve) => {
                one_of("--redis-url", &serve.redis_url, &REDIS_SCHEMES)?;
                one_of("--database-url", &serve.database_url, &DATABASE_SCHEMES)?;
                if let Some(url) = &serve.read_database_url {
                    one_of("--read-database-url", url, &DATABASE_SCHEMES)?;
                }
                if serve.roles.is_empty() {
                    return Err("--roles must name at least one role".to_owned());
                }
                serve.process.check()
            }
            Command::Migrate(migrate) => one_of("--database-url", &migrate.database_url, &DATABASE_SCHEMES),
            Command::Verify(verify) => verify.halves.check(),
            Command::Reconcile(reconcile) => reconcile.check(),
            Command::Replay(replay) => replay.check(),
            Command::Drill(_) | Command::Capacity(_) | Command::Openapi => Ok(()),
        }
    }
}

const REDIS_SCHEMES: [&str; 5] = ["redis", "rediss", "redis-cluster", "rediss-cluster", "redis-sentinel"];
const DATABASE_SCHEMES: [&str; 2] = ["postgres", "postgresql"];

/// Reads the command line, the environment and the file that they name.
///
/// # Errors
/// What is wrong, to be printed; also `--help` and `--version`, which end the process the same way.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let args: Vec<OsString> = args.into_iter().collect();
    let command = match file::named_in(&args) {
        Some(path) => file::apply(Cli::command(), &path)?,
        None => Cli::command(),
    };
    let cli = Cli::from_arg_matches(&command.try_get_matches_from(args)?)?;
    let wrong = |text| Cli::command().error(ErrorKind::ValueValidation, text);
    cli.command.check().map_err(wrong)?;
    Ok(cli)
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let address = match text.strip_prefix(':') {
        Some(port) => port.parse().ok().map(|port| (Ipv4Addr::UNSPECIFIED, port).into()),
        None => text.replace("localhost:", "127.0.0.1:").parse().ok(),
    };
    address
        .ok_or_else(|| "must be an address and a port, such as 127.0.0.1:8080, or :8080 for all addresses".to_owned())
}

fn one_of(flag: &str, url: &str, schemes: &[&str]) -> Result<(), String> {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    if scheme.is_some_and(|scheme| schemes.contains(&scheme)) {
        return Ok(());
    }
    Err(format!("{flag} must start with {}://", schemes.join("://, ")))
}

#[cfg(test)]
mod tests;
