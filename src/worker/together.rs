//! Lanes that sell the same, written together: while one statement is in flight for a sale, the batches of its other lanes
//! gather, and go with the next.
//!
//! A sale's balance is one row, and whoever has updated it keeps it until the commit is on disk: sixteen lanes with a few
//! rows each wait sixteen times for one another. So plain batches of one sale are made durable at once
//! ([`apply_at_once`](crate::ledger::Ledger::apply_at_once)), like those of the ledger engine. Whatever that can't do, a
//! lane's writer does alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::Context;
use crate::domain::entry::{Body, Entry};
use crate::domain::lane::{Cursor, LaneNo};
use crate::ledger::apply::{Batch, Done, SaleIdentity, only_sale};
use crate::ledger::{LedgerError, Pause};
use crate::metric;

/// Sales whose lanes are written at the same instant; others wait some ms for their turn.
const CONNECTIONS_MAX: u32 = 4;
/// Most reservations a statement, and of a lane: larger batches are as cheap alone, and lanes write them side by side.
const ROWS_MAX: usize = 256;
/// Most sales that are remembered while nothing of them is written.
const SALES_MAX: usize = 4_096;

/// A lane's batch, and where its answer goes.
#[derive(Debug)]
struct Asked {
    lane: LaneNo,
    from: Cursor,
    entries: Arc<[Entry]>,
    reply: oneshot::Sender<Option<Done>>,
}

#[derive(Debug, Default)]
struct Sale {
    /// What is known of it, once it was asked for.
    identity: Option<SaleIdentity>,
    waiting: Vec<Asked>,
    /// Somebody writes, and will go on until nothing waits.
    busy: bool,
    pause: Pause,
}

type Sales = HashMap<i32, Sale>;

/// What lanes write together. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Together {
    context: Context,
    sales: Arc<Mutex<Sales>>,
}

impl Together {
    /// Nothing yet, over connections of its own on which nobody waits long for a lock.
    pub(super) fn new(context: &Context) -> Self {
        let context = Context {
            ledger: context.ledger.apart_in_haste(CONNECTIONS_MAX),
            ..context.clone()
        };
        Together {
            context,
            sales: Arc::default(),
        }
    }

    /// Makes a lane's batch durable with what others of the sale's lanes have. `None`: that could not be done, or its
    /// answer was lost; the cursor says.
    pub(super) async fn carry(&self, lane: LaneNo, from: Cursor, entries: &Arc<[Entry]>) -> Option<Done> {
        let sale_no = only_sale(entries).filter(|_| rows(entries) <= ROWS_MAX)?;
        let (reply, answer) = oneshot::channel();
        let entries = Arc::clone(entries);
        let asked = Asked {
            lane,
            from,
            entries,
            reply,
        };
        if self.ask(sale_no, asked)? {
            tokio::spawn(self.clone().serve(sale_no));
        }
        answer.await.ok().flatten()
    }

    /// Gives back the connections.
    pub(super) async fn close(&self) {
        self.context.ledger.close().await;
    }

    /// Whether somebody has to begin writing; `None`: not now.
    fn ask(&self, sale_no: i32, asked: Asked) -> Option<bool> {
        let mut sales = self.lock();
        if sales.len() >= SALES_MAX {
            sales.retain(|_, sale| sale.busy);
        }
        let sale = sales.entry(sale_no).or_default();
        if !sale.pause.is_over() {
            return None;
        }
        sale.waiting.push(asked);
        Some(!std::mem::replace(&mut sale.busy, true))
    }

    /// Writes what waits until nothing does.
    async fn serve(self, sale_no: i32) {
        let mut serving = Serving {
            together: &self,
            sale_no,
            is_over: false,
        };
        while let Some(asked) = self.next(sale_no) {
            let done = self.write(sale_no, &asked).await.unwrap_or_else(|error| {
                tracing::warn!(sale_no, lanes = asked.len(), %error, "lanes could not be written together");
                None
            });
            let written = done.as_ref().map_or(0, Vec::len);
            metrics::histogram!(metric::WRITER_FLUSH_LANES).record(u32::try_from(written).unwrap_or(u32::MAX));
            self.note(sale_no, written > 0);
            let mut done = done.into_iter().flatten();
            for asked in asked {
                // Whoever has gone away reads the cursor when it comes back.
                asked.reply.send(done.next()).ok();
            }
        }
        serving.is_over = true;
    }

    /// What goes with the next statement; `None`: nothing waits, and whoever asks next has to begin.
    fn next(&self, sale_no: i32) -> Option<Vec<Asked>> {
        let mut sales = self.lock();
        let sale = sales.get_mut(&sale_no)?;
        sale.waiting.retain(|asked| !asked.reply.is_closed());
        let mut room = ROWS_MAX;
        let fits = |asked: &&Asked| {
            let rest = room.checked_sub(rows(&asked.entries));
            room = rest.unwrap_or(0);
            rest.is_some()
        };
        let count = sale.waiting.iter().take_while(fits).count();
        sale.busy = count > 0;
        sale.busy.then(|| sale.waiting.drain(..count).collect())
    }

    async fn write(&self, sale_no: i32, asked: &[Asked]) -> Result<Option<Vec<Done>>, LedgerError> {
        let ledger = &self.context.ledger;
        let known = self.lock().get(&sale_no).and_then(|sale| sale.identity.clone());
        let identity = match known {
            Some(identity) => identity,
            None => match ledger.sale_identity(sale_no).await? {
                Some(identity) => identity,
                None => return Ok(None),
            },
        };
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
        let done = ledger.apply_at_once(sale_no, &identity, &batches).await?;
        if let Some(sale) = self.lock().get_mut(&sale_no) {
            // A ledger that fell back may have given the number to another sale.
            sale.identity = done.is_some().then_some(identity);
        }
        Ok(done)
    }

    fn note(&self, sale_no: i32, was_plain: bool) {
        if let Some(sale) = self.lock().get(&sale_no) {
            sale.pause.tried(was_plain);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sales> {
        self.sales.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody writes a sale's batches. Where that ends midway, nobody waits for it.
struct Serving<'a> {
    together: &'a Together,
    sale_no: i32,
    is_over: bool,
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.together.lock().remove(&self.sale_no);
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
