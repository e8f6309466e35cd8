//! Reservations against events: each durable one was made once, ended at most once, and moved its own units.
//!
//! A reservation that was taken anew after it had ended has one more pair of events.

use uuid::Uuid;

use super::{Audit, rows_max};
use crate::domain::difference::{Difference, Kind, Site};
use crate::domain::reservation_id::ReservationId;
use crate::ledger::LedgerError;
use crate::ledger::connection::Connection;

/// The events of each reservation, by kind, and what they moved: the CTE `told`.
macro_rules! told {
    () => {
        "told AS (
             SELECT reservation_id, min(sku_id) AS sku_id, min(location_id) AS location_id,
                 count(*) FILTER (WHERE event_type = 'inventory_reserved') AS made,
                 count(*) FILTER (WHERE event_type = 'inventory_committed') AS committed,
                 count(*) FILTER (WHERE event_type = 'inventory_released') AS released,
                 count(*) FILTER (WHERE event_type = 'inventory_expired') AS expired,
                 coalesce(sum(reserved_delta) FILTER (WHERE event_type = 'inventory_reserved'), 0)::int8 AS taken,
                 sum(reserved_delta)::int8 AS reserved, sum(sold_delta)::int8 AS sold
             FROM inventory_movement WHERE reservation_id IS NOT NULL GROUP BY reservation_id
         )"
    };
}
pub(super) use told;

#[derive(sqlx::FromRow)]
struct Row {
    reservation_id: Uuid,
    sku_id: String,
    location_id: String,
    status: Option<String>,
    quantity: i64,
    made: i64,
    committed: i64,
    released: i64,
    expired: i64,
    taken: i64,
    reserved: i64,
    sold: i64,
}

pub(super) async fn check(tx: &mut Connection, audit: &mut Audit) -> Result<(), LedgerError> {
    let rows: Vec<Row> = sqlx::query_as(concat!(
        "-- audit.reservations
         WITH ",
        told!(),
        ", r AS (
             SELECT reservation_id, sku_id, location_id, status, quantity FROM inventory_reservation
             UNION ALL
             SELECT reservation_id, sku_id, location_id, status, quantity FROM inventory_reservation_cold
         ), both_sides AS (
             SELECT reservation_id, coalesce(r.sku_id, e.sku_id) AS sku_id,
                 coalesce(r.location_id, e.location_id) AS location_id, r.status,
                 coalesce(r.quantity, 0) AS quantity, coalesce(made, 0) AS made, coalesce(committed, 0) AS committed,
                 coalesce(released, 0) AS released, coalesce(expired, 0) AS expired, coalesce(taken, 0) AS taken,
                 coalesce(reserved, 0) AS reserved, coalesce(sold, 0) AS sold
             FROM r FULL JOIN told e USING (reservation_id)
         )
         SELECT reservation_id, sku_id, location_id, status::text AS status, quantity, made, committed, released,
             expired, taken, reserved, sold
         FROM both_sides
         WHERE NOT coalesce(
             made = committed + released + expired + (status = 'RESERVED')::int
             AND (made > 0) = (status <> 'REJECTED')
             AND committed = (status = 'COMMITTED')::int
             AND (status <> 'RELEASED' OR released > 0) AND (status <> 'EXPIRED' OR expired > 0)
             AND taken = made * quantity
             AND reserved = CASE status WHEN 'RESERVED' THEN quantity ELSE 0 END
             AND sold = CASE status WHEN 'COMMITTED' THEN quantity ELSE 0 END, false)
         ORDER BY reservation_id LIMIT $1"
    ))
    .bind(rows_max())
    .fetch_all(tx)
    .await?;
    audit.take(rows.iter().map(Row::difference).collect());
    Ok(())
}

impl Row {
    fn difference(&self) -> Difference {
        let site = Site::item(&self.sku_id, &self.location_id).with_reservation(ReservationId(self.reservation_id));
        let Some(status) = &self.status else {
            let events = self.made + self.committed + self.released + self.expired;
            return Difference::new(
                Kind::EventWithoutReservation,
                site,
                "events of a reservation that is not in the ledger",
                0,
                events,
            );
        };
        if self.made == 0 && status != "REJECTED" {
            let says = format!("inventory_reserved events of a reservation that is {status}");
            return Difference::new(Kind::ReservationWithoutEvent, site, &says, 1, 0);
        }
        let found = format!(
            "{} reserved, {} committed, {} released, {} expired, moving {} units in, leaving {} reserved and {} sold",
            self.made, self.committed, self.released, self.expired, self.taken, self.reserved, self.sold
        );
        let expected = format!("those of a reservation of {} units that is {status}", self.quantity);
        Difference::new(Kind::ReservationEvents, site, "its events", expected, found)
    }
}
