//! The drill: load against a stack of its own, faults, and a judge who compares what clients saw with what the ledger
//! has.
//!
//! It stands on top of everything, beside `app`, and changes nothing of the product: what it finds, it finds from
//! outside.

pub mod check;
pub mod history;
