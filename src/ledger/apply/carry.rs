//! Carries entries into the ledger inside a transaction that holds the lane: for the writer and for recovery alike.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::ask::{Ask, read_asks};
use super::book::Books;
use super::decide::{Facts, decide};
use super::delivered::{delivered, subjects, take_rows};
use super::held::Held;
use super::subject::Subject;
use super::trial::{POISON_MAX, Poison};
use super::{Drift, Refused, alarm, quarantined, store};
use crate::domain::entry::{Body, Entry};
use crate::domain::grant::Grant;
use crate::domain::lane::LaneNo;
use crate::domain::reservation_id::IdKey;
use crate::ledger::LedgerError;
use crate::ledger::claims::{Claimant, Claiming, Keys};
use crate::ledger::connection::Connection;
use crate::ledger::grants::add_grants;

/// An entry and how much of it counts.
#[derive(Clone, Copy, Debug)]
pub(in crate::ledger) struct Part<'a> {
    pub(in crate::ledger) entry: &'a Entry,
    /// Grants and counters count too: the entry follows the cursor. Else its reservations alone do.
    pub(in crate::ledger) whole: bool,
}

/// What is to be carried.
#[derive(Debug)]
pub(in crate::ledger) struct Work<'a> {
    pub(in crate::ledger) lane: LaneNo,
    pub(in crate::ledger) id_key: &'a IdKey,
    pub(in crate::ledger) parts: Vec<Part<'a>>,
    /// The lane will be rebuilt from the ledger: what is refused need not be given back to it, counters in entries say
    /// nothing, and grants that the ledger does not know end what they end.
    pub(in crate::ledger) rebuild: bool,
    /// Reservations that the ledger has already.
    pub(in crate::ledger) known: &'a HashSet<Uuid>,
    /// Reservations that Postgres can't store.
    pub(in crate::ledger) poison: &'a Poison,
    /// Of a probe: the only reservations that count.
    pub(in crate::ledger) only: Option<&'a HashSet<Uuid>>,
    pub(in crate::ledger) now: DateTime<Utc>,
    /// Last number given to a grant of the lane.
    pub(in crate::ledger) grant_no: i64,
}

impl Work<'_> {
    /// All sales that the entries name.
    pub(super) fn sales(&self) -> Vec<i32> {
        let touched = self.parts.iter().flat_map(|part| &part.entry.touched);
        let mut sales: Vec<i32> = touched.map(|touched| touched.sale_no).collect();
        sales.sort_unstable();
        sales.dedup();
        sales
    }
}

/// What came of it.
#[derive(Debug)]
pub(in crate::ledger) enum Carried {
    Done(Tally),
    /// The entries deliver grants, up to this number, that the ledger has not numbered so. Nothing may be committed.
    GrantsAhead {
        lane: i64,
    },
    /// Too many reservations can't be stored. Nothing may be committed.
    Poisoned {
        bad: usize,
    },
}

/// What was done.
#[derive(Debug)]
pub(in crate::ledger) struct Tally {
    pub(in crate::ledger) reserved: usize,
    pub(in crate::ledger) refused: Vec<Refused>,
    pub(in crate::ledger) drift: Vec<Drift>,
    pub(in crate::ledger) grants_for: Vec<LaneNo>,
    pub(in crate::ledger) settled: Vec<(i32, i64)>,
}

/// Carries what a recovery found.
pub(in crate::ledger) async fn carry(tx: &mut Connection, work: &Work<'_>) -> Result<Carried, LedgerError> {
    hold_recalled_sales(tx, work).await?;
    let books = Books::read(tx, work.lane, &work.sales()).await?;
    let mut asks = read_asks(work);
    asks.retain(|ask| books.has(ask.sale_no));
    carry_asks(tx, work, asks, books, None).await
}

/// Carries a batch whose transaction has begun: with the books, and the keys where they are claimed already.
pub(super) async fn carry_begun(
    tx: &mut Connection,
    work: &Work<'_>,
    asks: Vec<Ask<'_>>,
    books: Books,
    keys: Option<(Claiming, usize)>,
) -> Result<Carried, LedgerError> {
    hold_recalled_sales(tx, work).await?;
    carry_asks(tx, work, asks, books, keys).await
}

