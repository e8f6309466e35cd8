//! Writes what was decided: a row and a movement for each line, and lanes' reservations that join a cart.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Claims, TakeAsk};
use crate::domain::reservation::{Ack, Line, Reservation, Status};
use crate::domain::reservation_id::ReservationId;
use crate::ledger::LedgerError;
use crate::ledger::claims::Claimant;
use crate::ledger::column::column;
use crate::ledger::post::{Deltas, EventType, Movement};
use crate::ledger::reservation::Locked;

/// A request that gets what it asks for.
pub(super) struct Taken<'a> {
    pub(super) ask: &'a TakeAsk,
    pub(super) claims: &'a Claims,
    pub(super) hold_ms: i64,
}

/// A line to be written.
pub(super) struct Row<'a> {
    ask: &'a TakeAsk,
    line: &'a Line,
    claimant: &'a Claimant,
    parts: Option<i16>,
    hold_ms: i64,
}

/// A lane's reservation that becomes a part.
pub(super) struct Join {
    row: Uuid,
    row_created_at: DateTime<Utc>,
    stalls: i64,
    cart: Uuid,
    parts: i16,
    expires_at: DateTime<Utc>,
}

impl<'a> Taken<'a> {
    fn expires_at(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        now + TimeDelta::milliseconds(self.hold_ms)
    }

    /// Rows of the cart; none for a line alone.
    fn parts(&self) -> Option<i16> {
        let count = self.claims.lines.len() + self.ask.parts.len();
        i16::try_from(count).ok().filter(|count| *count > 0)
    }

    pub(super) fn rows(&self, rows: &mut Vec<Row<'a>>) {
        let alone = std::slice::from_ref(&self.claims.whole);
        let parts = self.parts();
        let claimants = if parts.is_some() { &self.claims.lines } else { alone };
        rows.extend(self.ask.lines.iter().zip(claimants).map(|(line, claimant)| Row {
            ask: self.ask,
            line,
            claimant,
            parts,
            hold_ms: self.hold_ms,
        }));
    }

    pub(super) fn joins(&self, locked: &Locked, now: DateTime<Utc>, joins: &mut Vec<Join>) {
        let Some(parts) = self.parts() else { return };
        joins.extend(self.ask.parts.iter().map(|part| {
            let row = locked.get(&part.0);
            Join {
                row: part.0,
                row_created_at: row.created_at,
                stalls: row.stalls,
                cart: self.ask.id.0,
                parts,
                expires_at: self.expires_at(now),
            }
        }));
    }

    pub(super) fn reservation(&self, locked: &Locked, now: DateTime<Utc>) -> Result<Reservation, LedgerError> {
        let mut lines = self.ask.lines.clone();
        let mut created_at = now;
        for part in &self.ask.parts {
            let row = locked.get(&part.0);
            created_at = created_at.min(row.created_at);
            lines.push(Line {
                item: row.item()?,
                quantity: row.quantity,
            });
        }
        lines.sort_by(|a, b| a.item.cmp(&b.item));
        Ok(Reservation {
            id: self.ask.id,
            order: self.ask.order.clone(),
            user: self.ask.user.clone(),
            lines,
            status: Status::Reserved,
            cause: None,
            first: None,
            ack: Ack::Durable,
            expires_at: self.expires_at(now).into(),
            created_at: created_at.into(),
            updated_at: now.into(),
        })
    }
}

impl Row<'_> {
    fn cart(&self) -> Option<Uuid> {
        self.parts.map(|_| self.ask.id.0)
    }

    pub(super) fn movement(&self) -> Movement {
        Movement {
            item: self.line.item.clone(),
            event: EventType::Reserved,
            quantity_delta: -self.line.quantity,
            deltas: Deltas {
                reserved: self.line.quantity,
                ..Deltas::default()
            },
            reason: None,
            reference_id: self.cart().map(|cart| ReservationId(cart).to_string()),
            reservation_id: Some(self.claimant.id),
            order_id: Some(self.ask.order.to_string()),
            operator: None,
            trace_id: Some(self.ask.trace.to_uuid()),
            metadata: None,
        }
    }
}

