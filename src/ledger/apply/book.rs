//! The ledger's view of a lane's counters: read before a batch, kept while it is decided, written after.
//!
//! The lane's row is locked, and nobody else writes these rows but to count a taking of an ended sale's units under an
//! old id, so they need no lock of their own: what was reserved is added to what is there by then.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row as _};

use crate::domain::id::Item;
use crate::domain::lane::LaneNo;
use crate::domain::sale::LaneSettings;
use crate::ledger::LedgerError;
use crate::ledger::connection::Connection;
use crate::ledger::sale_row::read_item;

/// A sale's units in the lane.
#[derive(Clone, Debug)]
pub(in crate::ledger) struct Book {
    pub(super) item: Item,
    /// Nothing of the sale is older.
    pub(super) created_at: DateTime<Utc>,
    /// Its time to pay, as it is now.
    hold_ms: u32,
    /// The lane has the sale.
    pub(super) open: bool,
    /// Units free.
    pub(super) counter: i64,
    /// Units reserved before it was read, cumulative.
    durable_before: i64,
    /// Units reserved since it was read.
    pub(super) durable: i64,
    /// Units refused, cumulative.
    pub(super) rejected: i64,
    /// Redis' counter minus ours.
    pub(super) drift: i64,
    /// Units a user may hold and have bought.
    pub(super) limit: Option<u32>,
    /// Units accepted and not durable that the lane may have; 0: no bound.
    pub(super) undurable_max: u32,
}

impl Book {
    /// Follows settings that the lane has got.
    pub(super) fn follow(&mut self, settings: &LaneSettings) {
        self.limit = Some(settings.per_user_limit).filter(|limit| *limit > 0);
        self.undurable_max = settings.undurable_max;
    }

    /// Units that the lane has taken up to the cursor, cumulative, whatever became of them.
    fn settled(&self) -> i64 {
        self.durable_before + self.durable + self.rejected
    }

    /// Takes up to `units` off our counter; what it lacks, Redis took of units that are not there.
    pub(super) fn take(&mut self, units: i64) -> i64 {
        let funded = units.min(self.counter);
        self.counter -= funded;
        self.drift -= units - funded;
        funded
    }
}

/// The books of all sales that a batch touches.
#[derive(Debug)]
pub(in crate::ledger) struct Books(BTreeMap<i32, Book>);

#[derive(sqlx::FromRow)]
struct Row {
    sale_no: i32,
    sku_id: String,
    location_id: String,
    created_at: DateTime<Utc>,
    hold_ms: i64,
    counter: Option<i64>,
    durable: Option<i64>,
    rejected: Option<i64>,
    undurable_max: Option<i64>,
    drift: Option<i64>,
    per_user_limit: Option<i32>,
}

