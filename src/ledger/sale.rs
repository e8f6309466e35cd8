//! Sales as the ledger has them: how they are read, and how one is made.
//!
//! A sale's units are set aside in the transaction that makes it: they lie in `recalled`, which counts what belongs to
//! the sale and is in no lane, until the start grants them. What happens to it afterwards stands in `sale_life`.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::balance::{ensure_balance, location_is_known, lock_balance, sku_is_known};
use super::connection::Connection;
use super::once::{By, Claim, Key, claim};
use super::post::{Deltas, EventType, Movement, post};
use super::retry::retried;
use super::sale_life::{enter, in_motion};
use super::sale_row::{SaleRow, sale_columns};
use super::{GrantTicket, Ledger, LedgerError};
use crate::domain::balance::Balance;
use crate::domain::id::{Item, LocationId, SaleId, Sku};
use crate::domain::lane::LaneNo;
use crate::domain::sale::{RedisDown, Sale, SaleState, UserRate};
use crate::domain::time::Millis;

/// The columns of a [`Locked`] sale, under the alias `s`.
macro_rules! locked_columns {
    () => {
        concat!(sale_columns!(), ", s.frozen_at, s.recalled")
    };
}
pub(super) use locked_columns;

#[derive(Debug, sqlx::FromRow)]
pub(super) struct LockedRow {
    #[sqlx(flatten)]
    sale: SaleRow,
    frozen_at: Option<DateTime<Utc>>,
    recalled: i64,
}

/// A sale whose row is locked, with what only its keeper needs.
#[derive(Debug)]
pub(super) struct Locked {
    pub(super) sale: Sale,
    /// Of a frozen sale.
    pub(super) frozen_at: Option<DateTime<Utc>>,
    /// Units that belong to the sale and are in no lane, nor on the way to one.
    pub(super) recalled: i64,
}

impl LockedRow {
    pub(super) fn read(self) -> Result<Locked, LedgerError> {
        Ok(Locked {
            sale: self.sale.read()?,
            frozen_at: self.frozen_at,
            recalled: self.recalled,
        })
    }
}

/// A sale as asked for; checked where it entered.
#[derive(Clone, Debug)]
pub struct NewSale {
    /// The shop's name for it.
    pub id: SaleId,
    /// What is sold, and from where.
    pub item: Item,
    /// Units.
    pub allocation: i64,
    /// Units a user may hold and have bought.
    pub per_user_limit: Option<u32>,
    /// Attempts that one user may make.
    pub user_rate: Option<UserRate>,
    /// Default time to pay, in ms.
    pub hold_ms: u32,
    /// Longest time to pay, in ms.
    pub hold_max_ms: u32,
    /// Lanes that it is spread over.
    pub buckets: u16,
    /// When it starts by itself.
    pub starts_at: Option<Millis>,
    /// When it ends by itself.
    pub ends_at: Option<Millis>,
    /// How long a reserve waits for durable by default, in ms.
    pub ack_wait_ms: u32,
    /// What serves it while Redis is away.
    pub redis_down: RedisDown,
    /// Requests a second that a gateway has the ledger decide then.
    pub redis_down_rate: u32,
    /// Units that may be accepted and not durable; none: a tenth of the allocation.
    pub undurable_max: Option<u32>,
}

/// A sale after a change, and the grants that carry the change to its lanes.
#[derive(Clone, Debug, PartialEq)]
pub struct Acted {
    /// As it is now.
    pub sale: Sale,
    /// Messages to its lanes that are not durably delivered: when they are, the change is in force on every gateway.
    pub grants: Vec<GrantTicket>,
    /// The request was answered before.
    pub replayed: bool,
}

/// What came of making a sale.
#[derive(Clone, Debug, PartialEq)]
pub enum Created {
    /// It is there, its units are set aside.
    Done(Acted),
    /// This id is taken, or the item has a sale that is not over.
    Exists,
    /// The key belongs to another request.
    KeyReused,
    /// No such SKU.
    UnknownSku,
    /// No such location.
    UnknownLocation,
    /// It would end before it starts, or before now.
    EndsTooEarly,
    /// There are only so many lanes.
    TooManyBuckets {
        /// Of this deployment.
        lanes: u16,
    },
    /// Too few units are free.
    Insufficient(Balance),
}

