//! How often what only goes well with plain batches is tried at all.

use std::sync::atomic::{AtomicU32, Ordering};

/// Most batches that are not tried at once after one that was not plain.
const PAUSE_MAX: u32 = 63;

/// How many batches are not tried at once: ever more while none of those that are tried is plain, since the look is then
/// for nothing.
#[derive(Debug, Default)]
pub struct Pause {
    left: AtomicU32,
    next: AtomicU32,
}

impl Pause {
    /// Whether the next one is to be tried; it counts as one that was not, if it is not.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let less = |left: u32| left.checked_sub(1);
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_err()
    }

    /// What came of one that was.
    pub fn tried(&self, was_plain: bool) {
        let pause = match was_plain {
            true => 0,
            false => self.next.load(Ordering::Relaxed),
        };
        self.left.store(pause, Ordering::Relaxed);
        let next = if was_plain { 0 } else { (pause * 2 + 1).min(PAUSE_MAX) };
        self.next.store(next, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_tried_ever_less_while_none_is_plain() {
        let pause = Pause::default();
        let mut tried = Vec::new();
        for batch in 0..200 {
            if pause.is_over() {
                tried.push(batch);
                pause.tried(false);
            }
        }
        assert_eq!(tried, [0, 1, 3, 7, 15, 31, 63, 127, 191]);
        while !pause.is_over() {}
        pause.tried(true);
        assert!(pause.is_over() && pause.is_over(), "each is tried while they are plain");
    }
}
