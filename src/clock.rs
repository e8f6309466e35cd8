//! The one clock: Postgres'. Each gateway keeps its offset to it.
//!
//! The offset is of the monotonic clock, so a step of the machine's wall clock moves nothing. It is measured anew from
//! time to time; a measurement that jumps by more than 2 s is refused until a second one agrees with it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::domain::time::Millis;

/// A new offset further from the old one than this must be measured twice.
const JUMP_MAX_MS: i64 = 2_000;

/// Tells Postgres' time without asking Postgres.
#[derive(Debug)]
pub struct Clock {
    origin: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Postgres' time at `origin`, in ms; none before the first measurement.
    at_origin_ms: Option<i64>,
    /// A measurement that jumped, waiting for a second one to agree.
    suspicious_ms: Option<i64>,
}

/// What became of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measured {
    /// The offset is now this measurement's.
    Taken,
    /// It jumped; measure again.
    Refused,
}

impl Clock {
    /// A clock that does not know the time yet.
    #[must_use]
    pub fn new() -> Self {
        Clock {
            origin: Instant::now(),
            state: Mutex::default(),
        }
    }

    /// Takes a measurement: Postgres said `told` in answer to a question asked at `asked` and answered after `took`.
    pub fn measure(&self, told: Millis, asked: Instant, took: Duration) -> Measured {
        let middle = asked + took / 2;
        let at_origin_ms = told.0 - elapsed_ms(self.origin, middle);
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let near = |known: Option<i64>| known.is_some_and(|ms| (ms - at_origin_ms).abs() <= JUMP_MAX_MS);
        if state.at_origin_ms.is_none() || near(state.at_origin_ms) || near(state.suspicious_ms) {
            *state = State {
                at_origin_ms: Some(at_origin_ms),
                suspicious_ms: None,
            };
            Measured::Taken
        } else {
            state.suspicious_ms = Some(at_origin_ms);
            Measured::Refused
        }
    }

    /// Postgres' time now, or none before the first measurement.
    #[must_use]
    pub fn now(&self) -> Option<Millis> {
        let state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state
            .at_origin_ms
            .map(|ms| Millis(ms + elapsed_ms(self.origin, Instant::now())))
    }
}

impl Default for Clock {
    fn default() -> Self {
        Clock::new()
    }
}

fn elapsed_ms(from: Instant, to: Instant) -> i64 {
    i64::try_from(to.saturating_duration_since(from).as_millis()).expect("no process runs for ages")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_must_be_measured_twice() {
        let clock = Clock::new();
        assert_eq!(clock.now(), None);
        let (asked, took) = (Instant::now(), Duration::from_millis(2));
        assert_eq!(clock.measure(Millis(1_000_000), asked, took), Measured::Taken);
        assert_eq!(clock.measure(Millis(1_000_900), asked, took), Measured::Taken);
        assert_eq!(clock.measure(Millis(1_300_000), asked, took), Measured::Refused);
        assert!(clock.now().is_some_and(|now| now < Millis(1_100_000)));
        assert_eq!(clock.measure(Millis(1_000_500), asked, took), Measured::Taken);
        assert_eq!(
            clock.measure(Millis(1_300_000), asked, took),
            Measured::Refused,
            "one earlier jump is forgotten"
        );
        assert_eq!(clock.measure(Millis(1_300_100), asked, took), Measured::Taken);
    }
}
