//! The read model's feed: four times a second the snapshot follows the ledger, and who has become low is told.

use std::time::Duration;

use super::{Context, repeat};
use crate::ledger::LedgerError;
use crate::ledger::read_model::follow::Followed;
use crate::ledger::read_model::low_stock::LowStock;
use crate::metric;

/// Between two runs.
const EVERY: Duration = Duration::from_millis(250);

/// Follows until stopped.
pub(crate) async fn run(context: Context) {
    repeat(&context, "read_model", EVERY, async || {
        let followed = run_once(&context).await;
        // Also where another process follows, or nobody can: that is when it matters.
        if let Some(age_ms) = context.ledger.snapshot_age_ms().await? {
            metrics::gauge!(metric::READ_MODEL_AGE_SECONDS).set(age_ms / 1000.0);
        }
        followed
    })
    .await;
}

/// One run; returns whether there is more to catch up with.
///
/// # Errors
/// Postgres can't be asked.
pub async fn run_once(context: &Context) -> Result<bool, LedgerError> {
    match context.ledger.follow().await? {
        Followed::Elsewhere => Ok(false),
        Followed::Rebuilt { balances, low } => {
            tracing::info!(balances, "the snapshot was made anew");
            tell(&low);
            Ok(true)
        }
        Followed::Done { balances, low, more } => {
            tracing::debug!(balances, "the snapshot has followed");
            tell(&low);
            Ok(more)
        }
    }
}

fn tell(low: &[LowStock]) {
    for alert in low {
        metrics::counter!(metric::LOW_STOCK_ALERTS).increment(1);
        tracing::warn!(alert = alert.alert_id, sku = %alert.sku, available = alert.available, threshold = alert.threshold,
            "stock is low");
    }
}
