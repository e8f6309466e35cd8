//! Expiry: ends reservations whose time is over, a thousand at a time.

use std::time::Duration;

use super::{Context, repeat};
use crate::ledger::{LedgerError, Pace};
use crate::metric;

/// Well within the second by which an expiry may be late.
const EVERY: Duration = Duration::from_millis(250);
/// Reservations per transaction.
const STEP: i64 = 1_000;

/// Expires until stopped, over a connection of its own: where the planner knows of no rows yet, as when a day has just
/// begun, it would scan all of them for each step.
pub(crate) async fn run(context: Context) {
    let context = context.apart(1, Pace::Usual);
    repeat(&context, "expiry", EVERY, async || run_once(&context).await).await;
    context.ledger.close().await;
}

/// Expires one step; true when more are due.
///
/// # Errors
/// Postgres can't be asked.
pub async fn run_once(context: &Context) -> Result<bool, LedgerError> {
    let run = context.ledger.expire_due(STEP).await?;
    metrics::counter!(metric::EXPIRED).increment(u64::try_from(run.expired).unwrap_or(0));
    metrics::gauge!(metric::EXPIRY_BACKLOG).set(if run.backlog { 1.0 } else { 0.0 });
    for lane in run.grants_for {
        context.flash.nudge_grants(lane);
    }
    Ok(run.backlog)
}
