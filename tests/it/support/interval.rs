//! When "sold out" was a lie: judged from outside, by times that clients have seen.
//!
//! A request for q units may be refused only if at some instant between its arrival and its answer fewer than q were
//! free. At every instant in between at least this many were: all units, less those of every reservation asked for
//! before the answer, plus those of every release answered before the arrival. Where even these suffice, it was a lie.

use std::time::Instant;

/// A request that was told there are not enough units.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refusal {
    pub(crate) begun: Instant,
    pub(crate) heard: Instant,
    pub(crate) units: i64,
}

/// What was asked, given back and refused, and when.
#[derive(Debug, Default)]
pub(crate) struct Book {
    granted: Vec<(Instant, i64)>,
    released: Vec<(Instant, i64)>,
    refused: Vec<Refusal>,
}

impl Book {
    /// A request first sent at `begun` got units.
    pub(crate) fn granted(&mut self, begun: Instant, units: i64) {
        self.granted.push((begun, units));
    }

    /// A release that gave units back was answered at `heard`.
    pub(crate) fn released(&mut self, heard: Instant, units: i64) {
        self.released.push((heard, units));
    }

    pub(crate) fn refused(&mut self, refusal: Refusal) {
        self.refused.push(refusal);
    }

    pub(crate) fn refusals(&self) -> usize {
        self.refused.len()
    }

    pub(crate) fn merge(&mut self, other: Book) {
        self.granted.extend(other.granted);
        self.released.extend(other.released);
        self.refused.extend(other.refused);
    }

    /// Panics with every lie, of a sale of so many units.
    pub(crate) fn assert_no_false_sold_out(&self, units: i64) {
        let (granted, released) = (running(&self.granted), running(&self.released));
        let free = |refusal: &Refusal| units - before(&granted, refusal.heard) + before(&released, refusal.begun);
        let lies: Vec<_> = self.refused.iter().map(|refusal| (free(refusal), refusal)).collect();
        let lies: Vec<_> = lies
            .into_iter()
            .filter(|(free, refusal)| *free >= refusal.units)
            .collect();
        let all = self.refused.len();
        assert!(
            lies.is_empty(),
            "{} of {all} refusals are lies; free, refused: {lies:#?}",
            lies.len()
        );
    }
}

/// In order of time, each with the sum up to it.
fn running(moves: &[(Instant, i64)]) -> Vec<(Instant, i64)> {
    let mut moves = moves.to_vec();
    moves.sort_unstable();
    let mut sum = 0;
    for (_, units) in &mut moves {
        sum += *units;
        *units = sum;
    }
    moves
}

/// The sum of all moves before an instant.
fn before(running: &[(Instant, i64)], at: Instant) -> i64 {
    match running.partition_point(|(when, _)| *when < at) {
        0 => 0,
        n => running[n - 1].1,
    }
}

#[test]
fn a_lie_is_found_and_the_truth_is_not_called_one() {
    let zero = Instant::now();
    let at = |ms: u64| zero + std::time::Duration::from_millis(ms);
    let refusal = |begun: u64, heard: u64| Refusal {
        begun: at(begun),
        heard: at(heard),
        units: 2,
    };
    let mut book = Book::default();
    book.granted(at(10), 4);
    book.refused(refusal(5, 20));
    book.refused(refusal(12, 20));
    book.assert_no_false_sold_out(5);
    book.released(at(30), 4);
    book.refused(refusal(29, 40));
    book.assert_no_false_sold_out(5);
    book.refused(refusal(31, 40));
    assert!(std::panic::catch_unwind(|| book.assert_no_false_sold_out(5)).is_err());
    let mut early = Book::default();
    early.granted(at(10), 4);
    early.refused(refusal(2, 9));
    assert!(std::panic::catch_unwind(|| early.assert_no_false_sold_out(5)).is_err());
}
