//! Extend: more time to pay, never less, and never past the longest hold; a payment that has begun gets a grace beyond
//! it, so that no one pays for what expires under their hands.

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

/// The reason that says that a payment has begun.
pub const PAYMENT_STARTED: &str = "payment_started";

/// How much more time than others a reservation gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
#[group(skip)]
pub struct Settings {
    /// How long a payment that has begun may take beyond the longest hold; 0: no longer
    #[arg(long, env = "FLASHGATE_PAYMENT_GRACE_SECONDS", value_name = "SECONDS",
          default_value_t = PAYMENT_GRACE_SECONDS, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub payment_grace_seconds: u32,
}

/// Longer than card payments with a second factor take, and not long enough to keep units from others.
const PAYMENT_GRACE_SECONDS: u32 = 300;

impl Default for Settings {
    fn default() -> Self {
        Settings {
            payment_grace_seconds: PAYMENT_GRACE_SECONDS,
        }
    }
}

/// A request for more time.
#[derive(Clone, Debug)]
pub struct ExtendAsk {
    /// For which reservation.
    pub id: ReservationId,
    /// From now on, in ms.
    pub ttl_ms: i64,
    /// Why; it goes to the log. [`PAYMENT_STARTED`] gets the grace.
    pub reason: Option<String>,
    /// Of the request.
    pub trace: TraceId,
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
        let mut longest: BTreeMap<Uuid, Grown> = BTreeMap::new();
        for ask in asks {
            let parts = rows.rows_of(ask.id.0);
            let mut grown = Grown {
                ttl_ms: ask.ttl_ms,
                hold_max_ms: i64::MAX,
                pays: ask.reason.as_deref() == Some(PAYMENT_STARTED),
            };
            let mut open = true;
            for row in parts.iter().map(|part| rows.get(part)) {
                open &= row.status()? == Status::Reserved && row.sale_state()? != Some(SaleState::Frozen);
                grown.hold_max_ms = grown.hold_max_ms.min(row.hold_max_ms.unwrap_or(HOLD_MAX_MS));
                grown.pays |= row.pinned_at.is_some();
            }
            for part in parts.into_iter().filter(|_| open) {
                let of = longest.entry(part).or_insert(grown);
                (of.ttl_ms, of.pays) = (of.ttl_ms.max(grown.ttl_ms), of.pays | grown.pays);
            }
        }
        let grace_ms = i64::from(self.extend.payment_grace_seconds) * 1000;
        let locked = || longest.keys().map(|id| rows.get(id));
        let moved: Vec<(Uuid, DateTime<Utc>, DateTime<Utc>)> = sqlx::query_as(
            "-- extend.update: never earlier than with the stalls so far, never past the longest hold
             UPDATE inventory_reservation r SET updated_at = now.at, stall_no = e.stalls,
                 pinned_at = coalesce(r.pinned_at, CASE WHEN e.pays THEN now.at END),
                 expires_at = greatest(e.due, least(now.at + e.ttl_ms * interval '1 ms',
                     r.created_at + (e.hold_max_ms + e.grace_ms) * interval '1 ms'))
             FROM UNNEST($1::uuid[], $2::timestamptz[], $3::int8[], $4::int8[], $5::timestamptz[], $6::int8[],
                         $7::int8[], $8::bool[])
                  AS e(reservation_id, created_at, ttl_ms, hold_max_ms, due, stalls, grace_ms, pays),
                  (SELECT clock_timestamp() AS at OFFSET 0) AS now
             WHERE r.reservation_id = e.reservation_id AND r.created_at = e.created_at
             RETURNING r.reservation_id, r.expires_at, r.updated_at",
        )
        .bind(longest.keys().copied().collect::<Vec<_>>())
        .bind(locked().map(|row| row.created_at).collect::<Vec<_>>())
        .bind(longest.values().map(|of| of.ttl_ms).collect::<Vec<_>>())
        .bind(longest.values().map(|of| of.hold_max_ms).collect::<Vec<_>>())
        .bind(locked().map(|row| row.due).collect::<Vec<_>>())
        .bind(locked().map(|row| row.stalls).collect::<Vec<_>>())
        .bind(
            longest
                .values()
                .map(|of| if of.pays { grace_ms } else { 0 })
                .collect::<Vec<_>>(),
        )
        .bind(longest.values().map(|of| of.pays).collect::<Vec<_>>())
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        for (id, expires_at, updated_at) in moved {
            let row = rows.get_mut(&id);
            (row.due, row.updated_at) = (expires_at, updated_at);
        }
        let answer = |ask: &ExtendAsk| {
            let Some(reservation) = rows.whole(ask.id.0)? else {
                return Ok(ExtendAnswer::Unknown);
            };
            if rows.rows_of(ask.id.0).iter().any(|part| longest.contains_key(part)) {
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

/// More time for a row.
#[derive(Clone, Copy)]
struct Grown {
    ttl_ms: i64,
    /// Counted from creation; of a cart, its shortest.
    hold_max_ms: i64,
    /// Its payment has begun.
    pays: bool,
}

fn log(ask: &ExtendAsk, reservation: &Reservation) {
    tracing::info!(
        trace = %ask.trace,
        reservation = %ask.id,
        order = %reservation.order,
        sku = reservation.lines.first().map(|line| line.item.sku.as_str()),
        location = reservation.lines.first().map(|line| line.item.location.as_str()),
        lines = reservation.lines.len(),
        expires_at = %reservation.expires_at,
        reason = ask.reason,
        "a reservation was extended"
    );
}
