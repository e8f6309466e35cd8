//! Reservations as the ledger has them: their rows, how they are read, and the lock that an ending takes.
//!
//! A row is one line. A cart's rows, its parts, share a cart id; asked for by that id or a part's, they are the cart. They
//! stand alike, but while a late payment takes them again one by one: until it has all, the cart is `EXPIRED`.
//! A reservation lies in the hot tier until 48 h after its day's last ending, then in the cold one, which is read
//! only. Deadlines read from here have every stall in them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::connection::Connection;
use super::sale_row::read_item;
use super::{Ledger, LedgerError};
use crate::domain::id::{Item, OrderId, UserId};
use crate::domain::reservation::{Ack, Cause, Line, Reservation, Status};
use crate::domain::reservation_id::{Kind, ReservationId};
use crate::domain::sale::SaleState;

/// The deadline of `r` with the stalls that it has not been given. They are looked through only where one ended after it
/// was made: that is a function's call and a statement for each row.
macro_rules! due {
    () => {
        "CASE WHEN r.created_at < (SELECT max(until_at) FROM stall) \
             THEN deadline(r.expires_at, r.created_at, r.sale_no, r.stall_no) ELSE r.expires_at END"
    };
}
pub(super) use due;

/// What every statement here reads of `r`, a tier of reservations, and `s`, its sale if it has one.
macro_rules! columns {
    () => {
        concat!(
            "r.reservation_id, r.order_id, r.user_id, r.sku_id, r.location_id, r.quantity, r.status::text AS status, \
             r.cause, r.first_id, r.sale_no, r.lane, r.payment_id, r.trace_id, r.created_at, r.updated_at, r.key_hash, \
             r.fingerprint, r.explicit_key, r.cart_id, r.cart_parts, r.pinned_at, r.rescued_at, ",
            due!(),
            " AS due, greatest(r.stall_no, (SELECT max(stall_no) FROM stall)) AS stalls, \
             s.state::text AS sale_state, s.hold_ms, s.hold_max_ms"
        )
    };
}
pub(super) use columns;

/// A reservation's row, with what an ending must know of its sale.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct ReservationRow {
    pub(super) reservation_id: Uuid,
    pub(super) order_id: String,
    pub(super) user_id: Option<String>,
    pub(super) sku_id: String,
    pub(super) location_id: String,
    pub(super) quantity: i64,
    status: String,
    cause: Option<String>,
    first_id: Option<Uuid>,
    pub(super) sale_no: Option<i32>,
    pub(super) lane: Option<i16>,
    pub(super) payment_id: Option<String>,
    pub(super) trace_id: Uuid,
    pub(super) key_hash: Uuid,
    pub(super) fingerprint: i64,
    pub(super) explicit_key: bool,
    /// Of the cart that it is a part of.
    pub(super) cart_id: Option<Uuid>,
    pub(super) cart_parts: Option<i16>,
    /// When its payment began, if that was told.
    pub(super) pinned_at: Option<DateTime<Utc>>,
    /// When its units were taken again for a payment that came after its expiry.
    pub(super) rescued_at: Option<DateTime<Utc>>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) updated_at: DateTime<Utc>,
    /// The deadline, stalls included.
    pub(super) due: DateTime<Utc>,
    /// The last stall that `due` knows of.
    pub(super) stalls: i64,
    sale_state: Option<String>,
    pub(super) hold_ms: Option<i64>,
    pub(super) hold_max_ms: Option<i64>,
}

impl ReservationRow {
    pub(super) fn status(&self) -> Result<Status, LedgerError> {
        Status::parse(&self.status).ok_or_else(|| self.broken("status"))
    }

    pub(super) fn set_status(&mut self, status: Status) {
        status.as_str().clone_into(&mut self.status);
    }

    /// The state of its sale; `None` where it was reserved without one.
    pub(super) fn sale_state(&self) -> Result<Option<SaleState>, LedgerError> {
        self.sale_state
            .as_deref()
            .map(|word| SaleState::parse(word).ok_or_else(|| self.broken("sale state")))
            .transpose()
    }

    /// What and where.
    pub(super) fn item(&self) -> Result<Item, LedgerError> {
        read_item(&self.sku_id, &self.location_id)
    }

