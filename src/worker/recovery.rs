//! Recovery: the one way a lane comes into use, whether Redis is new, restarted, empty, or stepped back in time.
//!
//! A lane that is as the ledger last saw it, on a node that has kept its scripts, is simply adopted. Every other is
//! closed under a new epoch, whatever survives of its queue is carried into the ledger, its counters and records are
//! written anew from the ledger, and it opens. No operator.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::{join, join_all, ready};
use futures::{StreamExt, stream};
use tokio::sync::Mutex;

use super::survivors::{Altered, Survivors, tell_altered_slips};
use super::{Context, repeat};
use crate::domain::lane::{Epoch, LaneNo, Nonce};
use crate::domain::record::Record;
use crate::domain::time::Millis;
use crate::flash::{BUYERS_CALL, Closed, FlashError, Health, LaneMeta, SaleImage, Visit};
use crate::ledger::LedgerError;
use crate::ledger::lane::LaneRow;
use crate::ledger::recon::LiveFound;
use crate::ledger::recovery::{LaneImage, LaneSale, Settled};
use crate::metric;

/// Reservations read per step.
const BUYERS_STEP: i64 = 2_000;
/// Lanes that are written anew side by side: while some wait for Postgres, others are on their way to Redis.
const LANES_AT_ONCE: usize = 3;
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A raised epoch that is superseded more often than this in one recovery is a fault, not a race.
const ROUNDS_MAX: usize = 8;

/// Why lanes could not be recovered now.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// Redis can't be asked.
    #[error(transparent)]
    Flash(#[from] FlashError),
    /// Postgres can't be asked.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Another recovery raised the epoch again and again.
    #[error("the lanes' epochs keep being raised by others")]
    Outrun,
}

/// Looks after the lanes until stopped.
pub(crate) async fn run(context: Context) {
    repeat(&context, "recovery", LOOK_EVERY, async || {
        run_once(&context).await.map(|()| false)
    })
    .await;
    context.health.change(|state| state.recovering = false);
}

/// Adopts or recovers every lane that is suspect, each server's lanes by themselves: one that is away holds up no other.
///
/// # Errors
/// Whoever can't be asked; what was not recovered stays suspect.
pub async fn run_once(context: &Context) -> Result<(), RecoveryError> {
    let suspects = suspects(context);
    if suspects.is_empty() {
        return Ok(());
    }
    if context.clock.now().is_none() {
        super::pulse::run_once(context).await?;
    }
    let mut outcome = Ok(());
    let mut visits = Vec::new();
    // A lane that is not where it is thought to be is still suspect at the next look.
    let one_each = context.flash.one_of_each_server(&suspects);
    for visit in join_all(one_each.iter().map(|lane| context.flash.visit(*lane))).await {
        match visit {
            Ok(visit) => visits.push(visit),
            Err(error) => outcome = Err(error.into()),
        }
    }
    for restored in join_all(visits.iter().map(|visit| restore(context, visit))).await {
        if restored.is_err() {
            outcome = restored;
        }
    }
    for visit in visits {
        visit.leave().await;
    }
    context.health.change(|state| state.recovering = false);
    outcome
}

fn suspects(context: &Context) -> Vec<LaneNo> {
    let lanes = context.flash.lane_numbers();
    lanes
        .filter(|lane| context.flash.health(*lane) == Health::Suspect)
        .collect()
}

/// Adopts or recovers the suspect lanes of one server.
async fn restore(context: &Context, visit: &Visit) -> Result<(), RecoveryError> {
    visit.check_version().await?;
    let mut suspects = suspects(context);
    suspects.retain(|lane| visit.lanes().contains(lane));
    if adopt(context, visit, &suspects).await?.is_empty() {
        return Ok(());
    }
    context.health.change(|state| state.recovering = true);
    let recovered = under_lock(context, visit, &suspects).await;
    if recovered.is_err() {
        metrics::counter!(metric::RECOVERIES, "outcome" => "failed").increment(1);
    }
    recovered
}

/// Adopts the lanes that need no recovery; returns the others. A server that has lost its witness has lost them all.
async fn adopt(context: &Context, visit: &Visit, lanes: &[LaneNo]) -> Result<Vec<LaneNo>, RecoveryError> {
    let rows = context.ledger.lanes().await?;
    if !visit.is_witnessed().await? {
        return Ok(lanes.to_vec());
    }
    // This may be a newer version than the one that recovered them.
    visit.load_scripts().await?;
    let mut lost = Vec::new();
    for lane in lanes {
        let row = rows.iter().find(|row| row.lane == *lane);
        // Before the lane is asked: what it shows can't be older than what we have seen of it.
        let at_least = row.map_or(0, |row| context.flash.seen(*lane, row.epoch));
        match (row, context.flash.lane_meta(*lane).await?) {
            (Some(row), Some(meta))
                if meta.seq >= at_least
                    && goes_on(row, &meta)
                    && !context.flash.is_forked(*lane, row.epoch)
                    && has_given(context, row, &meta).await? =>
            {
                context.flash.adopt_lane(*lane, meta.epoch, meta.seq);
            }
            _ => lost.push(*lane),
        }
    }
    Ok(lost)
}

