//! A read replica, a real one.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::process::Command;

use flashgate::dev::postgres::{Postgres, Settings};
use tokio_util::sync::CancellationToken;

use super::servers::Home;

/// A server that follows the primary, which is stopped for the moment of the copy.
pub(crate) fn standby(primary: &mut Postgres, home: &Home) -> Postgres {
    let halt = CancellationToken::new();
    let mut standby = Postgres::start(Settings::new(home.path()), &halt).expect("a Postgres starts");
    let data = standby.data();
    standby.stop();
    primary.stop();
    fs::remove_dir_all(&data).expect("the new cluster goes");
    let copied = Command::new("cp").arg("-a").arg(primary.data()).arg(&data).status();
    assert!(copied.expect("cp runs").success());
    fs::write(data.join("standby.signal"), "").expect("the directory can be written");
    let settings = OpenOptions::new().append(true).open(data.join("postgresql.auto.conf"));
    let url = primary.tcp_url_of("flashgate");
    let port = url.rsplit([':', '/']).nth(1).expect("a port");
    writeln!(
        settings.expect("initdb makes it"),
        "primary_conninfo = 'host=127.0.0.1 port={port} user=flashgate'"
    )
    .expect("it can be written");
    primary.restart(&halt).expect("the primary comes back");
    standby.restart(&halt).expect("the standby starts");
    standby
}