/// Writes the rows. Returns the time of what this transaction writes: read when everything is locked.
pub(super) async fn insert(tx: &mut PgConnection, rows: &[Row<'_>]) -> Result<DateTime<Utc>, LedgerError> {
    if rows.is_empty() {
        let now = "-- take.now\nSELECT date_trunc('milliseconds', clock_timestamp())";
        return Ok(sqlx::query_scalar(now).fetch_one(tx).await?);
    }
    let now = sqlx::query_scalar(
        "-- take.rows
         WITH clock AS MATERIALIZED (
             SELECT date_trunc('milliseconds', clock_timestamp()) AS now,
                 coalesce((SELECT max(stall_no) FROM stall), 0) AS stall_no
         ), written AS (
             INSERT INTO inventory_reservation (reservation_id, order_id, user_id, sku_id, location_id, quantity,
                 status, key_hash, fingerprint, explicit_key, trace_id, cart_id, cart_parts, stall_no, expires_at,
                 created_at, updated_at)
             SELECT reservation_id, order_id, user_id, sku_id, location_id, quantity, 'RESERVED', key_hash,
                 fingerprint, explicit_key, trace_id, cart_id, cart_parts, stall_no,
                 now + hold_ms * interval '1 ms', now, now
             FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int8[], $7::uuid[],
                         $8::int8[], $9::bool[], $10::uuid[], $11::uuid[], $12::int2[], $13::int8[])
                  AS r(reservation_id, order_id, user_id, sku_id, location_id, quantity, key_hash, fingerprint,
                       explicit_key, trace_id, cart_id, cart_parts, hold_ms), clock
         )
         SELECT now FROM clock",
    )
    .bind(rows.iter().map(|row| row.claimant.id).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.ask.order.as_str()).collect::<Vec<_>>())
    .bind(column(rows, &None, |row| {
        row.ask.user.as_ref().map(|user| user.as_str())
    }))
    .bind(rows.iter().map(|row| row.line.item.sku.as_str()).collect::<Vec<_>>())
    .bind(
        rows.iter()
            .map(|row| row.line.item.location.as_str())
            .collect::<Vec<_>>(),
    )
    .bind(rows.iter().map(|row| row.line.quantity).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.claimant.key.to_uuid()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.claimant.fingerprint).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.claimant.explicit).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.ask.trace.to_uuid()).collect::<Vec<_>>())
    .bind(column(rows, &None, Row::cart))
    .bind(column(rows, &None, |row| row.parts))
    .bind(rows.iter().map(|row| row.hold_ms).collect::<Vec<_>>())
    .fetch_one(tx)
    .await?;
    Ok(now)
}

pub(super) async fn join(tx: &mut PgConnection, joins: &[Join]) -> Result<(), LedgerError> {
    if joins.is_empty() {
        return Ok(());
    }
    let done = sqlx::query(
        "-- take.join: the status is asked for again, as in ending.update
         UPDATE inventory_reservation r SET cart_id = j.cart, cart_parts = j.parts, expires_at = j.expires_at,
             stall_no = j.stalls, updated_at = clock_timestamp()
         FROM UNNEST($1::uuid[], $2::timestamptz[], $3::int8[], $4::uuid[], $5::int2[], $6::timestamptz[])
              AS j(reservation_id, created_at, stalls, cart, parts, expires_at)
         WHERE r.reservation_id = j.reservation_id AND r.created_at = j.created_at AND r.status::text = 'RESERVED'
             AND r.cart_id IS NULL",
    )
    .bind(joins.iter().map(|join| join.row).collect::<Vec<_>>())
    .bind(joins.iter().map(|join| join.row_created_at).collect::<Vec<_>>())
    .bind(joins.iter().map(|join| join.stalls).collect::<Vec<_>>())
    .bind(joins.iter().map(|join| join.cart).collect::<Vec<_>>())
    .bind(joins.iter().map(|join| join.parts).collect::<Vec<_>>())
    .bind(joins.iter().map(|join| join.expires_at).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    if usize::try_from(done.rows_affected()) != Ok(joins.len()) {
        return Err(LedgerError::Broken("a locked part could not join its cart".into()));
    }
    Ok(())
}
