//! The life of each reservation, as the ledger's events tell it.

use std::collections::HashMap;

use crate::domain::account::{Account, Deed};
use crate::domain::reservation::{Ending, Status};
use crate::domain::reservation_id::ReservationId;

/// What events tell of a reservation.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Life {
    /// Where they lead; none: it was never made.
    pub(super) status: Option<Status>,
    /// Its units were taken again after it had expired, so often.
    pub(super) retaken: u32,
    /// One of these takings was from stock that no sale sells: the sale was over.
    pub(super) from_shelf: bool,
    /// It expired at least once.
    pub(super) expired: bool,
    /// It was made although it was there: the event.
    pub(super) made_twice: Option<i64>,
    /// It ended although it had ended, or had never been made: the event, and how it stood.
    pub(super) ended_twice: Option<(i64, Ending, Option<Status>)>,
}

/// Reads every event once.
pub(super) fn lives(account: &Account) -> HashMap<ReservationId, Life> {
    let mut lives: HashMap<ReservationId, Life> = HashMap::with_capacity(account.reservations.len());
    for change in account.stock.iter().flat_map(|stock| &stock.changes) {
        if let Some(id) = change.reservation {
            let life = lives.entry(id).or_default();
            life.follow(change.event_id, change.deed);
            life.from_shelf |= change.deed == Deed::Retaken && change.delta.escrowed == 0;
        }
    }
    lives
}

impl Life {
    fn follow(&mut self, event: i64, deed: Deed) {
        match deed {
            Deed::Taken if self.status.is_none() => self.status = Some(Status::Reserved),
            Deed::Retaken if self.status == Some(Status::Expired) => {
                self.status = Some(Status::Reserved);
                self.retaken += 1;
            }
            Deed::Taken | Deed::Retaken => {
                self.made_twice.get_or_insert(event);
            }
            Deed::Ended(ending) if self.status == Some(Status::Reserved) => {
                self.expired |= ending == Ending::Expire;
                self.status = Some(match ending {
                    Ending::Commit => Status::Committed,
                    Ending::Release => Status::Released,
                    Ending::Expire => Status::Expired,
                });
            }
            Deed::Ended(ending) => {
                self.ended_twice.get_or_insert((event, ending, self.status));
            }
            // Returns name their reservation too.
            Deed::Restored | Deed::Moved => {}
        }
    }
}