/// What is read of these sales' books in this lane.
macro_rules! books {
    ($lane:literal, $sales:literal) => {
        concat!(
            "SELECT s.sale_no, s.sku_id, s.location_id, s.created_at, s.hold_ms, b.counter, b.durable, b.rejected, b.drift,
                 b.per_user_limit, b.undurable_max
             FROM sale s LEFT JOIN sale_bucket b ON b.sale_no = s.sale_no AND b.lane = ",
            $lane,
            "
             WHERE s.sale_no = ANY(",
            $sales,
            ")"
        )
    };
}
pub(super) use books;

impl Books {
    /// Reads the books of these sales; sales that the ledger lacks are left out.
    pub(super) async fn read(tx: &mut Connection, lane: LaneNo, sales: &[i32]) -> Result<Self, LedgerError> {
        let rows = sqlx::query(concat!("-- apply.books\n", books!("$1", "$2")))
            .bind(lane.to_i16())
            .bind(sales)
            .fetch_all(&mut *tx)
            .await?;
        Self::of(&rows)
    }

    /// Of rows with such columns; where a row has none of them, there is no such sale.
    pub(super) fn of(rows: &[PgRow]) -> Result<Self, LedgerError> {
        let read = |row: Row| {
            let book = Book {
                item: read_item(&row.sku_id, &row.location_id)?,
                created_at: row.created_at,
                hold_ms: u32::try_from(row.hold_ms)
                    .map_err(|_| LedgerError::Broken(format!("a time to pay of {} ms", row.hold_ms)))?,
                open: row.counter.is_some(),
                counter: row.counter.unwrap_or(0),
                durable_before: row.durable.unwrap_or(0),
                durable: 0,
                rejected: row.rejected.unwrap_or(0),
                drift: row.drift.unwrap_or(0),
                limit: row.per_user_limit.and_then(|limit| u32::try_from(limit).ok()),
                undurable_max: row.undurable_max.and_then(|max| u32::try_from(max).ok()).unwrap_or(0),
            };
            Ok::<_, LedgerError>((row.sale_no, book))
        };
        let mut books = BTreeMap::new();
        for row in rows {
            if row.try_get::<Option<i32>, _>("sale_no")?.is_some() {
                let (sale_no, book) = read(Row::from_row(row)?)?;
                books.insert(sale_no, book);
            }
        }
        Ok(Books(books))
    }

    pub(super) fn has(&self, sale_no: i32) -> bool {
        self.0.contains_key(&sale_no)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (i32, &Book)> {
        self.0.iter().map(|(sale_no, book)| (*sale_no, book))
    }

    /// A sale's time to pay, as it is now; 0 where the ledger lacks the sale.
    pub(super) fn hold_ms(&self, sale_no: i32) -> u32 {
        self.0.get(&sale_no).map_or(0, |book| book.hold_ms)
    }

    /// The book of a sale that the ledger has.
    pub(super) fn get(&self, sale_no: i32) -> Result<&Book, LedgerError> {
        self.0.get(&sale_no).ok_or_else(|| missing(sale_no))
    }

    /// The book of a sale that the ledger has.
    pub(super) fn get_mut(&mut self, sale_no: i32) -> Result<&mut Book, LedgerError> {
        self.0.get_mut(&sale_no).ok_or_else(|| missing(sale_no))
    }

    /// The book of a sale that the lane has.
    pub(super) fn open_mut(&mut self, sale_no: i32) -> Option<&mut Book> {
        self.0.get_mut(&sale_no).filter(|book| book.open)
    }

    /// Writes the books of the sales that the lane has.
    pub(super) async fn write(&self, tx: &mut Connection, lane: LaneNo) -> Result<(), LedgerError> {
        let open: Vec<(i32, &Book)> = self.iter().filter(|(_, book)| book.open).collect();
        if open.is_empty() {
            return Ok(());
        }
        let column = |pick: fn(&Book) -> i64| open.iter().map(|(_, book)| pick(book)).collect::<Vec<i64>>();
        sqlx::query(
            "-- apply.write_books
             INSERT INTO sale_bucket (sale_no, lane, counter, durable, rejected, drift, per_user_limit, undurable_max)
             SELECT sale_no, $1, counter, durable, rejected, drift, per_user_limit, undurable_max
             FROM UNNEST($2::int4[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::int4[], $8::int8[])
                  AS b(sale_no, counter, durable, rejected, drift, per_user_limit, undurable_max)
             ORDER BY sale_no
             ON CONFLICT (sale_no, lane) DO UPDATE SET counter = excluded.counter,
                 durable = sale_bucket.durable + excluded.durable, rejected = excluded.rejected,
                 drift = excluded.drift, per_user_limit = excluded.per_user_limit,
                 undurable_max = excluded.undurable_max",
        )
        .bind(lane.to_i16())
        .bind(open.iter().map(|(sale_no, _)| *sale_no).collect::<Vec<_>>())
        .bind(column(|book| book.counter))
        .bind(column(|book| book.durable))
        .bind(column(|book| book.rejected))
        .bind(column(|book| book.drift))
        .bind(
            open.iter()
                .map(|(_, book)| book.limit.and_then(|limit| i32::try_from(limit).ok()))
                .collect::<Vec<_>>(),
        )
        .bind(column(|book| book.undurable_max.into()))
        .execute(&mut *tx)
        .await?;
        Ok(())
    }

    /// Of sales that bound what they owe the ledger: units taken up to the cursor, cumulative.
    pub(super) fn settled(&self) -> Vec<(i32, i64)> {
        let bound = self.iter().filter(|(_, book)| book.open && book.undurable_max > 0);
        bound.map(|(sale_no, book)| (sale_no, book.settled())).collect()
    }
}

fn missing(sale_no: i32) -> LedgerError {
    LedgerError::Broken(format!(
        "a lane speaks of sale {sale_no}, which the ledger does not have there"
    ))
}
