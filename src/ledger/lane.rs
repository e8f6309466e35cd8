//! Lanes as the ledger has them: cursors, epochs, and who owns them.
//!
//! An owner is only who *should* write a lane; that nobody else *can* is the business of the cursor, which every writer
//! compares and sets. So claims may be generous: a gateway that is silent for `SILENT_MS` is taken for dead.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Ledger, LedgerError};
use crate::domain::lane::{Cursor, Epoch, LaneNo, Nonce};
use crate::domain::time::Millis;

/// A gateway that has not said for this long that it lives does not: it says so every second.
const SILENT_MS: i64 = 3_000;
/// A lane that lies free for this long may be claimed by whoever comes, beyond its fair share: some gateways that live
/// own no lanes, by their role or because they are about to end.
const FORSAKEN_MS: i64 = 5_000;

/// A lane's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneRow {
    /// Which.
    pub lane: LaneNo,
    /// Its generation. Greater than the cursor's from the start of a recovery until its survivors are settled.
    pub epoch: Epoch,
    /// Writers may write it; closed: a recovery has to open it.
    pub open: bool,
    /// The ledger decides for it, since Redis is away; a recovery ends that.
    pub fallback: bool,
    /// The last queue entry that is durable. A genuine id of an epoch below the cursor's that is not in the ledger is
    /// lost.
    pub cursor: Cursor,
    /// Last number given to a grant.
    pub grant_no: i64,
    /// The gateway that should write it.
    pub owner: Option<Uuid>,
    /// What the owner calls itself.
    pub owner_name: Option<String>,
    /// When the cursor last moved.
    pub cursor_at: Millis,
}

#[derive(sqlx::FromRow)]
pub(super) struct Row {
    lane: i16,
    epoch: i64,
    open: bool,
    fallback: bool,
    cursor_epoch: i64,
    cursor_seq: i64,
    cursor_nonce: i64,
    cursor_total: i64,
    grant_no: i64,
    owner: Option<Uuid>,
    owner_name: Option<String>,
    cursor_at: DateTime<Utc>,
}

impl Row {
    pub(super) fn read(self) -> Result<LaneRow, LedgerError> {
        let epoch = |value: i64| Epoch::try_from(value).map_err(|_| LedgerError::Broken(format!("epoch {value}")));
        let count = |value: i64| u64::try_from(value).map_err(|_| LedgerError::Broken(format!("a cursor at {value}")));
        Ok(LaneRow {
            lane: LaneNo::from_i16(self.lane),
            epoch: epoch(self.epoch)?,
            open: self.open,
            fallback: self.fallback,
            cursor: Cursor {
                epoch: epoch(self.cursor_epoch)?,
                seq: count(self.cursor_seq)?,
                nonce: Nonce::from_i64(self.cursor_nonce),
                total: count(self.cursor_total)?,
            },
            grant_no: self.grant_no,
            owner: self.owner,
            owner_name: self.owner_name,
            cursor_at: self.cursor_at.into(),
        })
    }
}

