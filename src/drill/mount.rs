//! A small disk: a file system in memory, mounted where a server will keep its data, that can be filled up.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::DrillError;

/// Written at a time while it is filled.
const CHUNK: usize = 1 << 20;

/// A mounted file system; dropping it unmounts it.
#[derive(Debug)]
pub(super) struct Mount {
    at: PathBuf,
}

impl Mount {
    /// Mounts one of this size (as `mount` spells it) over a directory, which is made.
    ///
    /// # Errors
    /// The system does not let us, which only root may expect.
    pub(super) fn small(at: &Path, size: &str) -> Result<Mount, DrillError> {
        fs::create_dir_all(at)?;
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=755"), "flashgate-drill"])
            .arg(at)
            .stdin(Stdio::null())
            .output()?;
        if mount.status.success() {
            return Ok(Mount { at: at.to_path_buf() });
        }
        let said = String::from_utf8_lossy(&mount.stderr).trim().to_owned();
        Err(DrillError::Stack(format!("can't mount a small disk: {said}")))
    }

    /// Whether the system lets us have one; else why not.
    pub(super) fn is_possible(near: &Path) -> Result<(), String> {
        let mount = Mount::small(&near.join("mount"), "1m");
        mount.map(drop).map_err(|error| error.to_string())
    }

    /// Writes until nothing more fits.
    ///
    /// # Errors
    /// Any but the one that is meant to come.
    pub(super) fn fill(&self) -> Result<(), DrillError> {
        let mut file = File::create(self.ballast())?;
        let mut chunk = vec![0; CHUNK];
        loop {
            match file.write_all(&chunk) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    if chunk.len() == 1 {
                        return Ok(());
                    }
                    chunk.truncate(chunk.len() / 2);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// The file can't be removed.
    pub(super) fn free(&self) -> Result<(), DrillError> {
        Ok(fs::remove_file(self.ballast())?)
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a process that is about to end may still have files here.
        let unmounted = Command::new("umount").arg("-l").arg(&self.at).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            tracing::warn!(at = %self.at.display(), "a small disk stays mounted");
        }
    }
}
