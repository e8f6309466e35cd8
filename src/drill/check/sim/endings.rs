//! How reservations end in the shop in memory: paid, let go, expired, and paid for too late.

use super::{LIMIT, Sim, Try};
use crate::domain::account::Deed;
use crate::domain::reservation::{Ack, Ending, Status};
use crate::drill::history::{Kind, Outcome};

impl Sim {
    /// One that is reserved and that a client may know.
    fn open_one(&mut self, status: Status) -> Option<usize> {
        let at = self.pick(self.made.len())?;
        let fits = self.made[at].status == status && !self.made[at].lost && self.tries[self.made[at].of].known;
        fits.then_some(at)
    }

    pub(super) fn end(&mut self) {
        let Some(at) = self.open_one(Status::Reserved) else {
            return;
        };
        let pays = self.percent(30);
        let (kind, ending) = if pays {
            (Kind::Commit, Ending::Commit)
        } else {
            (Kind::Release, Ending::Release)
        };
        let id = self.made[at].id;
        if self.percent(10) {
            if self.percent(50) {
                self.ended(at, ending);
            }
            return self.answer(kind, |op| {
                op.reservation_id = Some(id);
                op.outcome = Outcome::Unknown;
                op.status = None;
            });
        }
        self.ended(at, ending);
        let slow = self.percent(20);
        self.answer(kind, |op| {
            op.reservation_id = Some(id);
            op.reservation_status = Some(if pays { Status::Committed } else { Status::Released });
            op.ack = Some(Ack::Durable);
            op.restocked = (slow && !pays).then_some(false);
        });
    }

    pub(super) fn expire(&mut self) {
        if let Some(at) = self.open_one(Status::Reserved) {
            self.ended(at, Ending::Expire);
        }
    }

    /// A payment that comes after the expiry.
    pub(super) fn rescue(&mut self) {
        let Some(at) = self.open_one(Status::Expired) else {
            return;
        };
        let (of, id) = (self.made[at].of, self.made[at].id);
        let Try { user, quantity, .. } = self.tries[of];
        let fits = self.free >= quantity && self.had[user] + quantity <= i64::from(LIMIT);
        if fits {
            self.had[user] += quantity;
            self.free -= quantity;
            self.transaction += 1;
            self.stands(at, Status::Reserved);
            self.taking(Deed::Retaken, at, quantity);
            self.ended(at, Ending::Commit);
        }
        self.answer(Kind::Commit, |op| {
            op.reservation_id = Some(id);
            if fits {
                op.reservation_status = Some(Status::Committed);
                op.ack = Some(Ack::Durable);
                op.rescued = true;
            } else {
                op.outcome = Outcome::Refused;
                op.status = Some(409);
                op.code = Some("RESERVATION_EXPIRED".to_owned());
            }
        });
    }
}
