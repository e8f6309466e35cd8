//! Owning lanes: claims those that nobody serves, and runs a writer and a granter for each.
//!
//! Claiming is only a division of labour. What keeps two owners from harming each other is the compare-and-set on the
//! lane's cursor in every transaction of either.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::granter::Granter;
use super::writer::{Writer, WriterError};
use super::{Context, repeat};
use crate::domain::lane::LaneNo;
use crate::ledger::LedgerError;

const CLAIM_EVERY: Duration = Duration::from_millis(500);
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// Claims and serves lanes until stopped, then gives them back.
pub(crate) async fn run(context: Context) {
    let lanes: Mutex<HashMap<LaneNo, JoinHandle<()>>> = Mutex::default();
    let all = context.flash.lane_numbers().count();
    repeat::<LedgerError, _>(&context, "owner", CLAIM_EVERY, async || {
        for lane in context.ledger.claim_lanes(context.gateway, all).await? {
            tracing::info!(%lane, "serves a lane");
        }
        let rows = context.ledger.lanes().await?;
        let mut lanes = lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|_, task| !task.is_finished());
        for row in rows.iter().filter(|row| row.owner == Some(context.gateway)) {
            lanes
                .entry(row.lane)
                .or_insert_with(|| tokio::spawn(serve(context.clone(), row.lane)));
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
}

/// Serves one lane until it is another's, or stopped.
async fn serve(context: Context, lane: LaneNo) {
    while !context.stop.is_cancelled() {
        let outcome = tokio::select! {
            outcome = serve_epoch(&context, lane) => outcome,
            () = context.stop.cancelled() => return,
        };
        match outcome {
            Ok(()) => {}
            Err(WriterError::NotOwner) => match context.ledger.lane(lane).await {
                Ok(row) if row.owner != Some(context.gateway) => {
                    tracing::info!(%lane, "a lane is another's now");
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
async fn serve_epoch(context: &Context, lane: LaneNo) -> Result<(), WriterError> {
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
    let mut writer = Writer::new(context, lane, row.cursor);
    let mut granter = Granter::new(context, lane, row.cursor).await?;
    let ended = tokio::select! {
        ended = writer.run() => ended,
        ended = granter.run() => ended,
    };
    writer.close().await;
    ended
}
