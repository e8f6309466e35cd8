//! Ends transactions that were left open and keep ours waiting, and tells of those that it may not end, and of snapshots
//! that are old.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::{Context, repeat};
use crate::ledger::holders::{Session, Snapshot};
use crate::ledger::{LedgerError, Pace};
use crate::metric;

/// Between two looks. Together with the usual patience it is half of what a client waits for an ending.
const EVERY: Duration = Duration::from_millis(500);
/// Between two looks at snapshots: several within what a scrape covers.
const SNAPSHOTS_EVERY: Duration = Duration::from_secs(5);
/// From this age on the log says whose a snapshot is.
const OLD: Duration = Duration::from_secs(60);

/// Those of whom was told, by process and by when their transaction began.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<HashSet<(i32, Option<DateTime<Utc>>)>>);

/// Looks until stopped.
pub(crate) async fn run(context: Context) {
    // Of its own: the others may all wait for whoever is looked for.
    let context = context.apart(1, Pace::Waited);
    let (locks, kept) = (Told::default(), Mutex::new(Kept::default()));
    tokio::join!(
        repeat(&context, "holders", EVERY, async || {
            look_at_locks(&context, &locks).await.map(|()| false)
        }),
        repeat(&context, "snapshots", SNAPSHOTS_EVERY, async || {
            look_at_snapshots(&context, &kept).await.map(|()| false)
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
        let Session {
            pid,
            role,
            application,
            client,
            query,
            ..
        } = &holder.session;
        tracing::warn!(
            pid,
            role,
            application,
            client,
            query,
            waited_ms = holder.waited_ms,
            outcome,
            "a session of Postgres keeps locks that ours wait for"
        );
    }
    told.set(&left);
    Ok(())
}

async fn look_at_snapshots(context: &Context, kept: &Mutex<Kept>) -> Result<(), LedgerError> {
    let snapshots = context.ledger.snapshots().await?;
    let (oldest, old) = kept
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .look(snapshots, Instant::now());
    metrics::gauge!(metric::OLDEST_SNAPSHOT_SECONDS).set(oldest.as_secs_f64());
    for session in old {
        let Session {
            pid,
            role,
            application,
            client,
            query,
            ..
        } = &session;
        tracing::warn!(
            pid,
            role,
            application,
            client,
            query,
            "a session of Postgres keeps an old snapshot: hot items sell slower until it ends"
        );
    }
    Ok(())
}

/// Snapshots that are kept, by session and horizon: since when they are seen, and whether they were told of. How long their
/// transactions last tells too much, for one of many statements may take as many snapshots, and ours may not see it of others.
#[derive(Debug, Default)]
struct Kept(HashMap<(i32, String), (Instant, bool)>);

impl Kept {
    /// For how long the oldest of these has been seen, and who keeps an old one of which was not told yet.
    fn look(&mut self, snapshots: Vec<Snapshot>, now: Instant) -> (Duration, Vec<Session>) {
        let (mut kept, mut oldest, mut old) = (HashMap::new(), Duration::ZERO, Vec::new());
        for Snapshot { session, horizon } in snapshots {
            let name = (session.pid, horizon);
            let (since, was_told) = self.0.get(&name).copied().unwrap_or((now, false));
            let age = now - since;
            oldest = oldest.max(age);
            kept.insert(name, (since, age >= OLD));
            if age >= OLD && !was_told {
                old.push(session);
            }
        }
        self.0 = kept;
        (oldest, old)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(pid: i32, horizon: &str) -> Snapshot {
        let session = Session {
            pid,
            role: None,
            application: None,
            client: None,
            query: None,
            began: None,
        };
        Snapshot {
            session,
            horizon: horizon.to_owned(),
        }
    }

    #[test]
    fn a_snapshot_is_as_old_as_its_horizon_is_the_same_and_told_of_once() {
        let (mut kept, start) = (Kept::default(), Instant::now());
        let mut look = |s: u64, snapshots: &[(i32, &str)]| {
            let snapshots = snapshots.iter().map(|(pid, horizon)| snapshot(*pid, horizon)).collect();
            let (oldest, old) = kept.look(snapshots, start + Duration::from_secs(s));
            (
                oldest.as_secs(),
                old.iter().map(|session| session.pid).collect::<Vec<_>>(),
            )
        };
        assert_eq!(look(0, &[(1, "7"), (2, "7")]), (0, vec![]));
        // The second takes another with each statement.
        assert_eq!(look(59, &[(1, "7"), (2, "8")]), (59, vec![]));
        assert_eq!(look(60, &[(1, "7"), (2, "9"), (3, "9")]), (60, vec![1]));
        // Two that are old are told of once each, whichever is the older.
        assert_eq!(look(125, &[(3, "9"), (1, "7")]), (125, vec![3]));
        assert_eq!(look(130, &[(3, "9")]), (70, vec![]));
        assert_eq!(look(131, &[(1, "7")]), (0, vec![]));
    }
}