    /// Whose allowance holds it, as in [`crate::domain::entry::Slip::buyer`].
    pub(super) fn buyer(&self) -> String {
        match &self.user_id {
            Some(user) => format!("u:{user}"),
            None => format!("o:{}", self.order_id),
        }
    }

    /// The id that clients know it by.
    pub(super) fn public_id(&self) -> Uuid {
        self.cart_id.unwrap_or(self.reservation_id)
    }

    fn broken(&self, what: &str) -> LedgerError {
        LedgerError::Broken(format!("{what} of reservation {}", ReservationId(self.reservation_id)))
    }
}

impl Ledger {
    /// The reservation of this id, or `None` where the ledger does not have it.
    ///
    /// # Errors
    /// Postgres could not be asked.
    pub async fn reservation(&self, id: ReservationId) -> Result<Option<Reservation>, LedgerError> {
        Ok(self.reservations(&[id]).await?.pop())
    }

    /// Those of these reservations that the ledger has, in no particular order.
    ///
    /// # Errors
    /// Postgres could not be asked.
    pub async fn reservations(&self, ids: &[ReservationId]) -> Result<Vec<Reservation>, LedgerError> {
        let mut connection = self.pool.acquire().await?;
        let (carts, wanted): (Vec<Uuid>, Vec<Uuid>) = ids.iter().map(|id| id.0).partition(|id| is_cart(*id));
        let mut rows: Vec<ReservationRow> = if wanted.is_empty() {
            Vec::new()
        } else {
            sqlx::query_as(concat!(
                "-- reservation.read\nSELECT ",
                columns!(),
                " FROM inventory_reservation r LEFT JOIN sale s USING (sale_no) WHERE r.reservation_id = ANY($1)"
            ))
            .bind(&wanted)
            .fetch_all(&mut connection)
            .await?
        };
        rows.extend(read_cold(&mut connection, missing(wanted, &rows)).await?);
        let parts: Vec<Uuid> = rows.iter().filter_map(|row| row.cart_id).chain(carts).collect();
        if parts.is_empty() {
            connection.keep();
            return rows.iter().map(|row| whole(&[row])).collect();
        }
        rows.retain(|row| row.cart_id.is_none());
        rows.extend(read_carts(&mut connection, &parts).await?);
        connection.keep();
        let mut by_id: BTreeMap<Uuid, Vec<&ReservationRow>> = BTreeMap::new();
        for row in &rows {
            by_id.entry(row.public_id()).or_default().push(row);
        }
        by_id.values().map(|rows| whole(rows)).collect()
    }
}

/// A reservation of its rows: one, or all parts of a cart.
pub(super) fn whole(rows: &[&ReservationRow]) -> Result<Reservation, LedgerError> {
    let row = rows
        .first()
        .ok_or_else(|| LedgerError::Broken("a reservation without rows".into()))?;
    let cause = |word: &str| Cause::parse(word).ok_or_else(|| row.broken("cause"));
    let user = |id: &str| UserId::try_from(id).map_err(|_| row.broken("user"));
    let line = |row: &&ReservationRow| {
        Ok(Line {
            item: row.item()?,
            quantity: row.quantity,
        })
    };
    let mut lines = rows.iter().map(line).collect::<Result<Vec<_>, LedgerError>>()?;
    lines.sort_by(|a, b| a.item.cmp(&b.item));
    let latest = |at: fn(&ReservationRow) -> DateTime<Utc>| rows.iter().map(|row| at(row)).max().unwrap_or_default();
    Ok(Reservation {
        id: ReservationId(row.public_id()),
        order: OrderId::try_from(row.order_id.as_str()).map_err(|_| row.broken("order"))?,
        user: row.user_id.as_deref().map(user).transpose()?,
        lines,
        status: standing(rows)?,
        cause: row.cause.as_deref().map(cause).transpose()?,
        first: row.first_id.map(ReservationId),
        ack: Ack::Durable,
        expires_at: latest(|row| row.due).into(),
        created_at: rows.iter().map(|row| row.created_at).min().unwrap_or_default().into(),
        updated_at: latest(|row| row.updated_at).into(),
    })
}

