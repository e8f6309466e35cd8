//! `flashgate drill`: which faults, how often, for how long.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::drill::Settings;
use crate::drill::fault::Fault;

/// `flashgate drill`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Drill {
    /// Cause this fault, named as --list names it; several times for several; without it, all of them
    #[arg(long, value_name = "NAME", value_parser = fault)]
    pub fault: Vec<Fault>,

    /// How often to cause each fault, at least
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rounds: u32,

    /// Go on with all faults in turn for so many minutes
    #[arg(long, value_name = "MINUTES", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub minutes: Option<u64>,

    /// Decides the order of the faults, their moments, and what clients do; without it, drawn and told
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,

    /// With fewer clients, and less time before and after each fault
    #[arg(long)]
    pub short: bool,

    /// Keep everything here; without it, in a temporary directory that is removed where everything held
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,

    /// Only say which faults there are
    #[arg(long)]
    pub list: bool,
}

impl Drill {
    /// What the drill is told.
    #[must_use]
    pub fn settings(self) -> Settings {
        Settings {
            faults: match self.fault.is_empty() {
                true => Fault::ALL.to_vec(),
                false => self.fault,
            },
            rounds: self.rounds,
            seed: self.seed.unwrap_or_else(|| u64::from(rand::random::<u32>())),
            budget: self.minutes.map(|minutes| Duration::from_secs(minutes * 60)),
            short: self.short,
            dir: self.dir,
        }
    }
}

fn fault(name: &str) -> Result<Fault, String> {
    Fault::parse(name).ok_or_else(|| "is no fault; --list names them".to_owned())
}
