//! The drill, in short, and its judge, on real servers.

mod checked;
mod client;
mod short;
