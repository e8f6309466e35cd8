//! Extend: more time to pay, never less, and never past the longest hold.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::reservation::lock;
use super::{Ledger, LedgerError};
use crate::domain::reservation::{Reservation, Status};
use crate::domain::reservation_id::ReservationId;
use crate::domain::sale::SaleState;
use crate::domain::trace::TraceId;

/// Longest hold, counted from creation, of a reservation without a sale, in ms.
pub const HOLD_MAX_MS: i64 = 3_600_000;

/// A request for more time.
#[derive(Clone, Debug)]
pub struct ExtendAsk {
    /// For which reservation.
    pub id: ReservationId,
    /// From now on, in ms.
    pub ttl_ms: i64,
    /// Why; it goes to the log.
    pub reason: Option<String>,
    /// Of the request.
    pub trace: TraceId,
    /// Who asks, where a person does.
    pub operator: Option<String>,
}

/// What came of an [`ExtendAsk`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExtendAnswer {
    /// It has the time asked for, or as much of it as it may have.
    Done(Reservation),
    /// It has ended.
    Refused(Reservation),
    /// Its sale is frozen.
    Frozen,
    /// The ledger does not have it.
    Unknown,
}

impl Ledger {
    /// Moves the deadlines of these reservations; the answers stand in the order of the asks. Of several asks for one
    /// reservation the longest counts.
    ///
    /// # Errors
    /// Postgres could not be asked.
    pub async fn extend(&self, asks: &[ExtendAsk]) -> Result<Vec<ExtendAnswer>, LedgerError> {
        let mut attempt = 0;
        loop {
            match self.extend_once(asks).await {
                Err(error) => {
                    attempt += 1;
                    self.before_retry(error, attempt).await?;
                }
                done => return done,
            }
        }
    }

    async fn extend_once(&self, asks: &[ExtendAsk]) -> Result<Vec<ExtendAnswer>, LedgerError> {
        let mut tx = self.begin().await?;
        let mut rows = lock(&mut tx, asks.iter().map(|ask| ask.id)).await?;
        let mut longest: BTreeMap<Uuid, i64> = BTreeMap::new();
        for ask in asks {
            let Some(row) = rows.get(&ask.id.0) else { continue };
            if row.status()? == Status::Reserved && row.sale_state()? != Some(SaleState::Frozen) {
                let ttl_ms = longest.entry(ask.id.0).or_default();
                *ttl_ms = ask.ttl_ms.max(*ttl_ms);
            }
        }
        let locked = || longest.keys().map(|id| &rows[id]);
        let moved: Vec<(Uuid, DateTime<Utc>, DateTime<Utc>)> = sqlx::query_as(
            "-- extend.update: never earlier than with the stalls so far, never past the longest hold
             UPDATE inventory_reservation r SET updated_at = now.at, stall_no = e.stalls, expires_at = greatest(e.due,
                 least(now.at + e.ttl_ms * interval '1 ms', r.created_at + e.hold_max_ms * interval '1 ms'))
             FROM UNNEST($1::uuid[], $2::timestamptz[], $3::int8[], $4::int8[], $5::timestamptz[], $6::int8[])
                  AS e(reservation_id, created_at, ttl_ms, hold_max_ms, due, stalls),
                  (SELECT clock_timestamp() AS at OFFSET 0) AS now
             WHERE r.reservation_id = e.reservation_id AND r.created_at = e.created_at
             RETURNING r.reservation_id, r.expires_at, r.updated_at",
        )
        .bind(longest.keys().copied().collect::<Vec<_>>())
        .bind(locked().map(|row| row.created_at).collect::<Vec<_>>())
        .bind(longest.values().copied().collect::<Vec<_>>())
        .bind(
            locked()
                .map(|row| row.hold_max_ms.unwrap_or(HOLD_MAX_MS))
                .collect::<Vec<_>>(),
        )
        .bind(locked().map(|row| row.due).collect::<Vec<_>>())
        .bind(locked().map(|row| row.stalls).collect::<Vec<_>>())
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        for (id, expires_at, updated_at) in moved {
            if let Some(row) = rows.get_mut(&id) {
                (row.due, row.updated_at) = (expires_at, updated_at);
            }
        }
        let answer = |ask: &ExtendAsk| {
            let Some(row) = rows.get(&ask.id.0) else {
                return Ok(ExtendAnswer::Unknown);
            };
            let reservation = row.to_reservation()?;
            if longest.contains_key(&ask.id.0) {
                log(ask, &reservation);
                Ok(ExtendAnswer::Done(reservation))
            } else if reservation.status == Status::Reserved {
                Ok(ExtendAnswer::Frozen)
            } else {
                Ok(ExtendAnswer::Refused(reservation))
            }
        };
        asks.iter().map(answer).collect()
    }
}

fn log(ask: &ExtendAsk, reservation: &Reservation) {
    tracing::info!(
        trace = %ask.trace,
        reservation = %ask.id,
        order = %reservation.order,
        sku = %reservation.item.sku,
        location = %reservation.item.location,
        expires_at = %reservation.expires_at,
        reason = ask.reason,
        operator = ask.operator,
        "a reservation was extended"
    );
}
