//! What operators do over HTTP, against a whole gateway: its Redis, its Postgres, its workers.

mod sales;
mod stock;
