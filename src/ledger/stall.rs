//! Stalls: times in which endings could not be taken, so that nobody loses units for a deadline that could not be met.
//!
//! Whoever lives beats; the pulse is the last beat of all. A silence of more than five seconds is written down once, by
//! the first who beats after it, and from then on every deadline whose hold it overlaps is later by the overlap and
//! 30 s (the function `deadline` in the migrations). The end of a freeze is written down in the same way.
//!
//! All stalls are inserted under the lock of the pulse row, so their numbers rise in the order of their commits: a
//! reservation may remember the last that it was given.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::connection::Connection;
use super::{Ledger, LedgerError};
use crate::domain::lane::LaneNo;
use crate::domain::time::Millis;

/// Longest silence that is no stall. Gateways beat every second.
const SILENCE_MAX: TimeDelta = TimeDelta::seconds(5);

/// What a beat found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// There had been a silence, and it was this beat that wrote it down.
    pub stalled: bool,
}

impl Ledger {
    /// Says that this gateway is alive.
    ///
    /// # Errors
    /// Postgres could not be asked.
    pub async fn beat(&self, gateway: Uuid, name: &str) -> Result<Beat, LedgerError> {
        let mut tx = self.begin().await?;
        let stalled = pulse(&mut tx).await?;
        sqlx::query(
            "-- gateway.beat
             INSERT INTO gateway (gateway_id, name, started_at, beat_at)
             VALUES ($1, $2, clock_timestamp(), clock_timestamp())
             ON CONFLICT (gateway_id) DO UPDATE SET name = excluded.name, beat_at = excluded.beat_at",
        )
        .bind(gateway)
        .bind(name)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Beat { stalled })
    }

    /// Says that this gateway is gone: it counts for nobody's share of the lanes any more.
    ///
    /// # Errors
    /// Postgres could not be asked; it is taken for dead when it has been silent for a while.
    pub async fn leave(&self, gateway: Uuid) -> Result<(), LedgerError> {
        sqlx::query("-- gateway.leave\nDELETE FROM gateway WHERE gateway_id = $1")
            .bind(gateway)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Says which lanes this gateway, which is alive, can ask. Where no other can ask a lane either, it may fall back on
    /// the ledger.
    ///
    /// # Errors
    /// Postgres could not be asked.
    pub async fn tell_reach(&self, gateway: Uuid, lanes: &[LaneNo]) -> Result<(), LedgerError> {
        sqlx::query("-- gateway.tell_reach\nUPDATE gateway SET reaches = $2 WHERE gateway_id = $1")
            .bind(gateway)
            .bind(lanes.iter().map(|lane| lane.to_i16()).collect::<Vec<_>>())
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

/// Moves the pulse to now; returns whether a silence ended, which then is written down.
pub(super) async fn pulse(tx: &mut Connection) -> Result<bool, LedgerError> {
    let last = lock_pulse(tx).await?;
    let now: DateTime<Utc> = sqlx::query_scalar(
        "-- pulse.beat\nUPDATE pulse SET beat_at = greatest(beat_at, clock_timestamp()) RETURNING beat_at",
    )
    .fetch_one(&mut *tx)
    .await?;
    let stalled = now - last > SILENCE_MAX;
    if stalled {
        insert(tx, None, last, now).await?;
        tracing::warn!(from = %Millis::from(last), until = %Millis::from(now), "endings could not be taken");
    }
    Ok(stalled)
}

/// Writes down that the sale's deadlines stood still while it was frozen.
///
/// # Errors
/// Postgres could not be asked.
pub(super) async fn record_freeze_end(
    tx: &mut Connection,
    sale_no: i32,
    from: Millis,
    until: Millis,
) -> Result<(), LedgerError> {
    lock_pulse(tx).await?;
    insert(tx, Some(sale_no), from.to_utc(), until.to_utc()).await
}

async fn lock_pulse(tx: &mut Connection) -> Result<DateTime<Utc>, LedgerError> {
    Ok(
        sqlx::query_scalar("-- pulse.lock\nSELECT beat_at FROM pulse FOR NO KEY UPDATE")
            .fetch_one(&mut *tx)
            .await?,
    )
}

async fn insert(
    tx: &mut Connection,
    sale_no: Option<i32>,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<(), LedgerError> {
    sqlx::query("-- stall.insert\nINSERT INTO stall (sale_no, from_at, until_at) VALUES ($1, $2, $3)")
        .bind(sale_no)
        .bind(from)
        .bind(until)
        .execute(&mut *tx)
        .await?;
    Ok(())
}
