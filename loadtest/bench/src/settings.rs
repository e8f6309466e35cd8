//! What a run measures, and for how long.

use std::path::PathBuf;

/// Measures flashgate against other ways to do it, side by side on this machine.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "bench")]
pub(crate) struct Settings {
    /// How often all contenders take their turn; 5, or 2 where it is quick, or 3 for the guard
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: Option<u32>,

    /// How long most of them are measured each time, those that need a full queue twice as long; 5, or 2 where it is
    /// quick, or 3 for the guard
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: Option<u32>,

    /// A short run of the contenders that matter most, which prints ratios alone and saves nothing
    #[arg(long)]
    pub(crate) quick: bool,

    /// A short run whose ratios to the no-op handler are compared with `loadtest/guard.json`: fails where one is less
    /// than two thirds of what it was
    #[arg(long, conflicts_with_all = ["quick", "soak"])]
    pub(crate) guard: bool,

    /// Writes that file, from 7 rounds
    #[arg(long, requires = "guard")]
    pub(crate) save: bool,

    /// What shows only after a while or at size, instead: an hour
    #[arg(long, conflicts_with_all = ["quick", "rounds", "seconds"])]
    pub(crate) soak: bool,

    /// Share of the soak's sizes and times; less than 1 is for trying it
    #[arg(long, default_value_t = 1.0, requires = "soak")]
    pub(crate) scale: f64,

    /// Where results are saved
    #[arg(long, default_value = "loadtest/results")]
    pub(crate) results: PathBuf,

    /// Where the programs `flashgate` and `baselines` are; without it, beside this one
    #[arg(long)]
    pub(crate) programs: Option<PathBuf>,
}

impl Settings {
    pub(crate) fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(match (self.quick, self.guard, self.save) {
            (true, ..) => 2,
            (_, true, false) => 3,
            (_, true, true) => 7,
            _ => 5,
        })
    }

    pub(crate) fn seconds(&self) -> u32 {
        self.seconds.unwrap_or(match (self.quick, self.guard) {
            (true, _) => 2,
            (_, true) => 3,
            _ => 5,
        })
    }
}

/// Connections of a closed loop for capacity: twice a full batch.
pub(crate) const CONNECTIONS: u32 = 256;
/// Callers who wait for durable answers.
pub(crate) const CALLERS: [u32; 2] = [64, 512];
/// Share of a closed loop's answers that may be shed.
pub(crate) const SHED_MAX: f64 = 0.05;
/// Connections of an open loop.
pub(crate) const OPEN_CONNECTIONS: usize = 1_024;
/// Connections of a burst: fewer than the gateway takes, more than it can serve at a time.
pub(crate) const BURST_CONNECTIONS: usize = 8_192;
