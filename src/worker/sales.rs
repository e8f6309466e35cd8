//! The sales' clock: starts and ends those that are due, freezes those with an alarm, finishes stops, and counts
//! refusals.

use std::time::Duration;

use super::drift::tell_frozen;
use super::{Context, repeat};
use crate::domain::lane::LaneNo;
use crate::ledger::sale_figures::Refusals;
use crate::ledger::{LedgerError, OfOneSale};

/// Between two looks, where nothing is due before.
const EVERY: Duration = Duration::from_millis(200);
/// Between two looks around the instant at which a sale is due.
const SHORTEST: Duration = Duration::from_millis(5);
const COUNT_EVERY: Duration = Duration::from_millis(500);

/// Runs the clock until stopped.
pub(crate) async fn run(context: Context) {
    repeat::<LedgerError, _>(&context, "sales", SHORTEST, async || {
        let pause = run_once(&context).await?;
        tokio::time::sleep(pause.saturating_sub(SHORTEST)).await;
        Ok(false)
    })
    .await;
}

/// One tick: what is due starts or ends, what oversold is frozen, and stops that are under way go on; a sale for which
/// that fails keeps no other from it. Returns when the next is due.
///
/// # Errors
/// Postgres can't be asked.
pub async fn run_once(context: &Context) -> Result<Duration, LedgerError> {
    let due = context.ledger.due_sales().await?;
    for acted in &due.acted {
        tracing::info!(sale = %acted.sale.id, state = acted.sale.state.as_str(), operator = "clock", "a sale's time has come");
        nudge(context, &acted.sale.lanes);
    }
    tell_frozen(context, &context.ledger.heed_alarms().await?);
    for sale_no in context.ledger.draining().await? {
        let drained = context.ledger.finish_drain(sale_no).await;
        drained.of_one_sale(sale_no, "drain")?;
    }
    nudge(context, &context.ledger.regrant_recalled().await?);
    let until_next = due
        .next
        .zip(context.clock.now())
        .map(|(next, now)| (next.0 - now.0).max(0));
    Ok(until_next
        .and_then(|ms| u64::try_from(ms).ok())
        .map_or(EVERY, |ms| Duration::from_millis(ms).min(EVERY)))
}

fn nudge(context: &Context, lanes: &[LaneNo]) {
    for lane in lanes {
        context.flash.nudge_grants(*lane);
    }
}

/// Stores the refusals that this process counted, until stopped.
pub(crate) async fn count_refusals(context: Context) {
    repeat::<LedgerError, _>(&context, "refusals", COUNT_EVERY, async || {
        let mut failed = Ok(false);
        for (sale_no, refused) in context.flash.take_refusals() {
            let more = Refusals {
                stock: refused.stock,
                limit: refused.limit,
                rate: refused.rate,
            };
            // All were taken, so each is stored or given back.
            if let Err(error) = context.ledger.count_refusals(sale_no, more).await {
                context.flash.return_refusals(sale_no, refused);
                failed = Err(error);
            }
        }
        failed
    })
    .await;
}
