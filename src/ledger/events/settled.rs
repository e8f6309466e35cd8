//! How far the ledger is settled: up to which id no event can show up any more.
//!
//! Ids are drawn before their transactions commit, so one may show up below another that was there before it. But a
//! transaction has changed a balance, so has its number, before it draws an id. Where an event is seen, everyone who
//! drew a lower id had a number by then: below one that is drawn now. (Not below `xmax` of the look, which is only the
//! last number that has *ended*, and one.) When all those transactions have ended, which `xmin` of a later look tells,
//! whatever they wrote is there. That takes neither a lock nor a column, but it takes a number, so it is asked for only
//! where there is something new.
//!
//! A standby can't tell: it draws no numbers, and who has one without having ended is not in its looks. So the primary
//! settles, and says how far its log was written by then. A standby that has replayed the log up to there has every
//! event that is settled.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::Cursor;
use crate::ledger::connection::Connection;
use crate::ledger::{Ledger, LedgerError};

/// Between two looks at the transactions under way.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(3);
/// Longest wait for them. Behind one that takes longer, a page ends at what was settled before.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// How far it is settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::ledger) struct Settled {
    /// The last event up to which it is; none: nothing is known.
    pub(super) end: Option<Cursor>,
    /// Who has replayed the log up to here has all of it (a `pg_lsn`).
    lsn: String,
}

impl Settled {
    /// The id of its end; 0: nothing is known.
    pub(super) fn id(&self) -> i64 {
        self.end.map_or(0, |end| end.id)
    }

    /// Whether a standby has everything up to here. None: this is no standby.
    pub(super) async fn is_at(&self, standby: &mut Connection) -> Result<Option<bool>, LedgerError> {
        Ok(sqlx::query_scalar(
            "-- events.is_replayed
             SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() >= $1::pg_lsn END",
        )
        .bind(&self.lsn)
        .fetch_one(standby)
        .await?)
    }
}

impl Ledger {
    /// What this process knows to be settled.
    pub(super) fn settled(&self) -> Settled {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until all that is there is settled, at the primary; returns up to where it is.
    pub(super) async fn settle_events(&self, primary: &mut Connection) -> Result<Settled, LedgerError> {
        // Read before the newest event, so it is never later than that, unless Postgres fell back.
        let mut known = self.settled();
        let newest = newest(primary).await?;
        if known.id() > newest.map_or(0, |newest| newest.id) {
            known = Settled::default();
            *self.settled.lock().unwrap_or_else(PoisonError::into_inner) = Settled::default();
        }
        if known.end == newest {
            return Ok(known);
        }
        let Some(lsn) = all_ended(primary, WAIT_MAX).await? else {
            tracing::warn!(
                newest = newest.map(|newest| newest.id),
                known = known.id(),
                "a long transaction holds back the newest events"
            );
            return Ok(known);
        };
        let settled = Settled { end: newest, lsn };
        let mut last = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        if last.id() < settled.id() {
            *last = settled.clone();
        }
        Ok(settled)
    }
}

/// The newest event that can be seen.
async fn newest(connection: &mut Connection) -> Result<Option<Cursor>, LedgerError> {
    let newest: Option<(i64, DateTime<Utc>)> = sqlx::query_as(
        "-- events.newest: whole days, so that no day is searched for what is younger than a part of it
         SELECT event_id, created_at FROM (
             (SELECT event_id, created_at FROM inventory_movement
              WHERE created_at >= date_trunc('day', now(), 'UTC') - interval '1 day' ORDER BY event_id DESC LIMIT 1)
             UNION ALL
             (SELECT event_id, created_at FROM inventory_movement ORDER BY event_id DESC LIMIT 1)) AS e LIMIT 1",
    )
    .fetch_optional(connection)
    .await?;
    Ok(newest.map(|(id, at)| Cursor { id, at: at.into() }))
}

/// Waits until every transaction that has a number by now has ended. Returns how far the log was written by then; none
/// where one takes longer.
pub(in crate::ledger) async fn all_ended(
    primary: &mut Connection,
    wait_max: Duration,
) -> Result<Option<String>, LedgerError> {
    let deadline = Instant::now() + wait_max;
    let (mark, mut is_over, mut lsn): (String, bool, String) = sqlx::query_as(
        "-- events.mark: a number that is greater than that of everyone who has drawn an id; who has ended has written
         -- that to the log before, and the place in it is read after
         SELECT pg_current_xact_id()::text, pg_snapshot_xmin(pg_current_snapshot()) >= pg_current_xact_id(),
             pg_current_wal_insert_lsn()::text",
    )
    .fetch_one(&mut *primary)
    .await?;
    while !is_over {
        if Instant::now() >= deadline {
            return Ok(None);
        }
        tokio::time::sleep(LOOK_EVERY).await;
        (is_over, lsn) = sqlx::query_as(
            "-- events.is_settled
             SELECT pg_snapshot_xmin(pg_current_snapshot()) >= $1::xid8, pg_current_wal_insert_lsn()::text",
        )
        .bind(&mark)
        .fetch_one(&mut *primary)
        .await?;
    }
    Ok(Some(lsn))
}
