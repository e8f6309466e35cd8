//! What the ledger tells of itself to a judge: everything that it keeps of reservations, stock, sales and lanes, as it was
//! at one instant.
//!
//! These are plain values. Who reads them and who judges them is left to others; neither may change anything.

use super::balance::{Balance, Image};
use super::id::{Item, OrderId, SaleId, UserId};
use super::key::KeyHash;
use super::lane::{Epoch, LaneNo, Seq};
use super::reservation::{Cause, Ending, Status};
use super::reservation_id::ReservationId;
use super::sale::SaleState;
use super::time::Millis;

/// Everything, of one snapshot.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// When it was read.
    pub read_at: Millis,
    /// Every row, of both tiers.
    pub reservations: Vec<Kept>,
    /// Every item that has a balance.
    pub stock: Vec<Stock>,
    /// Every sale that was ever made.
    pub sales: Vec<SaleAccount>,
    /// Every lane.
    pub lanes: Vec<LaneAccount>,
}

/// A reservation's row.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its id.
    pub id: ReservationId,
    /// The shop's order.
    pub order: OrderId,
    /// The buyer, where one was named.
    pub user: Option<UserId>,
    /// What is held.
    pub item: Item,
    /// Units.
    pub quantity: i64,
    /// Where it stands.
    pub status: Status,
    /// Of a rejection.
    pub cause: Option<Cause>,
    /// The reservation that had the key or the order's line before, of such a rejection.
    pub first: Option<ReservationId>,
    /// The sale that made it.
    pub sale_no: Option<i32>,
    /// The lane that made it.
    pub lane: Option<LaneNo>,
    /// Of its idempotency key.
    pub key: KeyHash,
    /// The client chose that key.
    pub explicit_key: bool,
    /// It is a part of a cart, which clients know by another id.
    pub in_cart: bool,
}

/// An item's balance, and every change that led to it.
#[derive(Clone, Debug)]
pub struct Stock {
    /// What, and where.
    pub item: Item,
    /// As it stands.
    pub balance: Balance,
    /// In the order in which they happened.
    pub changes: Vec<Change>,
}

/// What changed a balance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// A reservation took units.
    Taken,
    /// One that had expired took them again, for a payment that came late.
    Retaken,
    /// A reservation ended.
    Ended(Ending),
    /// The balance went back to what its events say.
    Restored,
    /// Anything else: stock came, went, or was set aside.
    Moved,
}

/// One event of an item.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Its number.
    pub event_id: i64,
    /// Those of one transaction have the same, and stand together; it says nothing else.
    pub transaction: i64,
    /// What was done.
    pub deed: Deed,
    /// Whose units.
    pub reservation: Option<ReservationId>,
    /// What it changed.
    pub delta: Image,
    /// What it led to.
    pub after: Image,
}

/// A sale and its units.
#[derive(Clone, Debug)]
pub struct SaleAccount {
    /// Short name.
    pub no: i32,
    /// The shop's name.
    pub id: SaleId,
    /// What is sold.
    pub item: Item,
    /// Where it stands.
    pub state: SaleState,
    /// Units of the sale, sold ones included.
    pub allocation: i64,
    /// Taken back from counters, and nobody's yet.
    pub recalled: i64,
    /// Over, and every unsold unit is back in the balance.
    pub drained: bool,
    /// The highest limit per user that it ever had; none: once there was none.
    pub limit_peak: Option<u32>,
    /// While Redis is away, the ledger sells on below a ceiling.
    pub falls_back: bool,
    /// When it ends by itself.
    pub ends_at: Option<Millis>,
    /// Its units by lane.
    pub buckets: Vec<BucketAccount>,
}

impl SaleAccount {
    /// Units that nobody has: in counters, on their way there, taken back.
    #[must_use]
    pub fn free(&self) -> i64 {
        let in_lanes = |bucket: &BucketAccount| bucket.counter + bucket.on_the_way;
        self.recalled + self.buckets.iter().map(in_lanes).sum::<i64>()
    }
}

/// A sale's units in one lane.
#[derive(Clone, Copy, Debug)]
pub struct BucketAccount {
    /// The lane.
    pub lane: LaneNo,
    /// Free after the last durable entry.
    pub counter: i64,
    /// In grants that are not durably delivered.
    pub on_the_way: i64,
    /// Ever reserved, each taking counted.
    pub durable: i64,
    /// Counter in Redis minus ours, after the last durable entry.
    pub drift: i64,
}

/// How far a lane has got.
#[derive(Clone, Copy, Debug)]
pub struct LaneAccount {
    /// Which.
    pub lane: LaneNo,
    /// It is served.
    pub open: bool,
    /// Generation; each recovery raises it.
    pub epoch: Epoch,
    /// That of the last durable entry.
    pub cursor_epoch: Epoch,
    /// Its place in the queue.
    pub cursor_seq: Seq,
    /// The oldest grant that is not durably delivered.
    pub waits_since: Option<Millis>,
}
