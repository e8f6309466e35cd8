//! What clients saw, as JSON lines: one line an operation, a fault, a healing or a rest, in the order in which they were
//! over. The judge reads nothing else of the clients.
//!
//! An operation is written when it returned; one that never did is written at the end, `unknown` and without `returned`.
//! The first field of a line (`op`, `fault`, `healed`, `settled`) names what it is. Fields that say nothing are left out.
//!
//! What happens between the lines is left to others: who makes the load says here what it saw, not what it meant.

mod file;
mod operation;

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::domain::time::Millis;

pub use file::{History, HistoryError, Recorder};
pub use operation::{Action, Kind, Operation, Outcome};

/// An instant, by two clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Moment {
    /// Microseconds since the history began. Orders what clients saw; comes first, so that moments order by it.
    pub mono_us: i64,
    /// Microseconds since 1970, by Postgres' clock as its offset was known then. Never orders anything: it may be off.
    pub wall_us: i64,
}

/// Tells moments: one for all clients of a history.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    began: Instant,
    wall_us: i64,
}

impl Stopwatch {
    /// Starts now, which is `wall` by Postgres' clock.
    #[must_use]
    pub fn start(wall: Millis) -> Self {
        Stopwatch {
            began: Instant::now(),
            wall_us: wall.0.saturating_mul(1_000),
        }
    }

    /// This moment.
    #[must_use]
    pub fn now(&self) -> Moment {
        let mono_us = i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX);
        Moment {
            mono_us,
            wall_us: self.wall_us.saturating_add(mono_us),
        }
    }
}

/// What a fault may cost, at worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loses {
    /// Nothing that was answered.
    Nothing,
    /// Reservations that were merely accepted when it struck.
    Accepted,
    /// Also durable ones: Postgres failed over without a synchronous standby.
    Asynchronous,
}

/// A fault, from its first effect to its last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// What was done.
    pub fault: String,
    /// In which round.
    pub round: u32,
    /// Before it was done.
    pub from: Moment,
    /// After it was undone, or was over.
    pub to: Moment,
    /// The loss that is declared for it.
    pub loses: Loses,
}

/// The stack answers as healthy again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Healed {
    /// When that was first seen.
    pub healed: Moment,
    /// Of which round.
    pub round: u32,
}

/// The stack has caught up, or whoever waited for it gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settled {
    /// When it was last looked at.
    pub settled: Moment,
    /// Of which round.
    pub round: u32,
    /// Queue entries that were not durable then, over all lanes.
    pub backlog: u64,
    /// Units by which counters differed then, over all buckets, each by its amount.
    pub drift: u64,
}

/// A line of a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Line {
    /// Somebody asked.
    Operation(Box<Operation>),
    /// Something was broken.
    Fault(Fault),
    /// It works again.
    Healed(Healed),
    /// Nothing is left to catch up with.
    Settled(Settled),
}
