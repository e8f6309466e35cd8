//! What the ledger of the shop in memory writes, and how its account ends.

use super::{LANES, Made, Sim, Try, WALL_US, item, user_id};
use crate::domain::account::{Change, Deed, Kept, LaneAccount};
use crate::domain::balance::{Balance, Image};
use crate::domain::key::KeyHash;
use crate::domain::lane::LaneNo;
use crate::domain::reservation::{Cause, Ending, Status};
use crate::domain::reservation_id::ReservationId;
use crate::domain::time::Millis;

impl Sim {
    pub(super) fn change(&mut self, deed: Deed, reservation: Option<ReservationId>, delta: Image) {
        self.event += 1;
        let stock = &mut self.account.stock[0];
        let after = stock.balance.image().plus(&delta);
        stock.balance = Balance {
            on_hand: after.on_hand,
            reserved: after.reserved,
            escrowed: after.escrowed,
            sold: after.sold,
            ..Balance::default()
        };
        stock.changes.push(Change {
            event_id: self.event,
            transaction: self.transaction,
            deed,
            reservation,
            delta,
            after,
        });
    }

    /// Everything accepted becomes durable, in one transaction.
    pub(super) fn flush(&mut self) {
        self.transaction += 1;
        for at in std::mem::take(&mut self.pending) {
            self.write(at, Status::Reserved, None);
            let quantity = self.tries[self.made[at].of].quantity;
            self.taking(Deed::Taken, at, quantity);
        }
    }

    pub(super) fn write(&mut self, at: usize, status: Status, cause: Option<Cause>) {
        let Made { of, id, lane, .. } = self.made[at];
        let of = &self.tries[of];
        self.made[at].row = Some(self.account.reservations.len());
        self.account.reservations.push(Kept {
            id,
            order: of.order.clone(),
            user: Some(user_id(of.user)),
            item: item(),
            quantity: of.quantity,
            status,
            cause,
            first: None,
            sale_no: Some(1),
            lane: Some(lane),
            key: KeyHash::explicit("reserve", &of.key),
            explicit_key: true,
            in_cart: false,
        });
    }

    pub(super) fn taking(&mut self, deed: Deed, at: usize, quantity: i64) {
        let (id, lane) = (self.made[at].id, usize::from(self.made[at].lane.0));
        self.account.sales[0].buckets[lane].durable += quantity;
        let delta = Image {
            reserved: quantity,
            escrowed: -quantity,
            ..Image::default()
        };
        self.change(deed, Some(id), delta);
    }

    pub(super) fn ended(&mut self, at: usize, ending: Ending) {
        self.flush();
        self.transaction += 1;
        let (of, id) = (self.made[at].of, self.made[at].id);
        let Try { user, quantity, .. } = self.tries[of];
        let (status, delta) = match ending {
            Ending::Commit => {
                let sold = Image {
                    on_hand: -quantity,
                    reserved: -quantity,
                    sold: quantity,
                    ..Image::default()
                };
                (Status::Committed, sold)
            }
            Ending::Release | Ending::Expire => {
                self.had[user] -= quantity;
                self.free += quantity;
                let back = Image {
                    reserved: -quantity,
                    escrowed: quantity,
                    ..Image::default()
                };
                let released = ending == Ending::Release;
                (if released { Status::Released } else { Status::Expired }, back)
            }
        };
        self.stands(at, status);
        self.change(Deed::Ended(ending), Some(id), delta);
    }

    pub(super) fn stands(&mut self, at: usize, status: Status) {
        self.made[at].status = status;
        let row = self.made[at].row.expect("it is durable");
        self.account.reservations[row].status = status;
    }

    pub(super) fn close(&mut self) {
        while !self.late.is_empty() {
            self.serve_late();
        }
        self.flush();
        let bucket = &mut self.account.sales[0].buckets[0];
        bucket.on_the_way = self.free.min(1);
        bucket.counter = self.free - bucket.on_the_way;
        self.now += 1_000;
        self.account.read_at = Millis((WALL_US + self.now) / 1_000);
        self.account.lanes = (0..LANES)
            .map(|lane| LaneAccount {
                lane: LaneNo(lane),
                open: true,
                epoch: self.epoch,
                cursor_epoch: self.epoch,
                cursor_seq: self.seq,
                waits_since: Some(self.account.read_at),
            })
            .collect();
    }
}
