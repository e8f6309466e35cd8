//! The quarantine: reservations that Postgres could not store, and what an admin makes of them.
//!
//! A replay is a new taking of units under the old id, by a `Retake` grant; the writer makes the reservation
//! `RESERVED` when the lane had the units, and only then is the case closed.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::apply::fault;
use super::connection::Connection;
use super::endings::GrantTicket;
use super::grants::{NewGrant, add_grants};
use super::once::Resolution;
use super::{Ledger, LedgerError};
use crate::domain::entry::{RawEntry, Slip};
use crate::domain::grant::Grant;
use crate::domain::lane::LaneNo;
use crate::domain::reservation_id::ReservationId;
use crate::domain::time::Millis;

/// One case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Its number.
    pub id: i64,
    /// The lane that accepted it.
    pub lane: LaneNo,
    /// Its entry's generation.
    pub epoch: i64,
    /// Its entry's place.
    pub seq: i64,
    /// Its place in the entry.
    pub index: i16,
    /// Of which sale.
    pub sale_no: Option<i32>,
    /// Its id.
    pub reservation_id: Option<ReservationId>,
    /// Units, where they can be told.
    pub quantity: Option<i64>,
    /// What Postgres, or we, had against it.
    pub cause: String,
    /// As it stood in the queue.
    pub body: Vec<u8>,
    /// `waiting`, `replayed` or `rejected`.
    pub state: String,
    /// What the operator said.
    pub note: Option<String>,
    /// Who looked at it.
    pub operator: Option<String>,
    /// When it was put aside.
    pub created_at: Millis,
    /// When it was closed.
    pub resolved_at: Option<Millis>,
}

/// What came of a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The key was sent with another request.
    KeyReused,
    /// The case is closed.
    Done,
    /// It was rejected before.
    Before,
    /// No such case.
    Unknown,
    /// It was replayed, or its units are being taken.
    NotWaiting,
}

/// What came of asking for a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replay {
    /// The key was sent with another request.
    KeyReused,
    /// When this grant is delivered, the reservation is `RESERVED`, or still `REJECTED` where nothing was free.
    Asked {
        /// To wait for.
        ticket: GrantTicket,
        /// Whose units.
        reservation: ReservationId,
    },
    /// It was replayed before: the reservation was made.
    Before,
    /// No such case.
    Unknown,
    /// It was rejected, or its units are being taken.
    NotWaiting,
    /// Nothing can be made of its bytes.
    Unreadable,
    /// Postgres still refuses it, for this.
    Refused(String),
}

#[derive(sqlx::FromRow)]
struct Row {
    quarantine_id: i64,
    lane: i16,
    epoch: i64,
    seq: i64,
    idx: i16,
    sale_no: Option<i32>,
    reservation_id: Option<Uuid>,
    quantity: Option<i64>,
    cause: String,
    body: Vec<u8>,
    state: String,
    note: Option<String>,
    operator: Option<String>,
    created_at: DateTime<Utc>,
    resolved_at: Option<DateTime<Utc>>,
}

/// A case as a replay looks at it.
#[derive(sqlx::FromRow)]
struct Waiting {
    state: String,
    lane: i16,
    sale_no: Option<i32>,
    reservation_id: Option<Uuid>,
    body: Vec<u8>,
}

