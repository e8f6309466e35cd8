//! Balances against events: a balance is the sum of its events, each event begins where the one before it ended, and
//! what is set aside is what sales have.

use super::{Audit, rows_max};
use crate::domain::difference::{Difference, Kind, Site};
use crate::ledger::LedgerError;
use crate::ledger::connection::Connection;

/// A figure of an item that stands in two places.
#[derive(sqlx::FromRow)]
pub(super) struct Figure {
    sku_id: String,
    location_id: String,
    field: String,
    expected: i64,
    found: i64,
}

#[derive(sqlx::FromRow)]
struct Gap {
    sku_id: String,
    location_id: String,
    event_id: i64,
    previous: Option<i64>,
    field: String,
    expected: i64,
    found: i64,
}

pub(super) async fn check(tx: &mut Connection, audit: &mut Audit) -> Result<(), LedgerError> {
    let sums = sums(tx).await?;
    audit.take(differences(
        Kind::BalanceSum,
        "the balance and the sum of its events",
        sums,
    ));
    let gaps = gaps(tx).await?;
    audit.take(gaps.iter().map(Gap::difference).collect());
    let reservations = reservations(tx).await?;
    audit.take(differences(
        Kind::BalanceReservations,
        "the balance and the sum of its reservations",
        reservations,
    ));
    let escrow = escrow(tx).await?;
    audit.take(differences(
        Kind::Escrow,
        "units set aside, and those in counters, on the way and recalled",
        escrow,
    ));
    Ok(())
}

pub(super) fn differences(kind: Kind, says: &str, figures: Vec<Figure>) -> Vec<Difference> {
    let difference = |f: Figure| {
        let site = Site::item(&f.sku_id, &f.location_id).with_figure(f.field);
        Difference::new(kind, site, says, f.expected, f.found)
    };
    figures.into_iter().map(difference).collect()
}

async fn sums(tx: &mut Connection) -> Result<Vec<Figure>, LedgerError> {
    Ok(sqlx::query_as(
        "-- audit.sums: safety stock has no delta; its events say how many units became available,
         -- and a release may give the same word as its reason
         WITH summed AS (
             SELECT sku_id, location_id, sum(on_hand_delta) AS on_hand, sum(reserved_delta) AS reserved,
                 sum(unavailable_delta) AS unavailable, sum(escrowed_delta) AS escrowed, sum(sold_delta) AS sold,
                 sum(damaged_delta) AS damaged, sum(returned_delta) AS returned,
                 -sum(quantity_delta) FILTER (WHERE reason = 'safety_stock' AND event_type = 'inventory_adjusted')
                     AS safety_stock
             FROM inventory_movement GROUP BY sku_id, location_id
         )
         SELECT sku_id, location_id, f.field, coalesce(f.expected, 0)::int8 AS expected,
             coalesce(f.found, 0)::int8 AS found
         FROM inventory_balance b FULL JOIN summed s USING (sku_id, location_id),
             LATERAL (VALUES ('on_hand', s.on_hand, b.on_hand), ('reserved', s.reserved, b.reserved),
                 ('unavailable', s.unavailable, b.unavailable), ('escrowed', s.escrowed, b.escrowed),
                 ('sold', s.sold, b.sold), ('damaged', s.damaged, b.damaged), ('returned', s.returned, b.returned),
                 ('safety_stock', s.safety_stock, b.safety_stock)) AS f(field, expected, found)
         WHERE coalesce(f.expected, 0) <> coalesce(f.found, 0)
         ORDER BY sku_id, location_id, f.field LIMIT $1",
    )
    .bind(rows_max())
    .fetch_all(tx)
    .await?)
}