/// Whether the lane is open where the ledger saw it, or further on.
fn goes_on(row: &LaneRow, meta: &LaneMeta) -> bool {
    let (there, here) = ((meta.seq, meta.nonce), (row.cursor.seq, row.cursor.nonce));
    meta.open && row.open && meta.epoch == row.epoch && (meta.seq > row.cursor.seq || there == here)
}

/// Whether the ledger has given the lane all grants that it has. The row was read before the lane, whose owner goes on
/// giving: what it lacks is looked for again.
async fn has_given(context: &Context, row: &LaneRow, meta: &LaneMeta) -> Result<bool, LedgerError> {
    Ok(meta.grant_no <= row.grant_no || meta.grant_no <= context.ledger.lane(row.lane).await?.grant_no)
}

/// Recovers lanes while no other process does. Whoever waited for the lock looks again first.
async fn under_lock(context: &Context, visit: &Visit, suspects: &[LaneNo]) -> Result<(), RecoveryError> {
    let lock = context.ledger.recovery_lock().await?;
    let lost = adopt(context, visit, suspects).await?;
    if lost.is_empty() {
        return Ok(());
    }
    // A server without its witness is recovered whole, lanes that nobody has complained of included.
    let lanes = if visit.is_witnessed().await? {
        lost
    } else {
        visit.lanes().to_vec()
    };
    let started = Instant::now();
    tracing::warn!(lanes = lanes.len(), "lanes are recovered");
    let epoch = close(context, visit, &lanes).await?;
    let settling = Mutex::default();
    let one = async |lane| (lane, recover(context, lane, epoch, &settling).await);
    let broke_off = AtomicBool::new(false);
    let mut outcomes = stream::iter(lanes.iter().copied())
        .take_while(|_| ready(!broke_off.load(Ordering::Relaxed)))
        .map(one)
        .buffer_unordered(LANES_AT_ONCE);
    let (mut failed, mut broken) = (None, None);
    while let Some((lane, outcome)) = outcomes.next().await {
        match outcome {
            Ok(()) => {}
            // What this lane's queue holds can't be stored: it stays closed, and the others need not wait for it.
            Err(RecoveryError::Ledger(error @ (LedgerError::Data { .. } | LedgerError::Broken(_)))) => {
                tracing::error!(%lane, %error, "a lane can't be recovered and stays closed");
                failed = Some(error);
            }
            // Lanes that have begun end, with what they have to tell; no other begins.
            Err(error) => {
                broke_off.store(true, Ordering::Relaxed);
                broken.get_or_insert(error);
            }
        }
    }
    drop(outcomes);
    if let Some(error) = broken {
        return Err(error);
    }
    visit.load_witness().await?;
    lock.release().await;
    metrics::histogram!(metric::RECOVERY_SECONDS).record(started.elapsed());
    tracing::warn!(
        lanes = lanes.len(),
        epoch,
        took_ms = started.elapsed().as_millis(),
        "the recovery is over"
    );
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// Closes the lanes in the ledger and in Redis under one new epoch, greater than any either has seen.
async fn close(context: &Context, visit: &Visit, lanes: &[LaneNo]) -> Result<Epoch, RecoveryError> {
    let mut above: Epoch = 0;
    for lane in lanes {
        // A fallback must not end for a Redis that can't be recovered.
        context.flash.check_writable(*lane).await?;
    }
    visit.load_close().await?;
    for lane in lanes {
        if let Some(meta) = context.flash.lane_meta(*lane).await? {
            above = above.max(meta.epoch);
        }
    }
    'raise: for _ in 0..ROUNDS_MAX {
        let epoch = context.ledger.raise_epoch(lanes, above).await?;
        for lane in lanes {
            if let Closed::Superseded(by) = context.flash.close_lane(*lane, epoch).await? {
                above = above.max(by);
                continue 'raise;
            }
        }
        visit.load_scripts().await?;
        return Ok(epoch);
    }
    Err(RecoveryError::Outrun)
}