impl Ledger {
    /// Sets a whole queue entry aside that can't be read; says whether it was not there yet.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn quarantine_entry(&self, lane: LaneNo, entry: &RawEntry, cause: &str) -> Result<bool, LedgerError> {
        let done = sqlx::query(
            "-- quarantine.entry: once, however often the entry is met
             INSERT INTO quarantine (lane, epoch, seq, idx, cause, body)
             SELECT $1, $2, $3, -1, $4, $5
             WHERE NOT EXISTS (SELECT 1 FROM quarantine WHERE lane = $1 AND epoch = $2 AND seq = $3 AND idx = -1)",
        )
        .bind(lane.to_i16())
        .bind(i64::from(entry.id.0))
        .bind(i64::try_from(entry.id.1).unwrap_or(i64::MAX))
        .bind(cause)
        .bind(&entry.body)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// The newest `limit` cases, those below `below`, newest first.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn quarantined(&self, below: Option<i64>, limit: i64) -> Result<Vec<Quarantined>, LedgerError> {
        let rows: Vec<Row> = sqlx::query_as(
            "-- quarantine.list
             SELECT quarantine_id, lane, epoch, seq, idx, sale_no, reservation_id, quantity, cause, body, state, note,
                 operator, created_at, resolved_at
             FROM quarantine WHERE quarantine_id < $1 ORDER BY quarantine_id DESC LIMIT $2",
        )
        .bind(below.unwrap_or(i64::MAX))
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(Row::read).collect())
    }

    /// Closes a case: the reservation stays `REJECTED`.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn quarantine_reject(&self, id: i64, by: Resolution<'_>) -> Result<Rejection, LedgerError> {
        let mut tx = self.begin().await?;
        if !by.claim(&mut tx).await? {
            return Ok(Rejection::KeyReused);
        }
        let case: Option<(String, Option<Uuid>)> = sqlx::query_as(
            "-- quarantine.lock
             SELECT state, reservation_id FROM quarantine WHERE quarantine_id = $1 FOR NO KEY UPDATE",
        )
        .bind(id)
        .fetch_optional(&mut *tx)
        .await?;
        let Some((state, reservation)) = case else {
            return Ok(Rejection::Unknown);
        };
        if state == "rejected" {
            return Ok(Rejection::Before);
        }
        if state != "waiting" || is_being_taken(&mut tx, reservation).await? {
            return Ok(Rejection::NotWaiting);
        }
        sqlx::query(
            "-- quarantine.reject
             UPDATE quarantine SET state = 'rejected', operator = $2, note = $3, resolved_at = clock_timestamp()
             WHERE quarantine_id = $1",
        )
        .bind(id)
        .bind(by.person)
        .bind(by.note)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Rejection::Done)
    }

    /// Asks the lane for the units of a case anew, if the reservation can be stored by now.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn quarantine_replay(&self, id: i64, by: Resolution<'_>) -> Result<Replay, LedgerError> {
        let mut tx = self.begin().await?;
        if !by.claim(&mut tx).await? {
            return Ok(Replay::KeyReused);
        }
        let case: Option<Waiting> = sqlx::query_as(
            "-- quarantine.lock_for_replay
             SELECT state, lane, sale_no, reservation_id, body FROM quarantine
             WHERE quarantine_id = $1 FOR NO KEY UPDATE",
        )
        .bind(id)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(case) = case else {
            return Ok(Replay::Unknown);
        };
        if case.state == "replayed" {
            return Ok(Replay::Before);
        }
        if case.state != "waiting" || is_being_taken(&mut tx, case.reservation_id).await? {
            return Ok(Replay::NotWaiting);
        }
        let of = case.sale_no.zip(case.reservation_id);
        let slip = of.and_then(|(sale_no, _)| Slip::unpack(&case.body, sale_no).ok());
        let Some(((sale_no, reservation), slip)) = of.zip(slip) else {
            return Ok(Replay::Unreadable);
        };
        if let Some(fault) = fault(&slip) {
            return Ok(Replay::Refused(fault.into()));
        }
        if let Some(refused) = restore(&mut tx, reservation, &slip).await? {
            return Ok(Replay::Refused(refused));
        }
        sqlx::query("-- quarantine.replay\n UPDATE quarantine SET operator = $2, note = $3 WHERE quarantine_id = $1")
            .bind(id)
            .bind(by.person)
            .bind(by.note)
            .execute(&mut *tx)
            .await?;
        let lane = LaneNo::from_i16(case.lane);
        let retake = NewGrant {
            lane,
            sale_no,
            grant: Grant::Retake {
                place: ReservationId(reservation).place(),
                quantity: slip.quantity,
                explicit_key: slip.explicit_key,
                key: slip.key,
                fingerprint: slip.fingerprint,
                line: slip.line,
                buyer: slip.buyer(),
            },
            reservation_id: Some(reservation),
        };
        let ids = add_grants(&mut tx, &[retake]).await?;
        tx.commit().await?;
        match ids[..] {
            [grant_id] => Ok(Replay::Asked {
                ticket: GrantTicket { grant_id, lane },
                reservation: ReservationId(reservation),
            }),
            _ => Err(LedgerError::Broken("a grant was inserted without an id".into())),
        }
    }
}

/// Whether the units of a case are on their way. Asked after the case was locked, in a statement of its own: that which
/// waited for the lock does not see what was inserted meanwhile.
async fn is_being_taken(tx: &mut Connection, reservation: Option<Uuid>) -> Result<bool, LedgerError> {
    Ok(sqlx::query_scalar(
        "-- quarantine.taking
         SELECT EXISTS (SELECT 1 FROM lane_grant WHERE reservation_id = $1 AND kind = 'retake')",
    )
    .bind(reservation)
    .fetch_one(tx)
    .await?)
}

/// Gives the refused reservation's row the content that it could not have; returns what Postgres has against it.
async fn restore(tx: &mut Connection, id: Uuid, slip: &Slip) -> Result<Option<String>, LedgerError> {
    let done = sqlx::query(
        "-- quarantine.restore
         UPDATE inventory_reservation SET order_id = $2, user_id = $3, quantity = $4, updated_at = clock_timestamp()
         WHERE reservation_id = $1 AND status = 'REJECTED'",
    )
    .bind(id)
    .bind(&slip.order)
    .bind(&slip.user)
    .bind(i64::from(slip.quantity))
    .execute(&mut *tx)
    .await
    .map_err(LedgerError::from);
    match done {
        Ok(done) if done.rows_affected() == 1 => Ok(None),
        Ok(_) => Ok(Some("the reservation is no longer in the hot tier".into())),
        Err(LedgerError::Data { constraint, .. }) => Ok(Some(constraint)),
        Err(other) => Err(other),
    }
}

impl Row {
    fn read(self) -> Quarantined {
        Quarantined {
            id: self.quarantine_id,
            lane: LaneNo::from_i16(self.lane),
            epoch: self.epoch,
            seq: self.seq,
            index: self.idx,
            sale_no: self.sale_no,
            reservation_id: self.reservation_id.map(ReservationId),
            quantity: self.quantity,
            cause: self.cause,
            body: self.body,
            state: self.state,
            note: self.note,
            operator: self.operator,
            created_at: self.created_at.into(),
            resolved_at: self.resolved_at.map(Millis::from),
        }
    }
}
