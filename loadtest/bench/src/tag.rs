//! Names that no other run has: tags of orders, ids of sales and SKUs.

use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(1);

/// 8 characters.
pub(crate) fn next() -> String {
    of(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// So many that follow each other: the number of the first.
pub(crate) fn range(count: u32) -> u32 {
    NEXT.fetch_add(count, Ordering::Relaxed)
}

/// The one of this number.
pub(crate) fn of(number: u32) -> String {
    format!("b{number:07}")
}
