//! An order's newest state, and what it says of each of the order's reservations.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::report::NewDiscrepancy;
use crate::domain::difference::Figure;
use crate::domain::reconciliation::{Held, Later, OrderState, OrderVerdict, Review, judge_order};
use crate::domain::reservation::{Ending, Status};
use crate::ledger::LedgerError;
use crate::ledger::connection::Connection;

/// How far the clock of who tells states may be off.
const CLOCK_SLACK_MS: i64 = 60_000;

/// The newest state of an order.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct Newest {
    pub(super) order_id: String,
    pub(super) state: String,
    pub(super) at: DateTime<Utc>,
    pub(super) received_at: DateTime<Utc>,
}

/// A reservation of such an order.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct HeldRow {
    order_id: String,
    reservation_id: Uuid,
    sku_id: String,
    location_id: String,
    status: String,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    /// All its units came back.
    returned: bool,
    /// They had, when the order got its state.
    returned_before: bool,
}

impl Newest {
    /// Whether the order got its state before it made this reservation, however wrong the clock is by which that is told.
    fn is_before(&self, row: &HeldRow) -> bool {
        row.created_at > self.received_at || row.created_at > self.at + TimeDelta::milliseconds(CLOCK_SLACK_MS)
    }

    /// Judges an order; `endings` says of each difference how its reservation is to end, if it is.
    pub(super) fn judge(
        &self,
        held: &[HeldRow],
        found: &mut Vec<NewDiscrepancy>,
        endings: &mut Vec<Option<Ending>>,
    ) -> Result<(), LedgerError> {
        let broken = |what: &str| LedgerError::Broken(format!("{what} of order {}", self.order_id));
        let state = OrderState::parse(&self.state).ok_or_else(|| broken("state"))?;
        if held.is_empty() && state.is_owed() {
            found.push(NewDiscrepancy {
                item: None,
                order: Some(self.order_id.clone()),
                reservation: None,
                figure: None,
                expected: Status::Committed.as_str().into(),
                found: "none".into(),
                cause: format!("{}_without_reservation", state.as_str()),
                review: Some(Review::NeedsDecision),
                event_id: None,
            });
            endings.push(None);
        }
        let status = |row: &HeldRow| Status::parse(&row.status).ok_or_else(|| broken("status"));
        let is_live = |row: &&HeldRow| ["RESERVED", "COMMITTED"].contains(&row.status.as_str());
        let is_later = |row: &&HeldRow| self.is_before(row);
        for row in held {
            let same_item = |other: &&HeldRow| (&other.sku_id, &other.location_id) == (&row.sku_id, &row.location_id);
            let newer = |other: &&HeldRow| {
                is_live(other) || (other.updated_at, other.reservation_id) > (row.updated_at, row.reservation_id)
            };
            let elsewhere =
                |other: &&HeldRow| is_live(other) && other.sku_id == row.sku_id && other.created_at >= row.updated_at;
            let superseded = held
                .iter()
                .any(|other| same_item(&other) && newer(&other) || elsewhere(&other));
            // The order had reserved the item again, here or elsewhere: what counts is that.
            if !is_live(&row) && superseded {
                continue;
            }
            let status = status(row)?;
            let mut earlier = held.iter().filter(|other| !is_later(other)).peekable();
            let renews = earlier.peek().is_none() || earlier.any(|other| other.sku_id == row.sku_id);
            let verdict = judge_order(
                state,
                Held {
                    status,
                    returned: match state.is_owed() {
                        true => row.returned_before,
                        false => row.returned,
                    },
                    dropped: row.updated_at < self.at && held.iter().any(|other| is_live(&other) && !is_later(&other)),
                    later: match (is_later(&row), renews) {
                        (false, _) => Later::No,
                        (true, true) => Later::Anew,
                        (true, false) => Later::Besides,
                    },
                },
            );
            let (ending, review) = match verdict {
                OrderVerdict::Agrees => continue,
                OrderVerdict::Commit => (Some(Ending::Commit), Review::Undecided),
                OrderVerdict::Release => (Some(Ending::Release), Review::Undecided),
                OrderVerdict::Review => (None, Review::NeedsDecision),
            };
            found.push(self.discrepancy(state, status, row, review));
            endings.push(ending);
        }
        Ok(())
    }

