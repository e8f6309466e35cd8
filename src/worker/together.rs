//! Lanes written together: while one statement is in flight, the batches of other lanes gather, and go with the next.
//!
//! A transaction costs as much as some twenty rows, and whoever has updated a balance keeps it until the commit is on disk:
//! sixteen lanes with a few rows each pay, and wait, sixteen times. So plain batches are made durable at once
//! ([`apply_at_once`](crate::ledger::Ledger::apply_at_once)), one statement after the other. Whatever that can't do, a
//! lane's writer does alone, and so does one with many rows: there lanes write side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Context;
use super::telling::notice;
use crate::domain::entry::{Body, Entry};
use crate::domain::lane::{Cursor, LaneNo};
use crate::ledger::apply::{Batch, Done, SaleIdentities, plain_sales};
use crate::ledger::{LedgerError, Pace};
use crate::metric;

/// To a Postgres process that always does the same a statement costs a tenth less than to two that take turns.
const CONNECTIONS_MAX: u32 = 1;
/// Most reservations a statement …
const ROWS_MAX: usize = 256;
/// … and of a lane that would have to wait for it.
const SHARE_MAX: usize = 128;
/// Most sales that are remembered.
const SALES_MAX: usize = 16_384;
/// How long nothing is tried after a statement that wrote nothing, at least: as long as that took, …
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// … and twice as long after each, at most: it may have waited for a lock that somebody keeps.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A lane's batch, and where its answer goes.
#[derive(Debug)]
struct Asked {
    lane: LaneNo,
    from: Cursor,
    entries: Arc<[Entry]>,
    sales: BTreeSet<i32>,
    reply: oneshot::Sender<Option<Done>>,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Asked>,
    /// Somebody writes, and will go on until nothing waits.
    busy: bool,
    /// What is known of sales.
    sales: SaleIdentities,
    pause: Duration,
    paused_until: Option<Instant>,
}

/// What lanes write together. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Together {
    context: Context,
    state: Arc<Mutex<State>>,
}

impl Together {
    /// Nothing yet, over a connection of its own on which nobody waits long for a lock or for an answer.
    pub(super) fn new(context: &Context) -> Self {
        Together {
            context: context.apart(CONNECTIONS_MAX, Pace::Tried),
            state: Arc::default(),
        }
    }

    /// Makes a lane's batch durable with what other lanes have. `None`: that could not be done, or its answer was lost;
    /// the cursor says.
    pub(super) async fn carry(&self, lane: LaneNo, from: Cursor, entries: &Arc<[Entry]>) -> Option<Done> {
        let sales = plain_sales(entries)?;
        let (reply, answer) = oneshot::channel();
        let entries = Arc::clone(entries);
        let asked = Asked {
            lane,
            from,
            entries,
            sales,
            reply,
        };
        if self.ask(asked)? {
            tokio::spawn(self.clone().serve());
        }
        answer.await.ok().flatten()
    }

    /// Gives back the connection.
    pub(super) async fn close(&self) {
        self.context.ledger.close().await;
    }

    /// Whether somebody has to begin writing; `None`: not now, or not with others.
    fn ask(&self, asked: Asked) -> Option<bool> {
        let mut state = self.lock();
        let rows_max = if state.busy { SHARE_MAX } else { ROWS_MAX };
        if rows(&asked.entries) > rows_max || state.paused_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        state.waiting.push(asked);
        Some(!std::mem::replace(&mut state.busy, true))
    }

    /// Writes what waits until nothing does.
    async fn serve(self) {
        let mut serving = Serving {
            together: &self,
            is_over: false,
        };
        while let Some(asked) = self.next() {
            let started = Instant::now();
            let done = self.write(&asked).await.unwrap_or_else(|error| {
                tracing::warn!(lanes = asked.len(), %error, "lanes could not be written together");
                None
            });
            let written = done.as_ref().map_or(0, Vec::len);
            metrics::histogram!(metric::WRITER_FLUSH_LANES).record(u32::try_from(written).unwrap_or(u32::MAX));
            self.note(written > 0, started.elapsed());
            let mut done = done.into_iter().flatten();
            for Asked {
                lane, entries, reply, ..
            } in asked
            {
                if let Err(Some(done)) = reply.send(done.next()) {
                    tokio::spawn(self.clone().tell(lane, entries, done));
                }
            }
        }
        serving.is_over = true;
    }

