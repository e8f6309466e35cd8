//! Declared losses: which answers a fault may have taken back.
//!
//! An accepted answer may be lost by a fault that says so, where it was asked for before the fault was over, and the stack
//! had not been seen at rest between the answer and the fault: at rest, everything accepted is durable. Refused by the ledger
//! it may be until its round is at rest: a lane that stepped back gives units out twice until somebody notices. A durable
//! answer may be lost where Postgres failed over to a standby that was behind.

use std::collections::HashMap;

use super::case::told_at;
use crate::drill::history::{History, Loses, Operation};

/// How far a standby may be behind the primary that it replaces: as long as a queue is kept for a ledger that falls back.
const STANDBY_LAG_US: i64 = 60_000_000;

struct Window {
    from: i64,
    to: i64,
    /// When its round was at rest.
    rests: i64,
    loses: Loses,
}

pub(super) struct Windows {
    lossy: Vec<Window>,
    /// When the stack was seen at rest, with the moment until which everything answered was durable then. In order.
    rests: Vec<(i64, i64)>,
}

impl Windows {
    pub(super) fn of(history: &History) -> Self {
        let settled: HashMap<u32, i64> = history.settled.iter().map(|s| (s.round, s.settled.mono_us)).collect();
        let lossy = history.faults.iter().filter(|fault| fault.loses != Loses::Nothing);
        let lossy = lossy.map(|fault| Window {
            from: fault.from.mono_us,
            to: fault.to.mono_us,
            rests: settled.get(&fault.round).copied().unwrap_or(i64::MAX),
            loses: fault.loses,
        });
        let healed: HashMap<u32, i64> = history.healed.iter().map(|h| (h.round, h.healed.mono_us)).collect();
        let mut rests: Vec<(i64, i64)> = history
            .settled
            .iter()
            .filter(|settled| settled.backlog == 0)
            .filter_map(|settled| Some((settled.settled.mono_us, *healed.get(&settled.round)?)))
            .collect();
        rests.sort_unstable();
        Windows {
            lossy: lossy.collect(),
            rests,
        }
    }

    /// Whether a reservation may be lost that was first answered as accepted at `first_told`, and last in answer to a
    /// question of `last_asked`. Asked only for what is missing: a history has few faults, but not few answers.
    pub(super) fn may_lose_accepted(&self, first_told: i64, last_asked: i64) -> bool {
        self.any(first_told, |window| last_asked <= window.to)
    }

    /// Whether the ledger may have refused such a reservation.
    pub(super) fn may_refuse_accepted(&self, first_told: i64, last_asked: i64) -> bool {
        self.any(first_told, |window| last_asked <= window.rests.max(window.to))
    }

    fn any(&self, first_told: i64, in_time: impl Fn(&Window) -> bool) -> bool {
        let undurable =
            |window: &Window| window.loses == Loses::Asynchronous || self.durable_until(window.from) < first_told;
        self.lossy.iter().any(|window| in_time(window) && undurable(window))
    }

    /// Whether what this operation was told may have been taken back although it was durable.
    pub(super) fn may_lose_durable(&self, op: &Operation) -> bool {
        let mut asynchronous = self.lossy.iter().filter(|window| window.loses == Loses::Asynchronous);
        asynchronous.any(|window| op.invoked.mono_us <= window.to && told_at(op) >= window.from - STANDBY_LAG_US)
    }

    /// Everything answered until then was durable at `at`.
    fn durable_until(&self, at: i64) -> i64 {
        match self.rests.partition_point(|(seen, _)| *seen <= at) {
            0 => i64::MIN,
            n => self.rests[..n]
                .iter()
                .map(|(_, until)| *until)
                .max()
                .unwrap_or(i64::MIN),
        }
    }
}
