//! Sessions of Postgres that stand in the ledger's way: whoever keeps locks that its statements wait for, and whoever has
//! kept a snapshot for long.
//!
//! A batch waits for the rows of all that are in it. So a session by hand that was left open over one balance, or a
//! gateway that was stopped midway, would hold up every batch that meets that row, with whatever else is in it. What such a
//! transaction has written so far, nobody has been promised: to end it loses nothing but its author's work.
//!
//! A snapshot stops nobody, but while it is kept Postgres cleans up no version of a row that it may still see, and whoever
//! changes a hot balance walks past all of them. Whose it is, and what it is worth (a dump, a report), we can't know, so
//! it is told of and left alone.

use chrono::{DateTime, Utc};

use super::{Ledger, LedgerError};

/// A session of Postgres, as far as our role may see it.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Session {
    /// Of its process; 0: a prepared transaction, which has none.
    pub pid: i32,
    /// Its role.
    pub role: Option<String>,
    /// What it calls itself.
    pub application: Option<String>,
    /// Where it comes from; none: a Unix socket.
    pub client: Option<String>,
    /// What it does, or did last.
    pub query: Option<String>,
    /// When its transaction began.
    pub began: Option<DateTime<Utc>>,
}

/// A session that keeps a lock for which one of ours has waited for long.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Holder {
    /// Whose lock it is.
    #[sqlx(flatten)]
    pub session: Session,
    /// When it began to do what it does, as far as our role may see it.
    pub state_since: Option<DateTime<Utc>>,
    /// For how long ours has waited, in ms.
    pub waited_ms: i64,
    /// It has our role, and has done nothing for so long: it may be ended.
    pub may_end: bool,
}

/// A session that keeps a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Snapshot {
    /// Whose it is.
    #[sqlx(flatten)]
    pub session: Session,
    /// The transaction from which on nothing is cleaned up for it. As long as a session has the same, its snapshot may be
    /// the same.
    pub horizon: String,
}

impl Ledger {
    /// Who has kept ours waiting for longer than we are patient, or keeps them waiting and has done nothing for so long:
    /// some waits of ours are short, and begin again. Ours that are at work are not told of.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn holders(&self) -> Result<Vec<Holder>, LedgerError> {
        // Locks that are advisory belong to duties which take as long as they take. Who blocks whom is asked for few
        // that wait, the longest first, since the answer stops the lock manager for a moment. Whoever waits is kept by
        // somebody else, up to one who does not.
        let holders = sqlx::query_as(
            "-- lock.holders
             WITH RECURSIVE session AS MATERIALIZED (
                 SELECT *, state LIKE 'idle in transaction%' AND usename = current_user
                     AND state_change < clock_timestamp() - $1 * interval '1 ms' AS may_end
                 FROM pg_stat_activity
             ), late AS (
                 SELECT w.pid, clock_timestamp() - since.at AS waited
                 FROM session w CROSS JOIN LATERAL (
                     SELECT min(waitstart) AS at FROM pg_locks WHERE pid = w.pid AND NOT granted
                 ) since
                 WHERE w.datname = current_database() AND w.usename = current_user AND w.application_name = $2
                     AND w.wait_event_type = 'Lock' AND w.wait_event <> 'advisory'
                     AND since.at IS NOT NULL
                     AND (since.at < clock_timestamp() - $1 * interval '1 ms' OR EXISTS (SELECT FROM session WHERE may_end))
                 ORDER BY since.at LIMIT 8
             ), chain AS (
                 SELECT late.waited, keeps.pid FROM late CROSS JOIN LATERAL UNNEST(pg_blocking_pids(late.pid)) AS keeps(pid)
                 UNION
                 SELECT chain.waited, keeps.pid
                 FROM chain CROSS JOIN LATERAL UNNEST(pg_blocking_pids(chain.pid)) AS keeps(pid)
             )
             SELECT DISTINCT ON (pid) pid, b.usename AS role, b.application_name AS application,
                 host(b.client_addr) AS client, left(b.query, 200) AS query, b.state_change AS state_since,
                 b.xact_start AS began, (extract(epoch FROM waited) * 1000)::int8 AS waited_ms,
                 coalesce(may_end, false) AS may_end
             FROM chain LEFT JOIN session b USING (pid)
             WHERE cardinality(pg_blocking_pids(pid)) = 0
                 AND (b.may_end OR waited > $1 * interval '1 ms')
                 AND (b.usename = current_user AND b.application_name = $2 AND NOT b.may_end) IS NOT TRUE
             ORDER BY pid, waited DESC",
        )
        .bind(i64::try_from(self.lock_patience.as_millis()).unwrap_or(i64::MAX))
        .bind(super::APPLICATION)
        .fetch_all(&self.pool)
        .await?;
        Ok(holders)
    }

    /// Ends the session, if it still does nothing; says whether it did.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn end_holder(&self, holder: &Holder) -> Result<bool, LedgerError> {
        let ended: Option<bool> = sqlx::query_scalar(
            "-- lock.end_holder
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE pid = $1 AND state_change = $2 AND usename = current_user AND state LIKE 'idle in transaction%'",
        )
        .bind(holder.session.pid)
        .bind(holder.state_since)
        .fetch_optional(&self.pool)
        .await?;
        Ok(ended == Some(true))
    }

    /// Who keeps a snapshot in this database, but for this call. A transaction that has written counts too, for no later
    /// snapshot knows what becomes of it.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn snapshots(&self) -> Result<Vec<Snapshot>, LedgerError> {
        // Of other roles' sessions ours may see no more than process, role, application and horizon. A vacuum keeps nobody
        // from cleaning up; a copy for logical replication does. Of a standby's snapshots only the number is known here.
        let snapshots = sqlx::query_as(
            "-- snapshot.kept
             SELECT pid, usename AS role, application_name AS application, host(client_addr) AS client,
                 left(query, 200) AS query, xact_start AS began, coalesce(backend_xmin, backend_xid)::text AS horizon
             FROM pg_stat_activity
             WHERE datname = current_database() AND usesysid IS NOT NULL AND pid <> pg_backend_pid()
                 AND (backend_type IS NULL OR backend_type IN ('client backend', 'walsender'))
                 AND coalesce(backend_xmin, backend_xid) IS NOT NULL
                 AND pid NOT IN (SELECT pid FROM pg_stat_progress_vacuum)
             UNION ALL
             SELECT 0, owner, NULL, NULL, NULL, prepared, transaction::text
             FROM pg_prepared_xacts WHERE database = current_database()",
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(snapshots)
    }
}
