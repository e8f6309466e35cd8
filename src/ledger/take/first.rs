//! What a batch asks first, in one round trip: its keys, a look at the balances, and, where nothing stands in the way of
//! any of it, its rows.
//!
//! Of most batches that is all but the balances, and nothing is left to decide. Where anything is in the way, no row is
//! written here, and what becomes of each request is decided one after the other.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::decide::hold_ms;
use super::stock::{StockRow, Stocks, stocks};
use super::store::{Row, Taken, bind_rows, clock, insert_rows};
use super::{Claims, TakeAsk};
use crate::domain::id::Item;
use crate::ledger::LedgerError;
use crate::ledger::claims::{Claimant, Claiming, Keys, claim_keys};
use crate::ledger::column::column;

/// What was found, and done.
pub(super) struct First {
    pub(super) keys: Keys,
    pub(super) stocks: Stocks,
    /// When the rows of all requests were written, if they were.
    pub(super) written: Option<DateTime<Utc>>,
}

impl First {
    /// The keys of all, and the balances, locked; no row.
    pub(super) async fn locked(
        tx: &mut PgConnection,
        asks: &[TakeAsk],
        claims: &[Claims],
    ) -> Result<Self, LedgerError> {
        let claimants: Vec<Claimant> = claims.iter().flat_map(Claims::all).copied().collect();
        let keys = Keys::claim(tx, &claimants).await?;
        let items = asks.iter().flat_map(|ask| &ask.lines).map(|line| &line.item);
        let stocks = Stocks::lock(tx, items).await?;
        let written = None;
        Ok(First { keys, stocks, written })
    }
}

/// A balance, if there is one; the rest is the same in each row.
#[derive(sqlx::FromRow)]
struct FirstRow {
    claimed: i64,
    written: i64,
    now: DateTime<Utc>,
    sku_id: Option<String>,
    location_id: Option<String>,
    available: Option<i64>,
    on_sale: Option<i32>,
}

impl FirstRow {
    fn stock(self) -> Option<StockRow> {
        Some(StockRow {
            sku_id: self.sku_id?,
            location_id: self.location_id?,
            available: self.available?,
            on_sale: self.on_sale,
        })
    }
}

/// Claims the keys of all, looks at the balances, and writes the rows if nothing can stand in their way.
pub(super) async fn first(tx: &mut PgConnection, asks: &[TakeAsk], claims: &[Claims]) -> Result<First, LedgerError> {
    let claimants: Vec<Claimant> = claims.iter().flat_map(Claims::all).copied().collect();
    let claiming = Claiming::of(&claimants);
    let rows = match claiming.all_differ() {
        true => rows_of_all(asks, claims).unwrap_or_default(),
        false => Vec::new(),
    };
    let mut wanted: BTreeMap<&Item, i64> = BTreeMap::new();
    for line in asks.iter().flat_map(|ask| &ask.lines) {
        *wanted.entry(&line.item).or_default() += line.quantity;
    }
    let keys = claiming.columns();
    let all = concat!(
        "-- take.first: rows only where every key is new and there is enough of everything, none of it on sale
         WITH claimed AS (",
        claim_keys!("$14", "$15", "$16", "$17"),
        " RETURNING 1), stock AS MATERIALIZED (",
        stocks!("$18", "$19"),
        "), ",
        clock!(),
        ", free AS MATERIALIZED (
             SELECT (SELECT count(*) FROM claimed) = cardinality($14) AND NOT EXISTS (
                 SELECT 1 FROM UNNEST($18::text[], $19::text[], $20::int8[]) AS want(sku_id, location_id, units)
                 LEFT JOIN stock USING (sku_id, location_id)
                 WHERE stock.available IS NULL OR stock.on_sale IS NOT NULL OR stock.available < want.units
             ) AS all_of_it
         ), written AS (",
        insert_rows!(),
        " WHERE (SELECT all_of_it FROM free) RETURNING 1)
         SELECT (SELECT count(*) FROM claimed) AS claimed, (SELECT count(*) FROM written) AS written, clock.now,
             sku_id, location_id, available, on_sale
         FROM clock LEFT JOIN stock ON true"
    );
    let found: Vec<FirstRow> = bind_rows!(sqlx::query_as(all), &rows)
        .bind(keys.hashes)
        .bind(keys.subjects)
        .bind(keys.fingerprints)
        .bind(keys.derived)
        .bind(wanted.keys().map(|item| item.sku.as_str()).collect::<Vec<_>>())
        .bind(wanted.keys().map(|item| item.location.as_str()).collect::<Vec<_>>())
        .bind(wanted.values().copied().collect::<Vec<_>>())
        .fetch_all(&mut *tx)
        .await?;
    let broken = || LedgerError::Broken("a batch has no instant".into());
    let FirstRow {
        claimed, written, now, ..
    } = *found.first().ok_or_else(broken)?;
    let count = |n: i64| usize::try_from(n).expect("a count");
    let stocks = Stocks::of(found.into_iter().filter_map(FirstRow::stock))?;
    Ok(First {
        keys: claiming.look(tx, count(claimed)).await?,
        stocks,
        written: (written > 0 && count(written) == rows.len()).then_some(now),
    })
}

/// The rows of all requests, where each of them gets what it asks for if its keys are new and there is enough.
fn rows_of_all<'a>(asks: &'a [TakeAsk], claims: &'a [Claims]) -> Option<Vec<Row<'a>>> {
    let mut rows = Vec::with_capacity(asks.len());
    for (ask, claims) in asks.iter().zip(claims) {
        let hold_ms = hold_ms(ask)?;
        Taken { ask, claims, hold_ms }.rows(&mut rows);
    }
    Some(rows)
}
