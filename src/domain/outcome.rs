//! What came of a request to reserve: expected outcomes as values. An error, elsewhere, means we could not find out.

use super::reservation::Cause;
use super::reservation_id::ReservationId;
use super::sale::SaleState;
use super::time::Millis;

/// A lane's decision on one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Units are taken and the record is queued.
    Reserved {
        /// Its id.
        id: ReservationId,
        /// The lane's time.
        created_at: Millis,
        /// Its deadline.
        expires_at: Millis,
    },
    /// The same request was answered before with this reservation.
    Replayed(ReservationId),
    /// The key is that of a reservation that has ended; whether this is the same request, the ledger knows.
    Ended(ReservationId),
    /// The key belongs to another request.
    KeyReused,
    /// The sale does not sell now; `None`: the lane does not know the sale.
    NotLive(Option<SaleState>),
    /// The sale limits per user and none was named.
    UserRequired,
    /// The time to pay asked for exceeds this, in ms.
    TtlTooLong {
        /// Longest, in ms.
        hold_max_ms: u32,
    },
    /// The order holds the item under another key.
    OrderAlreadyReserved(ReservationId),
    /// The user tries too often.
    RateLimited {
        /// Try again after this, in ms.
        retry_after_ms: u64,
    },
    /// The user would hold and have bought more than the limit.
    UserLimit {
        /// Units allowed.
        limit: u32,
        /// Units held and bought.
        held: u32,
    },
    /// The lane's counter has too few units.
    Insufficient {
        /// Units that are free.
        available: i64,
    },
    /// The lane's queue is full: the ledger is behind.
    QueueFull,
    /// As many units of the sale wait for the ledger as may.
    Behind,
}

/// What became of an accepted reservation in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Its rows are committed.
    Durable,
    /// The ledger refused it; its units are on their way back.
    Rejected {
        /// Why.
        cause: Cause,
        /// The reservation that had the key or the order's line before.
        first: Option<ReservationId>,
    },
}
