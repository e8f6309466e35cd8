//! Looks at the grants that are on their way. Nothing is locked, so nobody waits for whoever looks.

use uuid::Uuid;

use crate::domain::lane::{Epoch, LaneNo};
use crate::ledger::{Ledger, LedgerError};

/// A grant that waits to be delivered.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub struct NumberedGrant {
    /// Its row.
    pub grant_id: i64,
    /// Its number in its lane.
    pub grant_no: i64,
    /// About which sale.
    pub sale_no: i32,
    /// [`Grant::pack`](crate::domain::grant::Grant::pack) of it.
    pub body: Vec<u8>,
    /// For how long it has waited, in s.
    pub waits_s: f64,
}

/// A grant whose delivery is not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantLeft {
    /// Its row.
    pub grant_id: i64,
    /// To which lane.
    pub lane: LaneNo,
    /// Its number, once it has one.
    pub grant_no: Option<i64>,
}

/// What is on its way between the counters of a sale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Motion {
    /// The sale is over, or unknown: what its counters lack may be in the balance.
    pub ended: bool,
    /// Units that came back from its lanes while it runs lie with the sale: they leave it, or are granted again.
    pub recalled: bool,
    /// Units are taken from a lane, for another or for the sale.
    pub taking: bool,
    /// Units are taken, or are given to a lane: what is on its way may be enough.
    pub moving: bool,
    /// For each of its lanes, the grants that raise or lower its counter.
    pub lanes: Vec<InMotion>,
}

/// The grants of a sale that raise or lower its counter in one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InMotion {
    /// The lane.
    pub lane: LaneNo,
    /// Some have no number yet.
    pub unnumbered: bool,
    /// The highest number of one of them.
    pub last: Option<i64>,
}

impl Ledger {
    /// Whether a lane has grants without a number, or with one above `above`. `None`: it is another's, or closed.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn has_grants(
        &self,
        lane: LaneNo,
        owner: Uuid,
        epoch: Epoch,
        above: i64,
    ) -> Result<Option<bool>, LedgerError> {
        Ok(sqlx::query_scalar(
            "-- grants.look
             SELECT EXISTS (SELECT FROM lane_grant WHERE lane = $1 AND grant_no IS NULL OFFSET 0)
                 OR EXISTS (SELECT FROM lane_grant WHERE lane = $1 AND grant_no > $4 OFFSET 0)
             FROM lane WHERE lane = $1 AND owner = $2 AND epoch = $3 AND state = 'open'",
        )
        .bind(lane.to_i16())
        .bind(owner)
        .bind(i64::from(epoch))
        .bind(above)
        .fetch_optional(&self.pool)
        .await?)
    }

    /// The grants of a lane with numbers above `above`, in order, at most `max`.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn undelivered(&self, lane: LaneNo, above: i64, max: i64) -> Result<Vec<NumberedGrant>, LedgerError> {
        Ok(sqlx::query_as(
            "-- grants.undelivered
             SELECT grant_id, grant_no, sale_no, body,
                 extract(epoch FROM clock_timestamp() - created_at)::float8 AS waits_s
             FROM lane_grant WHERE lane = $1 AND grant_no > $2
             ORDER BY grant_no LIMIT $3",
        )
        .bind(lane.to_i16())
        .bind(above)
        .bind(max)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Those of these grants whose delivery is not durable yet.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn grants_left(&self, ids: &[i64]) -> Result<Vec<GrantLeft>, LedgerError> {
        let rows: Vec<(i64, i16, Option<i64>)> = sqlx::query_as(
            "-- grants.left
             SELECT grant_id, lane, grant_no FROM lane_grant WHERE grant_id = ANY($1) ORDER BY grant_id",
        )
        .bind(ids)
        .fetch_all(&self.pool)
        .await?;
        let read = |(grant_id, lane, grant_no)| GrantLeft {
            grant_id,
            lane: LaneNo::from_i16(lane),
            grant_no,
        };
        Ok(rows.into_iter().map(read).collect())
    }

    /// The units of a sale that are between counters: nobody may be refused for want of them; and whether it has ended,
    /// at the same instant.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn units_in_motion(&self, sale_no: i32) -> Result<Motion, LedgerError> {
        type Row = (bool, bool, bool, bool, Option<i16>, bool, Option<i64>);
        let rows: Vec<Row> = sqlx::query_as(
            "-- grants.in_motion: by probes, since a sale whose reservations expire faster than their units come home has grants
             -- by the hundred thousand; OFFSET 0 keeps it so
             SELECT s.state = 'ended', s.state <> 'ended' AND s.recalled > 0, m.taking, m.moving, b.lane,
                 EXISTS (SELECT FROM lane_grant WHERE lane = b.lane AND grant_no IS NULL AND sale_no = s.sale_no
                     AND kind IN ('units', 'end', 'retake') OFFSET 0),
                 (SELECT grant_no FROM lane_grant WHERE lane = b.lane AND grant_no IS NOT NULL AND sale_no = s.sale_no
                     AND kind IN ('units', 'end', 'retake') ORDER BY grant_no DESC LIMIT 1)
             FROM sale s LEFT JOIN sale_bucket b USING (sale_no), LATERAL (
                 SELECT coalesce(bool_or(kind = 'take'), false) AS taking, count(*) > 0 AS moving
                 FROM lane_grant WHERE sale_no = s.sale_no AND kind IN ('units', 'take')
             ) m
             WHERE s.sale_no = $1",
        )
        .bind(sale_no)
        .fetch_all(&self.pool)
        .await?;
        let (ended, recalled, taking, moving) = rows
            .first()
            .map_or((true, false, false, false), |row| (row.0, row.1, row.2, row.3));
        let read = |(.., lane, unnumbered, last): Row| {
            Some(InMotion {
                lane: LaneNo::from_i16(lane?),
                unnumbered,
                last,
            })
        };
        Ok(Motion {
            ended,
            recalled,
            taking,
            moving,
            lanes: rows.into_iter().filter_map(read).collect(),
        })
    }

    /// The lanes with grants that wait for a number.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn lanes_with_grants(&self) -> Result<Vec<LaneNo>, LedgerError> {
        let lanes: Vec<i16> = sqlx::query_scalar(
            "-- grants.lanes_waiting: one probe a lane; OFFSET 0 keeps it so
             SELECT lane FROM lane l WHERE EXISTS (SELECT FROM lane_grant WHERE lane = l.lane AND grant_no IS NULL OFFSET 0)",
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(lanes.into_iter().map(LaneNo::from_i16).collect())
    }
}
