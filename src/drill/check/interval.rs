//! When "sold out" was a lie: judged from outside, by times that clients have seen.
//!
//! A request for q units may be refused only if at some instant between its arrival and its answer fewer than q were
//! free. At every instant in between at least this many were: all units, less those of every reservation asked for
//! before the answer, plus those of every release answered before the arrival. Where even these suffice, it was a lie.

/// A request that was told there are not enough units; `T` is any clock that the clients share.
#[derive(Debug, Clone, Copy)]
pub struct Refusal<T> {
    /// Before it was asked.
    pub begun: T,
    /// After it was answered.
    pub heard: T,
    /// Units asked for.
    pub units: i64,
}

/// What was asked, given back and refused, and when.
#[derive(Debug)]
pub struct Book<T> {
    granted: Vec<(T, i64)>,
    released: Vec<(T, i64)>,
    refused: Vec<Refusal<T>>,
}

impl<T> Default for Book<T> {
    fn default() -> Self {
        Book {
            granted: Vec::new(),
            released: Vec::new(),
            refused: Vec::new(),
        }
    }
}

impl<T: Copy + Ord> Book<T> {
    /// A request first sent at `begun` got units, or may have got them.
    pub fn granted(&mut self, begun: T, units: i64) {
        self.granted.push((begun, units));
    }

    /// A release that gave units back was answered at `heard`.
    pub fn released(&mut self, heard: T, units: i64) {
        self.released.push((heard, units));
    }

    /// A request was refused.
    pub fn refused(&mut self, refusal: Refusal<T>) {
        self.refused.push(refusal);
    }

    /// How many were.
    #[must_use]
    pub fn refusals(&self) -> usize {
        self.refused.len()
    }

    /// What another has written down, of the same units.
    pub fn merge(&mut self, other: Book<T>) {
        self.granted.extend(other.granted);
        self.released.extend(other.released);
        self.refused.extend(other.refused);
    }

    /// The refusals that were lies, by their places in order, each with the units that were free at least; `all` says
    /// how many units there were at least while a refusal was under way, none where that is not known.
    pub fn lies(&self, all: impl Fn(&Refusal<T>) -> Option<i64>) -> Vec<(usize, i64)> {
        let (granted, released) = (running(&self.granted), running(&self.released));
        let free = |refusal: &Refusal<T>| {
            Some(all(refusal)? - before(&granted, refusal.heard) + before(&released, refusal.begun))
        };
        let judged = self.refused.iter().enumerate();
        let judged = judged.filter_map(|(at, refusal)| Some((at, refusal.units, free(refusal)?)));
        judged
            .filter(|(_, units, free)| free >= units)
            .map(|(at, _, free)| (at, free))
            .collect()
    }
}

/// In order of time, each with the sum up to it.
fn running<T: Copy + Ord>(moves: &[(T, i64)]) -> Vec<(T, i64)> {
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
fn before<T: Copy + Ord>(running: &[(T, i64)], at: T) -> i64 {
    match running.partition_point(|(when, _)| *when < at) {
        0 => 0,
        n => running[n - 1].1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lie_is_found_and_the_truth_is_not_called_one() {
        let refusal = |begun: i64, heard: i64| Refusal { begun, heard, units: 2 };
        let five = |_: &Refusal<i64>| Some(5);
        let mut book = Book::default();
        book.granted(10, 4);
        book.refused(refusal(5, 20));
        book.refused(refusal(12, 20));
        assert_eq!(book.lies(five), []);
        book.released(30, 4);
        book.refused(refusal(29, 40));
        assert_eq!(book.lies(five), []);
        book.refused(refusal(31, 40));
        assert_eq!(book.lies(five), [(3, 5)]);
        assert_eq!(book.lies(|_| None), []);
        let mut early = Book::default();
        early.granted(10, 4);
        early.refused(refusal(2, 9));
        assert_eq!(early.lies(five), [(0, 5)]);
    }
}
