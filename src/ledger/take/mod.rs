//! The ledger engine: reservations of what no sale serves, and carts, taken from the balances in one transaction.
//!
//! Set-wise: however many requests one transaction carries, each table is met by one statement, and a hot balance is
//! updated once. What comes of each is decided in memory in the order of the requests, while every key that they name is
//! ours, and by balances as they were a moment ago: the update itself, the last thing before the commit, tells whether
//! that was enough. Only where it was not, everything is undone and decided anew with the balances locked. So a hot
//! balance is locked for an update and a commit, and not while keys and rows are written. Where all want one item, none as
//! a cart, and can have it, one statement does all that (`at_once`). A cart is all or nothing, and may be made of
//! reservations that lanes hold already.

mod at_once;
mod decide;
mod rescue;
mod stock;
mod store;

use chrono::{DateTime, Utc};
use uuid::Uuid;

pub(super) use at_once::Pause;
pub(super) use rescue::{LATE_PAYMENT, rescue};

use self::decide::{Fate, decide};
use self::stock::{Stocks, read_instant};
use self::store::Taken;
use super::claims::{Claimant, Keys};
use super::post::{Posted, post_made};
use super::reservation::{Locked, lock};
use super::retry::retried;
use super::{Ledger, LedgerError};
use crate::domain::id::{Item, OrderId, UserId};
use crate::domain::key::{Fingerprint, KeyHash};
use crate::domain::reservation::{Line, Reservation};
use crate::domain::reservation_id::{Kind, ReservationId};
use crate::domain::trace::TraceId;

/// A request for units.
#[derive(Clone, Debug)]
pub struct TakeAsk {
    /// A fresh one: of kind `Ledger` for one line alone, of kind `Cart` for all else.
    pub id: ReservationId,
    /// The shop's order.
    pub order: OrderId,
    /// The buyer, where one was named.
    pub user: Option<UserId>,
    /// What to take from the balances: in the order of the items, each once.
    pub lines: Vec<Line>,
    /// Reservations in lanes that become the cart's.
    pub parts: Vec<ReservationId>,
    /// The client's, or derived.
    pub key: KeyHash,
    /// Of the request.
    pub fingerprint: Fingerprint,
    /// The client sent the key.
    pub explicit: bool,
    /// Time to pay; without it, the shortest that its lines have where none is asked for: of a sale its own, else
    /// [`HOLD_MS`].
    pub ttl_ms: Option<i64>,
    /// Of the request.
    pub trace: TraceId,
}

/// Time to pay of what is not on sale, where none is asked for, in ms.
pub const HOLD_MS: i64 = 900_000;

/// An item that has too few units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Short {
    /// What and where.
    pub item: Item,
    /// Units free.
    pub available: i64,
}

/// What came of a [`TakeAsk`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TakeAnswer {
    /// The units are taken, durably.
    Taken(Reservation),
    /// The same request made this one before.
    Replayed(ReservationId),
    /// The key belongs to another request.
    KeyReused,
    /// The order holds one of the items: in this reservation, or this part of a cart.
    OrderAlreadyReserved(ReservationId),
    /// Nothing was taken: these items have too few.
    Insufficient(Vec<Short>),
    /// A sale that is scheduled, live, paused or frozen serves the item.
    OnSale(Item),
    /// A part is not held any more, or belongs to a cart already.
    PartEnded(ReservationId),
    /// More time than the cart's shortest longest hold.
    TtlTooLong {
        /// That hold.
        hold_max_ms: i64,
    },
}

impl Ledger {
    /// Takes units for these requests, in their order; the answers stand in the same.
    ///
    /// # Errors
    /// Postgres could not be asked, or refused what is in one of the asks: then nothing was taken.
    pub async fn take(&self, asks: &[TakeAsk]) -> Result<Vec<TakeAnswer>, LedgerError> {
        retried!(self, self.take_once(asks))
    }

    async fn take_once(&self, asks: &[TakeAsk]) -> Result<Vec<TakeAnswer>, LedgerError> {
        let claims = asks.iter().map(Claims::of).collect::<Vec<_>>();
        let mut answers = self.take_at_once(asks, &claims).await?;
        for basis in [Basis::Glance, Basis::Lock] {
            if answers.is_none() {
                answers = self.take_by(basis, asks, &claims).await?;
            }
        }
        let answers = answers.ok_or_else(|| LedgerError::Broken("a locked balance has changed".into()))?;
        for answer in &answers {
            if let TakeAnswer::Taken(reservation) = answer {
                log(reservation, asks);
            }
        }
        Ok(answers)
    }

