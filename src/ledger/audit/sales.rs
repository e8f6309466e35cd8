//! Sales against reservations: every unit of an allocation is somewhere, the figures are sums, and no user has more
//! than was ever allowed.

use super::reservations::told;
use super::{Audit, rows_max};
use crate::domain::difference::{Difference, Kind, Site};
use crate::domain::lane::LaneNo;
use crate::ledger::LedgerError;
use crate::ledger::connection::Connection;

#[derive(sqlx::FromRow)]
struct SaleUnits {
    sale_id: String,
    sku_id: String,
    location_id: String,
    ended: bool,
    drained: bool,
    allocation: i64,
    /// In counters, on the way, recalled.
    free: i64,
    /// Reserved and sold.
    held: i64,
}

#[derive(sqlx::FromRow)]
struct SaleFigure {
    sale_id: String,
    sku_id: String,
    location_id: String,
    lane: Option<i16>,
    field: String,
    expected: i64,
    found: i64,
}

#[derive(sqlx::FromRow)]
struct Holder {
    sale_id: String,
    sku_id: String,
    location_id: String,
    user_id: String,
    held: i64,
    peak: Option<i32>,
    now: i32,
}

pub(super) async fn check(tx: &mut Connection, audit: &mut Audit) -> Result<(), LedgerError> {
    let units = units(tx).await?;
    audit.take(units.iter().filter_map(SaleUnits::difference).collect());
    let tallies = tallies(tx).await?;
    let says = "the sale's figure and the sum of its events";
    audit.take(tallies.into_iter().map(|f| f.difference(Kind::Tally, says)).collect());
    let buckets = buckets(tx).await?;
    let says = "the bucket's figure and the sum of its reservations";
    audit.take(buckets.into_iter().map(|f| f.difference(Kind::Bucket, says)).collect());
    holders(tx, audit).await
}

/// Reservations that were paid for after their sale: their units come from the shelf, and are the sale's no more.
macro_rules! shelf {
    () => {
        "shelf AS (
             SELECT reservation_id FROM inventory_movement
             WHERE event_type = 'inventory_reserved' AND reason = 'late_payment' AND escrowed_delta = 0
         )"
    };
}

/// The units of each sale that may be wrong; what is, [`SaleUnits::difference`] says.
async fn units(tx: &mut Connection) -> Result<Vec<SaleUnits>, LedgerError> {
    Ok(sqlx::query_as(concat!(
        "-- audit.sale_units: each table is read once, as for audit.escrow
         WITH ",
        shelf!(),
        ", parts AS (
             SELECT sale_no, recalled AS free, 0 AS held FROM sale
             UNION ALL SELECT sale_no, counter, 0 FROM sale_bucket
             UNION ALL SELECT sale_no, units, 0 FROM lane_grant WHERE kind IN ('units', 'end')
             UNION ALL SELECT sale_no, 0, quantity
             FROM (SELECT reservation_id, sale_no, quantity, status FROM inventory_reservation
                   UNION ALL SELECT reservation_id, sale_no, quantity, status FROM inventory_reservation_cold) r
             WHERE sale_no IS NOT NULL AND status IN ('RESERVED', 'COMMITTED')
               AND NOT EXISTS (SELECT 1 FROM shelf WHERE shelf.reservation_id = r.reservation_id)
         ), summed AS (
             SELECT sale_no, sum(free)::int8 AS free, sum(held)::int8 AS held FROM parts GROUP BY sale_no
         )
         SELECT sale_id, sku_id, location_id, state = 'ended' AS ended, drained, allocation, free, held
         FROM summed JOIN sale USING (sale_no) ORDER BY sale_no",
    ))
    .fetch_all(tx)
    .await?)
}

impl SaleUnits {
    fn difference(&self) -> Option<Difference> {
        let site = Site::item(&self.sku_id, &self.location_id).with_sale(&self.sale_id);
        let allocation = |says: &str, expected: i64, found: i64| {
            Some(Difference::new(Kind::Allocation, site.clone(), says, expected, found))
        };
        let all = self.free + self.held;
        if self.drained && self.free != 0 {
            return allocation("units left in lanes of a sale that is drained", 0, self.free);
        }
        if !self.ended && all != self.allocation {
            return allocation(
                "units free, on the way, recalled, reserved and sold",
                self.allocation,
                all,
            );
        }
        // What is released after the end goes to the balance and is in the sale no more.
        if all > self.allocation {
            return allocation("units of an ended sale, at most its allocation", self.allocation, all);
        }
        None
    }
}

async fn tallies(tx: &mut Connection) -> Result<Vec<SaleFigure>, LedgerError> {
    Ok(sqlx::query_as(concat!(
        "-- audit.tallies
         WITH ",
        told!(),
        ", summed AS (
             SELECT r.sale_no, sum(e.committed * quantity) AS committed, sum(e.released * quantity) AS released,
                 sum(e.expired * quantity) AS expired
             FROM (SELECT reservation_id, sale_no, quantity FROM inventory_reservation
                   UNION ALL SELECT reservation_id, sale_no, quantity FROM inventory_reservation_cold) r
             JOIN told e USING (reservation_id) GROUP BY r.sale_no
         )
         SELECT sale_id, sku_id, location_id, NULL::int2 AS lane, f.field, coalesce(f.expected, 0)::int8 AS expected,
             coalesce(f.found, 0)::int8 AS found
         FROM sale LEFT JOIN sale_tally t USING (sale_no) LEFT JOIN summed s USING (sale_no),
             LATERAL (VALUES ('committed', s.committed, t.committed), ('released', s.released, t.released),
                 ('expired', s.expired, t.expired)) AS f(field, expected, found)
         WHERE coalesce(f.expected, 0) <> coalesce(f.found, 0) ORDER BY sale_no, f.field LIMIT $1"
    ))
    .bind(rows_max())
    .fetch_all(tx)
    .await?)
}

