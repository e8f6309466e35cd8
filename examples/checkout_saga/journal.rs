//! The journal of one checkout: a file of JSON lines, only ever appended to, each on disk before the next thing happens.
//!
//! An intent is written before a step is asked for, its outcome after it. A line that a crash has cut off was never
//! followed by anything, so it is dropped. One process at a time holds the file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::saga::{Checkout, End, Step};

/// A line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "kebab-case")]
pub(crate) enum Entry {
    /// The first one.
    Begin { checkout: Checkout },
    /// This is about to be asked for, under this key.
    Intent { step: Step, key: String },
    /// It has happened.
    Done { step: Step, answer: Value },
    /// It has not happened and will not.
    Refused { step: Step, why: String },
    /// Nobody knows, and nobody asks any more.
    GivenUp { step: Step, why: String },
    /// Another process has taken over.
    Resumed,
    /// The last one.
    End { end: End },
}

/// An open journal.
pub(crate) struct Journal {
    file: Flock<File>,
}

impl Journal {
    /// Opens it, or begins an empty one, and tells what stands in it.
    pub(crate) fn open(path: &Path) -> io::Result<(Journal, Vec<Entry>)> {
        let file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| io::Error::from(errno))?;
        let text = fs::read_to_string(path)?;
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        file.set_len(u64::try_from(whole).map_err(io::Error::other)?)?;
        // The name of a new file is durable with its directory.
        if let Some(dir) = path.parent() {
            File::open(dir)?.sync_all()?;
        }
        let entries = parse(&text[..whole])?;
        Ok((Journal { file }, entries))
    }

    /// Returns once the line is on disk.
    pub(crate) fn append(&mut self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.file.sync_data()
    }

    /// What a power cut leaves of a line.
    pub(crate) fn append_half(&mut self, entry: &Entry) -> io::Result<()> {
        let line = serde_json::to_vec(entry)?;
        self.file.write_all(&line[..line.len() / 2])?;
        self.file.sync_data()
    }
}

/// What stands in the journal of a checkout that nobody works on.
pub(crate) fn read(path: &Path) -> io::Result<Vec<Entry>> {
    match fs::read_to_string(path) {
        Ok(text) => parse(&text[..text.rfind('\n').map_or(0, |at| at + 1)]),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn parse(text: &str) -> io::Result<Vec<Entry>> {
    let entry = |line| serde_json::from_str(line).map_err(io::Error::from);
    text.lines().map(entry).collect()
}