    /// `None`: somebody else took what was seen; nothing was written.
    async fn take_by(
        &self,
        basis: Basis,
        asks: &[TakeAsk],
        claims: &[Claims],
    ) -> Result<Option<Vec<TakeAnswer>>, LedgerError> {
        let mut tx = self.begin().await?;
        let parts = match asks.iter().any(|ask| !ask.parts.is_empty()) {
            true => lock(&mut tx, asks.iter().flat_map(|ask| ask.parts.iter().copied())).await?,
            false => Locked::default(),
        };
        let all: Vec<Claimant> = claims.iter().flat_map(Claims::all).copied().collect();
        let items = asks.iter().flat_map(|ask| &ask.lines).map(|line| &line.item);
        let (mut keys, mut stocks, at) = match basis {
            Basis::Glance => Stocks::glance(&mut tx, &all, items).await?,
            Basis::Lock => {
                let (keys, stocks) = (Keys::claim(&mut tx, &all).await?, Stocks::lock(&mut tx, items).await?);
                (keys, stocks, read_instant(&mut tx).await?)
            }
        };
        let mut fates = Vec::with_capacity(asks.len());
        let mut claimed_parts = std::collections::HashSet::new();
        for (ask, claims) in asks.iter().zip(claims) {
            let fate = decide(ask, claims, &parts, &mut claimed_parts, &keys, &mut stocks)?;
            match &fate {
                Fate::Takes { .. } => claims.all().for_each(|claimant| keys.give(claimant)),
                Fate::Refused(_) => claims.all().for_each(|claimant| keys.refuse(claimant)),
            }
            fates.push(fate);
        }
        keys.settle(&mut tx).await?;
        let mut taken = Vec::new();
        for ((ask, claims), fate) in asks.iter().zip(claims).zip(&fates) {
            if let Fate::Takes { hold_ms } = *fate {
                taken.push(Taken { ask, claims, hold_ms });
            }
        }
        store::join(&mut tx, &taken, &parts, at.now).await?;
        let (made, movements) = (store::made(&taken), store::movements(&taken));
        if was_enough(post_made(&mut tx, &made, at, &movements).await, basis)? {
            let answers = answers(fates, &taken, &parts, at.now)?;
            tx.commit().await?;
            return Ok(Some(answers));
        }
        tx.rollback().await?;
        Ok(None)
    }
}

/// How the balances were read that a batch is decided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Basis {
    /// Nobody waits for whoever looks; the update tells whether it was right.
    Glance,
    /// Nobody changes them until the commit.
    Lock,
}

/// Whether the balances had what the movements took. What was only glanced at may have gone, down to where the
/// constraints refuse the update.
fn was_enough(posted: Result<Vec<Posted>, LedgerError>, basis: Basis) -> Result<bool, LedgerError> {
    match posted {
        Ok(posted) => Ok(posted.iter().all(|posted| posted.after.free() >= 0)),
        Err(error @ LedgerError::Data { .. }) if basis == Basis::Glance && !error.is_missing_partition() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The keys that a request needs, and its rows' ids.
struct Claims {
    /// The request's own.
    whole: Claimant,
    /// Of each line of a cart, in the order of the lines; none for a line alone.
    lines: Vec<Claimant>,
}

impl Claims {
    fn of(ask: &TakeAsk) -> Self {
        let is_cart = ask.id.kind() == Some(Kind::Cart);
        let line_of = |line: &Line| {
            let (sku, location) = (line.item.sku.as_str(), line.item.location.as_str());
            KeyHash::order_line(ask.order.as_str(), sku, location)
        };
        let alone = ask.lines.first().filter(|_| !is_cart).map(line_of);
        let whole = Claimant {
            id: ask.id.0,
            key: ask.key,
            line: alone.unwrap_or(ask.key),
            fingerprint: ask.fingerprint.to_i64(),
            explicit: ask.explicit,
        };
        let part = |(n, line): (usize, &Line)| Claimant {
            id: part_id(ask.id, n),
            key: KeyHash::part(ask.key, line.item.sku.as_str(), line.item.location.as_str()),
            line: line_of(line),
            fingerprint: ask.fingerprint.to_i64(),
            explicit: false,
        };
        let lines = match is_cart {
            true => ask.lines.iter().enumerate().map(part).collect(),
            false => Vec::new(),
        };
        Claims { whole, lines }
    }

    fn all(&self) -> impl Iterator<Item = &Claimant> {
        std::iter::once(&self.whole).chain(&self.lines)
    }
}

/// The id of a cart's row: never shown, so it needs no MAC; no kind has its first bits.
fn part_id(cart: ReservationId, n: usize) -> Uuid {
    let n = u128::try_from(n + 1).expect("a cart has at most 100 lines");
    let body = cart.0.as_u128() & (u128::MAX >> 3);
    Uuid::from_u128((4 << 125) | (body ^ n))
}

fn answers(
    fates: Vec<Fate>,
    taken: &[Taken<'_>],
    parts: &Locked,
    now: DateTime<Utc>,
) -> Result<Vec<TakeAnswer>, LedgerError> {
    let mut taken = taken.iter();
    let answer = |fate| {
        Ok(match fate {
            Fate::Refused(answer) => answer,
            Fate::Takes { .. } => {
                let takes = taken.next().expect("each of them is there, in order");
                TakeAnswer::Taken(takes.reservation(parts, now)?)
            }
        })
    };
    fates.into_iter().map(answer).collect()
}

fn log(reservation: &Reservation, asks: &[TakeAsk]) {
    let trace = asks.iter().find(|ask| ask.id == reservation.id).map(|ask| ask.trace);
    for line in &reservation.lines {
        tracing::debug!(
            trace = trace.map(tracing::field::display),
            reservation = %reservation.id,
            order = %reservation.order,
            sku = %line.item.sku,
            location = %line.item.location,
            quantity = line.quantity,
            "units were reserved in the ledger"
        );
    }
}
