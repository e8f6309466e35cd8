//! A shop in memory, small and right: random clients, a lane that takes, a ledger that follows, faults that lose what they
//! declare. What comes out is a history and an account that can both be true.
//!
//! Every effect happens at one instant between question and answer, and those overlap. Units that are merely accepted are
//! written later, in batches; who hears nothing may have been served, or will be, or never.

mod books;
mod endings;
mod faults;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::domain::account::{Account, BucketAccount, Deed, SaleAccount, Stock};
use crate::domain::balance::{Balance, Image};
use crate::domain::id::{Item, LocationId, OrderId, SaleId, Sku, UserId};
use crate::domain::lane::{LaneNo, Nonce};
use crate::domain::reservation::{Ack, Status};
use crate::domain::reservation_id::{IdKey, Place, ReservationId};
use crate::domain::sale::SaleState;
use crate::drill::history::{Action, History, Kind, Moment, Operation, Outcome};

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
