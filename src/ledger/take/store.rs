//! Writes what was decided: a row and a movement for each line, and lanes' reservations that join a cart.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{Claims, TakeAsk};
use crate::domain::reservation::{Ack, Line, Reservation, Status};
use crate::domain::reservation_id::ReservationId;
use crate::ledger::LedgerError;
use crate::ledger::claims::Claimant;
use crate::ledger::connection::Connection;
use crate::ledger::post::{Deltas, EventType, Made, MadeRow, Movement};
use crate::ledger::reservation::Locked;

/// A request that gets what it asks for.
pub(super) struct Taken<'a> {
    pub(super) ask: &'a TakeAsk,
    pub(super) claims: &'a Claims,
    pub(super) hold_ms: i64,
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

    fn cart(&self) -> Option<(Uuid, i16)> {
        self.parts().map(|parts| (self.ask.id.0, parts))
    }

    /// Each line, and whose keys it has.
    fn lines(&self) -> impl Iterator<Item = (&'a Line, &'a Claimant)> {
        let alone = std::slice::from_ref(&self.claims.whole);
        let claimants = if self.parts().is_some() {
            &self.claims.lines
        } else {
            alone
        };
        self.ask.lines.iter().zip(claimants)
    }

    fn rows(&self) -> impl Iterator<Item = MadeRow<'a>> {
        let (ask, cart, hold_ms) = (self.ask, self.cart(), self.hold_ms);
        self.lines().map(move |(line, claimant)| MadeRow {
            id: claimant.id,
            order: ask.order.as_str(),
            user: ask.user.as_ref().map(|user| user.as_str()),
            item: &line.item,
            quantity: line.quantity,
            cause: None,
            first: None,
            sale_no: None,
            lane: None,
            key: claimant.key.to_uuid(),
            fingerprint: claimant.fingerprint,
            explicit: claimant.explicit,
            trace: ask.trace.to_uuid(),
            cart,
            created_at: None,
            hold_ms,
        })
    }

    fn movements(&self) -> impl Iterator<Item = Movement> {
        let (ask, cart) = (self.ask, self.cart());
        self.lines().map(move |(line, claimant)| Movement {
            item: line.item.clone(),
            event: EventType::Reserved,
            quantity_delta: -line.quantity,
            deltas: Deltas {
                reserved: line.quantity,
                ..Deltas::default()
            },
            reason: None,
            reference_id: cart.map(|(cart, _)| ReservationId(cart).to_string()),
            reservation_id: Some(claimant.id),
            order_id: Some(ask.order.to_string()),
            operator: None,
            trace_id: Some(ask.trace.to_uuid()),
            metadata: None,
        })
    }

    fn joins(&self, locked: &Locked, now: DateTime<Utc>) -> impl Iterator<Item = Join> {
        let joins = self.cart().map(|(cart, parts)| {
            self.ask.parts.iter().map(move |part| {
                let row = locked.get(&part.0);
                Join {
                    row: part.0,
                    row_created_at: row.created_at,
                    stalls: row.stalls,
                    cart,
                    parts,
                    expires_at: self.expires_at(now),
                }
            })
        });
        joins.into_iter().flatten()
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

/// The reservations.
pub(super) fn made<'a>(taken: &[Taken<'a>]) -> Made<'a> {
    Made(taken.iter().flat_map(Taken::rows).collect())
}

/// How they move the balances.
pub(super) fn movements(taken: &[Taken<'_>]) -> Vec<Movement> {
    taken.iter().flat_map(Taken::movements).collect()
}

/// Makes lanes' reservations parts of their carts.
pub(super) async fn join(
    tx: &mut Connection,
    taken: &[Taken<'_>],
    locked: &Locked,
    now: DateTime<Utc>,
) -> Result<(), LedgerError> {
    let joins: Vec<Join> = taken.iter().flat_map(|taken| taken.joins(locked, now)).collect();
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
