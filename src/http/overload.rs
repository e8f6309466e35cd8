//! How many beginnings may be in flight, found out while they are: as many as keep the delay in this process short.
//!
//! Where more comes than can be served, requests queue before any counter of ours sees them: in sockets, and among the
//! tasks that want a core. So what is measured is delay, not load: how late a timer of this runtime fires, which is what
//! a connection suffers that has something to read, and how long a lane takes to decide. Of each [`WINDOW`] the *least*
//! counts, as in CoDel: a batch that comes at once delays somebody, a queue that stands delays everybody. Above the
//! target the bound shrinks in proportion, below it it grows while it is in use, so it settles where the delay is the
//! target. The wait for the ledger is no such delay: a caller who waits for it is in flight, but takes no core.
//!
//! Refusing costs something too, so refusals are held back a little while there is delay: a connection that waits for
//! its refusal asks for nothing.
//!
//! It never goes below a floor: however bad it looks, some are served, and what they find moves the bound again.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::admission::Admission;
use crate::metric;

/// Between two looks at the clock.
const TICK: Duration = Duration::from_millis(5);
/// What is looked at together: some ticks, so that one of them tells of a queue that stands.
const WINDOW: Duration = Duration::from_millis(50);
/// Shrinks by no more than half a window.
const SHRINK_MOST: f64 = 0.5;
/// Grows by a part of itself a window, while it is in use.
const GROW_PART: usize = 16;
/// Windows in which it was not needed, after which it begins again: ten seconds.
const IDLE_WINDOWS: u32 = 200;
/// A refusal is held back for so long at first where there is delay, twice as long a window later …
const HOLD_LEAST: Duration = Duration::from_millis(20);
/// … up to this: no longer than the least time after which a refused caller may come back …
const HOLD_MOST: Duration = Duration::from_secs(1);
/// … and by a sixteenth less, each window without.
const HOLD_FADES: u32 = 16;
/// No delay was measured.
const NONE: u64 = u64::MAX;
/// Once so many places are taken, of four …
const CROWDED: usize = 3;
/// … a connection may have no more than this part of them.
const CONNECTION_PART: usize = 8;

/// Where the bound may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) least: usize,
    /// At first, and again when it was not needed for long: a burst that nobody saw coming must not find the door wide
    /// open.
    pub(super) start: usize,
    pub(super) most: usize,
    /// Zero: it is `most` for good.
    pub(super) target: Duration,
}

/// The bound, how much of it is used, and what this window has seen.
#[derive(Debug)]
pub(super) struct Bound {
    range: Range,
    now: AtomicUsize,
    used: AtomicUsize,
    /// Most that were in use at a time.
    peak: AtomicUsize,
    served: AtomicU64,
    shed: AtomicU64,
    /// Least delays, in µs.
    tick_us: AtomicU64,
    decision_us: AtomicU64,
    /// How long refusals are held back, in µs.
    hold_us: AtomicU64,
    /// Seconds in which those who are shed now had better come back.
    spread: AtomicU64,
}

/// What [`Bound::adjust`] keeps between windows.
#[derive(Debug, Default)]
struct Memory {
    idle: u32,
    served: f64,
    shed: f64,
}

impl Bound {
    /// At the range's start.
    pub(super) fn new(range: &Range) -> Self {
        let start = if range.target.is_zero() {
            range.most
        } else {
            range.start
        };
        Bound {
            range: *range,
            now: AtomicUsize::new(start),
            used: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            served: AtomicU64::new(0),
            shed: AtomicU64::new(0),
            tick_us: AtomicU64::new(NONE),
            decision_us: AtomicU64::new(NONE),
            hold_us: AtomicU64::new(0),
            spread: AtomicU64::new(1),
        }
    }