impl Ledger {
    /// The sale of this id.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn sale(&self, id: &SaleId) -> Result<Option<Sale>, LedgerError> {
        let row: Option<SaleRow> = sqlx::query_as(concat!(
            "-- sale.read\nSELECT ",
            sale_columns!(),
            " FROM sale s WHERE sale_id = $1"
        ))
        .bind(id.as_str())
        .fetch_optional(&self.pool)
        .await?;
        row.map(SaleRow::read).transpose()
    }

    /// All sales, oldest first.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn sales(&self) -> Result<Vec<Sale>, LedgerError> {
        let rows: Vec<SaleRow> = sqlx::query_as(concat!(
            "-- sale.read_all\nSELECT ",
            sale_columns!(),
            " FROM sale s ORDER BY sale_no"
        ))
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(SaleRow::read).collect()
    }

    /// Makes a sale and sets its units aside. It is `scheduled` where it has a start, live where that is past, else a
    /// `draft`.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn create_sale(&self, new: &NewSale, by: &By, key: Option<&Key>) -> Result<Created, LedgerError> {
        retried!(self, self.create_sale_once(new, by, key))
    }

    async fn create_sale_once(&self, new: &NewSale, by: &By, key: Option<&Key>) -> Result<Created, LedgerError> {
        let mut tx = self.begin().await?;
        if let Some(key) = key {
            match claim(&mut tx, key, false, Uuid::new_v4()).await? {
                Claim::New => {}
                Claim::Reused => return Ok(Created::KeyReused),
                Claim::Replay(_) => return replay(&mut tx, &new.id).await,
            }
        }
        // What is wrong with the request itself comes before what it meets.
        if ends_too_early(&mut tx, new.starts_at, new.ends_at).await? {
            return Ok(Created::EndsTooEarly);
        }
        let lanes = match choose_lanes(&mut tx, new.buckets).await? {
            Ok(lanes) => lanes,
            Err(lanes) => return Ok(Created::TooManyBuckets { lanes }),
        };
        if !sku_is_known(&mut tx, &new.item.sku).await? {
            return Ok(Created::UnknownSku);
        }
        if !location_is_known(&mut tx, &new.item.location).await? {
            return Ok(Created::UnknownLocation);
        }
        ensure_balance(&mut tx, &new.item, by).await?;
        let mut made = match insert(&mut tx, new, lanes).await {
            Ok(made) => made,
            Err(e) if e.is_constraint("sale_id_is_unique") || e.is_constraint("sale_one_per_item") => {
                return Ok(Created::Exists);
            }
            Err(e) => return Err(e),
        };
        let found = lock_balance(&mut tx, &new.item).await?;
        if new.allocation > found.free() {
            return Ok(Created::Insufficient(found));
        }
        post(&mut tx, &[escrow_movement(&made.sale, new.allocation, "escrowed", by)]).await?;
        let mut grants = Vec::new();
        if starts_now(&mut tx, made.sale.no).await? {
            grants = enter(&mut tx, &mut made, SaleState::Live, by).await?;
        }
        tx.commit().await?;
        Ok(Created::Done(Acted {
            sale: made.sale,
            grants,
            replayed: false,
        }))
    }
}

/// The sale, locked against other changes of it; endings, which only refer to it, go on.
pub(super) async fn lock_sale(tx: &mut Connection, id: &SaleId) -> Result<Option<Locked>, LedgerError> {
    let row: Option<LockedRow> = sqlx::query_as(concat!(
        "-- sale.lock\nSELECT ",
        locked_columns!(),
        " FROM sale s WHERE sale_id = $1 FOR NO KEY UPDATE"
    ))
    .bind(id.as_str())
    .fetch_optional(tx)
    .await?;
    row.map(LockedRow::read).transpose()
}

/// The sale of an item that has not ended, locked like [`lock_sale`].
pub(super) async fn lock_sale_of(tx: &mut Connection, item: &Item) -> Result<Option<Locked>, LedgerError> {
    let row: Option<LockedRow> = sqlx::query_as(concat!(
        "-- sale.lock_of_item: of an item's sales only one is not drained\nSELECT ",
        locked_columns!(),
        " FROM sale s WHERE sku_id = $1 AND location_id = $2 AND NOT drained AND state <> 'ended' FOR NO KEY UPDATE"
    ))
    .bind(item.sku.as_str())
    .bind(item.location.as_str())
    .fetch_optional(tx)
    .await?;
    row.map(LockedRow::read).transpose()
}

/// The sales of these SKUs at a location that have not ended, locked like [`lock_sale`] in the order of their numbers.
pub(super) async fn lock_sales_of(
    tx: &mut Connection,
    location: &LocationId,
    skus: &BTreeSet<Sku>,
) -> Result<Vec<Locked>, LedgerError> {
    let rows: Vec<LockedRow> = sqlx::query_as(concat!(
        "-- sale.lock_of_items\nSELECT ",
        locked_columns!(),
        " FROM sale s WHERE sku_id = ANY($1) AND location_id = $2 AND NOT drained AND state <> 'ended'
          ORDER BY sale_no FOR NO KEY UPDATE"
    ))
    .bind(skus.iter().map(Sku::as_str).collect::<Vec<_>>())
    .bind(location.as_str())
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(LockedRow::read).collect()
}

