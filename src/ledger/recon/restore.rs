//! A balance that is not the sum of its events, brought back to it.
//!
//! That is the one change of a balance that `post` does not make: it moves no unit, so its event has no deltas. The
//! event's metadata says which figures were found and which were put back. It is done by itself only where everything
//! else agrees with the events: their own images, the reservations, the sales and the adjustments. Where that
//! does not, an event is missing or altered, and a person must look.
//!
//! All that moves the item's units waits meanwhile. So indexes serve every figure, and a run that nobody asked for gives
//! up after seconds and leaves the balance to a person.

use std::time::Duration;

use sqlx::types::Json;
use uuid::Uuid;

use super::report::{self, NewDiscrepancy};
use crate::domain::difference::Figure;
use crate::domain::id::Item;
use crate::domain::reconciliation::Review;
use crate::ledger::connection::Connection;
use crate::ledger::once::By;
use crate::ledger::post::EventType;
use crate::ledger::retry::retried;
use crate::ledger::{Ledger, LedgerError};

/// The reason of the event.
pub(in crate::ledger) const RESTORED: &str = "ledger_reconciled";
/// What a difference is called.
const CAUSE: &str = "changed_without_event";
/// Longest that a balance stays locked for one of a run's statements. Who asks for a repair may wait longer.
const HURRY: Duration = Duration::from_secs(3);

/// A balance to be looked at.
pub(super) struct Restore<'a> {
    pub(super) item: &'a Item,
    /// Of which run.
    pub(super) report: Uuid,
    /// Largest difference that is put right without a person; none: a person asks for it.
    pub(super) units_max: Option<i64>,
    pub(super) by: &'a By,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looked {
    /// It is the sum of its events.
    Agrees,
    /// It is again, by this event.
    Restored(i64),
    /// A person must look.
    Left(Review),
}

/// A figure of a balance, from all sides.
#[derive(Clone, Debug, sqlx::FromRow)]
struct Side {
    figure: String,
    /// The sum of the events.
    expected: i64,
    /// The balance; none where there is no such row.
    found: Option<i64>,
    /// The image of the last event.
    imaged: i64,
    /// What else knows it: reservations, sales.
    known: Option<i64>,
}

impl Side {
    fn differs(&self) -> bool {
        self.found != Some(self.expected) && !(self.found.is_none() && self.expected == 0)
    }

    fn is_contradicted(&self) -> bool {
        self.known.is_some_and(|known| known != self.expected)
    }

    fn is_doubtful(&self) -> bool {
        self.imaged != self.expected || self.is_contradicted()
    }
}

impl Ledger {
    /// Looks at a balance under its lock, restores it where that is right, and writes down what differed.
    pub(super) async fn restore(&self, restore: &Restore<'_>) -> Result<Looked, LedgerError> {
        let refused = match self.try_restore(restore, None).await {
            // A constraint of the balance: the promises are no longer covered.
            Err(error) if error.is_constraint("balance_promises_are_covered") => Review::Promised,
            // Another one: the events add up to what no balance can be.
            Err(LedgerError::Data { .. }) => Review::EventsIncomplete,
            Err(error) if error.is_canceled() && restore.units_max.is_some() => {
                return self.leave_to_a_person(restore).await;
            }
            done => return done,
        };
        self.try_restore(restore, Some(refused)).await
    }

    /// `refused`: why it can't be put back, where that was tried.
    async fn try_restore(&self, restore: &Restore<'_>, refused: Option<Review>) -> Result<Looked, LedgerError> {
        retried!(self, self.restore_once(restore, refused))
    }

    /// Tells of a balance that differs, and by how much took too long to find out.
    async fn leave_to_a_person(&self, restore: &Restore<'_>) -> Result<Looked, LedgerError> {
        let mut tx = self.begin().await?;
        let found = NewDiscrepancy {
            item: Some((restore.item.sku.to_string(), restore.item.location.to_string())),
            order: None,
            reservation: None,
            figure: None,
            expected: "the sum of its events".into(),
            found: "something else".into(),
            cause: CAUSE.to_owned(),
            review: Some(Review::TookTooLong),
            event_id: None,
        };
        report::insert(&mut tx, restore.report, &[found]).await?;
        tx.commit().await?;
        Ok(Looked::Left(Review::TookTooLong))
    }

