//! flashgate: a Redis-first flash-sale reservation gateway with database confirmation.
//!
//! *http asks, flash decides, the queue carries, worker writes, ledger remembers, reconcile compares.*
//!
//! ```text
//! http ──► flash (Redis: counters, buyers, queue) ──► worker ──► ledger (Postgres: balances, reservations, events)
//!                        ▲                               │
//!                        └──────── numbered grants ◄─────┘
//! ```
//!
//! Imports point one way: `http → recall`; `http, recall, worker → flash, ledger → domain`. `flash` alone knows the
//! Redis client, `ledger` alone the Postgres client, `http` alone the web framework; `flash` and `ledger` never see each
//! other. `app` builds everything, and `drill`, beside it, breaks it and judges. `tests/tidy.rs` holds us to it.

pub mod app;
pub mod capacity;
pub mod clock;
pub mod config;
pub mod dev;
pub mod domain;
pub mod drill;
pub mod flash;
pub mod health;
pub mod http;
pub mod ledger;
pub mod metric;
pub mod recall;
pub mod telemetry;
pub mod thread;
pub mod worker;
