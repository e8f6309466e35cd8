//! Stock of SKUs, read from the snapshot, or from the ledger where that is asked for or the snapshot is too old.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::{Ledger, LedgerError};
use crate::domain::balance::Balance;
use crate::domain::id::{LocationId, Sku};
use crate::domain::time::Millis;
use crate::ledger::balance::BalanceRow;
use crate::ledger::connections::Connections;

/// A snapshot older than this is not read: with the second that an answer may be kept, reads are at most 3 s old.
const AGE_MAX_MS: i64 = 2_000;

/// Where stock was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From the read model.
    Snapshot,
    /// From the balances themselves.
    Ledger,
}

impl Source {
    /// The word in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Snapshot => "snapshot",
            Source::Ledger => "ledger",
        }
    }
}

/// A SKU and what there is of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkuStock {
    /// Shoppers see exact numbers.
    pub exact: bool,
    /// Units at which stock counts as low.
    pub low_stock_threshold: Option<i64>,
    /// The last change of any of its balances, else of the SKU.
    pub updated_at: Millis,
    /// Where it ever was, in the order of ids.
    pub places: Vec<StockAt>,
}

/// Stock of a SKU at a location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StockAt {
    /// Where.
    pub location: LocationId,
    /// How much.
    pub balance: Balance,
    /// It ships.
    pub active: bool,
    /// From order to hand-over, in days begun.
    pub delivery_days: Option<i32>,
}

/// Stock of several SKUs as of one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StockRead {
    /// Nothing in it is older.
    pub as_of: Millis,
    /// Where it was read.
    pub source: Source,
    /// Those SKUs that exist.
    pub skus: HashMap<Sku, SkuStock>,
}

#[derive(sqlx::FromRow)]
struct Row {
    sku_id: String,
    display: String,
    low_stock_threshold: Option<i64>,
    sku_updated_at: DateTime<Utc>,
    location_id: Option<String>,
    updated_at: Option<DateTime<Utc>>,
    active: Option<bool>,
    delivery_days: Option<i32>,
    #[sqlx(flatten)]
    balance: BalanceRow,
}

macro_rules! select_stock {
    ($name:literal, $balances:literal) => {
        concat!(
            $name,
            "\nSELECT s.sku_id, s.display, s.low_stock_threshold, s.updated_at AS sku_updated_at, n.location_id,
                 n.updated_at, l.active,
                 CASE WHEN l.handling_hours < 876000 THEN ceil(l.handling_hours / 24)::int4 END AS delivery_days,
                 coalesce(n.on_hand, 0) AS on_hand,
                 coalesce(n.reserved, 0) AS reserved, coalesce(n.unavailable, 0) AS unavailable,
                 coalesce(n.escrowed, 0) AS escrowed, coalesce(n.safety_stock, 0) AS safety_stock,
                 coalesce(n.sold, 0) AS sold, coalesce(n.damaged, 0) AS damaged, coalesce(n.returned, 0) AS returned
             FROM sku s LEFT JOIN ",
            $balances,
            " n USING (sku_id) LEFT JOIN location l USING (location_id)
             WHERE s.sku_id = ANY($1) ORDER BY s.sku_id COLLATE \"C\", n.location_id COLLATE \"C\""
        )
    };
}

impl Ledger {
    /// Stock of these SKUs from the read model, on a replica where one answers; from the ledger where the read model is
    /// more than 2 s old; and from an older one only while the primary is away.
    ///
    /// # Errors
    /// None of them could be asked.
    pub async fn stock_snapshot(&self, skus: &[Sku]) -> Result<StockRead, LedgerError> {
        let mut old = None;
        if let Some(replica) = self.reads.replica() {
            match read_snapshot(replica, skus).await {
                Ok(Some(read)) if read.is_fresh => return Ok(read.stock),
                Ok(read) => old = read,
                Err(error) => self.reads.rest(&error),
            }
        }
        let read = match read_snapshot(self.reads.primary(), skus).await {
            Ok(Some(read)) if read.is_fresh => Ok(read.stock),
            Ok(_) => self.stock(skus).await,
            Err(error) => Err(error),
        };
        match (read, old) {
            (Err(LedgerError::Unavailable(_)), Some(old)) => Ok(old.stock),
            (read, _) => read,
        }
    }

