//! The reservations of an order, as the ledger has them.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Ledger, LedgerError};
use crate::domain::id::OrderId;
use crate::domain::reservation::Reservation;
use crate::domain::reservation_id::ReservationId;
use crate::domain::time::Millis;

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
        self.over(self.reads.primary()).read_order(order).await
    }

    /// The order's reservations, from a replica where one answers, else from the ledger.
    ///
    /// # Errors
    /// Neither could be asked.
    pub async fn order_snapshot(&self, order: &OrderId) -> Result<OrderRead, LedgerError> {
        if let Some(replica) = self.reads.replica() {
            match self.over(replica).read_order(order).await {
                Ok(found) => return Ok(found),
                Err(error) => self.reads.rest(&error),
            }
        }
        self.order(order).await
    }

    async fn read_order(&self, order: &OrderId) -> Result<OrderRead, LedgerError> {
        let as_of: DateTime<Utc> = sqlx::query_scalar(
            "-- order.as_of: a replica has everything that was committed before the feed's row that it has
             SELECT coalesce((SELECT as_of FROM snapshot_feed WHERE pg_is_in_recovery()), clock_timestamp())",
        )
        .fetch_one(&self.pool)
        .await?;
        let ids: Vec<Uuid> = sqlx::query_scalar(
            "-- order.reservations: a walk along reservation_by_order in each partition
             SELECT reservation_id FROM (
                 SELECT reservation_id, created_at FROM inventory_reservation WHERE order_id = $1
                 UNION SELECT reservation_id, created_at FROM inventory_reservation_cold WHERE order_id = $1) AS of_order
             ORDER BY created_at DESC LIMIT $2",
        )
        .bind(order.as_str())
        .bind(TOLD_MAX)
        .fetch_all(&self.pool)
        .await?;
        let ids: Vec<ReservationId> = ids.into_iter().map(ReservationId).collect();
        let mut reservations = self.reservations(&ids).await?;
        reservations.sort_by_key(|reservation| (reservation.created_at, reservation.id));
        reservations.dedup_by_key(|reservation| reservation.id);
        Ok(OrderRead {
            as_of: as_of.into(),
            reservations,
        })
    }
}
