//! Low stock: told once each time a SKU's available units come down to its threshold.
//!
//! The feed looks at the SKUs whose balances it has just copied, in the same transaction. An alert stays open until the
//! SKU is above its threshold again, and while it is open there is no second one. As for a listing, only what lies at
//! active locations counts; where one is closed or opened, what lies there is looked at again.

use chrono::{DateTime, Utc};

use super::{Ledger, LedgerError};
use crate::domain::id::Sku;
use crate::domain::time::Millis;
use crate::ledger::connection::Connection;

/// An alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LowStock {
    /// Its number; later ones are greater.
    pub alert_id: i64,
    /// What is low.
    pub sku: Sku,
    /// Units at which it counts as low, as it was set then.
    pub threshold: i64,
    /// Units that were available then, over all active locations.
    pub available: i64,
    /// When it was found.
    pub crossed_at: Millis,
    /// When it was above the threshold again.
    pub recovered_at: Option<Millis>,
}

#[derive(sqlx::FromRow)]
struct AlertRow {
    alert_id: i64,
    sku_id: String,
    threshold: i64,
    available: i64,
    crossed_at: DateTime<Utc>,
    recovered_at: Option<DateTime<Utc>>,
}

impl AlertRow {
    fn read(self) -> Result<LowStock, LedgerError> {
        Ok(LowStock {
            sku: Sku::try_from(self.sku_id.as_str())
                .map_err(|error| LedgerError::Broken(format!("SKU {:?} {error}", self.sku_id)))?,
            alert_id: self.alert_id,
            threshold: self.threshold,
            available: self.available,
            crossed_at: self.crossed_at.into(),
            recovered_at: self.recovered_at.map(Millis::from),
        })
    }
}

impl Ledger {
    /// Alerts after this one, oldest first; `open` alone: those of SKUs that are low now.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn low_stock(&self, after: i64, limit: i64, open: bool) -> Result<Vec<LowStock>, LedgerError> {
        let rows: Vec<AlertRow> = sqlx::query_as(
            "-- low_stock.list
             SELECT alert_id, sku_id, threshold, available, crossed_at, recovered_at FROM low_stock_alert
             WHERE alert_id > $1 AND (recovered_at IS NULL OR NOT $3) ORDER BY alert_id LIMIT $2",
        )
        .bind(after)
        .bind(limit)
        .bind(open)
        .fetch_all(self.reads.primary())
        .await?;
        rows.into_iter().map(AlertRow::read).collect()
    }
}

/// Closes the alerts of SKUs that are above their threshold again, and opens those of SKUs that came down to it; of
/// these SKUs, of those whose threshold was changed, and of those at locations that were closed or opened.
pub(super) async fn cross(tx: &mut Connection, skus: &[String]) -> Result<Vec<LowStock>, LedgerError> {
    let changed: Vec<String> = sqlx::query_scalar("-- low_stock.look\nDELETE FROM low_stock_look RETURNING sku_id")
        .fetch_all(&mut *tx)
        .await?;
    let skus: Vec<&String> = skus.iter().chain(&changed).collect();
    if skus.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<AlertRow> = sqlx::query_as(
        "-- low_stock.cross: a SKU that never was anywhere is not low. Closing and opening can't meet in one row, for a
         -- SKU is either above its threshold or not
         WITH stock AS MATERIALIZED (
             SELECT s.sku_id, s.low_stock_threshold AS threshold,
                 coalesce(sum(n.available) FILTER (WHERE l.active), 0)::int8 AS available
             FROM sku s JOIN inventory_snapshot n USING (sku_id) LEFT JOIN location l USING (location_id)
             WHERE s.sku_id = ANY($1) GROUP BY s.sku_id, s.low_stock_threshold),
         closed AS (
             UPDATE low_stock_alert a SET recovered_at = clock_timestamp() FROM stock
             WHERE a.sku_id = stock.sku_id AND a.recovered_at IS NULL
               AND (stock.threshold IS NULL OR stock.available > stock.threshold))
         INSERT INTO low_stock_alert (sku_id, threshold, available)
         SELECT sku_id, threshold, available FROM stock WHERE available <= threshold ORDER BY sku_id COLLATE \"C\"
         ON CONFLICT (sku_id) WHERE recovered_at IS NULL DO NOTHING
         RETURNING alert_id, sku_id, threshold, available, crossed_at, recovered_at",
    )
    .bind(skus)
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(AlertRow::read).collect()
}
