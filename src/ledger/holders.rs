//! Whoever keeps locks that the ledger's statements wait for.
//!
//! A batch waits for the rows of all that are in it. So a session by hand that was left open over one balance, or a
//! gateway that was stopped midway, would hold up every batch that meets that row, with whatever else is in it. What such a
//! transaction has written so far, nobody has been promised: to end it loses nothing but its author's work.

use chrono::{DateTime, Utc};

use super::{Ledger, LedgerError};

/// A session of Postgres that keeps a lock for which one of ours has waited for long.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Holder {
    /// Of its process; 0: a prepared transaction, which has none.
    pub pid: i32,
    /// Its role.
    pub role: Option<String>,
    /// What it calls itself.
    pub application: Option<String>,
    /// Where it comes from; none: a Unix socket.
    pub client: Option<String>,
    /// What it does, or did last, as far as our role may see it.
    pub query: Option<String>,
    /// When it began to do so, as far as our role may see it.
    pub state_since: Option<DateTime<Utc>>,
    /// When its transaction began, as far as our role may see it.
    pub began: Option<DateTime<Utc>>,
    /// For how long ours has waited, in ms.
    pub waited_ms: i64,
    /// It has our role, and has done nothing for so long: it may be ended.
    pub may_end: bool,
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
        .bind(holder.pid)
        .bind(holder.state_since)
        .fetch_optional(&self.pool)
        .await?;
        Ok(ended == Some(true))
    }
}