    /// Stock of these SKUs from the ledger.
    ///
    /// # Errors
    /// It could not be asked.
    pub async fn stock(&self, skus: &[Sku]) -> Result<StockRead, LedgerError> {
        let mut connection = self.reads.primary().acquire().await?;
        let as_of: DateTime<Utc> = sqlx::query_scalar(
            "-- stock.as_of: before the read, so that nothing in the answer is older than it claims
             SELECT clock_timestamp()",
        )
        .fetch_one(&mut connection)
        .await?;
        let rows: Vec<Row> = sqlx::query_as(select_stock!("-- stock.balances", "inventory_balance"))
            .bind(texts(skus))
            .fetch_all(&mut connection)
            .await?;
        connection.keep();
        fold(rows, as_of, Source::Ledger)
    }

    /// Whether there is such a location.
    ///
    /// # Errors
    /// The ledger could not be asked.
    pub async fn knows_location(&self, location: &LocationId) -> Result<bool, LedgerError> {
        let mut connection = self.reads.primary().acquire().await?;
        let is_known = crate::ledger::balance::location_is_known(&mut connection, location).await?;
        connection.keep();
        Ok(is_known)
    }
}

/// What a snapshot held.
struct SnapshotRead {
    stock: StockRead,
    is_fresh: bool,
}

/// What the snapshot there holds; none where it is still to be made.
async fn read_snapshot(pool: &Connections, skus: &[Sku]) -> Result<Option<SnapshotRead>, LedgerError> {
    let mut connection = pool.acquire().await?;
    let feed: Option<(DateTime<Utc>, bool)> = sqlx::query_as(
        "-- snapshot.as_of: before the read, so that nothing in the answer is older than it claims
         SELECT as_of, as_of > clock_timestamp() - $1 * interval '1 ms' FROM snapshot_feed",
    )
    .bind(AGE_MAX_MS)
    .fetch_optional(&mut connection)
    .await?;
    let Some((as_of, is_fresh)) = feed else {
        connection.keep();
        return Ok(None);
    };
    let rows: Vec<Row> = sqlx::query_as(select_stock!("-- snapshot.read", "inventory_snapshot"))
        .bind(texts(skus))
        .fetch_all(&mut connection)
        .await?;
    connection.keep();
    Ok(Some(SnapshotRead {
        stock: fold(rows, as_of, Source::Snapshot)?,
        is_fresh,
    }))
}

fn texts(skus: &[Sku]) -> Vec<&str> {
    skus.iter().map(Sku::as_str).collect()
}

fn fold(rows: Vec<Row>, as_of: DateTime<Utc>, source: Source) -> Result<StockRead, LedgerError> {
    let mut skus: HashMap<Sku, SkuStock> = HashMap::new();
    for row in rows {
        let broken = |what: &str| LedgerError::Broken(format!("{what} of SKU {}", row.sku_id));
        let sku = Sku::try_from(row.sku_id.as_str()).map_err(|_| broken("the id"))?;
        let stock = skus.entry(sku).or_insert_with(|| SkuStock {
            exact: row.display == "exact",
            low_stock_threshold: row.low_stock_threshold,
            updated_at: row.updated_at.unwrap_or(row.sku_updated_at).into(),
            places: Vec::new(),
        });
        let Some(location) = &row.location_id else { continue };
        stock.updated_at = stock
            .updated_at
            .max(row.updated_at.unwrap_or(row.sku_updated_at).into());
        stock.places.push(StockAt {
            location: LocationId::try_from(location.as_str()).map_err(|_| broken("a location"))?,
            balance: row.balance.into(),
            active: row.active.unwrap_or(false),
            delivery_days: row.delivery_days,
        });
    }
    Ok(StockRead {
        as_of: as_of.into(),
        source,
        skus,
    })
}
