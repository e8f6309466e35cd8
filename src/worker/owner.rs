//! Owning lanes: claims those that nobody serves, and runs a writer and a granter for each.
//!
//! Claiming is only a division of labour. What keeps two owners from harming each other is the compare-and-set on the
//! lane's cursor in every transaction of either.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::granter::{Granter, tell_age};
use super::together::Together;
use super::writer::{Writer, WriterError};
use super::{Context, repeat};
use crate::domain::lane::LaneNo;
use crate::flash::{Flash, Health};
use crate::ledger::LedgerError;

const CLAIM_EVERY: Duration = Duration::from_millis(500);
/// Who could use no lane for so long leaves them all to others, who may reach another Redis; and who could not ask a lane
/// leaves it to whoever can: nobody else would carry its queue while we live.
const BLIND_MAX: Duration = Duration::from_secs(3);
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// Claims and serves lanes until stopped, then gives them back.
pub(crate) async fn run(context: Context) {
    let lanes: Mutex<HashMap<LaneNo, JoinHandle<()>>> = Mutex::default();
    let together = Together::new(&context);
    let all = context.flash.lane_numbers().count();
    let sight = Mutex::new(Sight::default());
    repeat::<LedgerError, _>(&context, "owner", CLAIM_EVERY, async || {
        let may_own = sight
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .look(&context, Instant::now());
        match may_own {
            MayOwn::Yes => {}
            MayOwn::NoMore => {
                tracing::warn!("no lane could be used for a while: all are left to others");
                context.ledger.release_lanes(context.gateway).await?;
                sight.lock().unwrap_or_else(PoisonError::into_inner).gave_up = true;
                return Ok(false);
            }
            MayOwn::No => return Ok(false),
        }
        let away = away(&context.flash);
        if !away.is_empty() {
            for lane in context.ledger.leave_lanes(context.gateway, &away).await? {
                tracing::warn!(%lane, "a lane is left to others, who reach it");
            }
        }
        for lane in context.ledger.claim_lanes(context.gateway, all, &away).await? {
            tracing::info!(%lane, "serves a lane");
        }
        let rows = context.ledger.lanes().await?;
        let mut lanes = lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|_, task| !task.is_finished());
        for row in rows.iter().filter(|row| row.owner == Some(context.gateway)) {
            lanes
                .entry(row.lane)
                .or_insert_with(|| tokio::spawn(serve(context.clone(), together.clone(), row.lane)));
        }
        Ok(false)
    })
    .await;
    for task in lanes.into_inner().unwrap_or_else(PoisonError::into_inner).into_values() {
        // A task that panicked serves no lane either.
        task.await.ok();
    }
    if let Err(error) = context.ledger.release_lanes(context.gateway).await {
        tracing::warn!(%error, "lanes could not be given back; others take them over in seconds");
    }
    together.close().await;
}

/// The lanes that have not answered for too long.
fn away(flash: &Flash) -> Vec<LaneNo> {
    let lanes = flash.lane_numbers();
    lanes.filter(|lane| flash.away_for(*lane) >= BLIND_MAX).collect()
}

/// Whether this process sees any lane that it could serve.
#[derive(Default)]
struct Sight {
    blind_since: Option<Instant>,
    gave_up: bool,
}

enum MayOwn {
    Yes,
    /// It has just come to this; what it owns is to be given up.
    NoMore,
    No,
}

impl Sight {
    fn look(&mut self, context: &Context, now: Instant) -> MayOwn {
        let flash = &context.flash;
        if flash.lane_numbers().any(|lane| flash.health(lane) != Health::Suspect) {
            *self = Sight::default();
            return MayOwn::Yes;
        }
        let since = *self.blind_since.get_or_insert(now);
        if now - since < BLIND_MAX {
            return MayOwn::Yes;
        }
        match self.gave_up {
            false => MayOwn::NoMore,
            true => MayOwn::No,
        }
    }
}

/// Serves one lane until it is another's, or stopped.
async fn serve(context: Context, together: Together, lane: LaneNo) {
    while !context.stop.is_cancelled() {
        let outcome = tokio::select! {
            outcome = serve_epoch(&context, &together, lane) => outcome,
            () = context.stop.cancelled() => return,
        };
        match outcome {
            Ok(()) => {}
            Err(WriterError::NotOwner) => match context.ledger.lane(lane).await {
                Ok(row) if row.owner != Some(context.gateway) => {
                    tracing::info!(%lane, "a lane is another's now");
                    tell_age(lane, 0.0);
                    return;
                }
                _ => {}
            },
            Err(error) => tracing::warn!(%lane, %error, "a lane's owner starts over"),
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY_AFTER) => {}
            () = context.stop.cancelled() => return,
        }
    }
}

/// Serves a lane at its present epoch, until something about it changes.
async fn serve_epoch(context: &Context, together: &Together, lane: LaneNo) -> Result<(), WriterError> {
    let Ok(epoch) = context.flash.open_epoch(lane, Duration::from_secs(1)).await else {
        return Ok(());
    };
    let row = context.ledger.lane(lane).await?;
    if row.owner != Some(context.gateway) {
        return Err(WriterError::NotOwner);
    }
    if row.epoch != epoch || !row.open {
        context.flash.suspect_lane(lane, epoch);
        return Ok(());
    }
    let mut writer = Writer::new(context, together, lane, row.cursor);
    let mut granter = Granter::new(context, lane, row.cursor).await?;
    let ended = tokio::select! {
        ended = writer.run() => ended,
        ended = granter.run() => ended,
    };
    writer.close();
    ended
}
