//! Ends transactions that were left open and keep ours waiting, and tells of those that it may not end.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Context, repeat};
use crate::ledger::{LedgerError, Pace};
use crate::metric;

/// Between two looks. Together with the usual patience it is half of what a client waits for an ending.
const EVERY: Duration = Duration::from_millis(500);

/// Those of whom was told, by process and by when their transaction began.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<HashSet<(i32, Option<DateTime<Utc>>)>>);

/// Looks until stopped.
pub(crate) async fn run(context: Context) {
    // Of its own: the others may all wait for whoever is looked for.
    let context = context.apart(1, Pace::Waited);
    let told = Told::default();
    repeat(&context, "holders", EVERY, async || {
        run_once(&context, &told).await.map(|()| false)
    })
    .await;
    context.ledger.close().await;
}

/// One look.
async fn run_once(context: &Context, told: &Told) -> Result<(), LedgerError> {
    let mut present = HashSet::new();
    for holder in context.ledger.holders().await? {
        let outcome = if holder.may_end {
            // Else it goes on, or another gateway was faster.
            if !context.ledger.end_holder(&holder).await? {
                continue;
            }
            "ended"
        } else {
            let it = (holder.pid, holder.began);
            present.insert(it);
            if told.lock().contains(&it) {
                continue;
            }
            "left"
        };
        metrics::counter!(metric::LOCK_HOLDERS, "outcome" => outcome).increment(1);
        tracing::warn!(
            pid = holder.pid,
            role = holder.role.as_deref().unwrap_or_default(),
            application = holder.application.as_deref().unwrap_or_default(),
            client = holder.client.as_deref().unwrap_or_default(),
            query = holder.query.as_deref().unwrap_or_default(),
            waited_ms = holder.waited_ms,
            outcome,
            "a session of Postgres keeps locks that ours wait for"
        );
    }
    *told.lock() = present;
    Ok(())
}

impl Told {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<(i32, Option<DateTime<Utc>>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