async fn buckets(tx: &mut Connection) -> Result<Vec<SaleFigure>, LedgerError> {
    Ok(sqlx::query_as(concat!(
        "-- audit.buckets: durable counts each taking, also one anew. What an entry in quarantine had taken is not
         -- always known, so there the rejected units are not compared
         WITH ",
        told!(),
        ", summed AS (
             SELECT sale_no, lane, sum(coalesce(e.made, 0) * quantity) AS durable,
                 sum(quantity) FILTER (WHERE status = 'REJECTED') AS rejected
             FROM (SELECT reservation_id, sale_no, lane, quantity, status FROM inventory_reservation
                   UNION ALL
                   SELECT reservation_id, sale_no, lane, quantity, status FROM inventory_reservation_cold) r
             LEFT JOIN told e USING (reservation_id) WHERE sale_no IS NOT NULL GROUP BY sale_no, lane
         )
         SELECT sale_id, sku_id, location_id, lane, f.field, coalesce(f.expected, 0)::int8 AS expected,
             coalesce(f.found, 0)::int8 AS found
         FROM (SELECT sale_no, lane, s.durable AS was_durable, s.rejected AS was_rejected, b.durable, b.rejected
               FROM sale_bucket b FULL JOIN summed s USING (sale_no, lane)) k
         JOIN sale USING (sale_no),
             LATERAL (VALUES ('durable', was_durable, durable), ('rejected', was_rejected, rejected))
                 AS f(field, expected, found)
         WHERE coalesce(f.expected, 0) <> coalesce(f.found, 0)
           AND (f.field = 'durable' OR NOT EXISTS (
               SELECT 1 FROM quarantine q WHERE q.lane = k.lane AND coalesce(q.sale_no, k.sale_no) = k.sale_no))
         ORDER BY sale_no, lane, f.field LIMIT $1"
    ))
    .bind(rows_max())
    .fetch_all(tx)
    .await?)
}

impl SaleFigure {
    fn difference(self, kind: Kind, says: &str) -> Difference {
        let mut site = Site::item(&self.sku_id, &self.location_id)
            .with_sale(&self.sale_id)
            .with_figure(self.field);
        site.lane = self.lane.map(LaneNo::from_i16);
        Difference::new(kind, site, says, self.expected, self.found)
    }
}

async fn holders(tx: &mut Connection, audit: &mut Audit) -> Result<(), LedgerError> {
    let holders: Vec<Holder> = sqlx::query_as(concat!(
        "-- audit.holders: who took something anew did so with an admin's leave, limit or not
         WITH ",
        shelf!(),
        " SELECT sale_id, sku_id, location_id, user_id, held, per_user_limit_peak AS peak, per_user_limit AS now
         FROM (
             SELECT sale_no, user_id, sum(quantity)::int8 AS held
             FROM (SELECT reservation_id, sale_no, user_id, quantity, status FROM inventory_reservation
                   UNION ALL
                   SELECT reservation_id, sale_no, user_id, quantity, status FROM inventory_reservation_cold) r
             WHERE sale_no IS NOT NULL AND user_id IS NOT NULL AND status IN ('RESERVED', 'COMMITTED')
               AND NOT EXISTS (SELECT 1 FROM quarantine q
                               WHERE q.reservation_id = r.reservation_id AND q.state = 'replayed')
               AND NOT EXISTS (SELECT 1 FROM shelf WHERE shelf.reservation_id = r.reservation_id)
             GROUP BY sale_no, user_id
         ) h JOIN sale s USING (sale_no)
         WHERE held > per_user_limit ORDER BY sale_no, user_id LIMIT $1"
    ))
    .bind(rows_max())
    .fetch_all(tx)
    .await?;
    let (over, before): (Vec<Holder>, Vec<Holder>) = holders
        .into_iter()
        .partition(|h| h.peak.is_some_and(|peak| h.held > peak.into()));
    audit.take(over.iter().filter_map(Holder::difference).collect());
    if let Some(one) = before.first() {
        audit.notes.push(format!(
            "{} users hold more than the limit now in force, from when it was higher or there was none: user {} of sale {} \
             has {} units, the limit is {}",
            before.len(),
            one.user_id,
            one.sale_id,
            one.held,
            one.now
        ));
    }
    Ok(())
}

impl Holder {
    fn difference(&self) -> Option<Difference> {
        let site = Site {
            buyer: Some(format!("u:{}", self.user_id)),
            ..Site::item(&self.sku_id, &self.location_id).with_sale(&self.sale_id)
        };
        let says = "units held and bought, at most the highest limit that the sale ever had";
        Some(Difference::new(
            Kind::UserLimit,
            site,
            says,
            i64::from(self.peak?),
            self.held,
        ))
    }
}