    async fn restore_once(&self, restore: &Restore<'_>, refused: Option<Review>) -> Result<Looked, LedgerError> {
        let mut tx = self.begin().await?;
        lock_balance(&mut tx, restore.item).await?;
        if restore.units_max.is_some() {
            tx.allow(HURRY).await?;
        }
        let sides = sides(&mut tx, restore.item).await?;
        let differing: Vec<&Side> = sides.iter().filter(|side| side.differs()).collect();
        if differing.is_empty() {
            return Ok(Looked::Agrees);
        }
        let largest = differing.iter().map(|side| side.expected - side.found.unwrap_or(0));
        let largest = largest.map(i64::saturating_abs).max().unwrap_or(0);
        let doubtful = sides.iter().any(Side::is_doubtful) || !adjustments_have_events(&mut tx, restore.item).await?;
        // Also a person may not make a balance disagree with reservations and sales.
        let impossible = sides.iter().any(|side| side.found.is_none() || side.is_contradicted());
        let review = if impossible || (doubtful && restore.units_max.is_some()) {
            Some(Review::EventsIncomplete)
        } else if restore.units_max.is_some_and(|max| largest > max) {
            Some(Review::OverThreshold)
        } else {
            refused
        };
        let event_id = match review {
            None => Some(put_back(&mut tx, restore, &sides, &differing).await?),
            Some(_) => None,
        };
        // What a person asks for stands in a report already.
        if restore.units_max.is_some() {
            let found: Vec<NewDiscrepancy> = differing
                .iter()
                .map(|side| side.discrepancy(restore.item, review, event_id))
                .collect();
            report::insert(&mut tx, restore.report, &found).await?;
        }
        tx.commit().await?;
        Ok(match (event_id, review) {
            (Some(event_id), _) => Looked::Restored(event_id),
            (None, review) => Looked::Left(review.unwrap_or(Review::EventsIncomplete)),
        })
    }
}

impl Side {
    fn discrepancy(&self, item: &Item, review: Option<Review>, event_id: Option<i64>) -> NewDiscrepancy {
        NewDiscrepancy {
            item: Some((item.sku.to_string(), item.location.to_string())),
            order: None,
            reservation: None,
            figure: Some(self.figure.clone()),
            expected: Figure::Number(self.expected),
            found: Figure::Number(self.found.unwrap_or(0)),
            cause: CAUSE.to_owned(),
            review,
            event_id,
        }
    }
}

async fn lock_balance(tx: &mut Connection, item: &Item) -> Result<(), LedgerError> {
    sqlx::query(
        "-- recon.lock_balance
         SELECT 1 FROM inventory_balance WHERE sku_id = $1 AND location_id = $2 FOR NO KEY UPDATE",
    )
    .bind(item.sku.as_str())
    .bind(item.location.as_str())
    .execute(tx)
    .await?;
    Ok(())
}

/// A balance and all that knows something of it, figure by figure; `$1` at `$2`. A reservation on sale is found by its
/// sale, for there is no index of all reservations by item: that would cost every buyer.
pub const SIDES: &str = "-- recon.sides: one item; its events can't grow, for whoever posts one holds the balance
    WITH b AS (SELECT * FROM inventory_balance WHERE sku_id = $1 AND location_id = $2),
    e AS (SELECT * FROM inventory_movement WHERE sku_id = $1 AND location_id = $2),
    s AS (
        SELECT sum(on_hand_delta) AS on_hand, sum(reserved_delta) AS reserved,
            sum(unavailable_delta) AS unavailable, sum(escrowed_delta) AS escrowed, sum(sold_delta) AS sold,
            sum(damaged_delta) AS damaged, sum(returned_delta) AS returned,
            -sum(quantity_delta) FILTER (WHERE reason = 'safety_stock' AND event_type = 'inventory_adjusted')
                AS safety_stock FROM e
    ), l AS (SELECT * FROM e ORDER BY event_id DESC LIMIT 1),
    r AS (
        SELECT sum(units) FILTER (WHERE status = 'RESERVED') AS reserved,
            sum(units) FILTER (WHERE status = 'COMMITTED') AS sold
        FROM (
            SELECT status, quantity AS units FROM inventory_reservation
            WHERE sale_no IS NULL AND sku_id = $1 AND location_id = $2
            UNION ALL
            SELECT status, quantity FROM inventory_reservation_cold
            WHERE sale_no IS NULL AND sku_id = $1 AND location_id = $2
            UNION ALL
            SELECT on_sale.* FROM sale, LATERAL (
                SELECT status, sum(quantity) FROM inventory_reservation r
                WHERE r.sale_no = sale.sale_no AND r.sale_no IS NOT NULL AND r.sku_id = $1 AND r.location_id = $2
                GROUP BY status
                UNION ALL
                SELECT status, sum(quantity) FROM inventory_reservation_cold r
                WHERE r.sale_no = sale.sale_no AND r.sale_no IS NOT NULL AND r.sku_id = $1 AND r.location_id = $2
                GROUP BY status
            ) AS on_sale
            WHERE sale.sku_id = $1 AND sale.location_id = $2
        ) all_of
    ), had AS (
        SELECT sum(recalled
            + coalesce((SELECT sum(counter) FROM sale_bucket k WHERE k.sale_no = sale.sale_no), 0)
            + coalesce((SELECT sum(units) FROM lane_grant g
                        WHERE g.sale_no = sale.sale_no AND kind IN ('units', 'end')), 0)) AS units
        FROM sale WHERE NOT drained AND sku_id = $1 AND location_id = $2
    )
    SELECT f.figure, coalesce(f.expected, 0)::int8 AS expected, f.found,
        coalesce(f.imaged, f.expected, 0)::int8 AS imaged, f.known::int8 AS known
    FROM s CROSS JOIN r CROSS JOIN had LEFT JOIN b ON true LEFT JOIN l ON true, LATERAL (VALUES
        ('on_hand', s.on_hand, b.on_hand, l.on_hand, NULL),
        ('reserved', s.reserved, b.reserved, l.reserved, coalesce(r.reserved, 0)),
        ('unavailable', s.unavailable, b.unavailable, l.unavailable, NULL),
        ('escrowed', s.escrowed, b.escrowed, l.escrowed, coalesce(had.units, 0)),
        ('sold', s.sold, b.sold, l.sold, coalesce(r.sold, 0)),
        ('damaged', s.damaged, b.damaged, l.damaged, NULL),
        ('returned', s.returned, b.returned, l.returned, NULL),
        ('safety_stock', s.safety_stock, b.safety_stock, NULL, NULL)) AS f(figure, expected, found, imaged, known)";