    /// How many may be in flight now.
    pub(super) fn now(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    /// How many may ever be.
    pub(super) fn most(&self) -> usize {
        self.range.most
    }

    /// Whether one more would be too many, from a connection that has so many in flight.
    pub(super) fn is_full(&self, of_connection: usize) -> bool {
        let (now, used) = (self.now(), self.used.load(Ordering::Relaxed));
        let crowded = used >= now * CROWDED / 4;
        used >= now || crowded && of_connection > 0 && of_connection >= now / CONNECTION_PART
    }

    /// Takes a place, unless all are taken.
    pub(super) fn enter(&self) -> bool {
        let used = self.used.fetch_add(1, Ordering::Relaxed) + 1;
        if used > self.now() {
            self.used.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        if used > self.peak.load(Ordering::Relaxed) {
            self.peak.fetch_max(used, Ordering::Relaxed);
        }
        self.served.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Gives one back.
    pub(super) fn leave(&self) {
        self.used.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts one that was sent away; in how many seconds it may come back. Who is sent away at the same time is told
    /// different times, over as long as serving all of them takes.
    pub(super) fn turn_away(&self) -> Duration {
        let nth = self.shed.fetch_add(1, Ordering::Relaxed);
        Duration::from_secs(1 + nth % self.spread.load(Ordering::Relaxed))
    }

    /// How long to hold back a refusal. Whoever is refused at once asks again at once, on a connection that is free at
    /// once; that many thousands do is delay enough, for those who were let in too, whatever each refusal costs.
    pub(super) fn hold(&self) -> Duration {
        Duration::from_micros(self.hold_us.load(Ordering::Relaxed))
    }

    /// A lane has decided, so long after the request came.
    pub(super) fn decided(&self, after: Duration) {
        least(&self.decision_us, after);
    }

    /// Ends a window. The delay that stands, where one was measured.
    fn adjust(&self, memory: &mut Memory) {
        let took = |cell: &AtomicU64| match cell.swap(NONE, Ordering::Relaxed) {
            NONE => Duration::ZERO,
            us => Duration::from_micros(us),
        };
        let delay = took(&self.tick_us).max(took(&self.decision_us));
        metrics::gauge!(metric::HTTP_DELAY_SECONDS).set(delay);
        let used = self.used.load(Ordering::Relaxed);
        let peak = self.peak.swap(used, Ordering::Relaxed).max(used);
        self.spread(memory);
        let Range {
            least,
            start,
            most,
            target,
        } = self.range;
        if target.is_zero() {
            return;
        }
        let (now, hold) = (self.now(), self.hold());
        let held = if delay > target {
            (hold * 2).clamp(HOLD_LEAST, HOLD_MOST)
        } else {
            // Too short to matter is none.
            Some(hold - hold / HOLD_FADES)
                .filter(|hold| *hold > HOLD_LEAST / 2)
                .unwrap_or_default()
        };
        self.hold_us
            .store(u64::try_from(held.as_micros()).unwrap_or(0), Ordering::Relaxed);
        let next = if delay > target {
            memory.idle = 0;
            // What is not in use delays nobody: shrinking begins at what is.
            let part = (target.as_secs_f64() / delay.as_secs_f64()).max(SHRINK_MOST);
            scaled(now.min(peak), part)
        } else if peak >= now * CROWDED / 4 {
            memory.idle = 0;
            now + now / GROW_PART + 1
        } else {
            memory.idle += 1;
            let rested = memory.idle >= IDLE_WINDOWS;
            if rested { start } else { now }
        };
        self.now.store(next.clamp(least, most), Ordering::Relaxed);
    }

    /// As many seconds as those who were shed in one second would need to be served.
    fn spread(&self, memory: &mut Memory) {
        // Over some 16 windows: most of a second.
        let smooth = |old: f64, new: u64| old + (f64::from(u32::try_from(new).unwrap_or(u32::MAX)) - old) / 16.0;
        memory.served = smooth(memory.served, self.served.swap(0, Ordering::Relaxed));
        memory.shed = smooth(memory.shed, self.shed.swap(0, Ordering::Relaxed));
        let seconds = (1..SPREAD_MAX).find(|s| memory.shed <= memory.served * f64::from(*s));
        self.spread
            .store(seconds.unwrap_or(SPREAD_MAX).into(), Ordering::Relaxed);
    }
}

/// Longest `Retry-After` that is told: the load may be gone by then, and who waits longer has given up.
const SPREAD_MAX: u32 = 10;

fn least(cell: &AtomicU64, delay: Duration) {
    let us = u64::try_from(delay.as_micros()).unwrap_or(NONE - 1);
    if us < cell.load(Ordering::Relaxed) {
        cell.fetch_min(us, Ordering::Relaxed);
    }
}

/// Part of a count.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "counts of requests in flight, times a part between 0 and 1"
)]
fn scaled(count: usize, part: f64) -> usize {
    (count as f64 * part).round() as usize
}

/// Measures this runtime's delay and moves the bound, for good. To be run where requests are.
pub(crate) async fn watch(admission: &Admission) {
    let bound = &admission.bound;
    let mut memory = Memory::default();
    let mut window = Instant::now();
    loop {
        let asked = Instant::now();
        tokio::time::sleep(TICK).await;
        let now = Instant::now();
        least(&bound.tick_us, (now - asked).saturating_sub(TICK));
        if now - window >= WINDOW {
            window = now;
            bound.adjust(&mut memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(20);
    const START: usize = 1_000;

    fn bound(least: usize, most: usize) -> Bound {
        Bound::new(&Range {
            least,
            start: START.min(most),
            most,
            target: TARGET,
        })
    }

    fn window(bound: &Bound, memory: &mut Memory, in_use: usize, delay: Duration) -> usize {
        bound.used.store(in_use, Ordering::Relaxed);
        least(&bound.tick_us, delay);
        bound.adjust(memory);
        bound.now()
    }

    #[test]
    fn it_shrinks_by_the_delay_to_a_floor_and_grows_while_it_is_used() {
        let (bound, mut memory) = (bound(100, 5_000), Memory::default());
        assert_eq!(bound.now(), START);
        let slightly = window(&bound, &mut memory, START, TARGET * 5 / 4);
        assert_eq!(slightly, START * 4 / 5);
        assert_eq!(window(&bound, &mut memory, slightly, TARGET * 100), slightly / 2);
        // So many were in use when the window began: the next knows that they are fewer.
        assert_eq!(window(&bound, &mut memory, 150, TARGET * 100), slightly / 4);
        assert_eq!(
            window(&bound, &mut memory, 20, TARGET * 100),
            100,
            "it shrinks from what is in use, and never below its floor"
        );
        assert_eq!(
            window(&bound, &mut memory, 20, Duration::ZERO),
            100,
            "nobody needs more"
        );
        assert!(window(&bound, &mut memory, 100, TARGET) > 100);
        for _ in 0..200 {
            window(&bound, &mut memory, bound.now(), Duration::ZERO);
        }
        assert_eq!(bound.now(), 5_000);
        for _ in 0..=IDLE_WINDOWS {
            window(&bound, &mut memory, 10, Duration::ZERO);
        }
        assert_eq!(bound.now(), START, "the next burst finds it as the first did");
    }

    #[test]
    fn one_delay_among_many_moves_nothing() {
        let (bound, mut memory) = (bound(1, 5_000), Memory::default());
        least(&bound.tick_us, TARGET * 50);
        assert_eq!(window(&bound, &mut memory, 5, TARGET / 2), START);
        bound.decided(TARGET * 2);
        assert!(
            window(&bound, &mut memory, 5, Duration::ZERO) < START,
            "no decision took less"
        );
        let fixed = Bound::new(&Range {
            target: Duration::ZERO,
            ..bound.range
        });
        assert_eq!(window(&fixed, &mut memory, 5_000, TARGET * 50), 5_000);
    }

    #[test]
    fn refusals_are_held_back_while_there_is_delay() {
        let (bound, mut memory) = (bound(1, 5_000), Memory::default());
        assert_eq!(bound.hold(), Duration::ZERO);
        for _ in 0..20 {
            window(&bound, &mut memory, 5, TARGET * 2);
        }
        assert_eq!(bound.hold(), HOLD_MOST);
        for _ in 0..100 {
            window(&bound, &mut memory, 5, TARGET);
        }
        assert_eq!(bound.hold(), Duration::ZERO, "five seconds later");
    }

    #[test]
    fn a_connection_with_many_streams_leaves_the_last_places_to_others() {
        let bound = bound(1, 80);
        let full = |in_use: usize, of_connection| {
            bound.used.store(in_use, Ordering::Relaxed);
            bound.is_full(of_connection)
        };
        assert!(!full(59, 59), "while there is room, whoever comes has it");
        assert!(full(60, 10));
        assert!(!full(60, 9));
        assert!(full(80, 0));
    }

    #[test]
    fn who_is_shed_comes_back_over_as_long_as_serving_all_takes() {
        let (bound, mut memory) = (bound(1, 10), Memory::default());
        assert_eq!(bound.turn_away(), Duration::from_secs(1));
        for _ in 0..100 {
            bound.served.store(10, Ordering::Relaxed);
            bound.shed.store(35, Ordering::Relaxed);
            bound.adjust(&mut memory);
        }
        let told: Vec<u64> = (0..8).map(|_| bound.turn_away().as_secs()).collect();
        assert_eq!(told, [1, 2, 3, 4, 1, 2, 3, 4]);
        for _ in 0..100 {
            bound.shed.store(35, Ordering::Relaxed);
            bound.adjust(&mut memory);
        }
        let longest = (0..20).map(|_| bound.turn_away().as_secs()).max();
        assert_eq!(longest, Some(SPREAD_MAX.into()), "nobody is served just now");
    }
}
