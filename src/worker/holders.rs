//! Ends transactions that were left open and keep ours waiting, and tells of those that it may not end.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Context, repeat};
use crate::ledger::LedgerError;
use crate::metric;

/// Between two looks.
const EVERY: Duration = Duration::from_millis(500);
/// How long ours wait for whoever does nothing. With the time between two looks it is well below what a client waits for
/// an ending, and far above what a transaction of ours needs.
const PATIENCE: Duration = Duration::from_secs(2);

/// Those of whom was told, by process and by when they began with what they do.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<HashSet<(i32, Option<DateTime<Utc>>)>>);

/// Looks until stopped.
pub(crate) async fn run(context: Context) {
    let told = Told::default();
    repeat(&context, "holders of locks", EVERY, async || {
        run_once(&context, &told).await.map(|()| false)
    })
    .await;
}

/// One look.
async fn run_once(context: &Context, told: &Told) -> Result<(), LedgerError> {
    let mut present = HashSet::new();
    for holder in context.ledger.holders(PATIENCE).await? {
        let (pid, waited_ms) = (holder.pid, holder.waited_ms);
        let role = holder.role.as_deref().unwrap_or_default();
        let application = holder.application.as_deref().unwrap_or_default();
        let client = holder.client.as_deref().unwrap_or_default();
        let query = holder.query.as_deref().unwrap_or_default();
        if holder.may_end && context.ledger.end_holder(&holder).await? {
            metrics::counter!(metric::LOCK_HOLDERS, "outcome" => "ended").increment(1);
            tracing::warn!(
                pid,
                role,
                application,
                client,
                query,
                waited_ms,
                "a transaction that was left open kept ours waiting; it was ended"
            );
            continue;
        }
        let it = (pid, holder.state_since);
        present.insert(it);
        if !told.lock().contains(&it) {
            metrics::counter!(metric::LOCK_HOLDERS, "outcome" => "left").increment(1);
            tracing::warn!(
                pid,
                role,
                application,
                client,
                query,
                waited_ms,
                "somebody keeps locks that ours wait for; who may should end it"
            );
        }
    }
    *told.lock() = present;
    Ok(())
}

impl Told {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<(i32, Option<DateTime<Utc>>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
