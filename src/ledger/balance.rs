//! Balances: how one comes to be, with the first movement that needs it, and how one is locked.
//!
//! Nothing here changes units; [`super::post`] does. What pages show is read by [`super::read_model`].

use std::collections::BTreeSet;

use super::LedgerError;
use super::catalogue::safety_movement;
use super::connection::Connection;
use super::once::By;
use super::post::post;
use crate::domain::balance::Balance;
use crate::domain::id::{Item, LocationId, Sku};

/// The columns of a [`Balance`].
#[derive(Clone, Copy, Debug, sqlx::FromRow)]
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

pub(super) async fn sku_is_known(tx: &mut Connection, sku: &Sku) -> Result<bool, LedgerError> {
    Ok(
        sqlx::query_scalar("-- sku.is_known\nSELECT EXISTS (SELECT 1 FROM sku WHERE sku_id = $1)")
            .bind(sku.as_str())
            .fetch_one(tx)
            .await?,
    )
}

pub(super) async fn location_is_known(tx: &mut Connection, location: &LocationId) -> Result<bool, LedgerError> {
    Ok(
        sqlx::query_scalar("-- location.is_known\nSELECT EXISTS (SELECT 1 FROM location WHERE location_id = $1)")
            .bind(location.as_str())
            .fetch_one(tx)
            .await?,
    )
}

/// Makes the balance of a known SKU at a known location, with the SKU's safety stock, where there is none.
pub(super) async fn ensure_balance(tx: &mut Connection, item: &Item, by: &By) -> Result<(), LedgerError> {
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
        post(tx, &[safety_movement(item.clone(), 0, units, by)]).await?;
    }
    Ok(())
}

/// Locks the balances of these items, in the order of their key.
pub(super) async fn lock_balances<'a>(
    tx: &mut Connection,
    items: impl Iterator<Item = &'a Item>,
) -> Result<(), LedgerError> {
    let items: BTreeSet<&Item> = items.collect();
    for item in items {
        lock_balance(tx, item).await?;
    }
    Ok(())
}

/// The balance, locked until the transaction ends.
pub(super) async fn lock_balance(tx: &mut Connection, item: &Item) -> Result<Balance, LedgerError> {
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
