//! What a round measured, and what its checks found.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::wrk::Outcome;

/// The figures of a round, by name: contender first, what and in which unit last (`accepted.rate`, `accepted.redis_us`).
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Round(BTreeMap<String, f64>);

impl Round {
    pub(crate) fn put(&mut self, name: impl Into<String>, figure: f64) {
        self.0.insert(name.into(), figure);
    }

    pub(crate) fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// One figure over another.
    pub(crate) fn ratio(&self, name: &str, over: &str) -> Option<f64> {
        Some(self.get(name)? / self.get(over)?)
    }

    /// What a closed loop measured of a contender: rate, p95, and the CPU time of an answer.
    pub(crate) fn put_loop(&mut self, name: &str, outcome: &Outcome) {
        self.put(format!("{name}.rate"), outcome.rate);
        self.put(format!("{name}.p95_ms"), outcome.p95_ms);
        self.put(format!("{name}.gateway_us"), outcome.each_us(outcome.cpu.gateway));
        self.put(format!("{name}.redis_us"), outcome.each_us(outcome.cpu.redis));
        self.put(format!("{name}.postgres_us"), outcome.each_us(outcome.cpu.postgres));
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// Median, least and greatest of the rounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of what some rounds measured; none where none did.
    pub(crate) fn of(mut figures: Vec<f64>) -> Option<Spread> {
        figures.retain(|figure| figure.is_finite());
        figures.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        let half = figures.len() / 2;
        let median = if figures.len() % 2 == 1 {
            figures[half]
        } else {
            f64::midpoint(figures[half - 1], figures[half])
        };
        Some(Spread { median, min, max })
    }
}

/// What was checked, and what did not hold.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Checks {
    pub(crate) done: u32,
    pub(crate) failed: Vec<String>,
}

impl Checks {
    pub(crate) fn hold(&mut self, holds: bool, what: impl FnOnce() -> String) {
        self.done += 1;
        if !holds {
            self.failed.push(what());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn the_median_is_in_the_middle() {
        let odd = Spread::of(vec![3.0, 1.0, f64::NAN, 2.0]).expect("figures");
        assert!((odd.median, odd.min, odd.max) == (2.0, 1.0, 3.0));
        let even = Spread::of(vec![4.0, 1.0, 2.0, 3.0]).expect("figures");
        assert!((even.median - 2.5).abs() < 1e-9);
        assert!(Spread::of(Vec::new()).is_none());
    }
}
