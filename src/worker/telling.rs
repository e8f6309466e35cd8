//! What a lane, and through it who waits elsewhere, is told of the batches that became durable.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::Context;
use crate::domain::entry::Entry;
use crate::domain::lane::{Cursor, Epoch, LaneNo, Seq};
use crate::flash::{Notice, SettledCall};
use crate::ledger::LedgerError;
use crate::ledger::apply::Done;

/// Durable entries stay in the queue for so long, for a Postgres that falls back …
const KEEP_FOR: Duration = Duration::from_secs(60);
/// … but no more than so many.
const KEEP_MAX: usize = 20_000;

/// What came of each call of a batch.
pub(super) fn notice(context: &Context, entries: &[Entry], done: &Done) -> Notice {
    let refused_of = |seq: Seq| {
        let of_entry = done.refused.iter().filter(|refused| refused.seq == seq);
        of_entry.map(|refused| (refused.index, refused.durability)).collect()
    };
    let call = |entry: &Entry| SettledCall {
        seq: entry.seq,
        nonce: entry.nonce,
        refused: refused_of(entry.seq),
    };
    Notice {
        from: context.gateway,
        epoch: done.cursor.epoch,
        calls: entries.iter().map(call).collect(),
    }
}

/// What the lane is still to be told.
#[derive(Debug)]
pub(super) struct Telling<'a> {
    context: &'a Context,
    lane: LaneNo,
    /// Of the last batch: the oldest entry to keep, and which calls are durable.
    due: Option<(Option<(Epoch, Seq)>, Notice)>,
    /// Of sales that bound what they owe the ledger, what the lane has still to be told: units taken up to the cursor,
    /// cumulative. None: not known, ask the ledger.
    untold: Option<BTreeMap<i32, i64>>,
    /// Durable entries that are still in the queue, and since when.
    kept: VecDeque<(Instant, Seq)>,
    /// The lane may not know how far the ledger is: nobody could tell it, or who wrote before ended first.
    behind: bool,
}

impl<'a> Telling<'a> {
    pub(super) fn new(context: &'a Context, lane: LaneNo) -> Self {
        Telling {
            context,
            lane,
            due: None,
            untold: None,
            kept: VecDeque::new(),
            behind: true,
        }
    }

    /// Notes a batch that is durable, up to this cursor, for the lane.
    pub(super) async fn note(&mut self, cursor: Cursor, entries: &[Entry], done: &Done, notice: Notice) {
        for lane in &done.grants_for {
            self.context.flash.nudge_grants(*lane);
        }
        match &mut self.untold {
            Some(untold) => untold.extend(done.settled.iter().copied()),
            // Where that fails, the lane is told when it is idle.
            None => self.untold = self.settled_units().await.ok(),
        }
        self.due = Some((self.keep(cursor.epoch, entries), notice));
    }

    /// Tells what was noted; the lane stands at this cursor.
    pub(super) async fn tell(&mut self, cursor: Cursor) {
        if let Some((keep, notice)) = self.due.take() {
            self.settle(cursor, keep, &notice).await;
        }
    }

    /// Tells the lane what it may have missed. A lane that owes as much as it may accepts nothing, so no batch would; and
    /// what it takes for waiting is told as a queue that nobody carries.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub(super) async fn tell_missed(&mut self, cursor: Cursor) -> Result<(), LedgerError> {
        if self.untold.is_none() {
            self.untold = Some(self.settled_units().await?);
        }
        if self.behind || self.untold.as_ref().is_some_and(|untold| !untold.is_empty()) {
            let notice = Notice {
                from: self.context.gateway,
                epoch: cursor.epoch,
                calls: Vec::new(),
            };
            self.settle(cursor, None, &notice).await;
        }
        Ok(())
    }

    async fn settle(&mut self, cursor: Cursor, keep: Option<(Epoch, Seq)>, notice: &Notice) {
        let none = BTreeMap::new();
        let untold = self.untold.as_ref().unwrap_or(&none);
        match self.context.flash.settle(self.lane, cursor, keep, notice, untold).await {
            Ok(()) => {
                self.behind = false;
                if let Some(untold) = &mut self.untold {
                    untold.clear();
                }
            }
            // Told or not, it is durable: the lane learns it from the next batch, or when it is idle.
            Err(error) => {
                self.behind = true;
                tracing::debug!(lane = %self.lane, %error, "the lane was not told what is durable");
            }
        }
    }

    async fn settled_units(&self) -> Result<BTreeMap<i32, i64>, LedgerError> {
        let settled = self.context.ledger.settled_units(self.lane).await?;
        Ok(settled.into_iter().collect())
    }

    /// The oldest entry to keep: those of the last minute stay, within bounds.
    fn keep(&mut self, epoch: Epoch, entries: &[Entry]) -> Option<(Epoch, Seq)> {
        let now = Instant::now();
        self.kept.extend(entries.iter().map(|entry| (now, entry.seq)));
        let mut oldest = None;
        while self.kept.len() > KEEP_MAX || self.kept.front().is_some_and(|(since, _)| now - *since > KEEP_FOR) {
            self.kept.pop_front();
            oldest = self.kept.front().map(|(_, seq)| (epoch, *seq));
        }
        oldest
    }
}
