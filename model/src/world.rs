//! Where everything stands: Redis, Postgres, the gateways' memories, what is under way between them; and, beside it,
//! what an onlooker knows who sees all, by which the properties are judged.

use std::rc::Rc;

use crate::config::{BOUNDS, Bound, Config};

/// A lane's generation.
pub(crate) type Epoch = u8;
/// Place of an entry in its epoch.
pub(crate) type Seq = u8;
/// What names a script call. That of the call that made a reservation names it too: there is one a call here.
pub(crate) type Nonce = u8;
/// Index of a lane.
pub(crate) type LaneNo = u8;
/// Index of a buyer.
pub(crate) type Buyer = u8;

/// What the ledger has to say to a lane (`domain/grant.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Grant {
    /// Units for the counter.
    Units(i8),
    /// A reservation ended, or was refused; its units come back.
    End {
        id: Nonce,
        buyer: Buyer,
        units: i8,
        refused: bool,
    },
    /// A unit for another lane.
    Take { to: LaneNo },
    /// The sale is over: all units, and no more selling. Settings and a take-back in one.
    Stop,
}

/// What an entry tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Body {
    /// A unit was taken for a buyer, at that hour.
    Reserve { buyer: Buyer, at: u8 },
    /// This grant was delivered; it took so many units.
    Grant { no: u8, grant: Grant, took: i8 },
}

/// A queue entry (`domain/entry.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    pub epoch: Epoch,
    pub seq: Seq,
    pub nonce: Nonce,
    pub prev: Nonce,
    pub body: Body,
    /// The counter after it.
    pub free: i8,
}

/// A lane in Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lane {
    pub epoch: Epoch,
    pub open: bool,
    pub seq: Seq,
    pub nonce: Nonce,
    pub grant: u8,
    pub free: i8,
    pub live: bool,
    /// Live entries of the buyers' records.
    pub holders: Vec<(Buyer, Nonce)>,
    pub queue: Vec<Entry>,
}

/// What is in Redis' script cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cache {
    Empty,
    Scripts,
    Witness,
}

/// Redis: one server with all lanes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Redis {
    pub cache: Cache,
    pub lanes: Vec<Option<Lane>>,
}

/// How far a lane is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    pub epoch: Epoch,
    pub seq: Seq,
    pub nonce: Nonce,
}

/// A row of `lane`, with the lane's row of `sale_bucket`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LaneRow {
    pub epoch: Epoch,
    pub open: bool,
    pub cursor: Cursor,
    pub grant_no: u8,
    pub owner: Option<u8>,
    pub counter: i8,
    pub drift: i8,
}

/// A reservation's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    Reserved,
    Committed,
    Released,
    Expired,
    Rejected,
}

/// A row of `inventory_reservation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    pub id: Nonce,
    pub buyer: Buyer,
    pub lane: LaneNo,
    pub status: Status,
    pub at: u8,
    /// How often it ended.
    pub ends: u8,
}

/// A row of `lane_grant`; older rows stand first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GrantRow {
    pub lane: LaneNo,
    pub no: Option<u8>,
    pub grant: Grant,
}

/// Postgres.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ledger {
    pub last_epoch: Epoch,
    pub lanes: Vec<LaneRow>,
    pub rows: Vec<Row>,
    pub grants: Vec<GrantRow>,
    pub ended: bool,
    pub drained: bool,
    pub recalled: i8,
    /// Units back in the balance, where anybody may have them.
    pub home: i8,
    /// Last beat of the pulse.
    pub beat: u8,
    /// Silences, written down.
    pub stalls: Vec<(u8, u8)>,
}

/// A lane as a gateway knows it (`flash/lane.rs`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct View {
    /// Open at this epoch; else suspect.
    pub health: Option<Epoch>,
    pub epoch: Epoch,
    pub seen: Seq,
    /// At this epoch its queue did not continue the ledger; 0: at none.
    pub forked: Epoch,
}

/// What a gateway does as the owner of a lane (`worker/owner.rs`): its writer and its granter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Task {
    pub cursor: Cursor,
    /// Read and not yet applied.
    pub batch: Vec<Entry>,
    /// Applied and not yet told: call and whether it became durable.
    pub told: Vec<(Seq, Nonce, bool)>,
    pub in_force: u8,
    /// Picked and not yet delivered.
    pub parcel: Option<(u8, Grant)>,
}

/// Where a recovery stands (`worker/recovery.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Raise,
    Close,
    Collect,
    Settle,
    Rebuild,
    OpenLedger,
    OpenLane,
    Witness,
}

/// A recovery.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recovery {
    pub phase: Phase,
    pub lanes: Vec<LaneNo>,
    /// Index of the lane that it is at.
    pub at: u8,
    /// How often it was superseded while it closed.
    pub rounds: u8,
    pub above: Epoch,
    pub epoch: Epoch,
    pub nonce: Nonce,
    pub survivors: Vec<Entry>,
    /// The image that settling returned: counter, last grant delivered.
    pub image: (i8, u8),
}

/// A mover's look (`worker/mover.rs::look`): it reads one thing after the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Look {
    pub at: u8,
    pub before: Vec<(Epoch, u8)>,
    pub free: Vec<i8>,
    pub motion: Vec<GrantRow>,
    pub ended: bool,
    pub after: Vec<(Epoch, u8)>,
}

/// A gateway's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Gateway {
    pub lanes: Vec<View>,
    pub tasks: Vec<Option<Task>>,
    pub recovery: Option<Recovery>,
    pub look: Option<Look>,
    /// The pulse has beaten for an expiry that is still to be done.
    pub expiring: bool,
}

