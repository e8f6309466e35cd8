//! Reservations against events: each durable one was made once, ended at most once, and moved its own units; nothing comes
//! back that was not sold; and the figures of sales and their buckets are the sums of these.
//!
//! A reservation that was taken anew after it had ended has one more pair of events.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::{Audit, rows_max};
use crate::domain::difference::{Difference, Kind, Site};
use crate::domain::lane::LaneNo;
use crate::domain::reservation_id::ReservationId;
use crate::ledger::LedgerError;
use crate::ledger::connection::Connection;

/// Each reservation beside the sum of its events, of which either may be missing: the CTE `both_sides`, of those that the
/// condition picks. The order of the events is that of an index; without it Postgres hashes groups by the million, on disk.
macro_rules! both_sides {
    ($picked:literal) => {
        concat!(
            "told AS (
                 SELECT reservation_id, min(sku_id) AS sku_id, min(location_id) AS location_id,
                     count(*) FILTER (WHERE event_type = 'inventory_reserved') AS made,
                     count(*) FILTER (WHERE event_type = 'inventory_committed') AS committed,
                     count(*) FILTER (WHERE event_type = 'inventory_released') AS released,
                     count(*) FILTER (WHERE event_type = 'inventory_expired') AS expired,
                     coalesce(sum(reserved_delta) FILTER (WHERE event_type = 'inventory_reserved'), 0)::int8 AS taken,
                     sum(reserved_delta)::int8 AS reserved, sum(sold_delta)::int8 AS sold,
                     sum(returned_delta)::int8 AS returned
                 FROM (SELECT * FROM inventory_movement WHERE ",
            $picked,
            " ORDER BY reservation_id OFFSET 0) e GROUP BY reservation_id
             ), r AS (
                 SELECT * FROM (
                     SELECT reservation_id, sku_id, location_id, status, quantity, sale_no, lane
                     FROM inventory_reservation
                     UNION ALL
                     SELECT reservation_id, sku_id, location_id, status, quantity, sale_no, lane
                     FROM inventory_reservation_cold
                 ) both_tiers WHERE ",
            $picked,
            "), pairs AS (
                 SELECT reservation_id, coalesce(r.sku_id, e.sku_id) AS sku_id,
                     coalesce(r.location_id, e.location_id) AS location_id, r.status, sale_no, lane,
                     coalesce(r.quantity, 0) AS quantity, coalesce(made, 0) AS made,
                     coalesce(committed, 0) AS committed, coalesce(released, 0) AS released,
                     coalesce(expired, 0) AS expired, coalesce(taken, 0) AS taken,
                     coalesce(reserved, 0) AS reserved, coalesce(sold, 0) AS sold, coalesce(returned, 0) AS returned
                 FROM r FULL JOIN told e USING (reservation_id)
             ), both_sides AS (
                 SELECT *, CASE
                     WHEN status IS NULL THEN 'unknown'
                     WHEN made = 0 AND status <> 'REJECTED' THEN 'unmade'
                     WHEN made = committed + released + expired + (status = 'RESERVED')::int
                     AND (made > 0) = (status <> 'REJECTED')
                     AND committed = (status = 'COMMITTED')::int
                     AND (status <> 'RELEASED' OR released > 0) AND (status <> 'EXPIRED' OR expired > 0)
                     AND taken = made * quantity
                     AND reserved = CASE status WHEN 'RESERVED' THEN quantity ELSE 0 END
                     AND sold = CASE status WHEN 'COMMITTED' THEN quantity ELSE 0 END THEN NULL
                     ELSE 'events' END AS fault
                 FROM pairs
             )"
        )
    };
}

/// A sale's figure that is not the sum of its reservations, or a reservation that does not agree with its events.
#[derive(sqlx::FromRow)]
struct Found {
    of: String,
    sale_id: Option<String>,
    sku_id: Option<String>,
    location_id: Option<String>,
    lane: Option<i16>,
    field: Option<String>,
    expected: i64,
    found: i64,
    reservation_id: Option<Uuid>,
}

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
    returned: i64,
    /// How it disagrees with its events; none: it does not.
    fault: Option<String>,
}

pub(super) async fn check(tx: &mut Connection, audit: &mut Audit) -> Result<(), LedgerError> {
    let found = walk(tx).await?;
    let of = |kind: &'static str| found.iter().filter(move |one| one.of == kind);
    let says = "the sale's figure and the sum of its events";
    audit.take(of("tally").map(|one| one.difference(Kind::Tally, says)).collect());
    let says = "the bucket's figure and the sum of its reservations";
    audit.take(of("bucket").map(|one| one.difference(Kind::Bucket, says)).collect());
    let wrong: BTreeSet<Uuid> = found.iter().filter_map(|one| one.reservation_id).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let rows = rows(tx, &wrong).await?;
    for fault in ["unknown", "unmade", "events"] {
        let of_kind = rows.iter().filter(|row| row.fault.as_deref() == Some(fault));
        audit.take(of_kind.map(Row::difference).collect());
    }
    audit.take(rows.iter().filter_map(Row::more_back).collect());
    Ok(())
}

