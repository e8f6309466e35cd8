//! How often each sale refused, since it was last asked: kept here because most refusals never leave this process.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::domain::outcome::Decision;

/// Requests that a sale refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// `INSUFFICIENT_STOCK`.
    pub stock: i64,
    /// `USER_LIMIT_EXCEEDED`.
    pub limit: i64,
    /// `RATE_LIMITED`.
    pub rate: i64,
}

/// Counts by sale.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    counts: Mutex<HashMap<i32, Refused>>,
}

impl Refusals {
    pub(crate) fn count(&self, sale_no: i32, decision: &Decision) {
        let pick: fn(&mut Refused) -> &mut i64 = match decision {
            Decision::Insufficient { .. } => |refused| &mut refused.stock,
            Decision::UserLimit { .. } => |refused| &mut refused.limit,
            Decision::RateLimited { .. } => |refused| &mut refused.rate,
            _ => return,
        };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *pick(counts.entry(sale_no).or_default()) += 1;
    }

    pub(crate) fn take(&self) -> HashMap<i32, Refused> {
        std::mem::take(&mut *self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn give_back(&self, sale_no: i32, refused: Refused) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = counts.entry(sale_no).or_default();
        entry.stock += refused.stock;
        entry.limit += refused.limit;
        entry.rate += refused.rate;
    }
}
