//! Movements against what they claim to be: an event moves what its kind moves, units that leave one place for another
//! arrive there, and what may still come back is what is left.

use uuid::Uuid;

use super::{Audit, rows_max};
use crate::domain::difference::{Difference, Kind, Site};
use crate::domain::reservation_id::ReservationId;
use crate::ledger::LedgerError;
use crate::ledger::connection::Connection;

/// Something about an item that is a number twice.
#[derive(sqlx::FromRow)]
struct Figure {
    sku_id: String,
    location_id: Option<String>,
    reservation_id: Option<Uuid>,
    of: String,
    expected: i64,
    found: i64,
}

/// A change that does not fit its name.
#[derive(sqlx::FromRow)]
struct Misshapen {
    sku_id: String,
    location_id: String,
    event_id: i64,
    event_type: String,
    moved: String,
}

pub(super) async fn check(tx: &mut Connection, audit: &mut Audit) -> Result<(), LedgerError> {
    let misshapen = misshapen(tx).await?;
    audit.take(misshapen.iter().map(Misshapen::difference).collect());
    let promises = promises(tx).await?;
    let says = "units on hand cover what is reserved, unavailable and set aside, and none is below 0";
    audit.take(figures(Kind::Promises, says, promises));
    let transfers = transfers(tx).await?;
    let says = "units that left one place and arrived at another";
    audit.take(figures(Kind::Transfer, says, transfers));
    let returnable = returnable(tx).await?;
    let says = "units that could still come back after a return, as it was answered";
    audit.take(figures(Kind::Returnable, says, returnable));
    let twice = twice(tx).await?;
    audit.take(figures(
        Kind::OrderTwice,
        "open reservations of one item for one order",
        twice,
    ));
    Ok(())
}

fn figures(kind: Kind, says: &str, rows: Vec<Figure>) -> Vec<Difference> {
    let difference = |row: Figure| {
        let site = Site {
            sku_id: Some(row.sku_id),
            location_id: row.location_id,
            reservation_id: row.reservation_id.map(ReservationId),
            of: Some(row.of),
            ..Site::default()
        };
        Difference::new(kind, site, says, row.expected, row.found)
    };
    rows.into_iter().map(difference).collect()
}

async fn misshapen(tx: &mut Connection) -> Result<Vec<Misshapen>, LedgerError> {
    Ok(sqlx::query_as(
        "-- audit.misshapen: what each kind of event moves
         SELECT sku_id, location_id, event_id, event_type::text AS event_type, format(
             'on_hand %s, reserved %s, unavailable %s, escrowed %s, sold %s, damaged %s, returned %s', on_hand_delta,
             reserved_delta, unavailable_delta, escrowed_delta, sold_delta, damaged_delta, returned_delta) AS moved
         FROM inventory_movement
         WHERE NOT CASE event_type
             WHEN 'inventory_received' THEN on_hand_delta > 0 AND (reserved_delta, unavailable_delta, escrowed_delta,
                 sold_delta, damaged_delta, returned_delta) = (0, 0, 0, 0, 0, 0)
             WHEN 'inventory_reserved' THEN reserved_delta > 0 AND escrowed_delta IN (0, -reserved_delta)
                 AND (on_hand_delta, unavailable_delta, sold_delta, damaged_delta, returned_delta) = (0, 0, 0, 0, 0)
             WHEN 'inventory_committed' THEN sold_delta > 0 AND (on_hand_delta, reserved_delta) =
                 (-sold_delta, -sold_delta)
                 AND (unavailable_delta, escrowed_delta, damaged_delta, returned_delta) = (0, 0, 0, 0)
             WHEN 'inventory_released' THEN reserved_delta < 0 AND escrowed_delta IN (0, -reserved_delta)
                 AND (on_hand_delta, unavailable_delta, sold_delta, damaged_delta, returned_delta) = (0, 0, 0, 0, 0)
             WHEN 'inventory_expired' THEN reserved_delta < 0 AND escrowed_delta IN (0, -reserved_delta)
                 AND (on_hand_delta, unavailable_delta, sold_delta, damaged_delta, returned_delta) = (0, 0, 0, 0, 0)
             WHEN 'inventory_damaged' THEN unavailable_delta > 0 AND damaged_delta = unavailable_delta
                 AND (on_hand_delta, reserved_delta, escrowed_delta, sold_delta, returned_delta) = (0, 0, 0, 0, 0)
             WHEN 'inventory_returned' THEN returned_delta > 0 AND on_hand_delta = returned_delta
                 AND unavailable_delta IN (0, returned_delta) AND damaged_delta = unavailable_delta
                 AND (reserved_delta, escrowed_delta, sold_delta) = (0, 0, 0)
             WHEN 'inventory_transferred' THEN on_hand_delta <> 0 AND (reserved_delta, unavailable_delta,
                 escrowed_delta, sold_delta, damaged_delta, returned_delta) = (0, 0, 0, 0, 0, 0)
             ELSE (reserved_delta, sold_delta) = (0, 0)
         END
         ORDER BY event_id LIMIT $1",
    )
    .bind(rows_max())
    .fetch_all(tx)
    .await?)
}

