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
    repeat(&context, "read model", EVERY, async || run_once(&context).await).await;
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
        Followed::Done {
            balances,
            low,
            as_of,
            more,
        } => {
            tracing::debug!(balances, %as_of, "the snapshot has followed");
            tell(&low);
            if let Some(now) = context.clock.now() {
                let age = Duration::from_millis(u64::try_from(now.0 - as_of.0).unwrap_or(0));
                metrics::gauge!(metric::READ_MODEL_AGE_SECONDS).set(age.as_secs_f64());
            }
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
