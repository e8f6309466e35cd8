//! What can go wrong while the embedded servers are found, started or restarted.
//!
//! Every message names the file, the server or the package that the operator has to look at;
//! none of them needs the source code to be understood.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why an embedded server could not be had.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// No binary of a sufficient version is on this machine.
    #[error("{wanted} is needed, but {found}; install it with `{install}`")]
    Missing {
        /// The server and its lowest version.
        wanted: String,
        /// What was found instead, in words.
        found: String,
        /// A command that installs it.
        install: &'static str,
    },
    /// Another live `dev` works on the same directory.
    #[error("{dir} is in use by another flashgate dev{}", .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Busy {
        /// The data directory.
        dir: PathBuf,
        /// Who holds it, where that could be read.
        pid: Option<u32>,
    },
    /// A file, directory or process call failed.
    #[error("could not {doing} {path}: {source}")]
    Io {
        /// The verb: create, read, start …
        doing: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A server ended while it started.
    #[error("{server} ended while starting ({exit}); {log} says: {tail}")]
    Exited {
        /// Redis or Postgres.
        server: &'static str,
        /// How it ended, in words.
        exit: String,
        /// Its log file.
        log: PathBuf,
        /// The last lines of that file.
        tail: String,
    },
    /// A server runs, but did not become ready in time.
    #[error("{server} was not ready within {limit:?}; see {log}")]
    TimedOut {
        /// Redis or Postgres.
        server: &'static str,
        /// How long it was waited for.
        limit: Duration,
        /// Its log file.
        log: PathBuf,
    },
    /// A helper program (initdb, psql) failed.
    #[error("{tool} failed: {said}")]
    Tool {
        /// The program.
        tool: &'static str,
        /// Its error output, or how it ended.
        said: String,
    },
    /// The path or name can't be used.
    #[error("{what} can't be used: {why}")]
    Unusable {
        /// The path or name.
        what: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The caller asked to stop before the server was ready.
    #[error("stopped before the servers were ready")]
    Halted,
}

impl DevError {
    /// Wraps an [`io::Error`] with what was being done, for use in `map_err`.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DevError {
        let path = path.to_path_buf();
        move |source| DevError::Io { doing, path, source }
    }
}
