//! Free loopback ports that stay ours while a server is down.
//!
//! A port that the system hands out for "port 0" lies in the range of outgoing connections: while a
//! killed server is being restarted, a client that keeps reconnecting to it can be given that very
//! port as its own, connect to itself, and keep the server out. So ports are drawn from below that
//! range, which starts at 32768 on Linux and at 49152 elsewhere.

use std::net::{Ipv4Addr, TcpListener};

use super::error::DevError;

/// Where embedded servers listen.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// More misses than this mean that something else is wrong.
const TRIES_MAX: u32 = 1_000;

/// Draws a port that nobody listens on at this moment.
///
/// # Errors
/// [`DevError::Unusable`] where no port could be bound.
pub(super) fn free() -> Result<u16, DevError> {
    (0..TRIES_MAX)
        .map(|_| rand::random_range(PORTS))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or(DevError::Unusable {
            what: "127.0.0.1".to_owned(),
            why: "no free port between 20000 and 32000",
        })
}
