//! The road from a lane's queue into the ledger, and back by grants.

mod at_once;
mod checked;
mod decided;
mod fallback;
mod granted;
mod lanes;
mod model;
mod poisoned;
mod recovered;
mod written;
