//! What a running `dev` leaves in its directory for others: the lock, and `dev.json`.
//!
//! `dev.lock` is locked as long as the process lives, however it ends. `dev.json` says where
//! everything listens; it is always whole, and there is none while no `dev` runs (unless one was
//! killed).

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::error::DevError;

/// The exclusive use of a directory; given up when dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _held: Flock<fs::File>,
}

impl Lock {
    /// Takes the directory, and leaves our pid in the lock file for whoever is refused.
    ///
    /// # Errors
    /// [`DevError::Busy`] where another live process has it.
    pub(super) fn take(dir: &Path) -> Result<Lock, DevError> {
        let path = dir.join("dev.lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path);
        let file = file.map_err(DevError::io("open", &path))?;
        let mut held = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(mut file, errno)| {
            if errno != nix::errno::Errno::EWOULDBLOCK {
                return DevError::io("lock", &path)(errno.into());
            }
            let mut holder = String::new();
            let pid = file
                .read_to_string(&mut holder)
                .ok()
                .and_then(|_| holder.trim().parse().ok());
            DevError::Busy {
                dir: dir.to_path_buf(),
                pid,
            }
        })?;
        held.set_len(0)
            .and_then(|()| writeln!(held, "{}", std::process::id()))
            .map_err(DevError::io("write", &path))?;
        Ok(Lock { _held: held })
    }
}

/// The content of `dev.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DevFile {
    pub(super) listen: SocketAddr,
    pub(super) admin_listen: SocketAddr,
    pub(super) redis_url: String,
    pub(super) database_url: String,
    pub(super) pids: Pids,
    /// Where Postgres' data lies: not always under the directory.
    pub(super) postgres_dir: PathBuf,
}

/// The processes of a `dev`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Pids {
    pub(super) gateway: u32,
    pub(super) redis: u32,
    pub(super) postgres: u32,
}

impl DevFile {
    /// Replaces `dev.json` whole: a reader sees the old one or the new one.
    ///
    /// # Errors
    /// [`DevError::Io`] where it can't be written.
    pub(super) fn write(&self, dir: &Path) -> Result<(), DevError> {
        let path = path(dir);
        let fresh = dir.join("dev.json.new");
        let mut text =
            serde_json::to_string_pretty(self).map_err(|error| DevError::io("write", &path)(error.into()))?;
        text.push('\n');
        fs::write(&fresh, text).map_err(DevError::io("write", &fresh))?;
        fs::rename(&fresh, &path).map_err(DevError::io("replace", &path))
    }

    /// What the `dev` of this directory says of itself; none where none runs.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        serde_json::from_str(&fs::read_to_string(path(dir)).ok()?).ok()
    }

    /// Removes `dev.json`: what it says is no longer so.
    ///
    /// # Errors
    /// [`DevError::Io`] where it is there and can't be removed.
    pub(super) fn remove(dir: &Path) -> Result<(), DevError> {
        let path = path(dir);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(DevError::io("remove", &path)(error)),
            _ => Ok(()),
        }
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join("dev.json")
}