    /// The lane's writer has gone away meanwhile: what became durable is told all the same.
    async fn tell(self, lane: LaneNo, entries: Arc<[Entry]>, done: Done) {
        let notice = notice(&self.context, &entries, &done);
        let flash = &self.context.flash;
        flash.tell_durable(lane, done.cursor, &notice);
        if let Err(error) = flash.settle(lane, done.cursor, None, &notice, &BTreeMap::new()).await {
            tracing::debug!(%lane, %error, "the lane was not told what is durable");
        }
    }

    /// What goes with the next statement; `None`: nothing waits, and whoever asks next has to begin.
    fn next(&self) -> Option<Vec<Asked>> {
        let mut state = self.lock();
        state.waiting.retain(|asked| !asked.reply.is_closed());
        let mut room = ROWS_MAX;
        let fits = |asked: &&Asked| {
            let rest = room.checked_sub(rows(&asked.entries));
            room = rest.unwrap_or(0);
            rest.is_some()
        };
        let count = state.waiting.iter().take_while(fits).count();
        state.busy = count > 0;
        state.busy.then(|| state.waiting.drain(..count).collect())
    }

    async fn write(&self, asked: &[Asked]) -> Result<Option<Vec<Done>>, LedgerError> {
        let sales = self.sales(asked).await?;
        let mut batches = Vec::with_capacity(asked.len());
        for asked in asked {
            batches.push(Batch {
                lane: asked.lane,
                owner: self.context.gateway,
                from: asked.from,
                entries: &asked.entries,
                id_key: self.context.flash.id_key(),
            });
        }
        self.context.ledger.apply_at_once(&sales, &batches).await
    }

    /// The sales of these batches, as far as the ledger has them.
    async fn sales(&self, asked: &[Asked]) -> Result<SaleIdentities, LedgerError> {
        let named: BTreeSet<i32> = asked.iter().flat_map(|asked| &asked.sales).copied().collect();
        let (mut sales, mut unknown) = (SaleIdentities::new(), Vec::new());
        {
            let state = self.lock();
            for sale_no in named {
                match state.sales.get(&sale_no) {
                    Some(sale) => drop(sales.insert(sale_no, sale.clone())),
                    None => unknown.push(sale_no),
                }
            }
        }
        if !unknown.is_empty() {
            let read = self.context.ledger.sale_identities(&unknown).await?;
            let mut state = self.lock();
            if state.sales.len() + read.len() > SALES_MAX {
                state.sales.clear();
            }
            state.sales.extend(read.clone());
            sales.extend(read);
        }
        Ok(sales)
    }

    fn note(&self, was_plain: bool, took: Duration) {
        let mut state = self.lock();
        if was_plain {
            (state.pause, state.paused_until) = (state.pause / 2, None);
            return;
        }
        // A ledger that fell back may have given their numbers to other sales.
        state.sales.clear();
        // Whoever waits has waited long enough to go alone.
        state.waiting.clear();
        state.pause = (state.pause * 2).max(took).clamp(PAUSE_MIN, PAUSE_MAX);
        state.paused_until = Some(Instant::now() + state.pause);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody writes. Where that ends midway, nobody waits for it.
struct Serving<'a> {
    together: &'a Together,
    is_over: bool,
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let mut state = self.together.lock();
            state.busy = false;
            state.waiting.clear();
        }
    }
}

fn rows(entries: &[Entry]) -> usize {
    let slips = |entry: &Entry| match &entry.body {
        Body::Reserve(slips) => slips.len(),
        Body::Grant { .. } => 0,
    };
    entries.iter().map(slips).sum()
}
