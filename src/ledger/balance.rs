//! Balances, read: what lies where, and what of it a shopper may have.
//!
//! Also how a balance comes to be, with the first movement that needs it, and how one is locked. Nothing here changes
//! units; [`super::post`] does.

use sqlx::PgConnection;

use super::catalogue::safety_movement;
use super::once::By;
use super::post::post;
use super::{Ledger, LedgerError};
use crate::domain::balance::Balance;
use crate::domain::id::{Item, LocationId, Sku};
use crate::domain::time::Millis;

/// Stock of a SKU, as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stock {
    /// No such SKU.
    UnknownSku,
    /// No such location.
    UnknownLocation,
    /// As of an instant. At a location that never had any: zeros.
    Known {
        /// By location, in the order of their ids.
        locations: Vec<(LocationId, Balance)>,
        /// By Postgres' clock.
        as_of: Millis,
        /// The last change of any of them, else of the SKU.
        updated_at: Millis,
    },
}

#[derive(sqlx::FromRow)]
struct StockRow {
    location_id: String,
    updated_at: chrono::DateTime<chrono::Utc>,
    #[sqlx(flatten)]
    balance: BalanceRow,
}

/// The columns of a [`Balance`].
#[derive(sqlx::FromRow)]
pub(super) struct BalanceRow {
    on_hand: i64,
    reserved: i64,
    unavailable: i64,
    safety_stock: i64,
    escrowed: i64,
    sold: i64,
    damaged: i64,
    returned: i64,
}

impl From<BalanceRow> for Balance {
    fn from(row: BalanceRow) -> Self {
        Balance {
            on_hand: row.on_hand,
            reserved: row.reserved,
            unavailable: row.unavailable,
            safety_stock: row.safety_stock,
            escrowed: row.escrowed,
            sold: row.sold,
            damaged: row.damaged,
            returned: row.returned,
        }
    }
}

impl Ledger {
    /// Stock of a SKU at one location, or at all that it has.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn stock(&self, sku: &Sku, location: Option<&LocationId>) -> Result<Stock, LedgerError> {
        let mut connection = self.pool.acquire().await?;
        let now_and_sku: (chrono::DateTime<chrono::Utc>, Option<chrono::DateTime<chrono::Utc>>) = sqlx::query_as(
            "-- stock.sku: the time before the read, so that nothing in the answer is newer than it claims
             SELECT clock_timestamp(), (SELECT updated_at FROM sku WHERE sku_id = $1)",
        )
        .bind(sku.as_str())
        .fetch_one(&mut *connection)
        .await?;
        let (now, Some(sku_updated_at)) = now_and_sku else {
            return Ok(Stock::UnknownSku);
        };
        if let Some(location) = location
            && !location_is_known(&mut connection, location).await?
        {
            return Ok(Stock::UnknownLocation);
        }
        let rows: Vec<StockRow> = sqlx::query_as(
            "-- stock.balances
             SELECT location_id, updated_at, on_hand, reserved, unavailable, safety_stock, escrowed, sold, damaged,
                 returned
             FROM inventory_balance WHERE sku_id = $1 AND ($2::text IS NULL OR location_id = $2)
             ORDER BY location_id COLLATE \"C\"",
        )
        .bind(sku.as_str())
        .bind(location.map(LocationId::as_str))
        .fetch_all(&mut *connection)
        .await?;
        let updated_at = rows.iter().map(|row| row.updated_at).max().unwrap_or(sku_updated_at);
        let mut locations = Vec::with_capacity(rows.len().max(1));
        for row in rows {
            let id = LocationId::try_from(row.location_id.as_str())
                .map_err(|e| LedgerError::Broken(format!("location {:?} {e}", row.location_id)))?;
            locations.push((id, row.balance.into()));
        }
        if let (Some(location), true) = (location, locations.is_empty()) {
            locations.push((location.clone(), Balance::default()));
        }
        Ok(Stock::Known {
            locations,
            as_of: now.into(),
            updated_at: updated_at.into(),
        })
    }
}

pub(super) async fn sku_is_known(tx: &mut PgConnection, sku: &Sku) -> Result<bool, LedgerError> {
    Ok(
        sqlx::query_scalar("-- sku.is_known\nSELECT EXISTS (SELECT 1 FROM sku WHERE sku_id = $1)")
            .bind(sku.as_str())
            .fetch_one(tx)
            .await?,
    )
}

pub(super) async fn location_is_known(tx: &mut PgConnection, location: &LocationId) -> Result<bool, LedgerError> {
    Ok(
        sqlx::query_scalar("-- location.is_known\nSELECT EXISTS (SELECT 1 FROM location WHERE location_id = $1)")
            .bind(location.as_str())
            .fetch_one(tx)
            .await?,
    )
}

/// Makes the balance of a known SKU at a known location, with the SKU's safety stock, where there is none.
pub(super) async fn ensure_balance(tx: &mut PgConnection, item: &Item, by: &By) -> Result<(), LedgerError> {
    let kept_back: Option<i64> = sqlx::query_scalar(
        "-- balance.ensure: the SKU is locked, so that a change of its safety stock finds this row, or we find the change
         INSERT INTO inventory_balance (sku_id, location_id, safety_stock)
         SELECT sku_id, $2, safety_stock FROM sku WHERE sku_id = $1
             AND NOT EXISTS (SELECT 1 FROM inventory_balance WHERE sku_id = $1 AND location_id = $2)
         FOR SHARE OF sku
         ON CONFLICT DO NOTHING RETURNING safety_stock",
    )
    .bind(item.sku.as_str())
    .bind(item.location.as_str())
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(units) = kept_back
        && units != 0
    {
        post(tx, &[safety_movement(item.clone(), -units, by)]).await?;
    }
    Ok(())
}

/// The balance, locked until the transaction ends.
pub(super) async fn lock_balance(tx: &mut PgConnection, item: &Item) -> Result<Balance, LedgerError> {
    let row: BalanceRow = sqlx::query_as(
        "-- balance.lock_one
         SELECT on_hand, reserved, unavailable, safety_stock, escrowed, sold, damaged, returned
         FROM inventory_balance WHERE sku_id = $1 AND location_id = $2 FOR NO KEY UPDATE",
    )
    .bind(item.sku.as_str())
    .bind(item.location.as_str())
    .fetch_optional(tx)
    .await?
    .ok_or_else(|| LedgerError::Broken(format!("no balance for {item:?}")))?;
    Ok(row.into())
}
