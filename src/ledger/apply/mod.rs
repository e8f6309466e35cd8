//! The batch writer's half in Postgres: carries queue entries into the ledger, once each.
//!
//! One transaction moves the lane's cursor and writes all that the entries did: reservations, keys, events, balances,
//! the ledger's view of the counters, and the grants that give back what the ledger refuses. Whether it came to pass is
//! told by the cursor alone, so a commit whose answer was lost is no question: read the cursor and go on from there.
//!
//! Statements are set-wise; what needs an order (counters, limits, keys claimed twice in one batch) is decided in
//! `decide`, without I/O, between reading and writing. `trial` runs a transaction again where that helps, and finds
//! the reservation that Postgres can't store.

mod alarm;
mod ask;
mod at_once;
mod begin;
mod book;
mod carry;
mod decide;
mod delivered;
mod held;
mod own;
mod quarantined;
mod store;
mod subject;
mod trial;

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use self::ask::read_asks;
use self::begin::{begin, claims_ahead};
use self::carry::carry_begun;

use super::{Ledger, LedgerError};
use crate::domain::entry::Entry;
use crate::domain::lane::{Cursor, LaneNo, Seq};
use crate::domain::outcome::Durability;
use crate::domain::reservation::Cause;
use crate::domain::reservation_id::IdKey;

pub use at_once::{SaleIdentities, plain_sales};

pub(super) use ask::{fault, ids as reservation_ids};
pub(super) use carry::{Carried, Part, Work, carry};
pub(super) use own::{Own, write_own};
pub(super) use trial::{POISON_MAX, Poison, Trial};

/// Queue entries of one lane, in order, that follow its cursor.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Of which lane.
    pub lane: LaneNo,
    /// Who writes.
    pub owner: Uuid,
    /// The entry before the first.
    pub from: Cursor,
    /// At least one.
    pub entries: &'a [Entry],
    /// Seals their ids.
    pub id_key: &'a IdKey,
}

/// What came of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is durable.
    Done(Done),
    /// The lane is another's, closed, of another epoch, or its cursor is elsewhere. Nothing was written.
    NotOwner,
    /// The lane was given grants that the ledger did not number so: it fell back. Nothing was written.
    GrantsAhead {
        /// Last number the ledger gave.
        ledger: i64,
        /// Last number the entries deliver.
        lane: i64,
    },
    /// More reservations than a fault of their own explains can't be stored. Nothing was written.
    Poisoned {
        /// At least so many.
        bad: usize,
    },
}

/// A batch that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The lane's cursor now.
    pub cursor: Cursor,
    /// Reservations that are durable.
    pub reserved: usize,
    /// Reservations that the ledger refused.
    pub refused: Vec<Refused>,
    /// Counters that were not what the entries before them say.
    pub drift: Vec<Drift>,
    /// Lanes that have new grants to number.
    pub grants_for: Vec<LaneNo>,
    /// Of the batch's sales that bound what they owe the ledger: units taken up to the cursor, cumulative.
    pub settled: Vec<(i32, i64)>,
}

/// A reservation that Redis accepted and the ledger refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its entry.
    pub seq: Seq,
    /// Its place there.
    pub index: u8,
    /// Always `Rejected`.
    pub durability: Durability,
}

impl Refused {
    /// Whether it is in quarantine, since it can't be stored.
    #[must_use]
    pub fn is_poison(&self) -> bool {
        matches!(
            self.durability,
            Durability::Rejected {
                cause: Cause::Poison,
                ..
            }
        )
    }
}

/// A counter that is not what the entries before it say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drift {
    /// Of which sale.
    pub sale_no: i32,
    /// After which entry.
    pub seq: Seq,
    /// Units that should be free.
    pub expected: i64,
    /// Units that are, in Redis.
    pub found: i64,
}

impl Ledger {
    /// Makes a batch durable, wholly or not at all.
    ///
    /// # Errors
    /// `Unavailable`: it may have been written; the cursor says. `Data`: the batch can't be written, for no fault of one
    /// of its reservations. `Broken`: the entries do not follow `from`, or speak of a sale that the lane does not have.
    pub async fn apply(&self, batch: Batch<'_>) -> Result<Applied, LedgerError> {
        check_chain(&batch)?;
        self.cured(&batch).await
    }
}

impl<'a> Batch<'a> {
    /// All of it, by our time until Postgres tells its own.
    fn work(&self, known: &'a HashSet<Uuid>, poison: &'a Poison, only: Option<&'a HashSet<Uuid>>) -> Work<'a> {
        Work {
            lane: self.lane,
            id_key: self.id_key,
            parts: self.entries.iter().map(|entry| Part { entry, whole: true }).collect(),
            rebuild: false,
            known,
            poison,
            only,
            now: Utc::now(),
            grant_no: 0,
        }
    }
}

impl Trial for Batch<'_> {
    type Answer = Applied;

    fn ids(&self) -> Vec<(Uuid, DateTime<Utc>)> {
        ask::ids(self.lane, self.id_key, self.entries)
    }

    fn poisoned(&self, bad: usize, _: LedgerError) -> Result<Applied, LedgerError> {
        Ok(Applied::Poisoned { bad })
    }

    async fn attempt(
        &self,
        ledger: &Ledger,
        poison: &Poison,
        only: Option<&HashSet<Uuid>>,
    ) -> Result<Applied, LedgerError> {
        let mut tx = ledger.begin().await?;
        let known = HashSet::new();
        let mut work = self.work(&known, poison, only);
        let mut asks = read_asks(&work);
        let claiming = claims_ahead(&work, &asks);
        let Some(begun) = begin(&mut tx, self, &work.sales(), claiming).await? else {
            tx.rollback().await?;
            return Ok(Applied::NotOwner);
        };
        (work.now, work.grant_no) = (begun.now, begun.grant_no);
        if begun.keys.is_none() {
            asks = read_asks(&work);
        }
        let grant_no = work.grant_no;
        let tally = match carry_begun(&mut tx, &work, asks, begun.books, begun.keys).await? {
            Carried::Done(tally) => tally,
            Carried::GrantsAhead { lane } => {
                tx.rollback().await?;
                return Ok(Applied::GrantsAhead { ledger: grant_no, lane });
            }
            Carried::Poisoned { bad } => {
                tx.rollback().await?;
                return Ok(Applied::Poisoned { bad });
            }
        };
        match only {
            None => tx.commit().await?,
            Some(_) => tx.rollback().await?,
        }
        Ok(Applied::Done(Done {
            cursor: cursor_after(self),
            reserved: tally.reserved,
            refused: tally.refused,
            drift: tally.drift,
            grants_for: tally.grants_for,
            settled: tally.settled,
        }))
    }
}

fn check_chain(batch: &Batch<'_>) -> Result<(), LedgerError> {
    let mut at = batch.from;
    for entry in batch.entries {
        if entry.epoch != at.epoch || entry.seq != at.seq + 1 || entry.prev != at.nonce {
            return Err(LedgerError::Broken(format!(
                "entry {}-{} of lane {} does not follow {}-{}",
                entry.epoch, entry.seq, batch.lane, at.epoch, at.seq
            )));
        }
        at = cursor_at(entry);
    }
    if batch.entries.is_empty() {
        return Err(LedgerError::Broken("an empty batch".into()));
    }
    Ok(())
}

fn cursor_after(batch: &Batch<'_>) -> Cursor {
    batch.entries.last().map_or(batch.from, cursor_at)
}

fn cursor_at(entry: &Entry) -> Cursor {
    Cursor {
        epoch: entry.epoch,
        seq: entry.seq,
        nonce: entry.nonce,
        total: entry.total,
    }
}
