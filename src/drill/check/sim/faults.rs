//! What breaks in the shop in memory, and how it comes to rest again.

use rand::Rng;

use super::{SLOW_US, Sim, Try, moment};
use crate::domain::reservation::{Ack, Cause, Status};
use crate::drill::history::{Fault, Healed, Kind, Loses, Settled};

impl Sim {
    /// Redis comes back without some of what was accepted; the lanes get a new epoch, and everybody is told.
    pub(super) fn lose(&mut self) {
        let from = self.now;
        self.now += SLOW_US;
        self.epoch += 1;
        let mut lost = Vec::new();
        for at in std::mem::take(&mut self.pending) {
            match self.random.random_range(0..3) {
                0 => self.pending.push(at),
                n => {
                    let Try { user, quantity, .. } = self.tries[self.made[at].of];
                    self.had[user] -= quantity;
                    self.free += quantity;
                    self.made[at].lost = true;
                    self.made[at].status = Status::Rejected;
                    self.tries[self.made[at].of].got = None;
                    if n == 1 {
                        // It survived in the queue, and its units had gone.
                        self.write(at, Status::Rejected, Some(Cause::Surplus));
                    }
                    lost.push(at);
                }
            }
        }
        self.flush();
        self.fault(from, Loses::Accepted);
        for at in lost {
            let (of, id) = (self.made[at].of, self.made[at].id);
            if std::mem::replace(&mut self.tries[of].known, false) && self.made[at].row.is_none() {
                self.answer(Kind::Get, |op| {
                    op.reservation_id = Some(id);
                    op.reservation_status = Some(Status::Rejected);
                    op.cause = Some(Cause::Lost);
                    op.ack = Some(Ack::Accepted);
                });
            }
        }
    }

    pub(super) fn round(&mut self) {
        let from = self.now;
        self.now += SLOW_US;
        self.fault(from, Loses::Nothing);
    }

    fn fault(&mut self, from: i64, loses: Loses) {
        self.round += 1;
        self.history.faults.push(Fault {
            fault: "a fault".to_owned(),
            round: self.round,
            from: moment(from),
            to: moment(self.now),
            loses,
        });
        self.now += SLOW_US;
        self.history.healed.push(Healed {
            healed: moment(self.now),
            round: self.round,
        });
        self.flush();
        self.now += SLOW_US;
        self.history.settled.push(Settled {
            settled: moment(self.now),
            round: self.round,
            backlog: 0,
            drift: 0,
        });
    }
}
