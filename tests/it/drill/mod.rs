//! The drill, in short, and its judge, on real servers.

mod checked;
pub(crate) mod client;
mod short;
