//! Reservations compared with what became of their orders.
//!
//! What follows for certain is done, as any client would ask for it: what is paid or shipped is committed, what is
//! cancelled or refunded is released. Where money and units have to be settled, a person must look. Each state is judged
//! once, the newest of an order alone; a difference is written down before anything is done about it, so that a process
//! that dies leaves it for a person.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::report::{self, Discrepancy, NewDiscrepancy, Report};
use crate::domain::difference::Figure;
use crate::domain::reconciliation::{Held, Later, OrderState, OrderVerdict, ReportKind, Review, judge_order};
use crate::domain::reservation::{Ending, Status};
use crate::domain::reservation_id::ReservationId;
use crate::domain::trace::TraceId;
use crate::ledger::connection::Connection;
use crate::ledger::once::By;
use crate::ledger::{EndAnswer, EndAsk, GrantTicket, Ledger, LedgerError};

/// States of one transaction, and of one run: the next run goes on.
const BATCH_MAX: i64 = 500;
const BATCHES_MAX: usize = 40;

/// What a run found.
#[derive(Debug)]
pub struct Judged {
    /// Its report; none where nothing waited and none was asked for.
    pub report: Option<Report>,
    /// Units on their way back to lanes.
    pub tickets: Vec<GrantTicket>,
}

/// How far the clock of who tells states may be off.
const CLOCK_SLACK_MS: i64 = 60_000;

/// The newest state of an order.
#[derive(Clone, Debug, sqlx::FromRow)]
struct Newest {
    order_id: String,
    state: String,
    at: DateTime<Utc>,
    received_at: DateTime<Utc>,
}

/// States that were taken, and one of the orders whose newest is among them; none where there is no such order.
#[derive(Clone, Debug, sqlx::FromRow)]
struct TakenRow {
    taken: i64,
    order_id: Option<String>,
    state: Option<String>,
    at: Option<DateTime<Utc>>,
    received_at: Option<DateTime<Utc>>,
}

/// A reservation of such an order.
#[derive(Clone, Debug, sqlx::FromRow)]
struct HeldRow {
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

/// What is done about a difference, once it is written down.
struct Remedy {
    discrepancy: i64,
    ask: EndAsk,
}

impl Ledger {
    /// Judges the states of orders that were told at least `settled_ms` ago. With `always`, the report is left also where
    /// none waited.
    ///
    /// # Errors
    /// The ledger could not find out; the report says how far it got.
    pub async fn judge_orders(&self, settled_ms: i64, always: bool, by: &By) -> Result<Judged, LedgerError> {
        let mut judged = Judged {
            report: None,
            tickets: Vec::new(),
        };
        if !always && !self.orders_wait(settled_ms).await? {
            return Ok(judged);
        }
        let mut tx = self.begin().await?;
        let report = super::open_report(&mut tx, ReportKind::OrderState, by).await?;
        tx.commit().await?;
        let mut compared = 0;
        for _ in 0..BATCHES_MAX {
            let (states, orders, remedies) = self.judge_batch(report, settled_ms, by).await?;
            compared += orders;
            let asks: Vec<EndAsk> = remedies.iter().map(|remedy| remedy.ask.clone()).collect();
            if !asks.is_empty() {
                let answers = self.end(&asks).await?;
                judged.tickets.extend(answers.iter().flat_map(tickets));
                self.settle(report, &remedies, &answers).await?;
            }
            if states < BATCH_MAX {
                break;
            }
        }
        let mut tx = self.begin().await?;
        super::close_report(&mut tx, report, compared).await?;
        tx.commit().await?;
        judged.report = self.report(report).await?;
        Ok(judged)
    }

    async fn orders_wait(&self, settled_ms: i64) -> Result<bool, LedgerError> {
        Ok(sqlx::query_scalar(
            "-- order_state.wait
             SELECT EXISTS (SELECT 1 FROM order_state WHERE judged_at IS NULL
                            AND received_at <= clock_timestamp() - $1 * interval '1 ms')",
        )
        .bind(settled_ms)
        .fetch_one(&self.pool)
        .await?)
    }

    /// Judges some orders and writes down what differs. Returns how many states and orders there were, and what to do.
    async fn judge_batch(
        &self,
        report: Uuid,
        settled_ms: i64,
        by: &By,
    ) -> Result<(i64, i64, Vec<Remedy>), LedgerError> {
        let mut tx = self.begin().await?;
        let (states, orders) = take_orders(&mut tx, settled_ms).await?;
        let held = held(&mut tx, &orders).await?;
        let (mut found, mut endings) = (Vec::new(), Vec::new());
        for order in &orders {
            let of_order = held.get(order.order_id.as_str()).map_or(&[][..], Vec::as_slice);
            order.judge(of_order, &mut found, &mut endings)?;
        }
        let ids = report::insert(&mut tx, report, &found).await?;
        tx.commit().await?;
        let remedies = ids
            .iter()
            .zip(&found)
            .zip(endings)
            .filter_map(|((id, discrepancy), ending)| {
                Some(Remedy {
                    discrepancy: *id,
                    ask: EndAsk {
                        id: ReservationId(discrepancy.reservation?),
                        ending: ending?,
                        detail: (ending == Some(Ending::Release)).then(|| discrepancy.cause.clone()),
                        key: None,
                        trace: by.trace.unwrap_or(TraceId(*report.as_bytes())),
                        operator: Some(by.operator.clone().unwrap_or_else(|| super::AUTOMATIC.to_owned())),
                        unless_in_cart: false,
                        from_newer_sales: false,
                    },
                })
            });
        let orders = i64::try_from(orders.len()).expect("a batch is small");
        Ok((states, orders, remedies.collect()))
    }

