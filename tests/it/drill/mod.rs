//! The judge of the drill, on real servers.

mod checked;
mod client;
