//! Answers against their events: whatever remembers that something was done names an event, and the event tells the
//! same; and no return and no transfer happened that nobody remembers.

use super::{Audit, rows_max};
use crate::domain::difference::{Difference, Kind, Site};
use crate::ledger::LedgerError;
use crate::ledger::connection::Connection;

/// An event that some other row names.
#[derive(sqlx::FromRow)]
struct Named {
    by: String,
    sku_id: String,
    location_id: String,
    event_id: i64,
    expected: String,
    found: String,
}

pub(super) async fn check(tx: &mut Connection, audit: &mut Audit) -> Result<(), LedgerError> {
    for (kind, named) in [
        (Kind::AdjustmentEvent, adjustments(tx).await?),
        (Kind::CorrectionEvent, corrections(tx).await?),
        (Kind::ReturnEvent, returns(tx).await?),
        (Kind::TransferEvent, transfers(tx).await?),
    ] {
        audit.take(named.iter().map(|row| row.difference(kind)).collect());
    }
    Ok(())
}

async fn adjustments(tx: &mut Connection) -> Result<Vec<Named>, LedgerError> {
    Ok(sqlx::query_as(
        "-- audit.adjustments: what was answered is what happened
         SELECT 'adjustment ' || adjustment_id AS by, a.sku_id, a.location_id, event_id,
             format('%s units, %s, leaving %s on hand', a.delta, a.reason, a.after ->> 'onHand') AS expected,
             CASE WHEN e.event_id IS NULL THEN 'no such event'
                  ELSE format('%s units, %s, leaving %s on hand', e.quantity_delta, e.reason, e.on_hand) END AS found
         FROM adjustment a LEFT JOIN inventory_movement e USING (event_id)
         WHERE (a.sku_id, a.location_id, a.delta, a.reason, a.reference_id, (a.after ->> 'onHand')::int8)
             IS DISTINCT FROM (e.sku_id, e.location_id, e.quantity_delta, e.reason, e.reference_id, e.on_hand)
         ORDER BY event_id LIMIT $1",
    )
    .bind(rows_max())
    .fetch_all(tx)
    .await?)
}

async fn corrections(tx: &mut Connection) -> Result<Vec<Named>, LedgerError> {
    Ok(sqlx::query_as(
        "-- audit.corrections: of counts and of balances; what an order's state led to is its reservation's event
         SELECT 'report ' || report_id AS by, coalesce(d.sku_id, e.sku_id, '') AS sku_id,
             coalesce(d.location_id, e.location_id, '') AS location_id, event_id,
             format('%s, of %s', w.reason, w.reference_id) AS expected,
             CASE WHEN e.event_id IS NULL THEN 'no such event' ELSE format('%s, of %s', e.reason, e.reference_id) END
                 AS found
         FROM reconciliation_discrepancy d JOIN reconciliation_report r USING (report_id)
         JOIN (VALUES (true, 'cycle_count_correction'), (false, 'ledger_reconciled')) AS k(counted, reason)
             ON k.counted = (r.count_id IS NOT NULL)
         CROSS JOIN LATERAL (SELECT k.reason, coalesce(r.count_id, r.report_id::text) AS reference_id) w
         LEFT JOIN inventory_movement e USING (event_id)
         WHERE event_id IS NOT NULL AND r.kind NOT IN ('order_state', 'live')
           AND (d.sku_id, d.location_id, w.reason, w.reference_id)
             IS DISTINCT FROM (e.sku_id, e.location_id, e.reason, e.reference_id)
         ORDER BY event_id LIMIT $1",
    )
    .bind(rows_max())
    .fetch_all(tx)
    .await?)
}

async fn returns(tx: &mut Connection) -> Result<Vec<Named>, LedgerError> {
    Ok(sqlx::query_as(
        "-- audit.returns_named: a return processed without a reservation is an adjustment
         SELECT 'return ' || coalesce(l.return_id, e.reference_id, 'without an id') AS by, coalesce(l.sku_id, e.sku_id) AS sku_id,
             coalesce(l.location_id, e.location_id) AS location_id, event_id,
             CASE WHEN l.return_id IS NULL THEN 'no such return'
                  ELSE format('%s units of reservation %s, %s', l.quantity, l.reservation_id, l.condition) END AS expected,
             CASE WHEN e.event_id IS NULL THEN 'no such event'
                  ELSE format('%s units of reservation %s, %s', e.quantity_delta, e.reservation_id, e.reason) END AS found
         FROM (SELECT return_id, l.reservation_id, sku_id, location_id, quantity, event_id, 'return_' || condition AS condition
               FROM inventory_return_line l JOIN inventory_return USING (return_id)) l
         FULL JOIN (SELECT * FROM inventory_movement
                    WHERE event_type = 'inventory_returned' AND reservation_id IS NOT NULL) e USING (event_id)
         WHERE (l.return_id, l.sku_id, l.location_id, l.quantity, l.reservation_id, l.condition)
             IS DISTINCT FROM (e.reference_id, e.sku_id, e.location_id, e.quantity_delta, e.reservation_id, e.reason)
         UNION ALL
         SELECT 'return ' || return_id, '', '', 0, 'at least one line', 'none' FROM inventory_return r
         WHERE NOT EXISTS (SELECT 1 FROM inventory_return_line l WHERE l.return_id = r.return_id)
         ORDER BY event_id LIMIT $1",
    )
    .bind(rows_max())
    .fetch_all(tx)
    .await?)
}

async fn transfers(tx: &mut Connection) -> Result<Vec<Named>, LedgerError> {
    Ok(sqlx::query_as(
        "-- audit.transfers_named: both sides
         SELECT 'transfer ' || coalesce(t.transfer_id, e.reference_id, 'without an id') AS by, coalesce(t.sku_id, e.sku_id) AS sku_id,
             coalesce(t.location_id, e.location_id) AS location_id, event_id,
             CASE WHEN t.transfer_id IS NULL THEN 'no such transfer'
                  ELSE format('%s units, leaving %s on hand', t.units, t.on_hand) END AS expected,
             CASE WHEN e.event_id IS NULL THEN 'no such event'
                  ELSE format('%s units, leaving %s on hand', e.on_hand_delta, e.on_hand) END AS found
         FROM (SELECT transfer_id, sku_id, s.location_id, s.event_id, s.units, (s.image -> 'after' ->> 'onHand')::int8 AS on_hand
               FROM transfer, LATERAL (VALUES (from_location, from_event, -quantity, images -> 'from'),
                   (to_location, to_event, quantity, images -> 'to')) AS s(location_id, event_id, units, image)) t
         FULL JOIN (SELECT * FROM inventory_movement WHERE event_type = 'inventory_transferred') e USING (event_id)
         WHERE (t.transfer_id, t.sku_id, t.location_id, t.units, t.on_hand)
             IS DISTINCT FROM (e.reference_id, e.sku_id, e.location_id, e.on_hand_delta, e.on_hand)
         ORDER BY event_id LIMIT $1",
    )
    .bind(rows_max())
    .fetch_all(tx)
    .await?)
}

impl Named {
    fn difference(&self, kind: Kind) -> Difference {
        let site = Site::item(&self.sku_id, &self.location_id).with_figure(format!("event {}", self.event_id));
        let says = format!("the event of {}", self.by);
        Difference::new(kind, site, &says, self.expected.as_str(), self.found.as_str())
    }
}