    /// Whether an order's newest state still asks for what was found about a reservation of it.
    pub(super) async fn is_still_so(&self, found: &Discrepancy) -> Result<bool, LedgerError> {
        let Some(order) = &found.order else { return Ok(false) };
        let mut connection = self.pool.acquire().await?;
        let newest: Option<Newest> = sqlx::query_as(
            "-- order_state.newest
             SELECT order_id, state, at, received_at FROM order_state WHERE order_id = $1
             ORDER BY at DESC, received_at DESC LIMIT 1",
        )
        .bind(order)
        .fetch_optional(&mut connection)
        .await?;
        let Some(newest) = newest else { return Ok(false) };
        let held = held(&mut connection, std::slice::from_ref(&newest)).await?;
        connection.keep();
        let of_order = held.get(order).map_or(&[][..], Vec::as_slice);
        let (mut now, mut endings) = (Vec::new(), Vec::new());
        newest.judge(of_order, &mut now, &mut endings)?;
        Ok(now
            .iter()
            .any(|now| now.reservation == found.reservation.map(|id| id.0) && now.expected == found.expected))
    }

    /// Writes down what came of the remedies.
    async fn settle(&self, report: Uuid, remedies: &[Remedy], answers: &[EndAnswer]) -> Result<(), LedgerError> {
        let done: Vec<bool> = answers
            .iter()
            .map(|answer| matches!(answer, EndAnswer::Done { .. }))
            .collect();
        sqlx::query(
            "-- recon.settle_orders: the event is the reservation's last, and was made after the report began
             UPDATE reconciliation_discrepancy d SET
                 status = CASE WHEN w.done THEN 'corrected' ELSE 'manual_review' END,
                 review = CASE WHEN w.done THEN NULL ELSE $4 END,
                 event_id = CASE WHEN w.done THEN (
                     SELECT max(event_id) FROM inventory_event e WHERE e.reservation_id = d.reservation_id
                         AND e.created_at >= (SELECT started_at FROM reconciliation_report WHERE report_id = $3)) END
             FROM UNNEST($1::int8[], $2::bool[]) AS w(discrepancy_id, done)
             WHERE d.discrepancy_id = w.discrepancy_id AND d.status = 'manual_review'",
        )
        .bind(remedies.iter().map(|remedy| remedy.discrepancy).collect::<Vec<_>>())
        .bind(done)
        .bind(report)
        .bind(Review::NeedsDecision.as_str())
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

fn tickets(answer: &EndAnswer) -> &[GrantTicket] {
    match answer {
        EndAnswer::Done { tickets, .. } => tickets,
        _ => &[],
    }
}

impl Newest {
    /// Whether the order got its state before it made this reservation, however wrong the clock is by which that is told.
    fn is_before(&self, row: &HeldRow) -> bool {
        row.created_at > self.received_at || row.created_at > self.at + TimeDelta::milliseconds(CLOCK_SLACK_MS)
    }

    /// Judges an order; `endings` says of each difference how its reservation is to end, if it is.
    fn judge(
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
                    dropped: row.updated_at < self.at && held.iter().any(|other| is_live(&other)),
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

/// Takes states that were not judged; from here on they are. Returns how many, and the orders whose newest is among them.
async fn take_orders(tx: &mut Connection, settled_ms: i64) -> Result<(i64, Vec<Newest>), LedgerError> {
    let rows: Vec<TakenRow> = sqlx::query_as(
        "-- order_state.take: of two who judge, each takes other rows
         WITH due AS (
             SELECT order_id, state, at FROM order_state
             WHERE judged_at IS NULL AND received_at <= clock_timestamp() - $1 * interval '1 ms'
             ORDER BY received_at LIMIT $2 FOR UPDATE SKIP LOCKED
         ), taken AS (
             UPDATE order_state o SET judged_at = clock_timestamp() FROM due
             WHERE (o.order_id, o.state, o.at) = (due.order_id, due.state, due.at)
             RETURNING o.order_id, o.state, o.at, o.received_at
         ), newest AS (
             SELECT DISTINCT ON (order_id) order_id, state, at, received_at FROM taken t
             WHERE NOT EXISTS (SELECT 1 FROM order_state n WHERE n.order_id = t.order_id AND n.at > t.at)
             ORDER BY order_id, at DESC, received_at DESC
         )
         SELECT taken, newest.* FROM (SELECT count(*) AS taken FROM taken) t LEFT JOIN newest ON true",
    )
    .bind(settled_ms)
    .bind(BATCH_MAX)
    .fetch_all(tx)
    .await?;
    let states = rows.first().map_or(0, |row| row.taken);
    let newest = |row: TakenRow| {
        Some(Newest {
            order_id: row.order_id?,
            state: row.state?,
            at: row.at?,
            received_at: row.received_at?,
        })
    };
    Ok((states, rows.into_iter().filter_map(newest).collect()))
}

/// The reservations of these orders, oldest first, by order.
async fn held(tx: &mut Connection, orders: &[Newest]) -> Result<BTreeMap<String, Vec<HeldRow>>, LedgerError> {
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
                 FROM inventory_event e
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
