//! Sales against reservations: every unit of an allocation is somewhere, and no user has more than was ever allowed.

use super::{Audit, rows_max};
use crate::domain::difference::{Difference, Kind, Site};
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
