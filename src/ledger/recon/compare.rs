//! Balances compared with the sums of their events: once a day those that changed since the last run, all of them on
//! demand.
//!
//! The comparison reads one snapshot, so it is exact while gateways sell. What differs is looked at again under its
//! balance's lock ([`super::restore`]) before anything is decided about it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::report::Report;
use super::restore::Restore;
use crate::domain::id::Item;
use crate::domain::reconciliation::ReportKind;
use crate::ledger::connection::Connection;
use crate::ledger::once::By;
use crate::ledger::sale_row::read_item;
use crate::ledger::{Ledger, LedgerError};

/// Differing items that are read at once; a run takes as many pages as there are.
const PAGE: u16 = 1_000;
/// How the comparison reads: one view, …
const SNAPSHOT: [&str; 3] = [
    "-- recon.snapshot\nSET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    "-- recon.memory\nSET LOCAL work_mem = '64MB'",
    "-- recon.no_jit\nSET LOCAL jit = off",
];
/// … as long as it takes, for it may read millions of events.
const STATEMENT_MAX: Duration = Duration::from_secs(600);
/// Advisory lock under which a daily run is begun.
const DAILY: i64 = 0x666c_6173_6867_0020;

/// Which balances to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// All of them, now.
    All,
    /// Those that changed since the last run, where that was a day ago.
    Daily,
}

/// A run that has begun.
struct Begun {
    report: Uuid,
    /// Only what changed since then; none: all.
    since: Option<DateTime<Utc>>,
}

impl Ledger {
    /// Compares balances with their events, corrects what may be corrected, and returns the report; none where a daily run
    /// is not due.
    ///
    /// # Errors
    /// The ledger could not find out; the report says how far it got.
    pub async fn compare_balances(&self, what: Compare, by: &By) -> Result<Option<Report>, LedgerError> {
        self.compare_in_pages(what, by, PAGE).await
    }

    /// [`Ledger::compare_balances`] that reads `page` differing balances at once. None is left out, however many differ:
    /// the next daily run looks only at what changes from now on.
    ///
    /// # Errors
    /// The ledger could not find out; the report says how far it got.
    pub async fn compare_in_pages(&self, what: Compare, by: &By, page: u16) -> Result<Option<Report>, LedgerError> {
        let Some(begun) = self.begin_compare(what, by).await? else {
            return Ok(None);
        };
        let page = page.max(1);
        let (mut compared, mut after) = (None, None);
        loop {
            let mut tx = self.begin().await?;
            for setting in SNAPSHOT {
                sqlx::query(setting).execute(&mut *tx).await?;
            }
            tx.allow(STATEMENT_MAX).await?;
            if compared.is_none() {
                compared = Some(count(&mut tx, begun.since).await?);
            }
            let differing = differing(&mut tx, begun.since, after.as_ref(), page).await?;
            tx.rollback().await?;
            for item in &differing {
                let restore = Restore {
                    item,
                    report: begun.report,
                    units_max: Some(self.recon.correct_units_max),
                    by,
                };
                self.restore(&restore).await?;
            }
            if differing.len() < usize::from(page) {
                break;
            }
            after = differing.into_iter().next_back();
        }
        let compared = compared.unwrap_or(0);
        let mut tx = self.begin().await?;
        super::close_report(&mut tx, begun.report, compared).await?;
        tx.commit().await?;
        self.report(begun.report).await
    }

