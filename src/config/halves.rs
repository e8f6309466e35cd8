//! The commands that compare: what they compare, and what they do about it.

use std::path::PathBuf;

use clap::Args;
use uuid::Uuid;

use super::{DATABASE_SCHEMES, REDIS_SCHEMES, one_of};
use crate::domain::text::Text;
use crate::ledger::approval;

/// Where the two halves are.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Halves {
    /// Where Redis is; without it, where the `dev` of --data has it
    #[arg(
        long,
        env = "FLASHGATE_REDIS_URL",
        hide_env_values = true,
        value_name = "URL",
        requires = "database_url"
    )]
    pub redis_url: Option<String>,

    /// Where Postgres is; without it, where the `dev` of --data has it
    #[arg(
        long,
        env = "FLASHGATE_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL",
        requires = "redis_url"
    )]
    pub database_url: Option<String>,

    /// Directory of a running `dev`
    #[arg(long, env = "FLASHGATE_DATA", value_name = "DIR", default_value = ".flashgate")]
    pub data: PathBuf,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `flashgate verify`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Verify {
    /// What to compare.
    #[command(flatten)]
    pub halves: Halves,
}

/// `flashgate reconcile`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Reconcile {
    /// What to compare.
    #[command(flatten)]
    pub halves: Halves,

    /// Show this report of a reconciliation of the ledger instead
    #[arg(long, value_name = "ID")]
    pub report: Option<Uuid>,

    /// Correct what differs, by numbered grants that a running gateway delivers; with --report, what waits in it
    #[arg(long)]
    pub repair: bool,

    /// Close what waits in the report without a change: it was settled elsewhere, as this says
    #[arg(long, value_name = "NOTE", requires = "report", conflicts_with = "repair")]
    pub close: Option<String>,

    /// Who repairs, for the events
    #[arg(long, env = "FLASHGATE_OPERATOR", value_name = "NAME", default_value = "cli")]
    pub operator: String,

    /// Most units that one person may adjust by hand; a count that differs by more is repaired by another than who counted
    #[arg(long, env = "FLASHGATE_APPROVAL_UNITS_MAX", value_name = "COUNT",
          default_value_t = approval::Settings::default().approval_units_max,
          value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub approval_units_max: u32,
}

impl Halves {
    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(url) = &self.redis_url {
            one_of("--redis-url", url, &REDIS_SCHEMES)?;
        }
        if let Some(url) = &self.database_url {
            one_of("--database-url", url, &DATABASE_SCHEMES)?;
        }
        Ok(())
    }
}

impl Reconcile {
    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(note) = &self.close {
            Text::<1000>::try_from(note.as_str()).map_err(|error| format!("--close {error}"))?;
        }
        self.halves.check()
    }
}
