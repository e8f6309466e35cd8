//! `flashgate replay`: what to replay, up to when, from which ledger.

use std::path::PathBuf;

use clap::Args;

use super::{DATABASE_SCHEMES, one_of};
use crate::domain::id::{LocationId, OrderId, Sku};
use crate::domain::time::Millis;

/// `flashgate replay`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Replay {
    /// The SKU whose stock is replayed
    #[arg(long, value_name = "SKU", value_parser = sku, required_unless_present = "order", conflicts_with = "order")]
    pub sku: Option<Sku>,

    /// Its stock at this location alone
    #[arg(long, value_name = "LOCATION", value_parser = location, requires = "sku")]
    pub location: Option<LocationId>,

    /// The order whose reservations are replayed
    #[arg(long, value_name = "ORDER", value_parser = order)]
    pub order: Option<OrderId>,

    /// Up to when, as 2026-11-20T10:15:00Z, what happened within its millisecond included; without it, up to now. Not
    /// ahead of the ledger's clock; where it is near, whatever is under way is waited for
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    pub at: Option<Millis>,

    /// Where Postgres is; without it, where the `dev` of --data has it
    #[arg(long, env = "FLASHGATE_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,

    /// Directory of a running `dev`
    #[arg(long, env = "FLASHGATE_DATA", value_name = "DIR", default_value = ".flashgate")]
    pub data: PathBuf,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Replay {
    pub(super) fn check(&self) -> Result<(), String> {
        match &self.database_url {
            Some(url) => one_of("--database-url", url, &DATABASE_SCHEMES),
            None => Ok(()),
        }
    }
}

fn sku(text: &str) -> Result<Sku, String> {
    Sku::try_from(text).map_err(|error| error.to_string())
}

fn location(text: &str) -> Result<LocationId, String> {
    LocationId::try_from(text).map_err(|error| error.to_string())
}

fn order(text: &str) -> Result<OrderId, String> {
    OrderId::try_from(text).map_err(|error| error.to_string())
}

fn instant(text: &str) -> Result<Millis, String> {
    let wrong = || "must be an instant such as 2026-11-20T10:15:00Z, in the years 1970 to 9999".to_owned();
    let at = chrono::DateTime::parse_from_rfc3339(text).map_err(|_| wrong())?;
    let at = Millis(at.timestamp_millis());
    // RFC 3339 knows years up to 9999; before 1970 there is no ledger.
    if at < Millis(0) { Err(wrong()) } else { Ok(at) }
}
