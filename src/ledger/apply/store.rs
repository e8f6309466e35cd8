//! Writes what was decided: rows of reservations, movements of balances, units back at their sales.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::ask::Ask;
use super::book::Books;
use super::carry::Work;
use super::decide::{Decided, Ended, Fate};
use crate::domain::id::Item;
use crate::domain::lane::LaneNo;
use crate::domain::reservation::Status;
use crate::ledger::LedgerError;
use crate::ledger::connection::Connection;
use crate::ledger::post::{Deltas, EventType, Instant, Made, MadeRow, Movement, post_made};
use crate::ledger::take::LATE_PAYMENT;

/// Stands for an order that can't be stored.
const NO_ORDER: &str = "-";

/// Every accepted reservation gets a row, whatever became of it, so that its id always has an answer.
fn rows<'a>(
    lane: LaneNo,
    asks: &'a [Ask<'a>],
    decided: &Decided,
    books: &'a Books,
) -> Result<Vec<MadeRow<'a>>, LedgerError> {
    let row = |(at, ask): (usize, &'a Ask<'a>)| {
        let units = decided.missing.get(&at).copied().unwrap_or_else(|| ask.units());
        Ok(MadeRow {
            quantity: units.max(1),
            ..made_row(
                lane,
                ask,
                decided.fates[at],
                &books.get(ask.sale_no)?.item,
                ask.hold_ms(books),
            )
        })
    };
    asks.iter().enumerate().map(row).collect()
}

/// What a lane made of a request.
pub(super) fn made_row<'a>(lane: LaneNo, ask: &'a Ask<'a>, fate: Fate, item: &'a Item, hold_ms: i64) -> MadeRow<'a> {
    let (cause, first) = match fate {
        Fate::Reserved => (None, None),
        Fate::Refused { cause, first } => (Some(cause.as_str()), first),
    };
    let storable = ask.slip.filter(|_| ask.poison.is_none());
    MadeRow {
        id: ask.id,
        order: storable.map_or(NO_ORDER, |slip| &slip.order),
        user: storable.and_then(|slip| slip.user.as_deref()),
        item,
        quantity: ask.units(),
        cause,
        first,
        sale_no: Some(ask.sale_no),
        lane: Some(lane.to_i16()),
        key: ask.slip.map_or(Uuid::nil(), |slip| slip.key.to_uuid()),
        fingerprint: ask.slip.map_or(0, |slip| slip.fingerprint.to_i64()),
        explicit: ask.slip.is_some_and(|slip| slip.explicit_key),
        trace: ask.slip.map_or(Uuid::nil(), |slip| slip.trace.to_uuid()),
        cart: None,
        created_at: Some(ask.at),
        hold_ms,
    }
}

/// How long the units of a late payment are held for the commit that asked for them, in s: it follows at once, or is
/// repeated, or never comes.
const RESCUED_S: i32 = 30;