/// A request on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    pub gateway: u8,
    pub buyer: Buyer,
    pub epoch: Epoch,
    pub seen: Seq,
    /// Its home was dry, and it waits for the mover's verdict.
    pub asks: bool,
    /// There was an instant since it came at which nothing was free.
    pub dry: bool,
}

/// A client that waits until its reservation is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Waiter {
    pub lane: LaneNo,
    pub epoch: Epoch,
    pub seq: Seq,
    pub id: Nonce,
}

/// A transaction that ends a reservation: it has looked and not yet written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ending {
    pub id: Nonce,
    pub to: Status,
    /// The sale was not over when it looked.
    pub live: bool,
}

/// What the onlooker knows of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fate {
    pub id: Nonce,
    pub buyer: Buyer,
    /// Its client knows that it was accepted.
    pub accepted: bool,
    /// Its client knows that it is durable.
    pub durable: bool,
    /// Redis lost what it had acknowledged, so it may be lost while it is not durable.
    pub excused: bool,
    /// Hours with a ledger that it has seen.
    pub served: u8,
}

/// Where everything stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub redis: Redis,
    pub redis_copy: Option<Rc<Redis>>,
    pub ledger: Ledger,
    pub ledger_copy: Option<Rc<Ledger>>,
    pub gateways: Vec<Gateway>,
    pub calls: Vec<Call>,
    pub waiters: Vec<Waiter>,
    pub endings: Vec<Ending>,
    /// Who recovers, by the advisory lock.
    pub lock: Option<u8>,
    pub now: u8,
    pub next_nonce: Nonce,
    pub left: [u8; BOUNDS],
    pub fates: Vec<Fate>,
    /// Redis lost something of the lane since it was opened last.
    pub lossy: Vec<bool>,
    /// A step that should never have come to pass did.
    pub flaw: Option<&'static str>,
}

impl World {
    /// Uses one of `what` up; false where none is left.
    pub(crate) fn spend(&mut self, what: Bound) -> bool {
        let left = &mut self.left[what as usize];
        let some = *left > 0;
        *left = left.saturating_sub(1);
        some
    }

    /// Whether `what` may still happen.
    pub(crate) fn may(&self, what: Bound) -> bool {
        self.left[what as usize] > 0
    }

    /// A fresh nonce.
    pub(crate) fn draw(&mut self) -> Nonce {
        let nonce = self.next_nonce;
        self.next_nonce += 1;
        nonce
    }

    /// A gateway.
    pub(crate) fn gateway(&mut self, no: u8) -> &mut Gateway {
        &mut self.gateways[usize::from(no)]
    }

    /// What a gateway does as the owner of a lane.
    pub(crate) fn task(&mut self, gateway: u8, lane: LaneNo) -> &mut Option<Task> {
        &mut self.gateways[usize::from(gateway)].tasks[usize::from(lane)]
    }

    /// A lane as a gateway knows it.
    pub(crate) fn view(&self, gateway: u8, lane: LaneNo) -> View {
        self.gateways[usize::from(gateway)].lanes[usize::from(lane)]
    }

    /// A lane in Redis.
    pub(crate) fn lane(&self, lane: LaneNo) -> Option<&Lane> {
        self.redis.lanes[usize::from(lane)].as_ref()
    }

    /// A lane's row.
    pub(crate) fn row(&self, lane: LaneNo) -> &LaneRow {
        &self.ledger.lanes[usize::from(lane)]
    }

    /// What the onlooker knows of a reservation.
    pub(crate) fn fate(&mut self, id: Nonce) -> Option<&mut Fate> {
        self.fates.iter_mut().find(|fate| fate.id == id)
    }

    /// Units that nobody holds, wherever they are; as the onlooker sees it.
    pub(crate) fn free(&self, config: &Config) -> i8 {
        let all: i8 = config.units.iter().sum();
        let over = |id: Nonce| {
            let row = self.ledger.rows.iter().find(|row| row.id == id);
            row.is_some_and(|row| !matches!(row.status, Status::Reserved | Status::Committed))
        };
        let held = self.fates.iter().filter(|fate| !over(fate.id)).count();
        all - i8::try_from(held).unwrap_or(i8::MAX)
    }

    /// The gateway takes a lane for suspect, if it still believes in that epoch (`flash/lane.rs::suspect`).
    pub(crate) fn suspect(&mut self, gateway: u8, lane: LaneNo, epoch: Epoch) {
        let view = &mut self.gateways[usize::from(gateway)].lanes[usize::from(lane)];
        if view.health == Some(epoch) {
            view.health = None;
        }
    }

    /// The gateway remembers how far it has seen a lane (`flash/lane.rs::saw`).
    pub(crate) fn saw(&mut self, gateway: u8, lane: LaneNo, epoch: Epoch, seq: Seq) {
        let view = &mut self.gateways[usize::from(gateway)].lanes[usize::from(lane)];
        if view.health == Some(epoch) {
            view.seen = view.seen.max(seq);
        }
    }

    /// The gateway takes a lane into use (`flash/lane.rs::adopt`).
    pub(crate) fn adopt(&mut self, gateway: u8, lane: LaneNo, epoch: Epoch, seen: Seq) {
        let view = &mut self.gateways[usize::from(gateway)].lanes[usize::from(lane)];
        if view.epoch != epoch {
            *view = View {
                health: None,
                epoch,
                seen,
                ..*view
            };
        }
        view.health = Some(epoch);
        view.seen = view.seen.max(seen);
    }
}
