//! A lane as the ledger has it at one instant: the place from which its queue leads to what Redis has now.

use crate::domain::id::Item;
use crate::domain::lane::{Cursor, Epoch, LaneNo};
use crate::ledger::connection::Connection;
use crate::ledger::lane::Row as LaneRow;
use crate::ledger::sale_row::read_item;
use crate::ledger::{Ledger, LedgerError};

/// Where a lane's queue goes on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foothold {
    /// Its generation.
    pub epoch: Epoch,
    /// It is open and settled at that generation; else a recovery is under way, or is due.
    pub open: bool,
    /// The ledger alone decides for it, since Redis is away.
    pub fallback: bool,
    /// The last durable entry.
    pub cursor: Cursor,
    /// Number of the last grant whose delivery is durable.
    pub delivered: i64,
}

/// A lane, and what it sells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneView {
    /// Where its queue goes on from.
    pub foothold: Foothold,
    /// What its owner calls itself; none: nobody owns it.
    pub owner: Option<String>,
    /// Its sales.
    pub buckets: Vec<BucketView>,
}

/// A sale in a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketView {
    /// Its short name.
    pub sale_no: i32,
    /// Its name.
    pub sale_id: String,
    /// What it sells.
    pub item: Item,
    /// Units free at the foothold.
    pub counter: i64,
    /// The lane is to have it: it has been told of it, and not to forget it.
    pub present: bool,
    /// Nothing will be asked of it any more.
    pub drained: bool,
    /// Corrections that are on their way.
    pub corrections: Vec<PendingCorrection>,
}

/// A correction of a counter that is not durably delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingCorrection {
    /// Its number, once it has one.
    pub grant_no: Option<i64>,
    /// Units, may be negative.
    pub units: i64,
}

#[derive(sqlx::FromRow)]
struct Bucket {
    sale_no: i32,
    sale_id: String,
    sku_id: String,
    location_id: String,
    counter: i64,
    drained: bool,
    leaving: bool,
    opening: bool,
}

impl Ledger {
    /// How far a lane is, of one snapshot.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn foothold(&self, lane: LaneNo) -> Result<Foothold, LedgerError> {
        let mut tx = self.snapshot().await?;
        let (found, _) = foothold(&mut tx, lane).await?;
        tx.rollback().await?;
        Ok(found)
    }

    /// A lane and its sales, of one snapshot.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn lane_view(&self, lane: LaneNo) -> Result<LaneView, LedgerError> {
        let mut tx = self.snapshot().await?;
        let (foothold, owner) = foothold(&mut tx, lane).await?;
        let rows: Vec<Bucket> = sqlx::query_as(
            "-- audit.lane_buckets: of a lane with a thousand sales, grants are read once, too
             WITH coming AS MATERIALIZED (
                 SELECT sale_no, bool_or(kind = 'drop') AS leaving, bool_or(kind = 'open') AS opening
                 FROM lane_grant WHERE lane = $1 AND kind IN ('drop', 'open') GROUP BY sale_no
             )
             SELECT sale_no, sale_id, sku_id, location_id, counter, drained, coalesce(leaving, false) AS leaving,
                 coalesce(opening, false) AS opening
             FROM sale_bucket JOIN sale USING (sale_no) LEFT JOIN coming USING (sale_no)
             WHERE lane = $1 ORDER BY sale_no",
        )
        .bind(lane.to_i16())
        .fetch_all(&mut *tx)
        .await?;
        let corrections: Vec<(i32, Option<i64>, i64)> = sqlx::query_as(
            "-- audit.corrections
             SELECT sale_no, grant_no, units FROM lane_grant WHERE lane = $1 AND kind = 'correct' ORDER BY grant_id",
        )
        .bind(lane.to_i16())
        .fetch_all(&mut *tx)
        .await?;
        tx.rollback().await?;
        let of_sale = |sale: i32| {
            let pending = corrections.iter().filter(|(sale_no, ..)| *sale_no == sale);
            pending
                .map(|(_, grant_no, units)| PendingCorrection {
                    grant_no: *grant_no,
                    units: *units,
                })
                .collect()
        };
        let read = |row: Bucket| {
            Ok(BucketView {
                item: read_item(&row.sku_id, &row.location_id)?,
                corrections: of_sale(row.sale_no),
                sale_no: row.sale_no,
                sale_id: row.sale_id,
                counter: row.counter,
                present: (!row.drained || row.leaving) && !row.opening,
                drained: row.drained,
            })
        };
        Ok(LaneView {
            foothold,
            owner,
            buckets: rows.into_iter().map(read).collect::<Result<_, LedgerError>>()?,
        })
    }
}

pub(super) async fn foothold(tx: &mut Connection, lane: LaneNo) -> Result<(Foothold, Option<String>), LedgerError> {
    let row: LaneRow = sqlx::query_as(
        "-- audit.lane
         SELECT l.lane, l.epoch, l.state = 'open' AS open,
             (l.state = 'closed' AND l.fallback_epoch = l.epoch) IS TRUE AS fallback, l.cursor_epoch, l.cursor_seq, l.cursor_nonce,
             l.cursor_total, l.grant_no, l.owner, g.name AS owner_name, l.cursor_at
         FROM lane l LEFT JOIN gateway g ON g.gateway_id = l.owner WHERE l.lane = $1",
    )
    .bind(lane.to_i16())
    .fetch_one(&mut *tx)
    .await?;
    let row = row.read()?;
    let delivered: i64 = sqlx::query_scalar(
        "-- audit.delivered
         SELECT coalesce((SELECT min(grant_no) - 1 FROM lane_grant WHERE lane = $1), $2)",
    )
    .bind(lane.to_i16())
    .bind(row.grant_no)
    .fetch_one(tx)
    .await?;
    let foothold = Foothold {
        epoch: row.epoch,
        open: row.open && row.cursor.epoch == row.epoch,
        fallback: row.fallback,
        cursor: row.cursor,
        delivered,
    };
    Ok((foothold, row.owner_name))
}
