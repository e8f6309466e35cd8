//! The read model: what pages read, how old it may be, and what it says when something is away.

mod availability;
mod follow;
mod limits;
mod low_stock;
mod orders;
mod replica;
mod stock;
