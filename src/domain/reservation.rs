//! A reservation, its states and the only ways between them.

use serde::Serialize;

use super::id::{Item, OrderId, UserId};
use super::reservation_id::ReservationId;
use super::time::Millis;

/// Where a reservation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// Units are held until the expiry is recorded.
    Reserved,
    /// Sold.
    Committed,
    /// Given back by the client.
    Released,
    /// Given back because its time was over.
    Expired,
    /// Accepted by Redis, refused by the ledger.
    Rejected,
}

impl Status {
    /// The word in answers and rows.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Reserved => "RESERVED",
            Status::Committed => "COMMITTED",
            Status::Released => "RELEASED",
            Status::Expired => "EXPIRED",
            Status::Rejected => "REJECTED",
        }
    }

    /// The status with this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [
            Status::Reserved,
            Status::Committed,
            Status::Released,
            Status::Expired,
            Status::Rejected,
        ]
        .into_iter()
        .find(|status| status.as_str() == word)
    }
}

/// How far a reservation's record has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    /// Redis has taken the units and queued the record.
    Accepted,
    /// The ledger rows are committed.
    Durable,
}

/// A way to end a reservation, or to prolong it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// The client paid.
    Commit,
    /// The client gives back.
    Release,
    /// The time is over.
    Expire,
}

/// What an ending finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// It ends the reservation with this status.
    Ends(Status),
    /// It has already had this effect, or one that leaves nothing to do: success, counted once.
    Already(Status),
    /// Another ending came first.
    Refused(Status),
}

/// The state machine: what `ending` does to a reservation in `status`. The table of api.md, Checkout.
#[must_use]
pub fn transition(status: Status, ending: Ending) -> Transition {
    use Transition::{Already, Ends, Refused};
    match (status, ending) {
        (Status::Reserved, Ending::Commit) => Ends(Status::Committed),
        (Status::Reserved, Ending::Release) => Ends(Status::Released),
        (Status::Reserved, Ending::Expire) => Ends(Status::Expired),
        (Status::Committed, Ending::Commit) => Already(Status::Committed),
        (Status::Released, Ending::Release) => Already(Status::Released),
        (Status::Expired, Ending::Release | Ending::Expire) => Already(Status::Expired),
        (status, _) => Refused(status),
    }
}

/// Why the ledger refused what Redis had accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Redis lost it before it was durable.
    Lost,
    /// The units were not there.
    Surplus,
    /// The key belongs to another request.
    KeyReused,
    /// The key belongs to the same request, made before.
    Replay,
    /// The order holds the item under another key.
    OrderAlreadyReserved,
    /// The user would hold and have bought more than the limit.
    UserLimit,
    /// The ledger could not store what is in it.
    Poison,
}

impl Cause {
    /// The word in answers and rows.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Lost => "lost",
            Cause::Surplus => "surplus",
            Cause::KeyReused => "key_reused",
            Cause::Replay => "replay",
            Cause::OrderAlreadyReserved => "order_already_reserved",
            Cause::UserLimit => "user_limit",
            Cause::Poison => "poison",
        }
    }

    /// The cause with this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        use Cause::{KeyReused, Lost, OrderAlreadyReserved, Poison, Replay, Surplus, UserLimit};
        [
            Lost,
            Surplus,
            KeyReused,
            Replay,
            OrderAlreadyReserved,
            UserLimit,
            Poison,
        ]
        .into_iter()
        .find(|cause| cause.as_str() == word)
    }
}

/// Units of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What and where.
    pub item: Item,
    /// How many.
    pub quantity: i64,
}

/// A reservation: of one line, or a cart of several, which stand and end together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Its id.
    pub id: ReservationId,
    /// The shop's order.
    pub order: OrderId,
    /// The buyer, where one was named.
    pub user: Option<UserId>,
    /// What is held, in the order of the items, each once.
    pub lines: Vec<Line>,
    /// Where it stands.
    pub status: Status,
    /// Of a rejection.
    pub cause: Option<Cause>,
    /// The reservation that had the key or the order's line before, of such a rejection.
    pub first: Option<ReservationId>,
    /// How far its record has got.
    pub ack: Ack,
    /// Its deadline, stalls included.
    pub expires_at: Millis,
    /// When its units were taken, by the time of the lane or of the ledger; of a cart, its first.
    pub created_at: Millis,
    /// Last change.
    pub updated_at: Millis,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_ends_once() {
        use Status::{Committed, Expired, Rejected, Released, Reserved};
        use Transition::{Already, Ends, Refused};
        let table = [
            (Reserved, Ends(Committed), Ends(Released), Ends(Expired)),
            (Committed, Already(Committed), Refused(Committed), Refused(Committed)),
            (Released, Refused(Released), Already(Released), Refused(Released)),
            (Expired, Refused(Expired), Already(Expired), Already(Expired)),
            (Rejected, Refused(Rejected), Refused(Rejected), Refused(Rejected)),
        ];
        for (status, commit, release, expire) in table {
            assert_eq!(transition(status, Ending::Commit), commit);
            assert_eq!(transition(status, Ending::Release), release);
            assert_eq!(transition(status, Ending::Expire), expire);
            assert_eq!(Status::parse(status.as_str()), Some(status));
        }
    }
}