impl Ledger {
    /// Units by which Redis and the ledger are known to differ, by lane; lanes without any difference are left out.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn drift(&self) -> Result<Vec<(LaneNo, i64)>, LedgerError> {
        let rows: Vec<(i16, i64)> = sqlx::query_as(
            "-- lane.drift
             SELECT lane, sum(abs(drift))::int8 FROM sale_bucket WHERE drift <> 0 GROUP BY lane",
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|(lane, units)| (LaneNo::from_i16(lane), units))
            .collect())
    }

    /// One lane.
    ///
    /// # Errors
    /// `Broken`: there is no such lane.
    pub async fn lane(&self, lane: LaneNo) -> Result<LaneRow, LedgerError> {
        let row: Row = sqlx::query_as(
            "-- lane.one
             SELECT l.lane, l.epoch, l.state = 'open' AS open,
             (l.state = 'closed' AND l.fallback_epoch = l.epoch) IS TRUE AS fallback, l.cursor_epoch, l.cursor_seq, l.cursor_nonce,
                 l.cursor_total, l.grant_no, l.owner, g.name AS owner_name, l.cursor_at
             FROM lane l LEFT JOIN gateway g ON g.gateway_id = l.owner WHERE l.lane = $1",
        )
        .bind(lane.to_i16())
        .fetch_one(&self.pool)
        .await?;
        row.read()
    }

    /// All lanes, by number.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn lanes(&self) -> Result<Vec<LaneRow>, LedgerError> {
        let rows: Vec<Row> = sqlx::query_as(
            "-- lane.all
             SELECT l.lane, l.epoch, l.state = 'open' AS open,
             (l.state = 'closed' AND l.fallback_epoch = l.epoch) IS TRUE AS fallback, l.cursor_epoch, l.cursor_seq, l.cursor_nonce,
                 l.cursor_total, l.grant_no, l.owner, g.name AS owner_name, l.cursor_at
             FROM lane l LEFT JOIN gateway g ON g.gateway_id = l.owner ORDER BY l.lane",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(Row::read).collect()
    }

    /// Of the lane's sales that bound what they owe the ledger: units taken up to the cursor, cumulative, whatever became
    /// of them.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn settled_units(&self, lane: LaneNo) -> Result<Vec<(i32, i64)>, LedgerError> {
        Ok(sqlx::query_as(
            "-- lane.settled_units
             SELECT sale_no, durable + rejected FROM sale_bucket WHERE lane = $1 AND undurable_max > 0 ORDER BY sale_no",
        )
        .bind(lane.to_i16())
        .fetch_all(&self.pool)
        .await?)
    }

    /// Makes `gateway` the owner of at most `want_max` lanes that have none, or whose owner is silent, and returns
    /// those it got. A gateway claims no more than its share of the lanes, all living gateways counted, unless a lane
    /// has been free for `FORSAKEN_MS`; and none of those that are `away` from it. `gateway` must have said that it lives.
    ///
    /// # Errors
    /// Postgres can't be asked; `Retry` where two claimed at once.
    pub async fn claim_lanes(
        &self,
        gateway: Uuid,
        want_max: usize,
        away: &[LaneNo],
    ) -> Result<Vec<LaneNo>, LedgerError> {
        let lanes: Vec<i16> = sqlx::query_scalar(
            "-- lane.claim: the owner is compared again in the update, which sees what a claim at the same moment did
             WITH alive AS (
                 SELECT gateway_id FROM gateway
                 WHERE gateway_id = $1 OR beat_at > clock_timestamp() - $3 * interval '1 ms'
             ), share AS (
                 SELECT ceil((SELECT count(*) FROM lane)::float8 / greatest(1, (SELECT count(*) FROM alive)))
                      - (SELECT count(*) FROM lane WHERE owner = $1) AS lanes
             ), free AS (
                 SELECT l.lane, l.owner, row_number() OVER (ORDER BY l.lane) AS place,
                     greatest(l.owner_at, g.beat_at + $3 * interval '1 ms') AS since
                 FROM lane l LEFT JOIN gateway g ON g.gateway_id = l.owner
                 WHERE (l.owner IS NULL OR l.owner NOT IN (SELECT gateway_id FROM alive)) AND l.lane <> ALL($5)
             ), wanted AS (
                 SELECT free.lane, free.owner FROM free, share
                 WHERE place <= share.lanes OR since < clock_timestamp() - $4 * interval '1 ms'
                 ORDER BY place LIMIT $2
             )
             UPDATE lane l SET owner = $1, owner_at = clock_timestamp() FROM wanted w
             WHERE l.lane = w.lane AND l.owner IS NOT DISTINCT FROM w.owner
             RETURNING l.lane",
        )
        .bind(gateway)
        .bind(i64::try_from(want_max).unwrap_or(i64::MAX))
        .bind(SILENT_MS)
        .bind(FORSAKEN_MS)
        .bind(numbers(away))
        .fetch_all(&self.pool)
        .await?;
        let mut lanes: Vec<LaneNo> = lanes.into_iter().map(LaneNo::from_i16).collect();
        lanes.sort_unstable();
        Ok(lanes)
    }

    /// Gives up those of these lanes that `gateway` owns and another says it reaches; returns them.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn leave_lanes(&self, gateway: Uuid, away: &[LaneNo]) -> Result<Vec<LaneNo>, LedgerError> {
        let lanes: Vec<i16> = sqlx::query_scalar(
            "-- lane.leave
             UPDATE lane l SET owner = NULL, owner_at = clock_timestamp()
             WHERE owner = $1 AND lane = ANY($2) AND EXISTS (
                 SELECT FROM gateway g
                 WHERE g.gateway_id <> $1 AND g.beat_at > clock_timestamp() - $3 * interval '1 ms'
                   AND l.lane = ANY(g.reaches))
             RETURNING lane",
        )
        .bind(gateway)
        .bind(numbers(away))
        .bind(SILENT_MS)
        .fetch_all(&self.pool)
        .await?;
        Ok(lanes.into_iter().map(LaneNo::from_i16).collect())
    }

    /// Gives up all lanes of `gateway`, which ends.
    ///
    /// # Errors
    /// Postgres can't be asked; the lanes become free by silence.
    pub async fn release_lanes(&self, gateway: Uuid) -> Result<(), LedgerError> {
        sqlx::query(
            "-- lane.release
             WITH gone AS (DELETE FROM gateway WHERE gateway_id = $1)
             UPDATE lane SET owner = NULL, owner_at = clock_timestamp() WHERE owner = $1",
        )
        .bind(gateway)
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

fn numbers(lanes: &[LaneNo]) -> Vec<i16> {
    lanes.iter().map(|lane| lane.to_i16()).collect()
}
