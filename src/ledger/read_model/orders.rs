//! The reservations of an order, as the ledger has them.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::{Ledger, LedgerError};
use crate::domain::id::OrderId;
use crate::domain::reservation::Reservation;
use crate::domain::time::Millis;
use crate::ledger::reservation::{ReservationRow, columns};

/// Most reservations of an order that are told, the newest: an order that has more was not one purchase.
const TOLD_MAX: i64 = 1_000;

/// An order's reservations as of an instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderRead {
    /// Nothing in it is older.
    pub as_of: Millis,
    /// Oldest first.
    pub reservations: Vec<Reservation>,
}

impl Ledger {
    /// The order's reservations, from the ledger.
    ///
    /// # Errors
    /// It could not be asked.
    pub async fn order(&self, order: &OrderId) -> Result<OrderRead, LedgerError> {
        read(self.reads.primary(), order).await
    }

    /// The order's reservations, from a replica where one answers, else from the ledger.
    ///
    /// # Errors
    /// Neither could be asked.
    pub async fn order_snapshot(&self, order: &OrderId) -> Result<OrderRead, LedgerError> {
        if let Some(replica) = self.reads.replica() {
            match read(replica, order).await {
                Ok(found) => return Ok(found),
                Err(error) => self.reads.rest(&error),
            }
        }
        self.order(order).await
    }
}

async fn read(pool: &PgPool, order: &OrderId) -> Result<OrderRead, LedgerError> {
    let mut connection = pool.acquire().await?;
    let as_of: DateTime<Utc> = sqlx::query_scalar(
        "-- order.as_of: a replica has everything that was committed before the feed's row that it has
         SELECT coalesce((SELECT as_of FROM snapshot_feed WHERE pg_is_in_recovery()), clock_timestamp())",
    )
    .fetch_one(&mut *connection)
    .await?;
    let mut reservations = Vec::new();
    // The hot tier first: a day moves to the cold one in one step, so what was in neither is nowhere.
    for statement in [
        concat!(
            "-- order.reservations\nSELECT ",
            columns!(),
            " FROM inventory_reservation r LEFT JOIN sale s USING (sale_no) WHERE r.order_id = $1
             ORDER BY r.created_at DESC LIMIT $2"
        ),
        concat!(
            "-- order.reservations_cold\nSELECT ",
            columns!(),
            " FROM inventory_reservation_cold r LEFT JOIN sale s USING (sale_no) WHERE r.order_id = $1
             ORDER BY r.created_at DESC LIMIT $2"
        ),
    ] {
        let rows: Vec<ReservationRow> = sqlx::query_as(statement)
            .bind(order.as_str())
            .bind(TOLD_MAX)
            .fetch_all(&mut *connection)
            .await?;
        for row in &rows {
            reservations.push(row.to_reservation()?);
        }
    }
    // A day that moved in between was read twice.
    reservations.sort_by_key(|reservation| (reservation.created_at, reservation.id));
    reservations.dedup_by_key(|reservation| reservation.id);
    Ok(OrderRead {
        as_of: as_of.into(),
        reservations,
    })
}