    async fn begin_compare(&self, what: Compare, by: &By) -> Result<Option<Begun>, LedgerError> {
        let mut tx = self.begin().await?;
        let mut since = None;
        if what == Compare::Daily {
            let due: bool = sqlx::query_scalar(
                "-- recon.daily_is_due: a run that has not ended within an hour broke off
                 SELECT pg_try_advisory_xact_lock($1) AND NOT EXISTS (
                     SELECT FROM reconciliation_report
                     WHERE kind = 'ledger' AND started_at > clock_timestamp() - interval '1 day'
                       AND (ended_at IS NOT NULL OR started_at > clock_timestamp() - interval '1 hour'))",
            )
            .bind(DAILY)
            .fetch_one(&mut *tx)
            .await?;
            if !due {
                // Else the lock would last until somebody uses the connection.
                tx.rollback().await?;
                return Ok(None);
            }
            since = sqlx::query_scalar(
                "-- recon.last_compared: with a margin, for what was on its way when that run read
                 SELECT max(started_at) - interval '10 minutes' FROM reconciliation_report
                 WHERE kind = 'ledger' AND ended_at IS NOT NULL",
            )
            .fetch_one(&mut *tx)
            .await?;
        }
        let report = super::open_report(&mut tx, ReportKind::Ledger, by).await?;
        tx.commit().await?;
        Ok(Some(Begun { report, since }))
    }
}

/// The items that are looked at: `$1` is the instant since which they changed, or null. What `$and` says is asked of
/// each before anything is summed up.
macro_rules! looked {
    ($and:literal) => {
        concat!(
            "looked AS (
                 SELECT sku_id, location_id FROM inventory_balance
                 WHERE ($1::timestamptz IS NULL OR updated_at >= $1)",
            $and,
            " UNION
                 SELECT sku_id, location_id FROM inventory_movement
                 WHERE ($1::timestamptz IS NULL OR created_at >= $1)",
            $and,
            ")"
        )
    };
}

async fn count(tx: &mut Connection, since: Option<DateTime<Utc>>) -> Result<i64, LedgerError> {
    Ok(sqlx::query_scalar(concat!(
        "-- recon.count\n WITH ",
        looked!(""),
        " SELECT count(*) FROM looked"
    ))
    .bind(since)
    .fetch_one(tx)
    .await?)
}

async fn differing(
    tx: &mut Connection,
    since: Option<DateTime<Utc>>,
    after: Option<&Item>,
    page: u16,
) -> Result<Vec<Item>, LedgerError> {
    let found: Vec<(String, String)> = sqlx::query_as(concat!(
        "-- recon.differing
         WITH ",
        looked!(" AND ($3::text IS NULL OR (sku_id COLLATE \"C\", location_id COLLATE \"C\") > ($3, $4::text))"),
        ", summed AS (
             SELECT sku_id, location_id, sum(on_hand_delta) AS on_hand, sum(reserved_delta) AS reserved,
                 sum(unavailable_delta) AS unavailable, sum(escrowed_delta) AS escrowed, sum(sold_delta) AS sold,
                 sum(damaged_delta) AS damaged, sum(returned_delta) AS returned,
                 coalesce(-sum(quantity_delta) FILTER (WHERE reason = 'safety_stock'
                     AND event_type = 'inventory_adjusted'), 0) AS safety_stock
             FROM inventory_movement JOIN looked USING (sku_id, location_id) GROUP BY sku_id, location_id
         )
         SELECT sku_id, location_id FROM looked LEFT JOIN summed s USING (sku_id, location_id)
         LEFT JOIN inventory_balance b USING (sku_id, location_id)
         WHERE (coalesce(s.on_hand, 0), coalesce(s.reserved, 0), coalesce(s.unavailable, 0), coalesce(s.escrowed, 0),
                coalesce(s.sold, 0), coalesce(s.damaged, 0), coalesce(s.returned, 0), coalesce(s.safety_stock, 0))
             IS DISTINCT FROM
               (coalesce(b.on_hand, 0), coalesce(b.reserved, 0), coalesce(b.unavailable, 0), coalesce(b.escrowed, 0),
                coalesce(b.sold, 0), coalesce(b.damaged, 0), coalesce(b.returned, 0), coalesce(b.safety_stock, 0))
         ORDER BY sku_id COLLATE \"C\", location_id COLLATE \"C\" LIMIT $2"
    ))
    .bind(since)
    .bind(i64::from(page))
    .bind(after.map(|item| item.sku.as_str()))
    .bind(after.map(|item| item.location.as_str()))
    .fetch_all(tx)
    .await?;
    found.iter().map(|(sku, location)| read_item(sku, location)).collect()
}