/// What all rows are, but `EXPIRED` where one of them is.
fn standing(rows: &[&ReservationRow]) -> Result<Status, LedgerError> {
    let mut standing = None;
    for row in rows {
        let status = row.status()?;
        if status == Status::Expired {
            return Ok(status);
        }
        standing.get_or_insert(status);
    }
    standing.ok_or_else(|| LedgerError::Broken("a reservation without rows".into()))
}

fn is_cart(id: Uuid) -> bool {
    ReservationId(id).kind() == Some(Kind::Cart)
}

/// All parts of these carts, in both tiers.
async fn read_carts(tx: &mut Connection, carts: &[Uuid]) -> Result<Vec<ReservationRow>, LedgerError> {
    let mut rows: Vec<ReservationRow> = sqlx::query_as(concat!(
        "-- reservation.read_carts\nSELECT ",
        columns!(),
        " FROM inventory_reservation r LEFT JOIN sale s USING (sale_no) WHERE r.cart_id = ANY($1)"
    ))
    .bind(carts)
    .fetch_all(&mut *tx)
    .await?;
    let whole = |cart: &&Uuid| {
        let parts: Vec<_> = rows.iter().filter(|row| row.cart_id == Some(**cart)).collect();
        parts
            .first()
            .is_some_and(|part| part.cart_parts.map(usize::try_from) == Some(Ok(parts.len())))
    };
    let elsewhere: Vec<Uuid> = carts.iter().filter(|cart| !whole(cart)).copied().collect();
    if elsewhere.is_empty() {
        return Ok(rows);
    }
    let cold: Vec<ReservationRow> = sqlx::query_as(concat!(
        "-- reservation.read_cold_carts: a cart made at midnight may lie in both\nSELECT ",
        columns!(),
        " FROM inventory_reservation_cold r LEFT JOIN sale s USING (sale_no) WHERE r.cart_id = ANY($1)"
    ))
    .bind(&elsewhere)
    .fetch_all(&mut *tx)
    .await?;
    rows.extend(cold);
    Ok(rows)
}

/// Reservations under lock.
#[derive(Debug, Default)]
pub(super) struct Locked {
    rows: HashMap<Uuid, ReservationRow>,
    /// The parts of each cart, in the order of their ids.
    carts: HashMap<Uuid, Vec<Uuid>>,
    /// Those that are read only.
    cold: HashSet<Uuid>,
}

impl Locked {
    /// The ids of the rows that stand and end with this one: all parts of a cart, by its id or a part's.
    pub(super) fn rows_of(&self, id: Uuid) -> Vec<Uuid> {
        let cart = self.rows.get(&id).map_or(Some(id), |row| row.cart_id);
        match cart.and_then(|cart| self.carts.get(&cart)) {
            Some(parts) => parts.clone(),
            None => self.rows.get(&id).map(|row| row.reservation_id).into_iter().collect(),
        }
    }

    /// Whether the row lies in the cold tier, where nothing changes any more.
    pub(super) fn is_cold(&self, row: &Uuid) -> bool {
        self.cold.contains(row)
    }

    pub(super) fn get(&self, row: &Uuid) -> &ReservationRow {
        self.rows.get(row).expect("rows_of names rows that are here")
    }

    pub(super) fn get_mut(&mut self, row: &Uuid) -> &mut ReservationRow {
        self.rows.get_mut(row).expect("rows_of names rows that are here")
    }

    /// What they hold or held.
    pub(super) fn items(&self) -> Result<BTreeSet<Item>, LedgerError> {
        self.rows.values().map(ReservationRow::item).collect()
    }

    /// The reservation of this id.
    pub(super) fn whole(&self, id: Uuid) -> Result<Option<Reservation>, LedgerError> {
        let rows: Vec<&ReservationRow> = self.rows_of(id).iter().map(|row| self.get(row)).collect();
        if rows.is_empty() {
            Ok(None)
        } else {
            whole(&rows).map(Some)
        }
    }

