//! The event ledger: its pages, and replays of it.

mod late;
mod many;
mod pages;
mod replay;