/// Units that enter (or, negative, leave) what is set aside for a sale.
pub(super) fn escrow_movement(sale: &Sale, units: i64, reason: &str, by: &By) -> Movement {
    Movement {
        item: sale.item.clone(),
        event: EventType::Adjusted,
        quantity_delta: 0,
        deltas: Deltas {
            escrowed: units,
            ..Deltas::default()
        },
        reason: Some(reason.to_owned()),
        reference_id: Some(sale.id.to_string()),
        reservation_id: None,
        order_id: None,
        operator: by.operator.clone(),
        trace_id: by.trace.map(|trace| trace.to_uuid()),
        metadata: None,
    }
}

async fn replay(tx: &mut Connection, id: &SaleId) -> Result<Created, LedgerError> {
    let Locked { sale, .. } = lock_sale(tx, id)
        .await?
        .ok_or_else(|| LedgerError::Broken(format!("a key names sale {id}, which is not there")))?;
    let grants = in_motion(tx, sale.no).await?;
    Ok(Created::Done(Acted {
        sale,
        grants,
        replayed: true,
    }))
}

/// Draws the sale's number and its lanes: neighbours, beginning where its number says, so that sales spread. `Err` with
/// the number of lanes where those are too few.
async fn choose_lanes(tx: &mut Connection, buckets: u16) -> Result<Result<(i32, Vec<i16>), u16>, LedgerError> {
    let (sale_no, lanes): (i64, i32) = sqlx::query_as(
        "-- sale.draw_number
         SELECT nextval(pg_get_serial_sequence('sale', 'sale_no')), lanes FROM deployment",
    )
    .fetch_one(tx)
    .await?;
    let broken = |_| LedgerError::Broken("the number of a sale or of lanes is out of range".to_owned());
    let lanes = u16::try_from(lanes).map_err(broken)?;
    if buckets > lanes {
        return Ok(Err(lanes));
    }
    let first = u16::try_from(sale_no % i64::from(lanes)).map_err(broken)?;
    let chosen = (0..buckets).map(|bucket| LaneNo((first + bucket) % lanes).to_i16());
    Ok(Ok((i32::try_from(sale_no).map_err(broken)?, chosen.collect())))
}

async fn insert(tx: &mut Connection, new: &NewSale, (sale_no, lanes): (i32, Vec<i16>)) -> Result<Locked, LedgerError> {
    let row: LockedRow = sqlx::query_as(concat!(
        "-- sale.insert: nothing is granted yet, so the whole allocation is with the sale itself
         INSERT INTO sale AS s (sale_no, sale_id, sku_id, location_id, state, allocation, recalled, recalled_at,
             per_user_limit, rate_per_second, rate_burst, hold_ms, hold_max_ms, lanes, starts_at, ends_at, ack_wait_ms,
             redis_down, redis_down_rate, undurable_max)
         OVERRIDING SYSTEM VALUE
         VALUES ($1, $2, $3, $4, CASE WHEN $12::timestamptz IS NULL THEN 'draft' ELSE 'scheduled' END::sale_state,
             $5, $5, now(), $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
         RETURNING ",
        locked_columns!()
    ))
    .bind(sale_no)
    .bind(new.id.as_str())
    .bind(new.item.sku.as_str())
    .bind(new.item.location.as_str())
    .bind(new.allocation)
    .bind(new.per_user_limit.map(i64::from))
    .bind(new.user_rate.map(|rate| rate.per_second))
    .bind(new.user_rate.map(|rate| i64::from(rate.burst)))
    .bind(i64::from(new.hold_ms))
    .bind(i64::from(new.hold_max_ms))
    .bind(lanes)
    .bind(new.starts_at.map(Millis::to_utc))
    .bind(new.ends_at.map(Millis::to_utc))
    .bind(i64::from(new.ack_wait_ms))
    .bind(new.redis_down.as_str())
    .bind(i64::from(new.redis_down_rate))
    .bind(new.undurable_max.map(i64::from))
    .fetch_one(&mut *tx)
    .await?;
    sqlx::query("-- sale_tally.insert\nINSERT INTO sale_tally (sale_no) VALUES ($1)")
        .bind(sale_no)
        .execute(tx)
        .await?;
    row.read()
}

/// Whether a sale would end before now, or before it starts.
pub(super) async fn ends_too_early(
    tx: &mut Connection,
    starts_at: Option<Millis>,
    ends_at: Option<Millis>,
) -> Result<bool, LedgerError> {
    Ok(sqlx::query_scalar(
        "-- sale.ends_too_early
         SELECT coalesce($2 <= greatest($1, clock_timestamp()), false)",
    )
    .bind(starts_at.map(Millis::to_utc))
    .bind(ends_at.map(Millis::to_utc))
    .fetch_one(tx)
    .await?)
}

async fn starts_now(tx: &mut Connection, sale_no: i32) -> Result<bool, LedgerError> {
    Ok(sqlx::query_scalar(
        "-- sale.starts_now
         SELECT coalesce(starts_at <= clock_timestamp(), false) FROM sale WHERE sale_no = $1",
    )
    .bind(sale_no)
    .fetch_one(tx)
    .await?)
}
