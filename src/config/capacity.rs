//! `flashgate capacity`: what is asked, and of which machines.

use std::path::PathBuf;

use clap::Args;

use crate::capacity::{Demand, Machines};

/// `flashgate capacity`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Capacity {
    /// Requests for a reservation a second
    #[arg(long, value_name = "PER_SECOND", value_parser = positive)]
    pub rate: f64,

    /// Share of them that get one
    #[arg(long, value_name = "SHARE", default_value_t = 0.7, value_parser = share)]
    pub accept: f64,

    /// Reads a second
    #[arg(long, value_name = "PER_SECOND", default_value_t = 0.0, value_parser = amount)]
    pub reads: f64,

    /// How long that goes on, in minutes
    #[arg(long, value_name = "MINUTES", default_value_t = 1_440.0, value_parser = positive)]
    pub minutes: f64,

    /// How long a sale lasts, in minutes: until it ends its lanes know each of its reservations
    #[arg(long, value_name = "MINUTES", default_value_t = 60.0, value_parser = positive)]
    pub sale_minutes: f64,

    /// How long reservations stay in the hot tier, in hours
    #[arg(long, value_name = "HOURS", default_value_t = 48.0, value_parser = positive)]
    pub hot_hours: f64,

    /// SKUs in the catalogue, each at one location
    #[arg(long, value_name = "COUNT", default_value_t = 0.0, value_parser = amount)]
    pub skus: f64,

    /// Share of a core that may be used
    #[arg(long, value_name = "SHARE", default_value_t = 0.6, value_parser = share)]
    pub headroom: f64,

    /// Cores that there are for gateways, all together
    #[arg(long, value_name = "COUNT", default_value_t = 8.0, value_parser = positive)]
    pub gateway_cores: f64,

    /// Nodes of Redis that there are
    #[arg(long, value_name = "COUNT", default_value_t = 1.0, value_parser = positive)]
    pub redis_nodes: f64,

    /// Cores of the Postgres that there is
    #[arg(long, value_name = "COUNT", default_value_t = 16.0, value_parser = positive)]
    pub postgres_cores: f64,

    /// Results of `make bench` on machines such as these; without it, those of ours
    #[arg(long, value_name = "FILE")]
    pub results: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Capacity {
    /// What is asked.
    #[must_use]
    pub fn demand(&self) -> Demand {
        Demand {
            rate: self.rate,
            accept: self.accept,
            reads: self.reads,
            lasts_s: self.minutes * 60.0,
            sale_s: self.sale_minutes * 60.0,
            hot_s: self.hot_hours * 3_600.0,
            skus: self.skus,
            headroom: self.headroom,
        }
    }

    /// What there is.
    #[must_use]
    pub fn machines(&self) -> Machines {
        Machines {
            gateway_cores: self.gateway_cores,
            redis_nodes: self.redis_nodes,
            postgres_cores: self.postgres_cores,
        }
    }
}

fn number(text: &str, is_right: fn(f64) -> bool, what: &str) -> Result<f64, String> {
    let number = text.replace('_', "").parse().ok();
    number
        .filter(|number: &f64| number.is_finite() && is_right(*number))
        .ok_or_else(|| format!("must be {what}"))
}

fn positive(text: &str) -> Result<f64, String> {
    number(text, |number| number > 0.0, "a number above 0")
}

fn amount(text: &str) -> Result<f64, String> {
    number(text, |number| number >= 0.0, "a number, 0 or more")
}

fn share(text: &str) -> Result<f64, String> {
    number(
        text,
        |number| number > 0.0 && number <= 1.0,
        "a number above 0 and up to 1",
    )
}