    fn discrepancy(&self, state: OrderState, status: Status, row: &HeldRow, review: Review) -> NewDiscrepancy {
        let (expected, found) = match (state.is_owed(), status) {
            (true, Status::Committed) => (status.as_str(), "returned"),
            (true, _) => (Status::Committed.as_str(), status.as_str()),
            (false, Status::Committed) => ("returned", status.as_str()),
            (false, _) => (Status::Released.as_str(), status.as_str()),
        };
        let cause = match (state, status) {
            (OrderState::Refunded, Status::Committed) => "refunded_without_return".to_owned(),
            (state, Status::Committed) if state.is_owed() => format!("{}_but_returned", state.as_str()),
            _ => format!("{}_but_{}", state.as_str(), status.as_str().to_ascii_lowercase()),
        };
        NewDiscrepancy {
            item: Some((row.sku_id.clone(), row.location_id.clone())),
            order: Some(self.order_id.clone()),
            reservation: Some(row.reservation_id),
            figure: None,
            expected: Figure::from(expected),
            found: Figure::from(found),
            cause,
            review: Some(review),
            event_id: None,
        }
    }
}

/// The reservations of these orders, oldest first, by order.
pub(super) async fn held(
    tx: &mut Connection,
    orders: &[Newest],
) -> Result<BTreeMap<String, Vec<HeldRow>>, LedgerError> {
    let rows: Vec<HeldRow> = sqlx::query_as(
        "-- order_state.held: returns name their reservation
         SELECT r.order_id, reservation_id, sku_id, location_id, status::text AS status, created_at, updated_at,
             status = 'COMMITTED' AND quantity <= back.units AS returned,
             status = 'COMMITTED' AND quantity <= back.units_before AS returned_before
         FROM (SELECT order_id, reservation_id, sku_id, location_id, status, updated_at, quantity, created_at
               FROM inventory_reservation WHERE order_id = ANY($1)
               UNION ALL
               SELECT order_id, reservation_id, sku_id, location_id, status, updated_at, quantity, created_at
               FROM inventory_reservation_cold WHERE order_id = ANY($1)) r
             JOIN UNNEST($1::text[], $2::timestamptz[]) AS o(order_id, at) USING (order_id),
             LATERAL (
                 SELECT coalesce(sum(quantity_delta), 0) AS units,
                     coalesce(sum(quantity_delta) FILTER (WHERE e.created_at < o.at), 0) AS units_before
                 FROM inventory_movement e
                 WHERE e.reservation_id = r.reservation_id AND e.event_type = 'inventory_returned'
                   AND e.created_at >= r.created_at
             ) back
         ORDER BY created_at, reservation_id",
    )
    .bind(orders.iter().map(|order| order.order_id.as_str()).collect::<Vec<_>>())
    .bind(orders.iter().map(|order| order.at).collect::<Vec<_>>())
    .fetch_all(tx)
    .await?;
    let mut held: BTreeMap<String, Vec<HeldRow>> = BTreeMap::new();
    for row in rows {
        held.entry(row.order_id.clone()).or_default().push(row);
    }
    Ok(held)
}

/// The newest state of this order, if it was told any.
pub(super) async fn newest_of(connection: &mut Connection, order: &str) -> Result<Option<Newest>, LedgerError> {
    Ok(sqlx::query_as(
        "-- order_state.newest
         SELECT order_id, state, at, received_at FROM order_state WHERE order_id = $1
         ORDER BY at DESC, received_at DESC LIMIT 1",
    )
    .bind(order)
    .fetch_optional(connection)
    .await?)
}
