//! The fallback's watch: puts lanes aside that nobody can ask, and notices when that begins and ends.
//!
//! It judges by what gateways say of Redis, which may be wrong or late; that costs availability, never units: who may
//! decide is the lane's epoch in the ledger, and nothing here touches it but `fall_back`, under the recovery's lock.

use std::time::Duration;

use super::{Context, repeat};
use crate::domain::lane::LaneNo;
use crate::flash::Health;
use crate::ledger::LedgerError;
use crate::ledger::fallback::SILENT_MS;
use crate::metric;

const EVERY: Duration = Duration::from_millis(500);
/// A lane that has not answered for so long is away: a restart of Redis takes less, and a recovery is cheaper than two.
const AWAY_AFTER: Duration = Duration::from_secs(1);

/// Watches until stopped.
pub(crate) async fn run(context: Context) {
    repeat::<LedgerError, _>(&context, "fallback", EVERY, async || {
        run_once(&context).await.map(|()| false)
    })
    .await;
}

/// Looks once.
///
/// # Errors
/// Postgres can't be asked; then nothing can fall back on it either.
pub async fn run_once(context: &Context) -> Result<(), LedgerError> {
    let flash = &context.flash;
    let rows = context.ledger.lanes().await?;
    for row in &rows {
        flash.set_aside(row.lane, row.fallback);
        // Whoever raised the epoch has shut us out: what Redis still accepts from us would not become durable.
        if let Health::Open(epoch) = flash.health(row.lane)
            && epoch < row.epoch
        {
            flash.suspect_lane(row.lane, epoch);
        }
    }
    let mut aside = rows.iter().filter(|row| row.fallback).count();
    let away: Vec<LaneNo> = rows
        .iter()
        .filter(|row| !row.fallback && flash.away_for(row.lane) >= AWAY_AFTER)
        .map(|row| row.lane)
        .collect();
    if !away.is_empty() {
        let fallen = context.ledger.fall_back(&away, context.gateway, SILENT_MS).await?;
        for lane in &fallen {
            tracing::warn!(%lane, "redis is away: the ledger decides for a lane");
            metrics::counter!(metric::FALLBACKS).increment(1);
            flash.set_aside(*lane, true);
            if let Health::Open(epoch) = flash.health(*lane) {
                flash.suspect_lane(*lane, epoch);
            }
        }
        aside += fallen.len();
    }
    context.health.change(|state| {
        state.lanes_fallback = u16::try_from(aside).unwrap_or(u16::MAX);
    });
    Ok(())
}