/// Read while the balance is locked.
async fn sides(tx: &mut Connection, item: &Item) -> Result<Vec<Side>, LedgerError> {
    Ok(sqlx::query_as(SIDES)
        .bind(item.sku.as_str())
        .bind(item.location.as_str())
        .fetch_all(tx)
        .await?)
}

/// Whether each adjustment of the item has its event.
async fn adjustments_have_events(tx: &mut Connection, item: &Item) -> Result<bool, LedgerError> {
    Ok(sqlx::query_scalar(
        "-- recon.adjustments_have_events
         SELECT NOT EXISTS (
             SELECT 1 FROM adjustment a WHERE sku_id = $1 AND location_id = $2
                 AND NOT EXISTS (SELECT 1 FROM inventory_movement e WHERE e.event_id = a.event_id))",
    )
    .bind(item.sku.as_str())
    .bind(item.location.as_str())
    .fetch_one(tx)
    .await?)
}

/// Makes the balance what its events say, and tells so in one more. Returns that.
async fn put_back(
    tx: &mut Connection,
    restore: &Restore<'_>,
    sides: &[Side],
    differing: &[&Side],
) -> Result<i64, LedgerError> {
    let of = |figure: &str| {
        sides
            .iter()
            .find(|side| side.figure == figure)
            .map_or(0, |side| side.expected)
    };
    let figures = differing.iter().map(|side| {
        let told = serde_json::json!({"expected": side.expected, "found": side.found});
        (side.figure.clone(), told)
    });
    let figures: serde_json::Map<String, serde_json::Value> = figures.collect();
    Ok(sqlx::query_scalar(
        "-- recon.put_back: to what the events say, under the lock that keeps more of them away
         WITH b AS (
             UPDATE inventory_balance SET on_hand = $3, reserved = $4, unavailable = $5, escrowed = $6, sold = $7,
                 damaged = $8, returned = $9, safety_stock = $10, version = version + 1,
                 updated_at = clock_timestamp()
             WHERE sku_id = $1 AND location_id = $2 RETURNING *
         )
         INSERT INTO inventory_event (event_type, sku_id, location_id, quantity_delta, on_hand, reserved, unavailable,
             escrowed, sold, damaged, returned, reason, reference_id, operator, trace_id, metadata)
         SELECT $11::inventory_event_type, sku_id, location_id, 0, nullif(on_hand, 0), nullif(reserved, 0),
             nullif(unavailable, 0), nullif(escrowed, 0), nullif(sold, 0), nullif(damaged, 0), nullif(returned, 0), $12,
             $13, $14, $15, $16 FROM b
         RETURNING event_id",
    )
    .bind(restore.item.sku.as_str())
    .bind(restore.item.location.as_str())
    .bind(of("on_hand"))
    .bind(of("reserved"))
    .bind(of("unavailable"))
    .bind(of("escrowed"))
    .bind(of("sold"))
    .bind(of("damaged"))
    .bind(of("returned"))
    .bind(of("safety_stock"))
    .bind(EventType::Adjusted.as_str())
    .bind(RESTORED)
    .bind(restore.report.to_string())
    .bind(restore.by.operator.as_deref().unwrap_or(super::AUTOMATIC))
    .bind(restore.by.trace.map(|trace| trace.to_uuid()))
    .bind(Json(serde_json::json!({"corrected": figures})))
    .fetch_one(tx)
    .await?)
}
