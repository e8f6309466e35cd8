//! The mover: brings units to the home bucket of requests that find it dry, or says that no bucket has any.
//!
//! One task a sale and process serves all requests that wait. Units go from lane to lane over the same two roads as
//! everything else, a `Take` in one lane and a `Units` in the other, so they are never in two places; while they are on
//! the way they are in the ledger's grants, and nobody is refused for want of them. Nor is anybody by a sale that has
//! been stopped while they waited.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Context;
use crate::domain::lane::LaneNo;
use crate::domain::sale::Sale;
use crate::flash::{DryAsk, FlashError, LaneFigures, Mark, Verdict};
use crate::ledger::LedgerError;
use crate::ledger::grants::{InMotion, Motion};
use crate::metric;

/// Between looks while units are on their way.
const PAUSE: Duration = Duration::from_millis(3);
/// A sale's task ends after this long without a request.
const IDLE: Duration = Duration::from_secs(10);
/// Requests of a sale that may wait.
const WAITING_MAX: usize = 65_536;

/// Why a look could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum MoverError {
    /// Redis can't be asked.
    #[error(transparent)]
    Flash(#[from] FlashError),
    /// Postgres can't be asked.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Hands requests to their sale's task until stopped.
pub(crate) async fn run(context: Context) {
    let Some(mut desk) = context.flash.take_desk() else {
        return;
    };
    let mut tasks: HashMap<i32, mpsc::Sender<DryAsk>> = HashMap::new();
    loop {
        let ask = tokio::select! {
            ask = desk.recv() => ask,
            () = context.stop.cancelled() => None,
        };
        let Some(ask) = ask else { return };
        tasks.retain(|_, task| !task.is_closed());
        let start = || {
            let (tx, rx) = mpsc::channel(WAITING_MAX);
            tokio::spawn(serve(context.clone(), Arc::clone(&ask.sale), rx));
            tx
        };
        let task = tasks.entry(ask.sale.no).or_insert_with(start);
        // A full desk answers nobody: they time out as undecided.
        let _ = task.try_send(ask);
    }
}

async fn serve(context: Context, sale: Arc<Sale>, mut asks: mpsc::Receiver<DryAsk>) {
    let mut mover = Mover::new(&context, sale);
    let mut waiting: Vec<DryAsk> = Vec::new();
    loop {
        if waiting.is_empty() {
            match tokio::time::timeout(IDLE, asks.recv()).await {
                Ok(Some(ask)) => waiting.push(ask),
                _ => return,
            }
        }
        while let Ok(ask) = asks.try_recv() {
            waiting.push(ask);
        }
        waiting.retain(|ask| !ask.reply.is_closed());
        match mover.run_once(&mut waiting).await {
            Ok(()) if waiting.is_empty() => {}
            Ok(()) => tokio::time::sleep(PAUSE).await,
            Err(error) => {
                tracing::warn!(sale = %mover.sale.id, %error, "buckets could not be compared");
                for ask in waiting.drain(..) {
                    answer(ask, Verdict::Undecided);
                }
            }
        }
        if context.stop.is_cancelled() {
            return;
        }
    }
}

/// The mover of one sale.
#[derive(Debug)]
pub struct Mover<'a> {
    context: &'a Context,
    sale: Arc<Sale>,
}

/// Where the buckets of a sale stand.
#[derive(Debug)]
struct Look {
    figures: Vec<LaneFigures>,
    marks: Vec<Mark>,
    motion: Motion,
    /// No grant moved between the two reads, and no unit is between counters.
    steady: bool,
}

impl<'a> Mover<'a> {
    /// The mover of this sale.
    #[must_use]
    pub fn new(context: &'a Context, sale: Arc<Sale>) -> Self {
        Mover { context, sale }
    }