    fn add(&mut self, rows: Vec<ReservationRow>) {
        for row in rows {
            if let Some(cart) = row.cart_id {
                let parts = self.carts.entry(cart).or_default();
                if let Err(at) = parts.binary_search(&row.reservation_id) {
                    parts.insert(at, row.reservation_id);
                }
            }
            self.rows.insert(row.reservation_id, row);
        }
    }

    /// Carts of which not all parts are here.
    fn torn(&self) -> Vec<Uuid> {
        let torn = |(cart, parts): (&Uuid, &Vec<Uuid>)| {
            let wants = self.get(parts.first()?).cart_parts.map(usize::try_from);
            (wants != Some(Ok(parts.len()))).then_some(*cart)
        };
        self.carts.iter().filter_map(torn).collect()
    }
}

/// The rows of these reservations, carts whole. Hot ones are locked in the order of their ids; cold ones can't change
/// any more.
pub(super) async fn lock(tx: &mut Connection, ids: impl Iterator<Item = ReservationId>) -> Result<Locked, LedgerError> {
    let (carts, mut wanted): (Vec<Uuid>, Vec<Uuid>) = ids.map(|id| id.0).partition(|id| is_cart(*id));
    if !carts.is_empty() {
        let parts: Vec<Uuid> = sqlx::query_scalar(
            "-- reservation.parts: which rows a cart has never changes once it is made
             SELECT reservation_id FROM inventory_reservation WHERE cart_id = ANY($1)",
        )
        .bind(&carts)
        .fetch_all(&mut *tx)
        .await?;
        wanted.extend(parts);
    }
    let mut locked = Locked::default();
    locked.add(lock_rows(tx, &mut wanted).await?);
    let cold = wanted
        .iter()
        .filter(|id| !locked.rows.contains_key(id))
        .copied()
        .collect();
    let cold = read_cold(tx, cold).await?;
    locked.cold.extend(cold.iter().map(|row| row.reservation_id));
    locked.add(cold);
    let mut torn = locked.torn();
    torn.extend(carts.iter().filter(|cart| !locked.carts.contains_key(cart)));
    if !torn.is_empty() {
        // A part was named, or the cart lies in the cold tier. Whoever waits for its other parts in another order is
        // found out by Postgres, and runs again.
        let rows = read_carts(tx, &torn).await?;
        let mut rest: Vec<Uuid> = rows.iter().map(|row| row.reservation_id).collect();
        rest.retain(|id| !locked.rows.contains_key(id));
        locked.add(rows);
        let hot = lock_rows(tx, &mut rest).await?;
        rest.retain(|id| hot.iter().all(|row| row.reservation_id != *id));
        locked.cold.extend(rest);
        locked.add(hot);
    }
    Ok(locked)
}

async fn lock_rows(tx: &mut Connection, wanted: &mut Vec<Uuid>) -> Result<Vec<ReservationRow>, LedgerError> {
    wanted.sort_unstable();
    wanted.dedup();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    Ok(sqlx::query_as(concat!(
        "-- reservation.lock: in the order of ids, so that two batches can't deadlock; the sale is only read, for an
         -- ending never waits for an operator\nSELECT ",
        columns!(),
        " FROM inventory_reservation r LEFT JOIN sale s USING (sale_no) WHERE r.reservation_id = ANY($1)
          ORDER BY r.reservation_id FOR NO KEY UPDATE OF r"
    ))
    .bind(&*wanted)
    .fetch_all(&mut *tx)
    .await?)
}

fn missing(mut wanted: Vec<Uuid>, found: &[ReservationRow]) -> Vec<Uuid> {
    let found: HashSet<Uuid> = found.iter().map(|row| row.reservation_id).collect();
    wanted.retain(|id| !found.contains(id));
    wanted
}

/// Read after the hot tier: a day moves from there to here in one step, so what was in neither is nowhere.
async fn read_cold(tx: &mut Connection, ids: Vec<Uuid>) -> Result<Vec<ReservationRow>, LedgerError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    Ok(sqlx::query_as(concat!(
        "-- reservation.read_cold\nSELECT ",
        columns!(),
        " FROM inventory_reservation_cold r LEFT JOIN sale s USING (sale_no) WHERE r.reservation_id = ANY($1)"
    ))
    .bind(ids)
    .fetch_all(&mut *tx)
    .await?)
}
