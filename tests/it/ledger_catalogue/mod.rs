//! Stock, sales and reads, against a real Postgres: what an operator does to the ledger.
//!
//! Each test has a database of its own, and lanes whose queues the real writer carries into it. After every step that
//! moves units, [`books::Books::check`] holds the ledger to its equations.

mod books;
mod clock;
mod life;
mod patch;
mod stock;
