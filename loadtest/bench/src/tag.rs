//! Names that no other run has: tags of orders, ids of sales and SKUs.

use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(1);

/// 8 characters.
pub(crate) fn next() -> String {
    format!("b{:07}", NEXT.fetch_add(1, Ordering::Relaxed))
}
