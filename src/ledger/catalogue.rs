//! The catalogue: locations, SKUs, and how many units of a SKU are kept back from shoppers.
//!
//! Every write replaces what was there, and repeats change nothing. A change of safety stock is a change of balances
//! and has its events; whether something is on sale is not decided here.

use serde_json::json;
use uuid::Uuid;

use super::balance::{ensure_balance, location_is_known, lock_balance};
use super::connection::Connection;
use super::once::{By, Claim, Key, claim};
use super::post::{Deltas, EventType, Movement, post};
use super::retry::retried;
use super::{Ledger, LedgerError};
use crate::domain::id::{Item, LocationId, Sku};

/// The reason of the events that tell a change of safety stock.
pub(super) const SAFETY_STOCK: &str = "safety_stock";

/// A place where stock lies. `None` fields are not known.
#[derive(Clone, Debug, PartialEq)]
pub struct Location {
    /// Its id.
    pub id: LocationId,
    /// What people call it.
    pub name: String,
    /// `warehouse`, `store`, `fulfillment_center`, `region` or `seller_location`.
    pub kind: String,
    /// The region that it serves.
    pub region: String,
    /// Degrees north.
    pub latitude: Option<f64>,
    /// Degrees east.
    pub longitude: Option<f64>,
    /// Per parcel, in the shop's currency.
    pub shipping_cost: Option<f64>,
    /// From order to hand-over, in hours.
    pub handling_hours: Option<f64>,
    /// Parcels a day.
    pub daily_capacity: Option<i64>,
    /// Higher is preferred.
    pub priority: i32,
    /// It ships.
    pub active: bool,
}

/// A SKU and how it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogueSku {
    /// Its id.
    pub sku: Sku,
    /// What people call it.
    pub name: Option<String>,
    /// Shoppers see exact numbers; else only that it is there.
    pub exact: bool,
    /// Units at which stock counts as low.
    pub low_stock_threshold: Option<i64>,
    /// Units kept back at each location that sets none apart.
    pub safety_stock: i64,
}

/// What came of a write to the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is as asked.
    Done,
    /// The same request was answered before.
    Replayed,
    /// The key belongs to another request.
    KeyReused,
    /// No such SKU.
    UnknownSku,
    /// No such location.
    UnknownLocation,
}

