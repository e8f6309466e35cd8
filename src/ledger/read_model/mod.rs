//! The read model: the copy of the balances that pages read, and what follows from watching it.
//!
//! [`follow`](Ledger::follow) keeps the copy, [`stock`] and [`orders`] read it over connections of their own, so that
//! no page ever waits in front of a reservation. How long an answer may be kept is for `http` to say.

pub mod follow;
pub mod low_stock;
pub mod orders;
mod pools;
pub mod stock;

pub(super) use pools::ReadPools;

use super::{Ledger, LedgerError};
