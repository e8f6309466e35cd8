//! Reservations that the ledger does not have: not yet, not any more, or never.
//!
//! An id names the queue entry that made it, so the lane's cursor decides. Within a second, or within
//! what the caller has left, everything is found out that can be.

use std::time::Duration;

use super::Gateway;
use super::code::Code;
use super::problem::Problem;
use crate::domain::reservation::{Ack, Line, Reservation, Status};
use crate::domain::reservation_id::{Kind, ReservationId};
use crate::flash::FlashError;
use crate::ledger::lane::LaneRow;

/// Longest wait for the cursor to pass a reservation's entry, where the caller does not say.
pub(super) const DURABLE_WITHIN: Duration = Duration::from_secs(1);

/// How a reservation stands that the ledger lacked a moment ago.
#[derive(Debug)]
pub(super) enum Standing {
    /// The ledger has it by now.
    Durable,
    /// Redis lost it before it was durable.
    Lost,
    /// It was never made.
    Never,
    /// The ledger has not got that far.
    Ahead,
}

/// Where a lane's cursor stands, as seen from a reservation.
enum Cursor {
    /// In a later epoch: what is not in the ledger never will be.
    Later,
    /// Past its entry, in its epoch.
    Past,
    /// Not there yet.
    Before,
}

impl Cursor {
    fn of(row: &LaneRow, id: ReservationId) -> Self {
        let place = id.place();
        match place.epoch.cmp(&row.cursor.epoch) {
            std::cmp::Ordering::Less => Cursor::Later,
            std::cmp::Ordering::Equal if place.seq <= row.cursor.seq => Cursor::Past,
            _ => Cursor::Before,
        }
    }
}

/// How a reservation stands that the ledger lacked a moment ago, waiting so long for its entry where that helps.
pub(super) async fn find(gateway: &Gateway, id: ReservationId, within: Duration) -> Result<Standing, Problem> {
    // What the ledger makes it has.
    if id.kind() != Some(Kind::Lane) || !gateway.flash.id_key().is_genuine(id) {
        return Ok(Standing::Never);
    }
    let mut cursor = Cursor::of(&gateway.calls.lane.ask(id.lane()).await?, id);
    if matches!(cursor, Cursor::Before) && !within.is_zero() {
        // Told or not, the ledger is asked again: another gateway's notice may have got lost.
        gateway.flash.wait_durable(id, within).await;
        cursor = Cursor::of(&gateway.calls.lane.ask(id.lane()).await?, id);
    }
    // Read after the cursor: what was in front of it is in the ledger by now, or not at all.
    if gateway.calls.read.ask(id).await?.is_some() {
        return Ok(Standing::Durable);
    }
    Ok(match cursor {
        Cursor::Later => Standing::Lost,
        Cursor::Past => Standing::Never,
        Cursor::Before => Standing::Ahead,
    })
}

/// What the queue tells of a reservation that the ledger has not reached.
pub(super) async fn accepted(gateway: &Gateway, id: ReservationId) -> Result<Reservation, Problem> {
    // Boxed: a command to Redis is ten times as large as the rest of a request that may have to come here.
    let peeked = Box::pin(gateway.flash.peek(id)).await.map_err(stock_unavailable)?;
    let Some(peeked) = peeked else {
        return Err(Problem::new(
            Code::StockUnavailable,
            "the reservation is not durable and its queue entry can't be found; recovery decides about it",
        ));
    };
    let foreseen = gateway
        .ledger
        .foresee(peeked.sale_no, peeked.created_at, peeked.expires_at)
        .await?;
    let (item, expires_at) = foreseen.ok_or_else(|| Problem::internal("an entry of a sale that does not exist"))?;
    Ok(Reservation {
        id,
        order: peeked.order,
        user: peeked.user,
        lines: vec![Line {
            item,
            quantity: peeked.quantity.into(),
        }],
        status: Status::Reserved,
        cause: None,
        first: None,
        ack: Ack::Accepted,
        expires_at,
        created_at: peeked.created_at,
        updated_at: peeked.created_at,
    })
}

/// Why an ending of a reservation can't be taken that the ledger has not reached.
pub(super) async fn not_durable_yet(gateway: &Gateway, id: ReservationId) -> Problem {
    match Box::pin(gateway.flash.peek(id)).await {
        Ok(_) => Problem::new(
            Code::LedgerUnavailable,
            "the reservation is accepted and not durable yet; nothing was ended",
        ),
        Err(error) => stock_unavailable(error),
    }
}

fn stock_unavailable(error: FlashError) -> Problem {
    Problem::new(
        Code::StockUnavailable,
        "the reservation is not in the ledger, and live stock can't be asked about it",
    )
    .because(error)
}

/// No such reservation.
pub(super) fn unknown(id: &str) -> Problem {
    Problem::new(Code::UnknownReservation, "no such reservation was made").with("reservationId", id)
}

/// The id in a path or body.
pub(super) fn parse_id(text: &str) -> Result<ReservationId, Problem> {
    text.parse().map_err(|_| unknown(text))
}
