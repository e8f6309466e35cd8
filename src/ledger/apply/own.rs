//! Writes reservations that the ledger itself decided for a lane: nothing is left to refuse.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::ask::read_asks;
use super::book::Books;
use super::carry::{Part, Work};
use super::decide::{Decided, Fate};
use super::store;
use crate::domain::entry::Entry;
use crate::domain::lane::LaneNo;
use crate::domain::reservation_id::IdKey;
use crate::ledger::LedgerError;
use crate::ledger::connection::Connection;

/// A reservation that was written.
#[derive(Clone, Copy, Debug)]
pub(in crate::ledger) struct Own {
    pub(in crate::ledger) id: Uuid,
    pub(in crate::ledger) at: DateTime<Utc>,
    pub(in crate::ledger) expires_at: DateTime<Utc>,
}

/// Writes those reservations of `entry` that `accepted` names, as if a writer had carried them: rows, balances, events,
/// and the bucket's counter, which must have their units. The lane and the keys are the caller's.
pub(in crate::ledger) async fn write_own(
    tx: &mut Connection,
    lane: LaneNo,
    id_key: &IdKey,
    entry: &Entry,
    accepted: &HashSet<Uuid>,
    now: DateTime<Utc>,
) -> Result<Vec<Own>, LedgerError> {
    let work = Work {
        lane,
        id_key,
        parts: vec![Part { entry, whole: false }],
        rebuild: true,
        known: &HashSet::new(),
        poison: &BTreeMap::new(),
        only: Some(accepted),
        now,
        grant_no: 0,
    };
    let sales: Vec<i32> = entry.touched.iter().map(|touched| touched.sale_no).collect();
    let mut books = Books::read(tx, lane, &sales).await?;
    let mut asks = read_asks(&work);
    asks.retain(|ask| books.has(ask.sale_no));
    let mut decided = Decided::default();
    for ask in &asks {
        let book = books.get_mut(ask.sale_no)?;
        book.counter -= ask.units();
        book.durable += ask.units();
        decided.fates.push(Fate::Reserved);
    }
    store::reservations(tx, &work, &asks, &decided, &books).await?;
    books.write(tx, lane).await?;
    let own = asks.iter().map(|ask| Own {
        id: ask.id,
        at: ask.at,
        expires_at: ask.at + TimeDelta::milliseconds(ask.hold_ms(&books)),
    });
    Ok(own.collect())
}