async fn carry_asks(
    tx: &mut Connection,
    work: &Work<'_>,
    asks: Vec<Ask<'_>>,
    mut books: Books,
    keys: Option<(Claiming, usize)>,
) -> Result<Carried, LedgerError> {
    let messages = delivered(work);
    let known = take_rows(tx, work.lane, work.rebuild, &messages).await?;
    if !work.rebuild && (!known.all || known.last > work.grant_no) {
        return Ok(Carried::GrantsAhead { lane: known.last });
    }
    // Those that were altered are no fault of the tables or ours.
    let is_refused = |ask: &&Ask<'_>| ask.slip.is_some() && ask.poison.is_some();
    let bad = asks.iter().filter(is_refused).count();
    if !work.rebuild && bad > POISON_MAX {
        return Ok(Carried::Poisoned { bad });
    }
    let (retaken, ended) = subjects(work.lane, work.id_key, &messages, &known);
    let subjects = Subject::read(tx, retaken.union(&ended).copied().collect()).await?;
    let retaken = retaken.iter().filter_map(|id| subjects.get(id));
    let retaken: Vec<&Subject> = retaken.filter(|subject| subject.retakable()).collect();
    let mut keys = match keys {
        Some((claiming, claimed)) => claiming.look(tx, claimed).await?,
        None => {
            let asked = asks.iter().filter_map(Ask::claimant);
            let claimants: Vec<Claimant> = asked.chain(retaken.iter().map(|subject| subject.claimant())).collect();
            Keys::claim(tx, &claimants).await?
        }
    };
    let limited = limited_sales(work, &books);
    let mut users: Vec<(i32, &str)> = asks.iter().filter_map(Ask::user).collect();
    users.retain(|(sale_no, _)| limited.contains(sale_no));
    for user in retaken.iter().filter_map(|subject| subject.user.as_deref()) {
        users.extend(limited.iter().map(|sale_no| (*sale_no, user)));
    }
    let since = books.iter().map(|(_, book)| book.created_at).min().unwrap_or(work.now);
    let mut held = Held::read(tx, work.lane, users, since).await?;
    let decided = decide(
        work,
        Facts {
            asks: &asks,
            known: &known.own,
            subjects: &subjects,
        },
        &mut books,
        &mut keys,
        &mut held,
    )?;
    keys.settle(tx).await?;
    store::reservations(tx, work, &asks, &decided, &books).await?;
    // Some may have been made just now.
    store::subjects(tx, &decided).await?;
    store::recalled(tx, &decided.recalled).await?;
    books.write(tx, work.lane).await?;
    store::tallies(tx, &decided.ended).await?;
    quarantined::add(tx, work.lane, &asks, &decided).await?;
    add_grants(tx, &decided.grants).await?;
    // What a lane that is rebuilt has too much of is gone with the rebuilding.
    if !work.rebuild {
        alarm::raise(tx, work.lane, &asks, &decided, &books).await?;
    }
    let mut grants_for: Vec<LaneNo> = decided.grants.iter().map(|grant| grant.lane).collect();
    grants_for.sort_unstable();
    grants_for.dedup();
    Ok(Carried::Done(Tally {
        reserved: decided.fates.iter().filter(|fate| fate.is_reserved()).count(),
        refused: decided.refused(&asks),
        drift: decided.drift,
        grants_for,
        settled: books.settled(),
    }))
}

/// Sales with a limit per user, at any time of the batch.
fn limited_sales(work: &Work<'_>, books: &Books) -> HashSet<i32> {
    let limited = books.iter().filter(|(_, book)| book.limit.is_some());
    let mut sales: HashSet<i32> = limited.map(|(sale_no, _)| sale_no).collect();
    for part in &work.parts {
        let Body::Grant { delivered, .. } = &part.entry.body else {
            continue;
        };
        let sets = |grant: &Grant| matches!(grant, Grant::Open(s) | Grant::Settings(s) if s.per_user_limit > 0);
        let set = delivered.iter().filter(|delivered| sets(&delivered.grant));
        sales.extend(set.map(|delivered| part.entry.touched[delivered.sale].sale_no));
    }
    sales
}

/// Units of the sale come back by this grant.
pub(super) fn recalls(grant: &Grant) -> bool {
    matches!(grant, Grant::Take { target: None, .. } | Grant::TakeWhole(_))
}

/// Locks the sales that will get units back, since sales come before all else.
async fn hold_recalled_sales(tx: &mut Connection, work: &Work<'_>) -> Result<(), LedgerError> {
    let mut sales: Vec<i32> = Vec::new();
    for part in work.parts.iter().filter(|part| part.whole) {
        let Body::Grant { delivered, .. } = &part.entry.body else {
            continue;
        };
        let recalled = delivered.iter().filter(|delivered| recalls(&delivered.grant));
        sales.extend(recalled.map(|delivered| part.entry.touched[delivered.sale].sale_no));
    }
    if sales.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "-- apply.hold_sales
         SELECT 1 FROM sale WHERE sale_no = ANY($1) ORDER BY sale_no FOR NO KEY UPDATE",
    )
    .bind(&sales)
    .execute(&mut *tx)
    .await?;
    Ok(())
}
