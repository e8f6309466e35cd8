//! The balances of a batch, and whether a sale serves their items.

use std::collections::{BTreeSet, HashMap};

use crate::domain::id::Item;
use crate::ledger::LedgerError;
use crate::ledger::claims::{Claimant, Claiming, Keys, claim_keys};
use crate::ledger::connection::Connection;
use crate::ledger::post::Instant;
use crate::ledger::sale_row::read_item;

#[derive(sqlx::FromRow)]
struct StockRow {
    sku_id: String,
    location_id: String,
    available: i64,
    on_sale: Option<i32>,
}

/// The columns of an [`Instant`].
macro_rules! instant {
    () => {
        "date_trunc('milliseconds', clock_timestamp()) AS now,
             coalesce((SELECT max(stall_no) FROM stall), 0) AS stall_no"
    };
}

pub(super) use instant;

/// The instant: to be read when all keys are ours.
pub(super) async fn read_instant(tx: &mut Connection) -> Result<Instant, LedgerError> {
    Ok(sqlx::query_as(concat!("-- take.now\nSELECT ", instant!()))
        .fetch_one(tx)
        .await?)
}

/// A balance that was glanced at, if there is one; how many keys were new, and the time: in each row the same.
#[derive(sqlx::FromRow)]
struct GlanceRow {
    claimed: i64,
    #[sqlx(flatten)]
    at: Instant,
    sku_id: Option<String>,
    location_id: Option<String>,
    available: Option<i64>,
    on_sale: Option<i32>,
}

impl GlanceRow {
    fn stock(self) -> Option<StockRow> {
        Some(StockRow {
            sku_id: self.sku_id?,
            location_id: self.location_id?,
            available: self.available?,
            on_sale: self.on_sale,
        })
    }
}

struct Stock {
    available: i64,
    /// The sale that serves the item.
    on_sale: Option<i32>,
}

/// What is free of each item, less what this batch has taken.
pub(super) struct Stocks(HashMap<Item, Stock>);

/// What is read of the balances of the items in these two parameters.
macro_rules! stocks {
    ($skus:literal, $locations:literal) => {
        concat!(
            "SELECT b.sku_id, b.location_id,
                 b.on_hand - b.reserved - b.unavailable - b.escrowed - b.safety_stock AS available,
                 (SELECT CASE WHEN s.state IN ('scheduled', 'live', 'paused', 'frozen') THEN s.sale_no END FROM sale s
                  WHERE s.sku_id = b.sku_id AND s.location_id = b.location_id
                  ORDER BY s.sale_no DESC LIMIT 1) AS on_sale
             FROM inventory_balance b
             JOIN UNNEST(",
            $skus,
            "::text[], ",
            $locations,
            "::text[]) AS want(sku_id, location_id) USING (sku_id, location_id)"
        )
    };
}
pub(super) use stocks;

impl Stocks {
    /// Claims the keys of all claimants, of whom there must be one, and looks at the balances of these items, which may
    /// change before they are taken from.
    pub(super) async fn glance<'a>(
        tx: &mut Connection,
        claimants: &[Claimant],
        items: impl Iterator<Item = &'a Item>,
    ) -> Result<(Keys, Self, Instant), LedgerError> {
        let items: BTreeSet<&Item> = items.collect();
        let claiming = Claiming::of(claimants);
        let keys = claiming.columns();
        let rows: Vec<GlanceRow> = sqlx::query_as(concat!(
            "-- take.claim: one round trip for both
             WITH claimed AS (",
            claim_keys!("$1", "$2", "$3", "$4", ""),
            " RETURNING 1), stock AS (",
            stocks!("$5", "$6"),
            ")
             SELECT claimed, ",
            instant!(),
            ", sku_id, location_id, available, on_sale
             FROM (SELECT count(*) AS claimed FROM claimed) AS keys LEFT JOIN stock ON true",
        ))
        .bind(keys.hashes)
        .bind(keys.subjects)
        .bind(keys.fingerprints)
        .bind(keys.derived)
        .bind(items.iter().map(|item| item.sku.as_str()).collect::<Vec<_>>())
        .bind(items.iter().map(|item| item.location.as_str()).collect::<Vec<_>>())
        .fetch_all(&mut *tx)
        .await?;
        let first = rows
            .first()
            .ok_or_else(|| LedgerError::Broken("a glance without a row".into()))?;
        let (claimed, at) = (first.claimed, first.at);
        let claimed = usize::try_from(claimed).expect("no more rows than claims");
        let stocks = Self::of(rows.into_iter().filter_map(GlanceRow::stock))?;
        Ok((claiming.look(tx, claimed).await?, stocks, at))
    }

    /// Locks the balances of these items.
    pub(super) async fn lock<'a>(
        tx: &mut Connection,
        items: impl Iterator<Item = &'a Item>,
    ) -> Result<Self, LedgerError> {
        let items: BTreeSet<&Item> = items.collect();
        if items.is_empty() {
            return Ok(Stocks(HashMap::new()));
        }
        let rows: Vec<StockRow> = sqlx::query_as(concat!(
            "-- take.lock: in key order. A sale that starts at this moment has set its units aside before; of an item's
             -- sales only the newest may be open
             ",
            stocks!("$1", "$2"),
            " ORDER BY b.sku_id COLLATE \"C\", b.location_id COLLATE \"C\" FOR NO KEY UPDATE OF b"
        ))
        .bind(items.iter().map(|item| item.sku.as_str()).collect::<Vec<_>>())
        .bind(items.iter().map(|item| item.location.as_str()).collect::<Vec<_>>())
        .fetch_all(tx)
        .await?;
        Self::of(rows)
    }

    fn of(rows: impl IntoIterator<Item = StockRow>) -> Result<Self, LedgerError> {
        let stock = |row: StockRow| {
            let item = read_item(&row.sku_id, &row.location_id)?;
            let (available, on_sale) = (row.available, row.on_sale);
            Ok((item, Stock { available, on_sale }))
        };
        rows.into_iter()
            .map(stock)
            .collect::<Result<_, LedgerError>>()
            .map(Stocks)
    }

    /// Whether its sale is scheduled, live, paused or frozen.
    pub(super) fn is_on_sale(&self, item: &Item) -> bool {
        self.sale_of(item).is_some()
    }

    /// The number of its sale that is scheduled, live, paused or frozen.
    pub(super) fn sale_of(&self, item: &Item) -> Option<i32> {
        self.0.get(item).and_then(|stock| stock.on_sale)
    }

    /// Below 0 where safety stock is not there; an item that never had a balance has nothing.
    pub(super) fn available(&self, item: &Item) -> i64 {
        self.0.get(item).map_or(0, |stock| stock.available)
    }

    pub(super) fn take(&mut self, item: &Item, units: i64) {
        if let Some(stock) = self.0.get_mut(item) {
            stock.available -= units;
        }
    }
}
