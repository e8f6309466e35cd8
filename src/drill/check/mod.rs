//! The judge: whether what clients saw and what the ledger has can both be true.
//!
//! Pure over (history, account), in one pass each: time and memory grow with their lengths, but for sorting instants. It
//! raises no false alarm as long as the history is whole for the items that it names (nobody else buys them), moments of
//! one history come from one [`Stopwatch`](super::history::Stopwatch), and the account was read when the stack had
//! come to rest. Each check says in its file what it can't see.
//!
//! What a client does not know may have happened, may still happen, or never will: only what was answered is held
//! against the ledger, and only what the ledger has is held against a client that does not know.

mod case;
mod endings;
pub mod interval;
mod keys;
mod lanes;
mod limits;
mod lives;
mod rest;
mod sold_out;
mod stock;
mod told;
mod verdict;
mod windows;

#[cfg(test)]
mod planted;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

use super::history::History;
use crate::domain::account::Account;
use case::Case;
use verdict::Findings;

pub use verdict::{Check, Checked, Verdict, Violation};

/// What the drill promises, beside what always holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Longest time from healing until nothing is left to catch up with, in µs; a grant waits no longer either.
    pub settles_within_us: i64,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            settles_within_us: 60_000_000,
        }
    }
}

/// Judges a history by the account that was read when it was over.
#[must_use]
pub fn judge(history: &History, account: &Account, bounds: &Bounds) -> Verdict {
    let case = Case::new(history, account);
    let look = |check: Check, look: &dyn Fn(&Case<'_>, &mut Findings)| {
        let mut findings = Findings::new(check);
        look(&case, &mut findings);
        findings
    };
    Verdict::of([
        look(Check::C1, &stock::covered),
        look(Check::C2, &told::durable),
        look(Check::C3, &told::accepted),
        look(Check::C4, &keys::once),
        look(Check::C5, &limits::kept),
        look(Check::C6, &sold_out::honest),
        look(Check::C7, &lanes::conserved),
        look(Check::C8, &|case, out| rest::reached(case, bounds, out)),
        look(Check::C9, &endings::once),
    ])
}
