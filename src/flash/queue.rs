//! Reading a lane's queue: for the writer, which waits for more; for recovery, which wants all that survives.

use std::time::Duration;

use super::error::FlashError;
use super::keys::LaneKeys;
use super::node::Call;
use super::redis::{Apart, Redis};
use super::reply::{entries, read_entries};
use crate::domain::entry::RawEntry;
use crate::domain::lane::{Cursor, Epoch, Seq};
use crate::domain::time::Millis;

/// How long a read waits for its connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// Entries read per step by recovery.
const STEP: usize = 1_000;

/// Reads one lane's queue over a connection of its own, because it blocks.
#[derive(Debug)]
pub struct QueueReader {
    apart: Apart,
}

impl QueueReader {
    pub(crate) fn new(apart: Apart) -> Self {
        QueueReader { apart }
    }

    /// Entries after (`epoch`, `seq`), at most `max`; waits up to `block` for the first.
    ///
    /// # Errors
    /// Redis can't be asked.
    pub async fn read(
        &mut self,
        epoch: Epoch,
        seq: Seq,
        max: usize,
        block: Duration,
    ) -> Result<Vec<RawEntry>, FlashError> {
        let args = vec![
            "COUNT".into(),
            max.to_string().into(),
            "BLOCK".into(),
            block.as_millis().to_string().into(),
            "STREAMS".into(),
            self.apart.key().into(),
            format!("{epoch}-{seq}").into(),
        ];
        read_entries(self.apart.send(Call::blocking("XREAD", args), CONNECT_WITHIN).await?)
    }

    /// Gives the connection back.
    pub async fn close(self) {
        self.apart.quit().await;
    }
}

/// The entries that a ledger at `cursor` may lack, oldest first. Where the queue holds the cursor's own entry, all
/// before it is in the ledger; else the queue has forked, and every entry of the cursor's epoch or a later one counts.
/// Those of earlier epochs were settled when that epoch began.
pub(crate) async fn read_survivors(
    redis: &Redis,
    keys: &LaneKeys,
    cursor: Cursor,
) -> Result<Vec<RawEntry>, FlashError> {
    let at_cursor = read_one(redis, keys, cursor.epoch, cursor.seq).await?;
    let follows = cursor.seq == 0 || at_cursor.is_some_and(|entry| entry.nonce == cursor.nonce.0);
    let after = if follows { cursor.seq } else { 0 };
    let mut all: Vec<RawEntry> = Vec::new();
    loop {
        let (epoch, seq) = all.last().map_or((cursor.epoch, after), |last| last.id);
        let args = vec![
            keys.queue().into(),
            format!("({epoch}-{seq}").into(),
            "+".into(),
            "COUNT".into(),
            STEP.to_string().into(),
        ];
        let step = entries(redis.keyed("XRANGE", args).await?)?;
        let done = step.len() < STEP;
        all.extend(step);
        if done {
            return Ok(all);
        }
    }
}

/// When the first entry of this epoch after `seq` was made; none where there is none, or where that can't be read.
pub(crate) async fn first_after(
    redis: &Redis,
    keys: &LaneKeys,
    epoch: u64,
    seq: Seq,
) -> Result<Option<Millis>, FlashError> {
    let args = vec![
        keys.queue().into(),
        format!("({epoch}-{seq}").into(),
        "+".into(),
        "COUNT".into(),
        "1".into(),
    ];
    let first = entries(redis.keyed("XRANGE", args).await?);
    Ok(first.ok().and_then(|mut first| first.pop()?.at().ok()))
}

/// The entry of exactly this id, while the queue holds it.
pub(crate) async fn read_one(
    redis: &Redis,
    keys: &LaneKeys,
    epoch: Epoch,
    seq: Seq,
) -> Result<Option<RawEntry>, FlashError> {
    let id = format!("{epoch}-{seq}");
    let args = vec![keys.queue().into(), id.as_str().into(), id.as_str().into()];
    Ok(entries(redis.keyed("XRANGE", args).await?)?.pop())
}
