//! A shop in memory, small and right: random clients, a lane that takes, a ledger that follows, faults that lose what they
//! declare. What comes out is a history and an account that can both be true.
//!
//! Every effect happens at one instant between question and answer, and those overlap. Units that are merely accepted are
//! written later, in batches; who hears nothing may have been served, or will be, or never.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::domain::account::{Account, BucketAccount, Change, Deed, Kept, LaneAccount, SaleAccount, Stock};
use crate::domain::balance::{Balance, Image};
use crate::domain::id::{Item, LocationId, OrderId, SaleId, Sku, UserId};
use crate::domain::key::KeyHash;
use crate::domain::lane::{LaneNo, Nonce};
use crate::domain::reservation::{Ack, Cause, Ending, Status};
use crate::domain::reservation_id::{IdKey, Place, ReservationId};
use crate::domain::sale::SaleState;
use crate::domain::time::Millis;
use crate::drill::history::{Action, Fault, Healed, History, Kind, Loses, Moment, Operation, Outcome, Settled};

pub(super) const LIMIT: u32 = 3;
const LANES: u16 = 2;
const WALL_US: i64 = 1_700_000_000_000_000;
/// How long before and after its effect a request is under way, at most, in µs.
const SLOW_US: i64 = 30;

/// What a client asked for, and what became of it.
struct Try {
    order: OrderId,
    user: usize,
    quantity: i64,
    key: String,
    /// Its reservation, by place in `made`.
    got: Option<usize>,
    /// The client has been answered with it.
    known: bool,
}

struct Made {
    of: usize,
    id: ReservationId,
    lane: LaneNo,
    status: Status,
    /// In the account; none: the lane alone knows it.
    row: Option<usize>,
    lost: bool,
}

pub(super) struct Sim {
    random: StdRng,
    now: i64,
    tries: Vec<Try>,
    made: Vec<Made>,
    /// Accepted and not durable.
    pending: Vec<usize>,
    /// Asked, unheard, and not served yet.
    late: Vec<usize>,
    had: Vec<i64>,
    free: i64,
    epoch: u32,
    seq: u64,
    round: u32,
    event: i64,
    transaction: i64,
    pub(super) history: History,
    pub(super) account: Account,
}

pub(super) fn item() -> Item {
    Item {
        sku: Sku::try_from("sku").expect("an id"),
        location: LocationId::try_from("here").expect("an id"),
    }
}

pub(super) fn sale_id() -> SaleId {
    SaleId::try_from("sale").expect("an id")
}

fn moment(mono_us: i64) -> Moment {
    Moment {
        mono_us,
        wall_us: WALL_US + mono_us,
    }
}

/// A history of so many steps over a sale of so many units, and the account at its end.
pub(super) fn simulate(seed: u64, steps: usize, units: i64, users: usize) -> Sim {
    let mut sim = Sim::open(seed, units, users);
    for _ in 0..steps {
        sim.step();
    }
    sim.round();
    sim.close();
    sim
}

impl Sim {
    fn open(seed: u64, units: i64, users: usize) -> Sim {
        let mut sim = Sim {
            random: StdRng::seed_from_u64(seed),
            now: 0,
            tries: Vec::new(),
            made: Vec::new(),
            pending: Vec::new(),
            late: Vec::new(),
            had: vec![0; users],
            free: units,
            epoch: 1,
            seq: 0,
            round: 0,
            event: 0,
            transaction: 700,
            history: History::default(),
            account: Account::default(),
        };
        let buckets = (0..LANES).map(|lane| BucketAccount {
            lane: LaneNo(lane),
            counter: 0,
            on_the_way: 0,
            durable: 0,
            drift: 0,
        });
        sim.account.sales.push(SaleAccount {
            no: 1,
            id: sale_id(),
            item: item(),
            state: SaleState::Live,
            allocation: units,
            recalled: 0,
            drained: false,
            limit_peak: Some(LIMIT),
            falls_back: false,
            ends_at: None,
            buckets: buckets.collect(),
        });
        sim.account.stock.push(Stock {
            item: item(),
            balance: Balance::default(),
            changes: Vec::new(),
        });
        let received = Image {
            on_hand: units + 5,
            ..Image::default()
        };
        let set_aside = Image {
            escrowed: units,
            ..Image::default()
        };
        sim.change(Deed::Moved, None, received);
        sim.transaction += 1;
        sim.change(Deed::Moved, None, set_aside);
        sim.answer(Kind::Sale, |op| {
            op.sale_id = Some(sale_id());
            op.action = Some(Action::Start);
            op.allocation = Some(units);
        });
        sim.now += 1_000;
        sim
    }

