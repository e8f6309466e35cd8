//! The words and rules of flashgate: ids, quantities, states, queue entries and grants.
//!
//! No I/O, no async, no clock: everything here is a value or a pure function of its arguments. The two halves, `flash`
//! (Redis) and `ledger` (Postgres), never see each other; what they exchange is spelled here once.

pub mod account;
pub mod balance;
pub mod bytes;
pub mod choice;
pub mod difference;
pub mod entry;
pub mod grant;
pub mod id;
pub mod key;
pub mod lane;
pub mod outcome;
pub mod quantity;
pub mod reconciliation;
pub mod record;
pub mod reservation;
pub mod reservation_id;
pub mod sale;
mod settings;
pub mod sum;
pub mod text;
pub mod time;
pub mod trace;