    /// Looks once, answers whoever can be answered, and sends units on their way for the rest.
    ///
    /// # Errors
    /// Whoever can't be asked; then nobody was answered.
    pub async fn run_once(&mut self, waiting: &mut Vec<DryAsk>) -> Result<(), MoverError> {
        let look = self.look().await?;
        let total: i64 = look.figures.iter().map(|of| of.free).sum();
        let mut free: BTreeMap<LaneNo, i64> = look.figures.iter().map(|of| (of.lane, of.free)).collect();
        let mut wanted: BTreeMap<LaneNo, i64> = BTreeMap::new();
        let mut still = Vec::new();
        for ask in waiting.drain(..) {
            let home = free.entry(ask.lane).or_default();
            if *home >= ask.units.into() {
                *home -= i64::from(ask.units);
                answer(ask, Verdict::Retry);
            } else if look.motion.ended {
                // Its units go to the balance, so an empty bucket tells nothing. Once its lanes know of the end, they say
                // so, and the ledger engine sells what came home.
                match look.steady {
                    true => answer(ask, Verdict::Retry),
                    false => still.push(ask),
                }
            } else if total < ask.units.into() && look.steady {
                answer(
                    ask,
                    Verdict::SoldOut {
                        available: total,
                        marks: look.marks.clone(),
                    },
                );
            } else {
                *wanted.entry(ask.lane).or_default() += i64::from(ask.units);
                still.push(ask);
            }
        }
        *waiting = still;
        // One move at a time: what is on its way may be enough.
        if !look.motion.moving {
            self.send(&free, &wanted).await?;
        }
        Ok(())
    }

    /// Reads all lanes twice, and between the reads what is in motion. The counters of the first read bound, from
    /// above, what was free at the instant between them: nothing but a grant raises a counter, and no grant moved.
    async fn look(&self) -> Result<Look, MoverError> {
        let (flash, lanes) = (&self.context.flash, &self.sale.lanes);
        let before = self.marks().await?;
        let figures = flash.lane_figures(self.sale.no, lanes).await?;
        let motion = self.context.ledger.units_in_motion(self.sale.no).await?;
        let after = self.marks().await?;
        let same = before
            .iter()
            .zip(&after)
            .all(|(b, a)| (b.epoch, b.grant_no) == (a.epoch, a.grant_no));
        let arrived = |of: &InMotion| {
            let mark = after.iter().find(|mark| mark.lane == of.lane);
            let is_there = |no| mark.is_some_and(|mark| no <= mark.grant_no);
            !of.unnumbered && of.last.is_none_or(is_there)
        };
        let steady = same && !motion.recalled && !motion.taking && motion.lanes.iter().all(arrived);
        Ok(Look {
            figures,
            marks: before,
            motion,
            steady,
        })
    }

    async fn marks(&self) -> Result<Vec<Mark>, MoverError> {
        let mut marks = Vec::with_capacity(self.sale.lanes.len());
        for mark in
            futures::future::try_join_all(self.sale.lanes.iter().map(|lane| self.context.flash.mark(*lane))).await?
        {
            marks.push(mark.ok_or(FlashError::Stale)?);
        }
        Ok(marks)
    }

    /// Asks the richest lanes for what the dry ones want, and half of what they have on top: the next request is near.
    async fn send(&self, free: &BTreeMap<LaneNo, i64>, wanted: &BTreeMap<LaneNo, i64>) -> Result<(), MoverError> {
        let mut spare = free.clone();
        for (home, want) in wanted {
            let mut missing = want - spare.get(home).copied().unwrap_or(0);
            while missing > 0 {
                let richest = spare.iter().filter(|(lane, units)| *lane != home && **units > 0);
                let Some((from, units)) = richest
                    .max_by_key(|(_, units)| **units)
                    .map(|(lane, units)| (*lane, *units))
                else {
                    break;
                };
                let take = missing.max(units / 2).min(units);
                let most = u32::try_from(take).unwrap_or(u32::MAX);
                self.context
                    .ledger
                    .request_move(self.sale.no, from, *home, most)
                    .await?;
                self.context.flash.nudge_grants(from);
                spare.insert(from, units - take);
                missing -= take;
            }
        }
        Ok(())
    }
}

fn answer(ask: DryAsk, verdict: Verdict) {
    let word = match verdict {
        Verdict::Retry => "moved",
        Verdict::SoldOut { .. } => "sold_out",
        Verdict::Undecided => "undecided",
    };
    metrics::counter!(metric::MOVER_VERDICTS, "verdict" => word).increment(1);
    let _ = ask.reply.send(verdict);
}