    fn step(&mut self) {
        self.now += self.random.random_range(0..20);
        match self.random.random_range(0..100) {
            0..35 => self.reserve(),
            35..50 => self.again(),
            50..72 => self.end(),
            72..77 => self.expire(),
            77..82 => self.rescue(),
            82..88 => self.get(),
            88..94 => self.flush(),
            94..98 => self.serve_late(),
            _ if self.random.random_bool(0.3) => self.lose(),
            _ => {}
        }
    }

    fn percent(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn pick(&mut self, of: usize) -> Option<usize> {
        (of > 0).then(|| self.random.random_range(0..of))
    }

    /// An operation whose effect is now.
    fn answer(&mut self, kind: Kind, fill: impl FnOnce(&mut Operation)) {
        let number = u64::try_from(self.history.operations.len()).expect("few");
        let invoked = self.now - self.random.random_range(1..SLOW_US);
        let returned = self.now + self.random.random_range(1..SLOW_US);
        let mut op = Operation::asked(number, kind, moment(invoked));
        op.returned = Some(moment(returned));
        op.outcome = Outcome::Ok;
        op.status = Some(200);
        fill(&mut op);
        self.history.operations.push(op);
    }

    fn change(&mut self, deed: Deed, reservation: Option<ReservationId>, delta: Image) {
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

    fn reserve(&mut self) {
        let of = self.tries.len();
        let user = self.random.random_range(0..self.had.len());
        self.tries.push(Try {
            order: OrderId::try_from(format!("o{of}")).expect("an id"),
            user,
            quantity: self.random.random_range(1..=2),
            key: format!("k{of}"),
            got: None,
            known: false,
        });
        self.attempt(of);
    }

    fn again(&mut self) {
        let Some(of) = self.pick(self.tries.len()) else { return };
        match self.tries[of].got {
            Some(at) => self.tell(Kind::Reserve, of, at, true),
            None if !self.late.contains(&of) => self.attempt(of),
            None => {}
        }
    }

    /// Takes units, if they are there.
    fn take(&mut self, of: usize) -> Result<usize, &'static str> {
        let Try { user, quantity, .. } = self.tries[of];
        if self.had[user] + quantity > i64::from(LIMIT) {
            return Err("USER_LIMIT_EXCEEDED");
        }
        if self.free < quantity {
            return Err("INSUFFICIENT_STOCK");
        }
        self.had[user] += quantity;
        self.free -= quantity;
        self.seq += 1;
        let lane = LaneNo(u16::try_from(user % usize::from(LANES)).expect("few"));
        let place = Place::new(self.epoch, self.seq, 0, Nonce([7; 8]));
        let at = self.made.len();
        self.made.push(Made {
            of,
            id: IdKey([7; 32]).seal(lane, place),
            lane,
            status: Status::Reserved,
            row: None,
            lost: false,
        });
        self.pending.push(at);
        self.tries[of].got = Some(at);
        Ok(at)
    }

    fn attempt(&mut self, of: usize) {
        if self.percent(10) {
            // Nobody hears, and it is served later, or never.
            if self.percent(50) {
                self.late.push(of);
            }
            return self.unheard(of);
        }
        match self.take(of) {
            Ok(_) if self.percent(10) => self.unheard(of),
            Ok(at) => {
                if self.percent(60) {
                    self.flush();
                }
                self.tell(Kind::Reserve, of, at, false);
            }
            Err(code) => {
                let free = self.free;
                let asked = self.asked(of);
                self.answer(Kind::Reserve, |op| {
                    asked(op);
                    op.outcome = Outcome::Refused;
                    op.status = Some(409);
                    op.code = Some(code.to_owned());
                    op.available = (code == "INSUFFICIENT_STOCK").then_some(free);
                });
            }
        }
    }

    fn serve_late(&mut self) {
        if let Some(at) = self.pick(self.late.len()) {
            let of = self.late.swap_remove(at);
            if self.tries[of].got.is_none() {
                // What it finds nobody hears.
                let _ = self.take(of);
            }
        }
    }

    fn asked(&self, of: usize) -> impl FnOnce(&mut Operation) + use<> {
        let Try {
            order,
            user,
            quantity,
            key,
            ..
        } = &self.tries[of];
        let (order, user, quantity, key) = (order.clone(), user_id(*user), *quantity, key.clone());
        move |op| {
            op.client = 1;
            op.key = Some(key);
            op.order_id = Some(order);
            op.user_id = Some(user);
            op.sku_id = Some(item().sku);
            op.location_id = Some(item().location);
            op.quantity = Some(quantity);
        }
    }

    fn unheard(&mut self, of: usize) {
        let asked = self.asked(of);
        let never = self.percent(50);
        self.answer(Kind::Reserve, |op| {
            asked(op);
            op.outcome = Outcome::Unknown;
            op.status = None;
            op.returned = op.returned.filter(|_| !never);
        });
    }

    /// Answers with a reservation as it stands.
    fn tell(&mut self, kind: Kind, of: usize, at: usize, replayed: bool) {
        let asked = self.asked(of);
        let (id, status, durable) = (self.made[at].id, self.made[at].status, self.made[at].row.is_some());
        self.tries[of].known = true;
        self.answer(kind, |op| {
            if kind == Kind::Reserve {
                asked(op);
            }
            op.status = Some(match (status, durable) {
                (Status::Reserved, true) => 201,
                (Status::Reserved, false) => 202,
                _ => 200,
            });
            op.ack = Some(if durable { Ack::Durable } else { Ack::Accepted });
            op.reservation_id = Some(id);
            op.reservation_status = Some(status);
            op.replayed = replayed;
        });
    }

    fn get(&mut self) {
        if let Some(at) = self.pick(self.made.len())
            && !self.made[at].lost
            && self.tries[self.made[at].of].known
        {
            self.tell(Kind::Get, self.made[at].of, at, false);
        }
    }

    /// Everything accepted becomes durable, in one transaction.
    fn flush(&mut self) {
        self.transaction += 1;
        for at in std::mem::take(&mut self.pending) {
            self.write(at, Status::Reserved, None);
            let quantity = self.tries[self.made[at].of].quantity;
            self.taking(Deed::Taken, at, quantity);
        }
    }

    fn write(&mut self, at: usize, status: Status, cause: Option<Cause>) {
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

    fn taking(&mut self, deed: Deed, at: usize, quantity: i64) {
        let (id, lane) = (self.made[at].id, usize::from(self.made[at].lane.0));
        self.account.sales[0].buckets[lane].durable += quantity;
        let delta = Image {
            reserved: quantity,
            escrowed: -quantity,
            ..Image::default()
        };
        self.change(deed, Some(id), delta);
    }

    /// One that is reserved and that a client may know.
    fn open_one(&mut self, status: Status) -> Option<usize> {
        let at = self.pick(self.made.len())?;
        let fits = self.made[at].status == status && !self.made[at].lost && self.tries[self.made[at].of].known;
        fits.then_some(at)
    }

    fn end(&mut self) {
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

    fn ended(&mut self, at: usize, ending: Ending) {
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

    fn stands(&mut self, at: usize, status: Status) {
        self.made[at].status = status;
        let row = self.made[at].row.expect("it is durable");
        self.account.reservations[row].status = status;
    }

    fn expire(&mut self) {
        if let Some(at) = self.open_one(Status::Reserved) {
            self.ended(at, Ending::Expire);
        }
    }

    /// A payment that comes after the expiry.
    fn rescue(&mut self) {
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

    /// Redis comes back without some of what was accepted; the lanes get a new epoch, and everybody is told.
    fn lose(&mut self) {
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

    fn round(&mut self) {
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

    fn close(&mut self) {
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

pub(super) fn user_id(user: usize) -> UserId {
    UserId::try_from(format!("u{user}")).expect("an id")
}

/// An id that nobody was given, of a lane's present epoch.
pub(super) fn unknown_id(account: &Account) -> ReservationId {
    let lane = &account.lanes[0];
    let place = Place::new(lane.cursor_epoch, lane.cursor_seq + 9, 0, Nonce([9; 8]));
    IdKey([7; 32]).seal(lane.lane, place)
}

/// A question asked after everything else, and answered well.
pub(super) fn ask(history: &mut History, kind: Kind, id: ReservationId) -> &mut Operation {
    let last = history
        .operations
        .iter()
        .map(|op| op.returned.unwrap_or(op.invoked))
        .max();
    let begun = last.unwrap_or_default().mono_us.max(0) + 10_000;
    let mut op = Operation::asked(1_000_000, kind, moment(begun));
    op.returned = Some(moment(begun + 10));
    op.outcome = Outcome::Ok;
    op.status = Some(200);
    op.ack = Some(Ack::Durable);
    op.reservation_id = Some(id);
    history.operations.push(op);
    history.operations.last_mut().expect("it was pushed")
}
