//! The ledger's account of itself, for a judge from outside: reservations, every change of every item in order, sales and
//! lanes, read in one snapshot.
//!
//! It reads whole tables into memory, so it is for a drill's database, not for a shop's. Nothing is judged here.

use std::collections::HashMap;

use futures::TryStreamExt;
use uuid::Uuid;

use super::{Ledger, LedgerError, at_length};
use crate::domain::account::{Account, BucketAccount, Change, Deed, Kept, LaneAccount, SaleAccount, Stock};
use crate::domain::id::{Item, OrderId, SaleId, UserId};
use crate::domain::key::KeyHash;
use crate::domain::lane::LaneNo;
use crate::domain::reservation::{Cause, Ending, Status};
use crate::domain::reservation_id::ReservationId;
use crate::domain::sale::SaleState;
use crate::domain::time::Millis;
use crate::ledger::balance::BalanceRow;
use crate::ledger::connection::Connection;
use crate::ledger::image::{AfterRow, DeltaRow};
use crate::ledger::recon::RESTORED;
use crate::ledger::sale_row::read_item;
use crate::ledger::take::LATE_PAYMENT;

#[derive(sqlx::FromRow)]
struct KeptRow {
    reservation_id: Uuid,
    order_id: String,
    user_id: Option<String>,
    sku_id: String,
    location_id: String,
    quantity: i64,
    status: String,
    cause: Option<String>,
    first_id: Option<Uuid>,
    sale_no: Option<i32>,
    lane: Option<i16>,
    key_hash: Uuid,
    explicit_key: bool,
    in_cart: bool,
}

#[derive(sqlx::FromRow)]
struct StockRow {
    sku_id: String,
    location_id: String,
    #[sqlx(flatten)]
    balance: BalanceRow,
}

#[derive(sqlx::FromRow)]
struct ChangeRow {
    event_id: i64,
    transaction: i64,
    event_type: String,
    reason: Option<String>,
    sku_id: String,
    location_id: String,
    reservation_id: Option<Uuid>,
    #[sqlx(flatten)]
    delta: DeltaRow,
    #[sqlx(flatten)]
    after: AfterRow,
}

#[derive(sqlx::FromRow)]
struct SaleRow {
    sale_no: i32,
    sale_id: String,
    sku_id: String,
    location_id: String,
    state: String,
    allocation: i64,
    recalled: i64,
    drained: bool,
    per_user_limit_peak: Option<i32>,
    falls_back: bool,
    ends_at: Option<chrono::DateTime<chrono::Utc>>,
}

#[derive(sqlx::FromRow)]
struct BucketRow {
    sale_no: i32,
    lane: i16,
    counter: i64,
    on_the_way: i64,
    durable: i64,
    drift: i64,
}

#[derive(sqlx::FromRow)]
struct LaneRow {
    lane: i16,
    open: bool,
    epoch: i64,
    cursor_epoch: i64,
    cursor_seq: i64,
    waits_since: Option<chrono::DateTime<chrono::Utc>>,
}

impl Ledger {
    /// Everything that a judge may compare with what clients saw, of one snapshot. It changes nothing.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn account(&self) -> Result<Account, LedgerError> {
        let mut tx = self.snapshot().await?;
        at_length(&mut tx).await?;
        let read_at: chrono::DateTime<chrono::Utc> = sqlx::query_scalar("-- account.now\n SELECT now()")
            .fetch_one(&mut *tx)
            .await?;
        let account = Account {
            read_at: read_at.into(),
            reservations: reservations(&mut tx).await?,
            stock: stock(&mut tx).await?,
            sales: sales(&mut tx).await?,
            lanes: lanes(&mut tx).await?,
        };
        tx.rollback().await?;
        Ok(account)
    }
}

async fn reservations(tx: &mut Connection) -> Result<Vec<Kept>, LedgerError> {
    const COLUMNS: &str = "reservation_id, order_id, user_id, sku_id, location_id, quantity, status::text AS status,
        cause, first_id, sale_no, lane, key_hash, explicit_key, cart_id IS NOT NULL AS in_cart";
    let statement = format!(
        "-- account.reservations
         SELECT {COLUMNS} FROM inventory_reservation UNION ALL SELECT {COLUMNS} FROM inventory_reservation_cold"
    );
    let mut rows = sqlx::query_as::<_, KeptRow>(&statement).fetch(tx);
    let mut kept = Vec::new();
    while let Some(row) = rows.try_next().await? {
        kept.push(row.read()?);
    }
    Ok(kept)
}

impl KeptRow {
    fn read(self) -> Result<Kept, LedgerError> {
        let id = ReservationId(self.reservation_id);
        let broken = |what: &str| LedgerError::Broken(format!("{what} of reservation {id}"));
        let user = self.user_id.map(UserId::try_from).transpose();
        Ok(Kept {
            id,
            order: OrderId::try_from(self.order_id).map_err(|_| broken("order"))?,
            user: user.map_err(|_| broken("user"))?,
            item: read_item(&self.sku_id, &self.location_id)?,
            quantity: self.quantity,
            status: Status::parse(&self.status).ok_or_else(|| broken("status"))?,
            cause: self.cause.as_deref().and_then(Cause::parse),
            first: self.first_id.map(ReservationId),
            sale_no: self.sale_no,
            lane: self.lane.map(LaneNo::from_i16),
            key: KeyHash::from_uuid(self.key_hash),
            explicit_key: self.explicit_key,
            in_cart: self.in_cart,
        })
    }
}

