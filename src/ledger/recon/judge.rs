//! Reservations compared with what became of their orders.
//!
//! What follows for certain is done, as any client would ask for it: what is paid or shipped is committed, what is
//! cancelled or refunded is released. Where money and units have to be settled, a person must look. Each state is judged
//! once, the newest of an order alone; a difference is written down before anything is done about it, so that a process
//! that dies leaves it for a person.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::newest::{Newest, held, newest_of};
use super::report::{self, Discrepancy, NewDiscrepancy, Report};
use crate::domain::reconciliation::{ReportKind, Review};
use crate::domain::reservation::Ending;
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

/// States that were taken, and one of the orders whose newest is among them; none where there is no such order.
#[derive(Clone, Debug, sqlx::FromRow)]
struct TakenRow {
    taken: i64,
    order_id: Option<String>,
    state: Option<String>,
    at: Option<DateTime<Utc>>,
    received_at: Option<DateTime<Utc>>,
}

/// How something that was found of an order stands when somebody looks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stands {
    /// As it was found, or nothing was told since.
    Same,
    /// The order still lacks something of the kind, and not by that reservation.
    Otherwise,
    /// The order has what its newest state calls for.
    Settled,
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

    /// How what was found of an order stands by now, by its newest state.
    pub(super) async fn stands(&self, found: &Discrepancy) -> Result<Stands, LedgerError> {
        let Some(order) = &found.order else {
            return Ok(Stands::Same);
        };
        let mut connection = self.pool.acquire().await?;
        let newest = newest_of(&mut connection, order).await?;
        let Some(newest) = newest else {
            return Ok(Stands::Same);
        };
        let held = held(&mut connection, std::slice::from_ref(&newest)).await?;
        connection.keep();
        let of_order = held.get(order).map_or(&[][..], Vec::as_slice);
        let (mut now, mut endings) = (Vec::new(), Vec::new());
        newest.judge(of_order, &mut now, &mut endings)?;
        let reservation = found.reservation.map(|id| id.0);
        let same = |now: &NewDiscrepancy| now.reservation == reservation && now.expected == found.expected;
        // What has no reservation is about the order, whatever it holds.
        let akin = |now: &NewDiscrepancy| {
            let sku = now.item.as_ref().map(|(sku, _)| sku);
            reservation.is_none() || sku.is_none() || sku == found.sku.as_ref()
        };
        Ok(if now.iter().any(same) {
            Stands::Same
        } else if now.iter().any(akin) {
            Stands::Otherwise
        } else {
            Stands::Settled
        })
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
                     SELECT max(event_id) FROM inventory_movement e WHERE e.reservation_id = d.reservation_id
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