impl Ledger {
    /// Makes or replaces a location.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn put_location(&self, location: &Location, key: Option<&Key>) -> Result<Put, LedgerError> {
        let mut tx = self.begin().await?;
        if let Some(put) = repeated(&mut tx, key).await? {
            return Ok(put);
        }
        sqlx::query(
            "-- location.put
             INSERT INTO location (location_id, name, kind, region, latitude, longitude, shipping_cost,
                 handling_hours, daily_capacity, priority, active)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
             ON CONFLICT (location_id) DO UPDATE SET name = excluded.name, kind = excluded.kind,
                 region = excluded.region, latitude = excluded.latitude, longitude = excluded.longitude,
                 shipping_cost = excluded.shipping_cost, handling_hours = excluded.handling_hours,
                 daily_capacity = excluded.daily_capacity, priority = excluded.priority, active = excluded.active,
                 updated_at = clock_timestamp()",
        )
        .bind(location.id.as_str())
        .bind(&location.name)
        .bind(&location.kind)
        .bind(&location.region)
        .bind(location.latitude)
        .bind(location.longitude)
        .bind(location.shipping_cost)
        .bind(location.handling_hours)
        .bind(location.daily_capacity)
        .bind(location.priority)
        .bind(location.active)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Put::Done)
    }

    /// Makes or replaces a SKU; its safety stock goes to every location that sets none apart.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn put_sku(&self, sku: &CatalogueSku, by: &By, key: Option<&Key>) -> Result<Put, LedgerError> {
        retried!(self, self.put_sku_once(sku, by, key))
    }

    async fn put_sku_once(&self, sku: &CatalogueSku, by: &By, key: Option<&Key>) -> Result<Put, LedgerError> {
        let mut tx = self.begin().await?;
        if let Some(put) = repeated(&mut tx, key).await? {
            return Ok(put);
        }
        sqlx::query(
            "-- sku.put
             INSERT INTO sku (sku_id, name, display, low_stock_threshold, safety_stock) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (sku_id) DO UPDATE SET name = excluded.name, display = excluded.display,
                 low_stock_threshold = excluded.low_stock_threshold, safety_stock = excluded.safety_stock,
                 updated_at = clock_timestamp()",
        )
        .bind(sku.sku.as_str())
        .bind(&sku.name)
        .bind(if sku.exact { "exact" } else { "limited" })
        .bind(sku.low_stock_threshold)
        .bind(sku.safety_stock)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "-- balance.lock_of_sku: in key order, as every poster of several items does; by itself, for a statement that
             -- locks a row and then updates it looks for the row as it was before it waited, and may find another in line
             SELECT 1 FROM inventory_balance WHERE sku_id = $1 AND NOT safety_stock_apart AND safety_stock <> $2
             ORDER BY location_id COLLATE \"C\" FOR NO KEY UPDATE",
        )
        .bind(sku.sku.as_str())
        .bind(sku.safety_stock)
        .execute(&mut *tx)
        .await?;
        let changes: Vec<(String, i64)> = sqlx::query_as(
            "-- balance.safety_of_sku
             WITH old AS (
                 SELECT sku_id, location_id, safety_stock FROM inventory_balance
                 WHERE sku_id = $1 AND NOT safety_stock_apart AND safety_stock <> $2)
             UPDATE inventory_balance b SET safety_stock = $2 FROM old
             WHERE b.sku_id = old.sku_id AND b.location_id = old.location_id
             RETURNING b.location_id, old.safety_stock",
        )
        .bind(sku.sku.as_str())
        .bind(sku.safety_stock)
        .fetch_all(&mut *tx)
        .await?;
        let mut movements = Vec::with_capacity(changes.len());
        for (location, before) in changes {
            let item = Item {
                sku: sku.sku.clone(),
                location: read_location(&location)?,
            };
            movements.push(safety_movement(item, before, sku.safety_stock, by));
        }
        post(&mut tx, &movements).await?;
        tx.commit().await?;
        Ok(Put::Done)
    }

    /// Sets the safety stock of a SKU at one location apart; `None`: it follows the SKU again.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn put_safety_stock(
        &self,
        item: &Item,
        units: Option<i64>,
        by: &By,
        key: Option<&Key>,
    ) -> Result<Put, LedgerError> {
        retried!(self, self.put_safety_stock_once(item, units, by, key))
    }

    async fn put_safety_stock_once(
        &self,
        item: &Item,
        units: Option<i64>,
        by: &By,
        key: Option<&Key>,
    ) -> Result<Put, LedgerError> {
        let mut tx = self.begin().await?;
        if let Some(put) = repeated(&mut tx, key).await? {
            return Ok(put);
        }
        let of_sku: Option<i64> = sqlx::query_scalar(
            "-- sku.safety_stock: locked before any balance, as put_sku does
             SELECT safety_stock FROM sku WHERE sku_id = $1 FOR SHARE",
        )
        .bind(item.sku.as_str())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(of_sku) = of_sku else {
            return Ok(Put::UnknownSku);
        };
        if !location_is_known(&mut tx, &item.location).await? {
            return Ok(Put::UnknownLocation);
        }
        ensure_balance(&mut tx, item, by).await?;
        let units_now = units.unwrap_or(of_sku);
        let units_before = lock_balance(&mut tx, item).await?.safety_stock;
        sqlx::query(
            "-- balance.safety_apart
             UPDATE inventory_balance SET safety_stock = $3, safety_stock_apart = $4
             WHERE sku_id = $1 AND location_id = $2",
        )
        .bind(item.sku.as_str())
        .bind(item.location.as_str())
        .bind(units_now)
        .bind(units.is_some())
        .execute(&mut *tx)
        .await?;
        if units_before != units_now {
            post(&mut tx, &[safety_movement(item.clone(), units_before, units_now, by)]).await?;
        }
        tx.commit().await?;
        Ok(Put::Done)
    }
}

/// The event of a change of safety stock, which no image of a balance has: it tells both itself, and as its quantity the
/// units that became available.
pub(super) fn safety_movement(item: Item, before: i64, after: i64, by: &By) -> Movement {
    Movement {
        item,
        event: EventType::Adjusted,
        quantity_delta: before - after,
        deltas: Deltas::default(),
        reason: Some(SAFETY_STOCK.to_owned()),
        reference_id: None,
        reservation_id: None,
        order_id: None,
        operator: by.operator.clone(),
        trace_id: by.trace.map(|trace| trace.to_uuid()),
        metadata: Some(json!({"safetyStock": {"before": before, "after": after}})),
    }
}

fn read_location(text: &str) -> Result<LocationId, LedgerError> {
    LocationId::try_from(text).map_err(|e| LedgerError::Broken(format!("location {text:?} {e}")))
}

async fn repeated(tx: &mut Connection, key: Option<&Key>) -> Result<Option<Put>, LedgerError> {
    let Some(key) = key else { return Ok(None) };
    Ok(match claim(tx, key, false, Uuid::new_v4()).await? {
        Claim::New => None,
        Claim::Replay(_) => Some(Put::Replayed),
        Claim::Reused => Some(Put::KeyReused),
    })
}
