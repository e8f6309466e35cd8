//! A lane's queue, read ahead: what comes while lanes are written together lies ready when they are.

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::domain::entry::RawEntry;
use crate::domain::lane::{Cursor, Epoch, Seq};
use crate::flash::{FlashError, QueueReader};

/// Entries a transaction; each holds up to 128 reservations.
const ENTRIES_MAX: usize = 32;
/// How long a read waits for the first entry.
const BLOCK: Duration = Duration::from_millis(250);

type Read = (QueueReader, Result<Vec<RawEntry>, FlashError>);

/// What follows a cursor.
pub(super) struct Ahead {
    /// The read that is under way; whoever stops waiting for it loses nothing.
    reading: Option<BoxFuture<'static, Read>>,
    reader: Option<QueueReader>,
    /// The last entry that was read.
    at: (Epoch, Seq),
    ready: Vec<RawEntry>,
    failed: Option<FlashError>,
}

impl fmt::Debug for Ahead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ready = self.ready.len();
        f.debug_struct("Ahead")
            .field("at", &self.at)
            .field("ready", &ready)
            .finish_non_exhaustive()
    }
}

impl Ahead {
    pub(super) fn new(reader: QueueReader, cursor: Cursor) -> Self {
        Ahead {
            reading: None,
            reader: Some(reader),
            at: (cursor.epoch, cursor.seq),
            ready: Vec::new(),
            failed: None,
        }
    }

    /// The next entries; none: none came while it waited.
    ///
    /// # Errors
    /// Redis can't be asked.
    pub(super) async fn next(&mut self) -> Result<Vec<RawEntry>, FlashError> {
        if self.ready.is_empty() && self.failed.is_none() {
            self.read().await;
        }
        match self.failed.take() {
            Some(error) if self.ready.is_empty() => Err(error),
            failed => {
                self.failed = failed;
                Ok(std::mem::take(&mut self.ready))
            }
        }
    }

    /// Reads what comes, for as long as somebody waits for this.
    pub(super) async fn gather(&mut self) -> Infallible {
        while self.ready.len() < ENTRIES_MAX && self.failed.is_none() {
            self.read().await;
        }
        std::future::pending().await
    }

    async fn read(&mut self) {
        let (at, room) = (self.at, ENTRIES_MAX - self.ready.len());
        if let Some(mut reader) = self.reader.take() {
            self.reading = Some(Box::pin(async move {
                let read = reader.read(at.0, at.1, room, BLOCK).await;
                (reader, read)
            }));
        }
        let Some(reading) = &mut self.reading else { return };
        let (reader, read) = reading.await;
        (self.reader, self.reading) = (Some(reader), None);
        match read {
            Ok(entries) => {
                self.at = entries.last().map_or(self.at, |last| last.id);
                self.ready.extend(entries);
            }
            Err(error) => self.failed = Some(error),
        }
    }

    /// Gives the connection back.
    pub(super) async fn close(mut self) {
        if self.reading.is_some() {
            self.read().await;
        }
        if let Some(reader) = self.reader {
            reader.close().await;
        }
    }
}
