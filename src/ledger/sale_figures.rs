//! The figures of a sale: what is durable, how it ended, what was refused, and what its lanes hold by the ledger.
//!
//! Units are cumulative. What Redis has accepted beyond this is asked of it.

use super::{Ledger, LedgerError};
use crate::domain::lane::LaneNo;
use crate::domain::reconciliation::FreezeCause;
use crate::domain::time::Millis;

/// Figures of a sale.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SaleFigures {
    /// Units reserved.
    pub durable: i64,
    /// Units that Redis had accepted and the ledger refused.
    pub rejected: i64,
    /// Units sold.
    pub committed: i64,
    /// Units given back.
    pub released: i64,
    /// Units whose time was over.
    pub expired: i64,
    /// Requests refused.
    pub refused: Refusals,
    /// Counters in Redis minus ours.
    pub drift: i64,
    /// Why it froze by itself.
    pub frozen_for: Option<FreezeCause>,
    /// By lane, in the order of the sale's buckets; a lane that has not opened is missing.
    pub buckets: Vec<BucketFigures>,
}

/// Requests refused, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Too few units were free.
    pub stock: i64,
    /// The user's limit would have been exceeded.
    pub limit: i64,
    /// The user tried too often.
    pub rate: i64,
}

/// A sale's units in one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketFigures {
    /// The lane.
    pub lane: LaneNo,
    /// Units free after the last durable entry.
    pub counter: i64,
    /// When the lane's cursor last moved.
    pub cursor_at: Millis,
    /// The ledger decides for the lane, for Redis is away.
    pub fallback: bool,
    /// Units of the bucket that it keeps back then.
    pub kept_back: i64,
}

#[derive(sqlx::FromRow)]
struct TallyRow {
    committed: i64,
    released: i64,
    expired: i64,
    refused_stock: i64,
    refused_limit: i64,
    refused_rate: i64,
}

#[derive(sqlx::FromRow)]
struct BucketRow {
    lane: i16,
    counter: i64,
    durable: i64,
    rejected: i64,
    drift: i64,
    fallback: bool,
    undurable_max: i64,
    cursor_at: chrono::DateTime<chrono::Utc>,
}

impl Ledger {
    /// The figures of the sale; zeros where there is no such sale.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn sale_figures(&self, sale_no: i32) -> Result<SaleFigures, LedgerError> {
        let mut connection = self.pool.acquire().await?;
        let tally: Option<TallyRow> = sqlx::query_as(
            "-- sale_tally.read
             SELECT committed, released, expired, refused_stock, refused_limit, refused_rate FROM sale_tally
             WHERE sale_no = $1",
        )
        .bind(sale_no)
        .fetch_optional(&mut connection)
        .await?;
        let buckets: Vec<BucketRow> = sqlx::query_as(
            "-- sale_bucket.read
             SELECT b.lane, b.counter, b.durable, b.rejected, b.drift, l.cursor_at, b.undurable_max,
                 (l.state = 'closed' AND l.fallback_epoch = l.epoch) IS TRUE AS fallback
             FROM sale s JOIN sale_bucket b USING (sale_no) JOIN lane l USING (lane)
             WHERE sale_no = $1 ORDER BY array_position(s.lanes, b.lane)",
        )
        .bind(sale_no)
        .fetch_all(&mut connection)
        .await?;
        let frozen_for: Option<Option<String>> =
            sqlx::query_scalar("-- sale.read_frozen_for\nSELECT frozen_for FROM sale WHERE sale_no = $1")
                .bind(sale_no)
                .fetch_optional(&mut connection)
                .await?;
        connection.keep();
        let sum = |pick: fn(&BucketRow) -> i64| buckets.iter().map(pick).sum();
        let mut figures = SaleFigures {
            durable: sum(|b| b.durable),
            rejected: sum(|b| b.rejected),
            drift: sum(|b| b.drift),
            frozen_for: frozen_for.flatten().as_deref().and_then(FreezeCause::parse),
            ..SaleFigures::default()
        };
        if let Some(tally) = tally {
            figures.committed = tally.committed;
            figures.released = tally.released;
            figures.expired = tally.expired;
            figures.refused = Refusals {
                stock: tally.refused_stock,
                limit: tally.refused_limit,
                rate: tally.refused_rate,
            };
        }
        figures.buckets = buckets
            .iter()
            .map(|bucket| BucketFigures {
                lane: LaneNo::from_i16(bucket.lane),
                counter: bucket.counter,
                cursor_at: bucket.cursor_at.into(),
                fallback: bucket.fallback,
                kept_back: bucket.undurable_max.min(bucket.counter),
            })
            .collect();
        Ok(figures)
    }

    /// Counts requests that were refused since the last call.
    ///
    /// # Errors
    /// The ledger could not find out whether they are counted.
    pub async fn count_refusals(&self, sale_no: i32, more: Refusals) -> Result<(), LedgerError> {
        sqlx::query(
            "-- sale_tally.count_refusals
             UPDATE sale_tally SET refused_stock = refused_stock + $2, refused_limit = refused_limit + $3,
                 refused_rate = refused_rate + $4
             WHERE sale_no = $1",
        )
        .bind(sale_no)
        .bind(more.stock)
        .bind(more.limit)
        .bind(more.rate)
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
