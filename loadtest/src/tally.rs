//! Counts of what happened to the buyers. Goose's own report counts requests;
//! this one counts journeys, and leaves out the ones that were cut off.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value};

use crate::outcome::End;

/// The counts of one run, shared by all its users.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    ends: [AtomicU64; End::ALL.len()],
    reserved: AtomicU64,
    durable: AtomicU64,
    retried: AtomicU64,
}

impl Tally {
    /// A buyer got units; `durable` where the ledger had them by then.
    pub(crate) fn reserved(&self, durable: bool) {
        self.reserved.fetch_add(1, Ordering::Relaxed);
        self.durable.fetch_add(u64::from(durable), Ordering::Relaxed);
    }

    /// A step is asked again.
    pub(crate) fn retried(&self) {
        self.retried.fetch_add(1, Ordering::Relaxed);
    }

    /// A journey is over.
    pub(crate) fn ended(&self, end: End) {
        self.ends[end as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Answers that the contract does not foresee.
    pub(crate) fn errors(&self) -> u64 {
        self.count(End::Error)
    }

    /// The share of journeys that ended in an error or were given up; 1 where
    /// there was no journey at all, because such a run shows nothing.
    pub(crate) fn failed_share(&self) -> f64 {
        let journeys = self.journeys();
        if journeys == 0 {
            return 1.0;
        }
        #[allow(clippy::cast_precision_loss, reason = "a share needs no 53 bits")]
        let share = (self.errors() + self.count(End::GaveUp)) as f64 / journeys as f64;
        share
    }

    /// One line of JSON, with the keys of the k6 script's summary.
    pub(crate) fn summary(&self) -> Value {
        let mut summary = Map::new();
        summary.insert("iterations".to_owned(), self.journeys().into());
        for end in End::ALL {
            summary.insert(end.word().to_owned(), self.count(end).into());
        }
        for (key, count) in [
            ("reserved", &self.reserved),
            ("durable", &self.durable),
            ("retried", &self.retried),
        ] {
            summary.insert(key.to_owned(), count.load(Ordering::Relaxed).into());
        }
        Value::Object(summary)
    }

    fn journeys(&self) -> u64 {
        End::ALL.into_iter().map(|end| self.count(end)).sum()
    }

    fn count(&self, end: End) -> u64 {
        self.ends[end as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;
    use crate::outcome::End;

    #[test]
    fn the_ends_add_up_to_the_journeys() {
        let tally = Tally::default();
        for end in End::ALL {
            tally.ended(end);
        }
        tally.reserved(true);
        tally.reserved(false);
        let summary = tally.summary();
        assert_eq!(summary["iterations"], 10);
        assert!(End::ALL.iter().all(|end| summary[end.word()] == 1), "{summary}");
        assert_eq!((&summary["reserved"], &summary["durable"]), (&2.into(), &1.into()));
    }

    #[test]
    fn giving_up_is_a_failure_and_sold_out_is_not() {
        let tally = Tally::default();
        for end in [End::SoldOut, End::Committed, End::Limited, End::GaveUp] {
            tally.ended(end);
        }
        assert!((tally.failed_share() - 0.25).abs() < f64::EPSILON);
        assert_eq!(tally.errors(), 0);
    }

    #[test]
    fn a_run_without_buyers_has_failed() {
        assert!((Tally::default().failed_share() - 1.0).abs() < f64::EPSILON);
    }
}
