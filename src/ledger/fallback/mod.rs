//! The fallback: while Redis is away the ledger decides for lanes whose sales want that.
//!
//! It begins with a new epoch for the lane ([`Ledger::fall_back`]), under the rules of recovery: from then on whatever
//! speaks for an older epoch, a writer, a granter or a recovery that comes late, finds the lane closed and another epoch
//! in its row, and writes nothing. It ends when a recovery raises the epoch again, which shuts the fallback out in the same
//! way. So a unit is decided by one of the two at any time, and nothing but the row says by which.
//!
//! What Redis had accepted before and the ledger does not know stays behind the cursor, which does not move; the recovery
//! carries it as survivors. Its units are kept back (`stock`): each lane bounds them.

mod decide;
mod stock;
mod take;

use uuid::Uuid;

use super::recovery::{RECOVERY, draw_epoch};
use super::{Ledger, LedgerError};
use crate::domain::lane::LaneNo;

pub use self::take::{FallbackAnswer, FallbackAsk};

/// What a gateway said of its lanes longer ago than this counts no more: it says so every second.
pub const SILENT_MS: i64 = 3_000;

impl Ledger {
    /// Has the ledger decide for those of these lanes that a sale wants to go on in, and that no other gateway could ask
    /// within the last `silent_ms`. Returns them; none while a recovery is under way.
    ///
    /// # Errors
    /// Postgres can't be asked; `Retry` where it met another transaction.
    pub async fn fall_back(&self, lanes: &[LaneNo], gateway: Uuid, silent_ms: i64) -> Result<Vec<LaneNo>, LedgerError> {
        let mut tx = self.begin().await?;
        let nobody_recovers: bool = sqlx::query_scalar(
            "-- fallback.try_lock: who recovers holds it to the end; who comes later waits for us
             SELECT pg_try_advisory_xact_lock($1)",
        )
        .bind(RECOVERY)
        .fetch_one(&mut *tx)
        .await?;
        if !nobody_recovers {
            return Ok(Vec::new());
        }
        let wanted: Vec<i16> = sqlx::query_scalar(
            "-- fallback.wanted: a gateway that does not say what it reaches, being older, may reach all
             SELECT lane FROM lane l
             WHERE lane = ANY($1) AND (l.state = 'closed' AND l.fallback_epoch = l.epoch) IS NOT TRUE
               AND EXISTS (SELECT 1 FROM sale s
                           WHERE l.lane = ANY(s.lanes) AND s.redis_down = 'ledger'
                             AND s.state IN ('live', 'paused', 'frozen'))
               AND NOT EXISTS (SELECT 1 FROM gateway g
                               WHERE g.gateway_id <> $2 AND g.beat_at > clock_timestamp() - $3 * interval '1 ms'
                                 AND (g.reaches IS NULL OR l.lane = ANY(g.reaches)))
             ORDER BY lane FOR NO KEY UPDATE",
        )
        .bind(lanes.iter().map(|lane| lane.to_i16()).collect::<Vec<_>>())
        .bind(gateway)
        .bind(silent_ms)
        .fetch_all(&mut *tx)
        .await?;
        if wanted.is_empty() {
            // Dropped, it would keep the lock until its connection is next used.
            tx.rollback().await?;
            return Ok(Vec::new());
        }
        let epoch = draw_epoch(&mut tx, 0).await?;
        sqlx::query(
            "-- fallback.begin: the cursor stays where it is, for what the queue holds follows it
             UPDATE lane SET epoch = $2, state = 'closed', fallback_epoch = $2, fallback_seq = 0,
                 fallback_at = clock_timestamp()
             WHERE lane = ANY($1)",
        )
        .bind(&wanted)
        .bind(epoch)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(wanted.into_iter().map(LaneNo::from_i16).collect())
    }

    /// Those of these grants that are not in force. Settings of a sale in a lane for which the ledger decides are: it
    /// reads them with every decision.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn grants_not_in_force(&self, ids: &[i64]) -> Result<Vec<i64>, LedgerError> {
        Ok(sqlx::query_scalar(
            "-- fallback.grants_not_in_force
             SELECT g.grant_id FROM lane_grant g JOIN lane l USING (lane)
             WHERE g.grant_id = ANY($1)
               AND (g.kind = 'settings' AND l.state = 'closed' AND l.fallback_epoch = l.epoch) IS NOT TRUE",
        )
        .bind(ids)
        .fetch_all(&self.pool)
        .await?)
    }
}
