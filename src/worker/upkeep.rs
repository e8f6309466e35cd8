//! Upkeep: partitions ahead of time, ended days to the cold tier, old keys away, and approvals that nobody gave ended.

use std::time::Duration;

use super::{Context, repeat};
use crate::ledger::LedgerError;

const EVERY: Duration = Duration::from_secs(60);

/// Keeps up until stopped.
pub(crate) async fn run(context: Context) {
    repeat(&context, "upkeep", EVERY, async || {
        run_once(&context).await.map(|()| false)
    })
    .await;
}

/// One round.
///
/// # Errors
/// Postgres can't be asked.
pub async fn run_once(context: &Context) -> Result<(), LedgerError> {
    let now = context.ledger.now().await?;
    let upkeep = context.ledger.upkeep(now).await?;
    let expired = context.ledger.expire_approvals().await?;
    tracing::debug!(?upkeep, expired, "upkeep");
    Ok(())
}
