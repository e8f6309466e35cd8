//! Reservations as the ledger has them: their row, how it is read, and the lock that an ending takes.
//!
//! A reservation lies in the hot tier until 48 h after its day's last ending, then in the cold one, which is read
//! only. Deadlines read from here have every stall in them.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::sale_row::read_item;
use super::{Ledger, LedgerError};
use crate::domain::id::{Item, OrderId, UserId};
use crate::domain::reservation::{Ack, Cause, Reservation, Status};
use crate::domain::reservation_id::ReservationId;
use crate::domain::sale::SaleState;
use crate::domain::time::Millis;

/// What every statement here reads of `r`, a tier of reservations, and `s`, its sale if it has one.
macro_rules! columns {
    () => {
        "r.reservation_id, r.order_id, r.user_id, r.sku_id, r.location_id, r.quantity, r.status::text AS status, \
         r.cause, r.first_id, r.sale_no, r.lane, r.payment_id, r.trace_id, r.created_at, r.updated_at, \
         deadline(r.expires_at, r.created_at, r.sale_no, r.stall_no) AS due, \
         greatest(r.stall_no, (SELECT max(stall_no) FROM stall)) AS stalls, \
         s.state::text AS sale_state, s.hold_max_ms"
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
    pub(super) created_at: DateTime<Utc>,
    pub(super) updated_at: DateTime<Utc>,
    /// The deadline, stalls included.
    pub(super) due: DateTime<Utc>,
    /// The last stall that `due` knows of.
    pub(super) stalls: i64,
    sale_state: Option<String>,
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

    pub(super) fn to_reservation(&self) -> Result<Reservation, LedgerError> {
        let cause = |word: &str| Cause::parse(word).ok_or_else(|| self.broken("cause"));
        let user = |id: &str| UserId::try_from(id).map_err(|_| self.broken("user"));
        Ok(Reservation {
            id: ReservationId(self.reservation_id),
            order: OrderId::try_from(self.order_id.as_str()).map_err(|_| self.broken("order"))?,
            user: self.user_id.as_deref().map(user).transpose()?,
            item: self.item()?,
            quantity: self.quantity,
            status: self.status()?,
            cause: self.cause.as_deref().map(cause).transpose()?,
            first: self.first_id.map(ReservationId),
            ack: Ack::Durable,
            expires_at: self.due.into(),
            created_at: self.created_at.into(),
            updated_at: self.updated_at.into(),
        })
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
        let wanted = ids.iter().map(|id| id.0).collect();
        let mut rows: Vec<ReservationRow> = sqlx::query_as(concat!(
            "-- reservation.read\nSELECT ",
            columns!(),
            " FROM inventory_reservation r LEFT JOIN sale s USING (sale_no) WHERE r.reservation_id = ANY($1)"
        ))
        .bind(&wanted)
        .fetch_all(&mut *connection)
        .await?;
        rows.extend(read_cold(&mut connection, missing(wanted, &rows)).await?);
        rows.iter().map(ReservationRow::to_reservation).collect()
    }
}

impl Ledger {
    /// What a queue entry leaves out: the item of its sale, and the deadline with the stalls since it was written;
    /// `None` where there is no such sale.
    ///
    /// # Errors
    /// Postgres could not be asked.
    pub async fn foresee(
        &self,
        sale_no: i32,
        created_at: Millis,
        expires_at: Millis,
    ) -> Result<Option<(Item, Millis)>, LedgerError> {
        let row: Option<(String, String, DateTime<Utc>)> = sqlx::query_as(
            "-- reservation.foresee
             SELECT sku_id, location_id, deadline($2, $3, sale_no, 0) FROM sale WHERE sale_no = $1",
        )
        .bind(sale_no)
        .bind(expires_at.to_utc())
        .bind(created_at.to_utc())
        .fetch_optional(&self.pool)
        .await?;
        let Some((sku, location, due)) = row else {
            return Ok(None);
        };
        Ok(Some((read_item(&sku, &location)?, due.into())))
    }
}

/// The rows of these reservations. Hot ones are locked in the order of their ids; cold ones can't change any more.
pub(super) async fn lock(
    tx: &mut PgConnection,
    ids: impl Iterator<Item = ReservationId>,
) -> Result<HashMap<Uuid, ReservationRow>, LedgerError> {
    let mut wanted: Vec<Uuid> = ids.map(|id| id.0).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let mut rows: Vec<ReservationRow> = sqlx::query_as(concat!(
        "-- reservation.lock: in the order of ids, so that two batches can't deadlock; the sale is only read, for an
         -- ending never waits for an operator\nSELECT ",
        columns!(),
        " FROM inventory_reservation r LEFT JOIN sale s USING (sale_no) WHERE r.reservation_id = ANY($1)
          ORDER BY r.reservation_id FOR NO KEY UPDATE OF r"
    ))
    .bind(&wanted)
    .fetch_all(&mut *tx)
    .await?;
    rows.extend(read_cold(tx, missing(wanted, &rows)).await?);
    Ok(rows.into_iter().map(|row| (row.reservation_id, row)).collect())
}

fn missing(mut wanted: Vec<Uuid>, found: &[ReservationRow]) -> Vec<Uuid> {
    let found: HashSet<Uuid> = found.iter().map(|row| row.reservation_id).collect();
    wanted.retain(|id| !found.contains(id));
    wanted
}

/// Read after the hot tier: a day moves from there to here in one step, so what was in neither is nowhere.
async fn read_cold(tx: &mut PgConnection, ids: Vec<Uuid>) -> Result<Vec<ReservationRow>, LedgerError> {
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
