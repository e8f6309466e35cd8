//! The files of a private Postgres, and the programs that work on them.
//!
//! The cluster is made under a temporary name and renamed, so a directory called `data` is always
//! whole. Which process serves it, and when, is [`super::postgres`]'s.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::binaries;
use super::error::DevError;
use super::place::Place;

/// The role that owns everything, and the first database.
pub(super) const NAME: &str = "flashgate";

/// A Postgres cluster with the binaries that fit it.
#[derive(Debug)]
pub(super) struct Cluster {
    bin: PathBuf,
    place: Place,
}

impl Cluster {
    /// The cluster of the directory `dir` (canonical); made where there is none, safely against a
    /// crash of the machine if `fsync`.
    ///
    /// # Errors
    /// [`DevError`] where the directory can't be used, no fitting Postgres is on this machine, or
    /// initdb fails.
    pub(super) fn prepare(dir: &Path, fsync: bool) -> Result<Cluster, DevError> {
        let place = Place::prepare(dir)?;
        let major = fs::read_to_string(place.path().join("data/PG_VERSION")).ok();
        let bin = binaries::postgres(major.and_then(|text| text.trim().parse().ok()))?;
        let cluster = Cluster { bin, place };
        if !cluster.data().exists() {
            cluster.make(fsync)?;
        }
        Ok(cluster)
    }

    /// Where the data lies.
    pub(super) fn data(&self) -> PathBuf {
        self.place.path().join("data")
    }

    /// The URL of a database over the Unix socket: the socket's directory, percent-encoded, is the
    /// host.
    pub(super) fn url(&self, port: u16, database: &str) -> String {
        let socket = self.place.socket().as_os_str().as_encoded_bytes();
        let host: String = socket.iter().map(|byte| encode(*byte)).collect();
        format!("postgres://{NAME}@{host}:{port}/{database}")
    }

    /// The command that serves the cluster in the foreground.
    ///
    /// # Errors
    /// [`DevError::Unusable`] where the socket's path can't be written into a setting.
    pub(super) fn server(&self, port: u16, fsync: bool) -> Result<Command, DevError> {
        let socket = self.place.socket();
        let text = socket.to_str().filter(|text| !text.contains('"'));
        let text = text.ok_or_else(|| DevError::Unusable {
            what: socket.display().to_string(),
            why: "it is not UTF-8 or has a quote",
        })?;
        let mut command = self.place.command(&self.bin.join("postgres"));
        command.arg("-D").arg(self.data());
        for setting in [
            "listen_addresses=127.0.0.1",
            &format!("port={port}"),
            &format!("unix_socket_directories=\"{text}\""),
            if fsync { "fsync=on" } else { "fsync=off" },
            "synchronous_commit=on",
            "shared_buffers=128MB",
            "max_connections=200",
            "max_wal_size=1GB",
            // One forgotten transaction would hold back cleaning and the order of events for all.
            "idle_in_transaction_session_timeout=30s",
            // A look into the cold tier locks each day's partition and its six indexes.
            "max_locks_per_transaction=512",
            "timezone=UTC",
            "log_timezone=UTC",
            "log_destination=stderr",
            "logging_collector=off",
        ] {
            command.args(["-c", setting]);
        }
        Ok(command)
    }

    /// Runs one statement in the database `postgres` and returns its rows.
    ///
    /// # Errors
    /// [`DevError::Tool`] with what psql says.
    pub(super) fn query(&self, port: u16, sql: &str) -> Result<String, DevError> {
        let mut command = self.place.command(&self.bin.join("psql"));
        command.arg("-h").arg(self.place.socket());
        command.args(["-p", &port.to_string(), "-U", NAME, "-d", "postgres"]);
        command.args(["-XqAtw", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        run("psql", command)
    }

    /// The lock file of the process that serves it: the pid, and whether it takes connections.
    /// `None` where nothing serves it.
    pub(super) fn lock(&self) -> Option<(u32, bool)> {
        let text = fs::read_to_string(self.lock_path()).ok()?;
        // The lines that pg_ctl reads: the first is the pid, the eighth the state.
        let mut lines = text.lines().map(str::trim);
        let pid = lines.next()?.parse().ok()?;
        Some((pid, matches!(lines.nth(6), Some("ready" | "standby"))))
    }

    /// Where [`Cluster::lock`] reads.
    pub(super) fn lock_path(&self) -> PathBuf {
        self.data().join("postmaster.pid")
    }

    fn make(&self, fsync: bool) -> Result<(), DevError> {
        let place = self.place.path();
        // An initdb whose caller was killed may still be writing: ours has a name of its own, and
        // what can't be removed under the other one's hands goes at another time.
        for entry in fs::read_dir(place).map_err(DevError::io("read", place))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("new-") {
                fs::remove_dir_all(entry.path()).ok();
            }
        }
        let fresh = place.join(format!("new-{:08x}", rand::random::<u32>()));
        let mut command = self.place.command(&self.bin.join("initdb"));
        command.args(["-U", NAME, "-A", "trust", "-E", "UTF8"]);
        command.args(["--locale=C", "--no-instructions"]);
        if !fsync {
            command.arg("--no-sync");
        }
        command.arg("-D").arg(&fresh);
        run("initdb", command)?;
        fs::rename(&fresh, self.data()).map_err(DevError::io("rename", &fresh))
    }
}

/// Runs a tool to its end and returns what it printed.
fn run(tool: &'static str, mut command: Command) -> Result<String, DevError> {
    let output = command
        .output()
        .map_err(DevError::io("start", Path::new(command.get_program())))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let said = if said.is_empty() {
        output.status.to_string()
    } else {
        said
    };
    Err(DevError::Tool { tool, said })
}

fn encode(byte: u8) -> String {
    match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    }
}