async fn gaps(tx: &mut Connection) -> Result<Vec<Gap>, LedgerError> {
    Ok(sqlx::query_as(
        "-- audit.gaps: whoever posts holds the balance while it draws the event's id, so the ids of an item are in the
         -- order of its changes; the first begins with nothing. A figure that was brought back to its events tells so in
         -- an event: until then its images followed the wrong balance
         SELECT sku_id, location_id, event_id, previous, f.field, f.expected, f.found
         FROM (
             SELECT sku_id, location_id, event_id, lag(event_id) OVER w AS previous,
                 lag(ARRAY[on_hand, reserved, unavailable, escrowed, sold, damaged, returned], 1, '{0,0,0,0,0,0,0}')
                     OVER w AS was,
                 ARRAY[on_hand - on_hand_delta, reserved - reserved_delta, unavailable - unavailable_delta,
                     escrowed - escrowed_delta, sold - sold_delta, damaged - damaged_delta,
                     returned - returned_delta] AS before
             FROM inventory_movement WINDOW w AS (PARTITION BY sku_id, location_id ORDER BY event_id)
         ) e, ROWS FROM (UNNEST(ARRAY['on_hand', 'reserved', 'unavailable', 'escrowed', 'sold', 'damaged', 'returned']),
             UNNEST(was), UNNEST(before)) AS f(field, expected, found)
         WHERE was <> before AND f.expected <> f.found
           AND NOT EXISTS (SELECT 1 FROM inventory_movement c
                           WHERE c.sku_id = e.sku_id AND c.location_id = e.location_id AND c.event_id >= e.event_id
                             AND c.reason = 'ledger_reconciled' AND c.metadata -> 'corrected' ? f.field)
         ORDER BY event_id, f.field LIMIT $1",
    )
    .bind(rows_max())
    .fetch_all(tx)
    .await?)
}

impl Gap {
    fn difference(&self) -> Difference {
        let site = Site::item(&self.sku_id, &self.location_id).with_figure(format!("event {}", self.event_id));
        let says = match self.previous {
            Some(previous) => format!("{} before it, as event {previous} left it", self.field),
            None => format!("{} before it, the item's first", self.field),
        };
        Difference::new(Kind::EventGap, site, &says, self.expected, self.found)
    }
}

async fn reservations(tx: &mut Connection) -> Result<Vec<Figure>, LedgerError> {
    Ok(sqlx::query_as(
        "-- audit.balance_reservations
         WITH summed AS (
             SELECT sku_id, location_id, sum(quantity) FILTER (WHERE status = 'RESERVED') AS reserved,
                 sum(quantity) FILTER (WHERE status = 'COMMITTED') AS sold
             FROM (SELECT sku_id, location_id, quantity, status FROM inventory_reservation
                   UNION ALL SELECT sku_id, location_id, quantity, status FROM inventory_reservation_cold) r
             GROUP BY sku_id, location_id
         )
         SELECT sku_id, location_id, f.field, coalesce(f.expected, 0)::int8 AS expected,
             coalesce(f.found, 0)::int8 AS found
         FROM inventory_balance b FULL JOIN summed s USING (sku_id, location_id),
             LATERAL (VALUES ('reserved', s.reserved, b.reserved), ('sold', s.sold, b.sold))
                 AS f(field, expected, found)
         WHERE coalesce(f.expected, 0) <> coalesce(f.found, 0)
         ORDER BY sku_id, location_id, f.field LIMIT $1",
    )
    .bind(rows_max())
    .fetch_all(tx)
    .await?)
}

async fn escrow(tx: &mut Connection) -> Result<Vec<Figure>, LedgerError> {
    Ok(sqlx::query_as(
        "-- audit.escrow: at every commit. Each table is read once, whatever Postgres takes it for: of grants, which come
         -- and go by the million, its statistics tell what was there when it last looked
         WITH parts AS (
             SELECT sale_no, recalled AS units FROM sale
             UNION ALL SELECT sale_no, counter FROM sale_bucket
             UNION ALL SELECT sale_no, units FROM lane_grant WHERE kind IN ('units', 'end')
         ), had AS (
             SELECT sku_id, location_id, sum(units) AS units
             FROM sale JOIN parts USING (sale_no) WHERE NOT drained GROUP BY sku_id, location_id
         )
         SELECT sku_id, location_id, 'escrowed' AS field, coalesce(units, 0)::int8 AS expected,
             coalesce(escrowed, 0) AS found
         FROM inventory_balance FULL JOIN had USING (sku_id, location_id)
         WHERE coalesce(escrowed, 0) <> coalesce(units, 0)
         ORDER BY sku_id, location_id LIMIT $1",
    )
    .bind(rows_max())
    .fetch_all(tx)
    .await?)
}