/// Reservations that were there before, and are taken anew or have ended.
pub(super) async fn subjects(tx: &mut Connection, decided: &Decided) -> Result<(), LedgerError> {
    if !decided.retaken.is_empty() {
        let ids: Vec<Uuid> = decided.retaken.iter().map(|subject| subject.id).collect();
        sqlx::query(
            "-- apply.retake: from quarantine, as long to pay as it had at first, from now on; for a late payment, as long
             -- as its commit may take. Stalls until now are over
             UPDATE inventory_reservation SET status = 'RESERVED', cause = NULL, first_id = NULL,
                 rescued_at = CASE WHEN status = 'EXPIRED' THEN clock_timestamp() END,
                 expires_at = clock_timestamp() + CASE WHEN status = 'EXPIRED' THEN $2 * interval '1 s'
                                                       ELSE expires_at - created_at END,
                 stall_no = coalesce((SELECT max(stall_no) FROM stall), 0), updated_at = clock_timestamp()
             WHERE reservation_id = ANY($1)",
        )
        .bind(&ids)
        .bind(RESCUED_S)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "-- apply.replayed
             UPDATE quarantine SET state = 'replayed', resolved_at = clock_timestamp()
             WHERE reservation_id = ANY($1) AND state = 'waiting'",
        )
        .bind(&ids)
        .execute(&mut *tx)
        .await?;
    }
    if !decided.ended.is_empty() {
        sqlx::query(
            "-- apply.end
             UPDATE inventory_reservation r SET status = e.status::reservation_status, updated_at = clock_timestamp()
             FROM UNNEST($1::uuid[], $2::text[]) AS e(reservation_id, status)
             WHERE r.reservation_id = e.reservation_id",
        )
        .bind(decided.ended.iter().map(|ended| ended.subject.id).collect::<Vec<_>>())
        .bind(
            decided
                .ended
                .iter()
                .map(|ended| ended.status.as_str())
                .collect::<Vec<_>>(),
        )
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

/// Makes the reservations, and moves the balances: escrowed to reserved for what is held now, and back
/// for what has ended.
pub(super) async fn reservations(
    tx: &mut Connection,
    work: &Work<'_>,
    asks: &[Ask<'_>],
    decided: &Decided,
    books: &Books,
) -> Result<(), LedgerError> {
    let mut movements = Vec::with_capacity(asks.len());
    for (ask, _) in asks.iter().zip(&decided.fates).filter(|(_, fate)| fate.is_reserved()) {
        movements.extend(reserved(ask, &books.get(ask.sale_no)?.item));
    }
    for subject in &decided.retaken {
        movements.push(Movement {
            reservation_id: Some(subject.id),
            order_id: Some(subject.order.clone()),
            trace_id: Some(subject.trace),
            reason: (subject.status == Status::Expired).then(|| LATE_PAYMENT.to_owned()),
            ..movement(&subject.item, EventType::Reserved, -subject.quantity)
        });
    }
    for Ended { subject, status, .. } in &decided.ended {
        let event = match status {
            Status::Expired => EventType::Expired,
            _ => EventType::Released,
        };
        movements.push(Movement {
            reservation_id: Some(subject.id),
            order_id: Some(subject.order.clone()),
            trace_id: Some(subject.trace),
            ..movement(&subject.item, event, subject.quantity)
        });
    }
    let made = Made(rows(work.lane, asks, decided, books)?);
    // A stall may have begun since they were made: it is still to move their deadlines.
    let at = Instant {
        now: work.now,
        stall_no: 0,
    };
    post_made(tx, &made, at, &movements).await?;
    Ok(())
}

/// A request got its units, of what was set aside.
pub(super) fn reserved(ask: &Ask<'_>, item: &Item) -> Option<Movement> {
    ask.slip.map(|slip| Movement {
        reservation_id: Some(ask.id),
        order_id: Some(slip.order.clone()),
        trace_id: Some(slip.trace.to_uuid()),
        ..movement(item, EventType::Reserved, -ask.units())
    })
}

/// `units` more may be reserved of what was set aside: negative, where they are reserved now.
fn movement(item: &Item, event: EventType, units: i64) -> Movement {
    Movement {
        item: item.clone(),
        event,
        quantity_delta: units,
        deltas: Deltas {
            reserved: -units,
            escrowed: units,
            ..Deltas::default()
        },
        reason: None,
        reference_id: None,
        reservation_id: None,
        order_id: None,
        operator: None,
        trace_id: None,
        metadata: None,
    }
}

/// Units that were taken back go to their sales; the rows are locked since the beginning.
pub(super) async fn recalled(tx: &mut Connection, recalled: &BTreeMap<i32, i64>) -> Result<(), LedgerError> {
    if recalled.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "-- apply.recalled
         UPDATE sale s SET recalled = s.recalled + r.units, recalled_at = clock_timestamp()
         FROM UNNEST($1::int4[], $2::int8[]) AS r(sale_no, units) WHERE s.sale_no = r.sale_no",
    )
    .bind(recalled.keys().copied().collect::<Vec<_>>())
    .bind(recalled.values().copied().collect::<Vec<_>>())
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// Counts what ended without an ending of ours.
pub(super) async fn tallies(tx: &mut Connection, ended: &[Ended]) -> Result<(), LedgerError> {
    if ended.is_empty() {
        return Ok(());
    }
    let mut sums: BTreeMap<i32, (i64, i64)> = BTreeMap::new();
    for Ended {
        subject,
        sale_no,
        status,
    } in ended
    {
        let sum = sums.entry(*sale_no).or_default();
        match status {
            Status::Expired => sum.1 += subject.quantity,
            _ => sum.0 += subject.quantity,
        }
    }
    sqlx::query(
        "-- apply.tallies
         INSERT INTO sale_tally (sale_no, released, expired)
         SELECT * FROM UNNEST($1::int4[], $2::int8[], $3::int8[])
         ON CONFLICT (sale_no) DO UPDATE SET released = sale_tally.released + excluded.released,
             expired = sale_tally.expired + excluded.expired",
    )
    .bind(sums.keys().copied().collect::<Vec<_>>())
    .bind(sums.values().map(|(released, _)| *released).collect::<Vec<_>>())
    .bind(sums.values().map(|(_, expired)| *expired).collect::<Vec<_>>())
    .execute(&mut *tx)
    .await?;
    Ok(())
}