/// Reads all reservations and all of their events, once.
async fn walk(tx: &mut Connection) -> Result<Vec<Found>, LedgerError> {
    Ok(sqlx::query_as(concat!(
        "-- audit.reservations: durable counts each taking, also one anew. What an entry in quarantine had taken is not
         -- always known, so there the rejected units are not compared. Only as many of a kind as are named are gathered:
         -- after a bad restore millions may be wrong
         WITH ",
        both_sides!("reservation_id IS NOT NULL"),
        ", counted AS (
             SELECT *, CASE fault
                     WHEN 'unknown' THEN count(*) FILTER (WHERE fault = 'unknown') OVER along
                     WHEN 'unmade' THEN count(*) FILTER (WHERE fault = 'unmade') OVER along
                     WHEN 'events' THEN count(*) FILTER (WHERE fault = 'events') OVER along
                 END AS nth_of_kind,
                 count(*) FILTER (WHERE returned > sold) OVER along AS nth_back
             FROM both_sides WINDOW along AS (ROWS UNBOUNDED PRECEDING)
         ), summed AS MATERIALIZED (
             SELECT sale_no, lane, sum(made * quantity) AS durable,
                 sum(quantity) FILTER (WHERE status = 'REJECTED') AS rejected, sum(committed * quantity) AS committed,
                 sum(released * quantity) AS released, sum(expired * quantity) AS expired,
                 array_agg(reservation_id) FILTER (WHERE nth_of_kind <= $1) AS wrong,
                 array_agg(reservation_id) FILTER (WHERE returned > sold AND nth_back <= $1) AS back
             FROM counted GROUP BY sale_no, lane
         ), of_sale AS (
             SELECT sale_no, sum(committed) AS committed, sum(released) AS released, sum(expired) AS expired
             FROM summed GROUP BY sale_no
         )
         (SELECT 'tally' AS of, sale_id, sku_id, location_id, NULL::int2 AS lane, f.field,
              coalesce(f.expected, 0)::int8 AS expected, coalesce(f.found, 0)::int8 AS found,
              NULL::uuid AS reservation_id
          FROM sale LEFT JOIN sale_tally t USING (sale_no) LEFT JOIN of_sale s USING (sale_no),
              LATERAL (VALUES ('committed', s.committed, t.committed), ('released', s.released, t.released),
                  ('expired', s.expired, t.expired)) AS f(field, expected, found)
          WHERE coalesce(f.expected, 0) <> coalesce(f.found, 0) ORDER BY sale_no, f.field LIMIT $1)
         UNION ALL
         (SELECT 'bucket', sale_id, sku_id, location_id, lane, f.field, coalesce(f.expected, 0)::int8,
              coalesce(f.found, 0)::int8, NULL
          FROM (SELECT sale_no, lane, s.durable AS was_durable, s.rejected AS was_rejected, b.durable, b.rejected
                FROM sale_bucket b FULL JOIN summed s USING (sale_no, lane)) k
          JOIN sale USING (sale_no),
              LATERAL (VALUES ('durable', was_durable, durable), ('rejected', was_rejected, rejected))
                  AS f(field, expected, found)
          WHERE coalesce(f.expected, 0) <> coalesce(f.found, 0)
            AND (f.field = 'durable' OR NOT EXISTS (
                SELECT 1 FROM quarantine q WHERE q.lane = k.lane AND coalesce(q.sale_no, k.sale_no) = k.sale_no))
          ORDER BY sale_no, lane, f.field LIMIT $1)
         UNION ALL
         SELECT 'reservation', NULL, NULL, NULL, NULL, NULL, 0, 0, id
         FROM summed, UNNEST(wrong || back) AS id"
    ))
    .bind(rows_max())
    .fetch_all(tx)
    .await?)
}

/// These reservations as they stand now, and their events.
async fn rows(tx: &mut Connection, wrong: &BTreeSet<Uuid>) -> Result<Vec<Row>, LedgerError> {
    Ok(sqlx::query_as(concat!(
        "-- audit.wrong_reservations
         WITH ",
        both_sides!("reservation_id = ANY($1)"),
        " SELECT reservation_id, sku_id, location_id, status::text AS status, quantity, made, committed, released, expired,
             taken, reserved, sold, returned, fault
         FROM both_sides ORDER BY reservation_id"
    ))
    .bind(wrong.iter().copied().collect::<Vec<_>>())
    .fetch_all(tx)
    .await?)
}

impl Found {
    fn difference(&self, kind: Kind, says: &str) -> Difference {
        let site = Site {
            sku_id: self.sku_id.clone(),
            location_id: self.location_id.clone(),
            sale_id: self.sale_id.clone(),
            lane: self.lane.map(LaneNo::from_i16),
            of: self.field.clone(),
            ..Site::default()
        };
        Difference::new(kind, site, says, self.expected, self.found)
    }
}

impl Row {
    fn site(&self) -> Site {
        Site::item(&self.sku_id, &self.location_id).with_reservation(ReservationId(self.reservation_id))
    }

    fn more_back(&self) -> Option<Difference> {
        let site = Site {
            of: Some("returned".to_owned()),
            ..self.site()
        };
        let says = "units that came back of a reservation, at most those that it sold";
        (self.returned > self.sold).then(|| Difference::new(Kind::Returns, site, says, self.sold, self.returned))
    }

    fn difference(&self) -> Difference {
        let site = self.site();
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
        if self.fault.as_deref() == Some("unmade") {
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
