//! How far the ledger is settled: up to which id no event can show up any more.
//!
//! Ids are drawn before their transactions commit, so one may show up below another that was there before it. But a
//! transaction has changed a balance, so has its number, before it draws an id. Where an event is seen, everyone who
//! drew a lower id had a number by then: below one that is drawn now. (Not below `xmax` of the look, which is only the
//! last number that has *ended*, and one.) When all those transactions have ended, which `xmin` of a later look tells,
//! whatever they wrote is there. That takes neither a lock nor a column, but it takes a number, so it is asked for only
//! where there is something new.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sqlx::PgConnection;

use crate::ledger::{Ledger, LedgerError};

/// Between two looks at the transactions under way.
const LOOK_EVERY: Duration = Duration::from_millis(3);
/// Longest wait for them. Behind one that takes longer, a page ends at what was settled before.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The newest event that can be seen.
#[derive(Clone, Debug)]
pub(super) struct Newest {
    /// Its id; 0: there is none.
    pub(super) id: i64,
}

pub(super) async fn newest(connection: &mut PgConnection) -> Result<Newest, LedgerError> {
    let id = sqlx::query_scalar(
        "-- events.newest: whole days, so that no day is searched for what is younger than a part of it
         SELECT coalesce(
                 (SELECT max(event_id) FROM inventory_event
                  WHERE created_at >= date_trunc('day', now(), 'UTC') - interval '1 day'),
                 (SELECT max(event_id) FROM inventory_event), 0)",
    )
    .fetch_one(connection)
    .await?;
    Ok(Newest { id })
}

impl Ledger {
    /// What was settled when this process last waited for it; never more than there is, should Postgres have fallen back.
    pub(super) fn settled_before(&self, newest: &Newest) -> i64 {
        self.settled_id.load(Ordering::Relaxed).min(newest.id)
    }

    /// Waits until everything up to `newest` is settled; returns up to where it is.
    pub(super) async fn settle_events(
        &self,
        connection: &mut PgConnection,
        newest: &Newest,
    ) -> Result<i64, LedgerError> {
        if newest.id <= self.settled_before(newest) {
            return Ok(newest.id);
        }
        let deadline = Instant::now() + WAIT_MAX;
        let (mark, mut is_settled): (String, bool) = sqlx::query_as(
            "-- events.mark: a number that is greater than that of everyone who has drawn an id
             SELECT pg_current_xact_id()::text, pg_snapshot_xmin(pg_current_snapshot()) >= pg_current_xact_id()",
        )
        .fetch_one(&mut *connection)
        .await?;
        while !is_settled {
            if Instant::now() >= deadline {
                let known = self.settled_before(newest);
                tracing::warn!(
                    newest = newest.id,
                    known,
                    "a long transaction holds back the newest events"
                );
                return Ok(known);
            }
            tokio::time::sleep(LOOK_EVERY).await;
            is_settled =
                sqlx::query_scalar("-- events.is_settled\nSELECT pg_snapshot_xmin(pg_current_snapshot()) >= $1::xid8")
                    .bind(&mark)
                    .fetch_one(&mut *connection)
                    .await?;
        }
        self.settled_id.fetch_max(newest.id, Ordering::Relaxed);
        Ok(newest.id)
    }
}
