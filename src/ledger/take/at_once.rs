//! A batch that gets everything it asks for, in one statement that is a transaction of its own.
//!
//! Of a hot item nearly every batch is such: new keys, no sale, enough units. Its statement looks whether all of that is
//! so by what is committed, and writes everything, or nothing. Whatever is not plain (a replay, a shortage, a sale, a cart,
//! several items, whose balances have to be locked in their order) is left to the transaction that decides each
//! request by itself. What changes between the look and the update is found by constraints, or by the balances after the
//! update, and undoes the statement.

use std::sync::atomic::{AtomicU32, Ordering};

use chrono::{DateTime, Utc};

use super::decide::plain_hold_ms;
use super::stock::{instant, stocks};
use super::store::{self, Taken};
use super::{Claims, TakeAnswer, TakeAsk};
use crate::ledger::claims::{Claimant, Claiming};
use crate::ledger::post::{Reserving, made_rows, reserving};
use crate::ledger::reservation::Locked;
use crate::ledger::{Ledger, LedgerError};

/// Most batches that are not tried at once after one that was not plain.
const PAUSE_MAX: u32 = 63;

/// How many batches are not tried at once: ever more while none of those that are tried is plain, since the look is then
/// for nothing.
#[derive(Debug, Default)]
pub(in crate::ledger) struct Pause {
    left: AtomicU32,
    next: AtomicU32,
}

impl Pause {
    fn is_over(&self) -> bool {
        let less = |left: u32| left.checked_sub(1);
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_err()
    }

    fn tried(&self, was_plain: bool) {
        let pause = match was_plain {
            true => 0,
            false => self.next.load(Ordering::Relaxed),
        };
        self.left.store(pause, Ordering::Relaxed);
        let next = if was_plain { 0 } else { (pause * 2 + 1).min(PAUSE_MAX) };
        self.next.store(next, Ordering::Relaxed);
    }
}

impl Ledger {
    /// `None`: it is not plain; nothing was written.
    pub(super) async fn take_at_once(
        &self,
        asks: &[TakeAsk],
        claims: &[Claims],
    ) -> Result<Option<Vec<TakeAnswer>>, LedgerError> {
        let Some(taken) = plain(asks, claims).filter(|_| self.at_once.is_over()) else {
            return Ok(None);
        };
        let all: Vec<Claimant> = claims.iter().flat_map(Claims::all).copied().collect();
        let claiming = Claiming::of(&all);
        let now = match claiming.each_is_claimed_once() {
            true => self.write_at_once(&taken, &claiming).await?,
            false => None,
        };
        self.at_once.tried(now.is_some());
        let Some(now) = now else { return Ok(None) };
        let answer = |taken: &Taken<'_>| Ok(TakeAnswer::Taken(taken.reservation(&Locked::default(), now)?));
        taken.iter().map(answer).collect::<Result<_, _>>().map(Some)
    }

    /// The instant at which all of it was written; `None`: nothing was.
    async fn write_at_once(
        &self,
        taken: &[Taken<'_>],
        claiming: &Claiming,
    ) -> Result<Option<DateTime<Utc>>, LedgerError> {
        let reserving = Reserving {
            made: store::made(taken),
            keys: claiming.columns(),
        };
        let posting = reserving.bind(sqlx::query_as(concat!(
            reserving!(
                "-- take.at_once",
                concat!(
                    "clock AS MATERIALIZED (
             SELECT NOT EXISTS (SELECT FROM inventory_key WHERE key_hash = ANY($23::uuid[]))
                 AND NOT EXISTS (
                     SELECT FROM UNNEST($19::text[], $20::text[], $21::int8[]) AS asked(sku_id, location_id, units)
                     LEFT JOIN (",
                    stocks!("$19", "$20"),
                    ") stock USING (sku_id, location_id)
                     WHERE on_sale IS NOT NULL OR coalesce(available, 0) < units
                 ) AS go, ",
                    instant!(),
                    ")"
                ),
                "",
                from stock
            ),
            "
         SELECT now, CASE WHEN (
                 SELECT count(*) FROM before
                 WHERE on_hand - reserved - unavailable - escrowed - safety_stock >= units
             ) < cardinality($19::text[]) THEN start_over('a balance has changed meanwhile') END FROM clock WHERE go"
        )));
        match posting.fetch_optional(&self.pool).await.map_err(LedgerError::from) {
            Ok(written) => Ok(written.map(|(now, _): (DateTime<Utc>, Option<bool>)| now)),
            // Somebody else got a key or the units between the look and the writing, or one ask can't be stored.
            Err(LedgerError::Retry(_)) => Ok(None),
            Err(error @ LedgerError::Data { .. }) if !error.is_missing_partition() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// All of the asks as takings, as far as they tell whether they are plain.
fn plain<'a>(asks: &'a [TakeAsk], claims: &'a [Claims]) -> Option<Vec<Taken<'a>>> {
    let mut items = asks.iter().flat_map(|ask| &ask.lines).map(|line| &line.item);
    let first = items.next()?;
    if items.any(|item| item != first) {
        return None;
    }
    let taken = |(ask, claims): (&'a TakeAsk, &'a Claims)| {
        let hold_ms = plain_hold_ms(ask).filter(|_| claims.lines.is_empty())?;
        Some(Taken { ask, claims, hold_ms })
    };
    asks.iter().zip(claims).map(taken).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_tried_ever_less_while_none_is_plain() {
        let pause = Pause::default();
        let mut tried = Vec::new();
        for batch in 0..200 {
            if pause.is_over() {
                tried.push(batch);
                pause.tried(false);
            }
        }
        assert_eq!(tried, [0, 1, 3, 7, 15, 31, 63, 127, 191]);
        while !pause.is_over() {}
        pause.tried(true);
        assert!(pause.is_over() && pause.is_over(), "each is tried while they are plain");
    }
}
