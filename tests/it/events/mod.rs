//! The event ledger: its pages.

mod late;
mod many;
mod pages;