async fn stock(tx: &mut Connection) -> Result<Vec<Stock>, LedgerError> {
    let rows: Vec<StockRow> = sqlx::query_as(
        "-- account.stock
         SELECT sku_id, location_id, on_hand, reserved, unavailable, safety_stock, escrowed, sold, damaged, returned
         FROM inventory_balance",
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut stock = Vec::with_capacity(rows.len());
    let mut places: HashMap<Item, usize> = HashMap::with_capacity(rows.len());
    for row in rows {
        let item = read_item(&row.sku_id, &row.location_id)?;
        places.insert(item.clone(), stock.len());
        stock.push(Stock {
            item,
            balance: row.balance.into(),
            changes: Vec::new(),
        });
    }
    let mut rows = sqlx::query_as::<_, ChangeRow>(
        "-- account.changes: numbers are drawn under the balance's lock, so an item's are in the order of its changes, and
         -- those of one transaction stand together
         SELECT event_id, transaction::text::int8 AS transaction, event_type::text AS event_type, reason, sku_id, location_id,
             reservation_id, on_hand_delta, reserved_delta, unavailable_delta, escrowed_delta, sold_delta,
             damaged_delta, returned_delta, on_hand, reserved, unavailable, escrowed, sold, damaged, returned
         FROM inventory_movement ORDER BY event_id",
    )
    .fetch(tx);
    while let Some(row) = rows.try_next().await? {
        let item = read_item(&row.sku_id, &row.location_id)?;
        let at = places
            .get(&item)
            .ok_or_else(|| LedgerError::Broken(format!("event {} of an item without a balance", row.event_id)))?;
        stock[*at].changes.push(row.read());
    }
    Ok(stock)
}

impl ChangeRow {
    fn read(self) -> Change {
        let deed = match (self.event_type.as_str(), self.reason.as_deref()) {
            ("inventory_reserved", Some(LATE_PAYMENT)) => Deed::Retaken,
            ("inventory_reserved", _) => Deed::Taken,
            ("inventory_committed", _) => Deed::Ended(Ending::Commit),
            ("inventory_released", _) => Deed::Ended(Ending::Release),
            ("inventory_expired", _) => Deed::Ended(Ending::Expire),
            (_, Some(RESTORED)) => Deed::Restored,
            _ => Deed::Moved,
        };
        Change {
            event_id: self.event_id,
            transaction: self.transaction,
            deed,
            reservation: self.reservation_id.map(ReservationId),
            delta: self.delta.read(),
            after: self.after.read(),
        }
    }
}

async fn sales(tx: &mut Connection) -> Result<Vec<SaleAccount>, LedgerError> {
    let buckets: Vec<BucketRow> = sqlx::query_as(
        "-- account.buckets: a lane may get units before it has a counter
         SELECT sale_no, lane, coalesce(counter, 0) AS counter, coalesce(g.units, 0)::int8 AS on_the_way,
             coalesce(durable, 0) AS durable, coalesce(drift, 0) AS drift
         FROM sale_bucket b FULL JOIN (
             SELECT sale_no, lane, sum(units) AS units FROM lane_grant WHERE kind IN ('units', 'end') GROUP BY 1, 2
         ) g USING (sale_no, lane) ORDER BY sale_no, lane",
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut by_sale: HashMap<i32, Vec<BucketAccount>> = HashMap::new();
    for row in buckets {
        by_sale.entry(row.sale_no).or_default().push(BucketAccount {
            lane: LaneNo::from_i16(row.lane),
            counter: row.counter,
            on_the_way: row.on_the_way,
            durable: row.durable,
            drift: row.drift,
        });
    }
    let rows: Vec<SaleRow> = sqlx::query_as(
        "-- account.sales
         SELECT sale_no, sale_id, sku_id, location_id, state::text AS state, allocation, recalled, drained,
             per_user_limit_peak, redis_down = 'ledger' AS falls_back, ends_at
         FROM sale ORDER BY sale_no",
    )
    .fetch_all(tx)
    .await?;
    let read = |row: SaleRow| {
        let broken = |what: &str| LedgerError::Broken(format!("{what} of sale {}", row.sale_id));
        Ok(SaleAccount {
            no: row.sale_no,
            id: SaleId::try_from(row.sale_id.as_str()).map_err(|_| broken("id"))?,
            item: read_item(&row.sku_id, &row.location_id)?,
            state: SaleState::parse(&row.state).ok_or_else(|| broken("state"))?,
            allocation: row.allocation,
            recalled: row.recalled,
            drained: row.drained,
            limit_peak: row.per_user_limit_peak.and_then(|peak| u32::try_from(peak).ok()),
            falls_back: row.falls_back,
            ends_at: row.ends_at.map(Millis::from),
            buckets: by_sale.remove(&row.sale_no).unwrap_or_default(),
        })
    };
    rows.into_iter().map(read).collect()
}

async fn lanes(tx: &mut Connection) -> Result<Vec<LaneAccount>, LedgerError> {
    let rows: Vec<LaneRow> = sqlx::query_as(
        "-- account.lanes
         SELECT lane, state = 'open' AS open, epoch, cursor_epoch, cursor_seq,
             (SELECT min(created_at) FROM lane_grant g WHERE g.lane = l.lane) AS waits_since
         FROM lane l ORDER BY lane",
    )
    .fetch_all(tx)
    .await?;
    let read = |row: LaneRow| {
        let broken = |_| LedgerError::Broken(format!("the cursor of lane {}", row.lane));
        Ok(LaneAccount {
            lane: LaneNo::from_i16(row.lane),
            open: row.open,
            epoch: u32::try_from(row.epoch).map_err(broken)?,
            cursor_epoch: u32::try_from(row.cursor_epoch).map_err(broken)?,
            cursor_seq: u64::try_from(row.cursor_seq).map_err(broken)?,
            waits_since: row.waits_since.map(Millis::from),
        })
    };
    rows.into_iter().map(read).collect()
}
