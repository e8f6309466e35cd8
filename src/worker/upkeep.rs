//! Upkeep: partitions ahead of time, ended days to the cold tier, old keys away, approvals that nobody gave ended; and
//! now and then a comparison.

use std::time::Duration;

use super::reconcile::reconcile;
use super::{Context, repeat};
use crate::ledger::LedgerError;

const EVERY: Duration = Duration::from_secs(60);
/// Between two comparisons of the halves.
const COMPARE_EVERY: Duration = Duration::from_secs(300);

/// Compares Redis with the ledger from time to time, until stopped; what differs is counted and logged, and `reconcile
/// --repair` is for an operator to run.
pub(crate) async fn compare(context: Context) {
    while context
        .stop
        .run_until_cancelled(tokio::time::sleep(COMPARE_EVERY))
        .await
        .is_some()
    {
        let (ledger, flash) = (context.ledger.clone(), context.flash.clone());
        let here = tokio::runtime::Handle::current();
        // On a thread of its own: it may take long, and its future can't move between threads.
        let compared = tokio::task::spawn_blocking(move || here.block_on(reconcile(&ledger, &flash, false, "compare")));
        match compared.await {
            Ok(Ok(report)) => {
                for difference in &report.drift {
                    tracing::error!(%difference, "redis and the ledger differ");
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "redis and the ledger could not be compared"),
            Err(error) => tracing::error!(%error, "the comparison broke off"),
        }
    }
}

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
