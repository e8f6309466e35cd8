//! The drill's wire, between a gateway and the server at a URL.

use std::net::SocketAddr;

use flashgate::drill::wire::Wire;

/// A wire to the server at this URL, and the server's URL through it.
pub(crate) async fn wired(url: &str) -> (Wire, String) {
    let server = server_of(url);
    let wire = Wire::to(server, 1).await.expect("a port");
    let through = url.replacen(&server.to_string(), &wire.address().to_string(), 1);
    (wire, through)
}

/// Where the server at this URL listens, which is spelled out.
pub(crate) fn server_of(url: &str) -> SocketAddr {
    let (_, rest) = url.split_once("//").expect("a scheme");
    let rest = rest.split_once('@').map_or(rest, |(_, rest)| rest);
    let address = rest.split(['/', '?']).next().expect("an address");
    address.parse().expect("a number for a host, and a port")
}