/// Recovers one closed lane: survivors into the ledger, the lane from the ledger, open.
async fn recover(context: &Context, lane: LaneNo, epoch: Epoch, settling: &Mutex<()>) -> Result<(), RecoveryError> {
    let (flash, ledger) = (&context.flash, &context.ledger);
    let now = context
        .clock
        .now()
        .ok_or_else(|| FlashError::Unavailable("the time is not known yet".into()))?;
    let nonce = Nonce(rand::random());
    let (LaneImage { sales, grant_no, .. }, there) = {
        // One at a time: what survived in two lanes of one sale would wait for the same balance, and fill our memory.
        let _turn = settling.lock().await;
        settle(context, lane, epoch, nonce, now).await?
    };
    for sale_no in there {
        if !sales.iter().any(|of| of.sale.no == sale_no) && !flash.rebuild_without(lane, epoch, sale_no).await? {
            return Err(superseded(lane));
        }
    }
    for of in &sales {
        let image = SaleImage {
            sale_no: of.sale.no,
            settings: of.sale.settings(),
            free: of.counter,
            taken: of.taken,
            grant_no,
        };
        if !flash.rebuild_sale(lane, epoch, &image).await? || !rebuild_buyers(context, lane, epoch, of.sale.no).await? {
            return Err(superseded(lane));
        }
    }
    if !ledger.open_lane(lane, epoch).await? || !flash.open_lane(lane, epoch, nonce, grant_no, now).await? {
        return Err(superseded(lane));
    }
    flash.adopt_lane(lane, epoch, 0);
    flash.nudge_grants(lane);
    metrics::counter!(metric::RECOVERIES, "outcome" => "opened").increment(1);
    tracing::info!(%lane, epoch, sales = sales.len(), "a lane is recovered");
    Ok(())
}

/// Carries into the ledger what survived in a closed lane's queue. The lane as it is to be written anew, and the sales
/// that it has now.
async fn settle(
    context: &Context,
    lane: LaneNo,
    epoch: Epoch,
    nonce: Nonce,
    now: Millis,
) -> Result<(LaneImage, Vec<i32>), RecoveryError> {
    let (flash, ledger) = (&context.flash, &context.ledger);
    let cursor = ledger.lane(lane).await?.cursor;
    let raw = flash.surviving_entries(lane, cursor).await?;
    let meta = flash.lane_meta(lane).await?;
    let there = flash.lane_sales(lane).await?;
    let survivors = Survivors::read(raw, cursor, meta.as_ref(), &there, now);
    for Altered { raw, error, salvaged } in &survivors.altered {
        tracing::error!(%lane, entry = ?raw.id, %error, salvaged, "an entry was altered: what is certain of it is kept");
        if !salvaged && ledger.quarantine_entry(lane, raw, &error.to_string()).await? {
            metrics::counter!(metric::QUARANTINED).increment(1);
        }
    }
    let settled = ledger
        .settle_lane(lane, epoch, nonce, &survivors.entries, flash.id_key())
        .await?;
    let Settled::Done(image) = settled else {
        return Err(superseded(lane));
    };
    metrics::counter!(metric::QUARANTINED).increment(u64::try_from(image.quarantined).unwrap_or(u64::MAX));
    report(context, lane, &survivors, &image.sales).await?;
    let (survivors, refused) = (image.applied, image.refused);
    tracing::info!(%lane, epoch, survivors, refused, "what survived of a lane is in the ledger");
    Ok((image, there))
}

/// Counts what was altered, and leaves a report of the entries.
async fn report(
    context: &Context,
    lane: LaneNo,
    survivors: &Survivors,
    sales: &[LaneSale],
) -> Result<(), RecoveryError> {
    let altered = survivors.altered.len();
    tell_altered_slips(lane, &survivors.entries);
    if altered == 0 {
        return Ok(());
    }
    metrics::counter!(metric::ALTERED, "what" => "entry").increment(u64::try_from(altered).unwrap_or(u64::MAX));
    let found: Vec<LiveFound> = survivors.altered.iter().flat_map(|of| of.found(lane, sales)).collect();
    let report = context.ledger.report_live(&found, 0).await?;
    tracing::error!(%lane, report = %report.id, entries = altered, "what was altered stands in a report");
    Ok(())
}

/// Writes the records of a sale's buyers, while those that follow are read. False: superseded.
async fn rebuild_buyers(context: &Context, lane: LaneNo, epoch: Epoch, sale_no: i32) -> Result<bool, RecoveryError> {
    let read = async |after: Option<&str>| context.ledger.lane_buyers(lane, sale_no, after, BUYERS_STEP).await;
    let write = async |records: &[(String, Record)]| {
        for records in records.chunks(BUYERS_CALL) {
            if !context.flash.rebuild_buyers(lane, epoch, sale_no, records).await? {
                return Ok::<_, RecoveryError>(false);
            }
        }
        Ok(true)
    };
    let mut page = read(None).await?;
    while let Some(after) = &page.next {
        let (next, written) = join(read(Some(after)), write(&page.records)).await;
        if !written? {
            return Ok(false);
        }
        page = next?;
    }
    write(&page.records).await
}

fn superseded(lane: LaneNo) -> RecoveryError {
    metrics::counter!(metric::RECOVERIES, "outcome" => "superseded").increment(1);
    tracing::warn!(%lane, "a later recovery has taken over");
    RecoveryError::Outrun
}
