//! What a fallback may sell: the buckets of a sale in lanes that are aside, less what is kept back in each.
//!
//! Kept back are the units that the lane in Redis may have given out behind the ledger's cursor: as many as it may owe
//! the ledger, and what numbered grants that are not known to be delivered may take from the bucket. So whatever the
//! recovery finds in the queue has its units.

use std::collections::{BTreeMap, HashMap};

use super::take::Aside;
use crate::domain::grant::Grant;
use crate::domain::lane::LaneNo;
use crate::ledger::LedgerError;
use crate::ledger::connection::Connection;

#[derive(sqlx::FromRow)]
struct BucketRow {
    sale_no: i32,
    lane: i16,
    counter: i64,
    undurable_max: i64,
}

#[derive(sqlx::FromRow)]
struct GrantRow {
    sale_no: i32,
    lane: i16,
    numbered: bool,
    units: i64,
    body: Vec<u8>,
}

/// A bucket in a lane that is aside.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    counter: i64,
    /// What the lane may owe the ledger.
    undurable_max: i64,
    /// What grants may have taken.
    granted: i64,
}

impl Bucket {
    fn sellable(&self) -> i64 {
        let kept_back = self.undurable_max.saturating_add(self.granted);
        self.counter.saturating_sub(kept_back).max(0)
    }
}

/// The units of a sale.
#[derive(Debug, Default)]
struct Stock {
    buckets: BTreeMap<LaneNo, Bucket>,
    /// No more can be free, wherever: in buckets, on the way to them, recalled.
    most: i64,
}

/// What came of a request for units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// They are there.
    Units,
    /// They may be there, and are kept back or on the way.
    KeptBack,
    /// There are only so many.
    TooFew(i64),
}

/// The units of all sales that a batch asks for, less what it has taken.
#[derive(Debug)]
pub(super) struct Stocks {
    sales: HashMap<i32, Stock>,
    /// Units that go from bucket to bucket.
    moves: BTreeMap<(i32, LaneNo), i64>,
}

impl Stocks {
    /// Reads the buckets of these sales, whose lanes are held as far as they are aside.
    pub(super) async fn read(tx: &mut Connection, aside: &Aside, sales: &[i32]) -> Result<Self, LedgerError> {
        let buckets: Vec<BucketRow> = sqlx::query_as(
            "-- fallback.buckets
             SELECT sale_no, lane, counter, undurable_max FROM sale_bucket WHERE sale_no = ANY($1)",
        )
        .bind(sales)
        .fetch_all(&mut *tx)
        .await?;
        let grants: Vec<GrantRow> = sqlx::query_as(
            "-- fallback.grants
             SELECT sale_no, lane, grant_no IS NOT NULL AS numbered, units, body FROM lane_grant
             WHERE sale_no = ANY($1)",
        )
        .bind(sales)
        .fetch_all(&mut *tx)
        .await?;
        let recalled: Vec<(i32, i64)> =
            sqlx::query_as("-- fallback.recalled\nSELECT sale_no, recalled FROM sale WHERE sale_no = ANY($1)")
                .bind(sales)
                .fetch_all(&mut *tx)
                .await?;
        let mut stocks: HashMap<i32, Stock> = HashMap::new();
        for (sale_no, units) in recalled {
            stocks.entry(sale_no).or_default().most += units;
        }
        for row in &buckets {
            let stock = stocks.entry(row.sale_no).or_default();
            stock.most += row.counter;
            let lane = LaneNo::from_i16(row.lane);
            if aside.holds(lane) {
                let bucket = Bucket {
                    counter: row.counter,
                    // A lane without a bound may owe anything.
                    undurable_max: if row.undurable_max > 0 {
                        row.undurable_max
                    } else {
                        i64::MAX
                    },
                    granted: 0,
                };
                stock.buckets.insert(lane, bucket);
            }
        }
        for row in &grants {
            stocks.entry(row.sale_no).or_default().weigh(row)?;
        }
        Ok(Stocks {
            sales: stocks,
            moves: BTreeMap::new(),
        })
    }

    /// Takes units of a sale for a buyer whose home is this lane; from other buckets where the home has too few.
    pub(super) fn take(&mut self, sale_no: i32, home: LaneNo, units: i64) -> Found {
        let Some(stock) = self.sales.get_mut(&sale_no) else {
            return Found::TooFew(0);
        };
        if units > stock.most {
            return Found::TooFew(stock.most.max(0));
        }
        let sellable: i64 = stock.buckets.values().map(Bucket::sellable).sum();
        let Some(at_home) = stock.buckets.get(&home).filter(|_| units <= sellable) else {
            return Found::KeptBack;
        };
        let mut missing = (units - at_home.sellable()).max(0);
        let fetched = missing;
        for (lane, bucket) in stock.buckets.iter_mut().filter(|(lane, _)| **lane != home) {
            let part = missing.min(bucket.sellable());
            if part > 0 {
                bucket.counter -= part;
                missing -= part;
                *self.moves.entry((sale_no, *lane)).or_default() -= part;
            }
        }
        if fetched > 0 {
            *self.moves.entry((sale_no, home)).or_default() += fetched;
        }
        if let Some(at_home) = stock.buckets.get_mut(&home) {
            at_home.counter += fetched - units;
        }
        stock.most -= units;
        Found::Units
    }

    /// Writes what went from bucket to bucket; their lanes are held.
    pub(super) async fn write_moves(&self, tx: &mut Connection) -> Result<(), LedgerError> {
        let moves: Vec<_> = self.moves.iter().filter(|(_, units)| **units != 0).collect();
        if moves.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "-- fallback.move
             UPDATE sale_bucket b SET counter = b.counter + w.units
             FROM UNNEST($1::int4[], $2::int2[], $3::int8[]) AS w(sale_no, lane, units)
             WHERE b.sale_no = w.sale_no AND b.lane = w.lane",
        )
        .bind(moves.iter().map(|((sale_no, _), _)| *sale_no).collect::<Vec<_>>())
        .bind(moves.iter().map(|((_, lane), _)| lane.to_i16()).collect::<Vec<_>>())
        .bind(moves.iter().map(|(_, units)| **units).collect::<Vec<_>>())
        .execute(tx)
        .await?;
        Ok(())
    }
}

impl Stock {
    /// Counts what a grant that waits may bring, and what it may have done in Redis already.
    fn weigh(&mut self, row: &GrantRow) -> Result<(), LedgerError> {
        let grant = Grant::unpack(&row.body)
            .map_err(|e| LedgerError::Broken(format!("a grant of sale {}: {e}", row.sale_no)))?;
        if matches!(grant, Grant::Units(_) | Grant::End { .. }) {
            self.most += row.units;
        }
        let Some(bucket) = self
            .buckets
            .get_mut(&LaneNo::from_i16(row.lane))
            .filter(|_| row.numbered)
        else {
            return Ok(());
        };
        match grant {
            Grant::Open(settings) | Grant::Settings(settings) if settings.undurable_max == 0 => {
                bucket.undurable_max = i64::MAX;
            }
            Grant::Open(settings) | Grant::Settings(settings) => {
                bucket.undurable_max = bucket.undurable_max.max(settings.undurable_max.into());
            }
            Grant::Take { .. } | Grant::TakeWhole(_) | Grant::Retake { .. } => {
                bucket.granted = bucket.granted.saturating_add(row.units);
            }
            _ => {}
        }
        Ok(())
    }
}
