//! Ends transactions that were left open and keep ours waiting, and tells of those that it may not end, and of snapshots
//! that are old.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Context, repeat};
use crate::ledger::holders::Session;
use crate::ledger::{LedgerError, Pace};
use crate::metric;

/// Between two looks. Together with the usual patience it is half of what a client waits for an ending.
const EVERY: Duration = Duration::from_millis(500);
/// Between two looks at snapshots: several within what a scrape covers.
const SNAPSHOTS_EVERY: Duration = Duration::from_secs(5);
/// From this age on, in seconds, the log says whose a snapshot is. Of ours only audits and the daily comparison of balances
/// last as long.
const OLD_S: f64 = 60.0;

/// Those of whom was told, by process and by when their transaction began.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<HashSet<(i32, Option<DateTime<Utc>>)>>);

/// Looks until stopped.
pub(crate) async fn run(context: Context) {
    // Of its own: the others may all wait for whoever is looked for.
    let context = context.apart(1, Pace::Waited);
    let (locks, old) = (Told::default(), Told::default());
    tokio::join!(
        repeat(&context, "holders", EVERY, async || {
            look_at_locks(&context, &locks).await.map(|()| false)
        }),
        repeat(&context, "snapshots", SNAPSHOTS_EVERY, async || {
            look_at_snapshots(&context, &old).await.map(|()| false)
        }),
    );
    context.ledger.close().await;
}

async fn look_at_locks(context: &Context, told: &Told) -> Result<(), LedgerError> {
    let mut left = Vec::new();
    for holder in context.ledger.holders().await? {
        let outcome = if holder.may_end {
            // Else it goes on, or another gateway was faster.
            if !context.ledger.end_holder(&holder).await? {
                continue;
            }
            "ended"
        } else {
            left.push(holder.session.clone());
            if told.knows(&holder.session) {
                continue;
            }
            "left"
        };
        metrics::counter!(metric::LOCK_HOLDERS, "outcome" => outcome).increment(1);
        let session = &holder.session;
        tracing::warn!(%session, waited_ms = holder.waited_ms, outcome, "a session of Postgres keeps locks that ours wait for");
    }
    told.set(&left);
    Ok(())
}

async fn look_at_snapshots(context: &Context, told: &Told) -> Result<(), LedgerError> {
    let oldest = context.ledger.oldest_snapshot().await?;
    let age_s = oldest.as_ref().map_or(0.0, |oldest| oldest.age_s);
    metrics::gauge!(metric::OLDEST_SNAPSHOT_SECONDS).set(age_s);
    let Some(old) = oldest.filter(|oldest| oldest.age_s >= OLD_S) else {
        return Ok(());
    };
    if !told.knows(&old.session) {
        let session = &old.session;
        tracing::warn!(%session, age_s, "a session of Postgres keeps an old snapshot: hot items sell slower until it ends");
        told.set(&[old.session]);
    }
    Ok(())
}

impl Told {
    fn knows(&self, session: &Session) -> bool {
        self.lock().contains(&(session.pid, session.began))
    }

    fn set(&self, present: &[Session]) {
        *self.lock() = present.iter().map(|session| (session.pid, session.began)).collect();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<(i32, Option<DateTime<Utc>>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