impl Misshapen {
    fn difference(&self) -> Difference {
        let site = Site::item(&self.sku_id, &self.location_id).with_figure(format!("event {}", self.event_id));
        let expected = format!("what an {} event moves", self.event_type);
        Difference::new(Kind::EventShape, site, "what it moved", expected, self.moved.as_str())
    }
}

async fn promises(tx: &mut Connection) -> Result<Vec<Figure>, LedgerError> {
    Ok(sqlx::query_as(
        "-- audit.promises: the balance's own constraints, where somebody took them away
         SELECT sku_id, location_id, NULL::uuid AS reservation_id, 'uncovered' AS of, 0::int8 AS expected,
             greatest(reserved + unavailable + escrowed - on_hand, -on_hand, -reserved, -unavailable, -escrowed) AS found
         FROM inventory_balance
         WHERE on_hand < reserved + unavailable + escrowed OR least(on_hand, reserved, unavailable, escrowed) < 0
         ORDER BY sku_id, location_id LIMIT $1",
    )
    .bind(rows_max())
    .fetch_all(tx)
    .await?)
}

async fn transfers(tx: &mut Connection) -> Result<Vec<Figure>, LedgerError> {
    Ok(sqlx::query_as(
        "-- audit.transfers: both sides of a transfer bear its id
         SELECT sku_id, NULL::text AS location_id, NULL::uuid AS reservation_id,
             'transfer ' || coalesce(reference_id, 'without an id') AS of,
             (-sum(least(on_hand_delta, 0)))::int8 AS expected, sum(greatest(on_hand_delta, 0))::int8 AS found
         FROM inventory_movement WHERE event_type = 'inventory_transferred'
         GROUP BY sku_id, reference_id HAVING sum(on_hand_delta) <> 0
         ORDER BY sku_id, reference_id LIMIT $1",
    )
    .bind(rows_max())
    .fetch_all(tx)
    .await?)
}

async fn returnable(tx: &mut Connection) -> Result<Vec<Figure>, LedgerError> {
    Ok(sqlx::query_as(
        "-- audit.returnable: what was sold, less what had come back by then. Returns of one reservation follow one
         -- another, and their events tell in which order
         WITH sold AS (
             SELECT coalesce(cart_id, reservation_id) AS reservation_id, sum(quantity) AS units
             FROM (SELECT cart_id, reservation_id, quantity, status FROM inventory_reservation
                   UNION ALL
                   SELECT cart_id, reservation_id, quantity, status FROM inventory_reservation_cold) r
             WHERE status = 'COMMITTED' AND coalesce(cart_id, reservation_id) IN (SELECT reservation_id FROM inventory_return)
             GROUP BY 1
         ), back AS (
             SELECT return_id, min(sku_id) AS sku_id, min(location_id) AS location_id, sum(quantity) AS units,
                 max(event_id) AS event_id
             FROM inventory_return_line GROUP BY return_id
         ), told AS (
             SELECT return_id, reservation_id, sku_id, location_id, returnable,
                 sum(units) OVER (PARTITION BY reservation_id ORDER BY event_id) AS returned
             FROM inventory_return JOIN back USING (return_id)
         )
         SELECT sku_id, location_id, reservation_id, 'return ' || return_id AS of,
             (coalesce(units, 0) - returned)::int8 AS expected, returnable AS found
         FROM told LEFT JOIN sold USING (reservation_id)
         WHERE returnable <> coalesce(units, 0) - returned
         ORDER BY reservation_id, return_id LIMIT $1",
    )
    .bind(rows_max())
    .fetch_all(tx)
    .await?)
}

async fn twice(tx: &mut Connection) -> Result<Vec<Figure>, LedgerError> {
    Ok(sqlx::query_as(
        "-- audit.order_twice: an order holds an item once; open reservations are never in the cold tier
         SELECT sku_id, location_id, NULL::uuid AS reservation_id, 'order ' || order_id AS of, 1::int8 AS expected,
             count(*) AS found
         FROM inventory_reservation WHERE status = 'RESERVED'
         GROUP BY order_id, sku_id, location_id HAVING count(*) > 1
         ORDER BY order_id, sku_id, location_id LIMIT $1",
    )
    .bind(rows_max())
    .fetch_all(tx)
    .await?)
}
