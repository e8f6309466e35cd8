//! The event ledger: its pages, replays of it, and what is undone.

mod append_only;
mod late;
mod many;
mod pages;
mod replay;
mod replica;
mod rest;
mod signed;
mod undo;
