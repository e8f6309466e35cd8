//! The items that a count names: their balances, what was on hand when it was made, and that it is in them.

use uuid::Uuid;

use super::Count;
use crate::domain::balance::Balance;
use crate::domain::id::{LocationId, Sku};
use crate::domain::time::Millis;
use crate::ledger::LedgerError;
use crate::ledger::balance::{BalanceRow, ensure_balance};
use crate::ledger::connection::Connection;
use crate::ledger::once::By;

/// An item at the moment of the comparison.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(in crate::ledger::recon) struct Shelf {
    sku_id: String,
    #[sqlx(flatten)]
    balance: BalanceRow,
    /// On hand as of the count.
    pub(in crate::ledger::recon) expected: i64,
    /// The newest count in the balance.
    pub(in crate::ledger::recon) marked_at: Option<chrono::DateTime<chrono::Utc>>,
}

impl Shelf {
    /// Its balance now.
    pub(in crate::ledger::recon) fn balance(&self) -> Balance {
        self.balance.into()
    }
}

/// Makes the balances that are not there. Returns a SKU that is not known, if there is one.
pub(super) async fn make_balances(tx: &mut Connection, count: &Count, by: &By) -> Result<Option<Sku>, LedgerError> {
    let skus: Vec<&str> = count.lines.keys().map(Sku::as_str).collect();
    let missing: Vec<(String, bool)> = sqlx::query_as(
        "-- recon.missing_balances
         SELECT w.sku_id, EXISTS (SELECT 1 FROM sku s WHERE s.sku_id = w.sku_id)
         FROM UNNEST($1::text[]) AS w(sku_id)
         WHERE NOT EXISTS (SELECT 1 FROM inventory_balance b WHERE b.sku_id = w.sku_id AND b.location_id = $2)
         ORDER BY w.sku_id COLLATE \"C\"",
    )
    .bind(&skus)
    .bind(count.location.as_str())
    .fetch_all(&mut *tx)
    .await?;
    let missing: Vec<(&Sku, bool)> = missing
        .iter()
        .filter_map(|(id, known)| Some((count.lines.keys().find(|sku| sku.as_str() == id)?, *known)))
        .collect();
    if let Some((unknown, _)) = missing.iter().find(|(_, known)| !known) {
        return Ok(Some((*unknown).clone()));
    }
    for (sku, _) in missing {
        ensure_balance(tx, &count.item(sku), by).await?;
    }
    Ok(None)
}

/// The balances of these SKUs, locked, with what was on hand at `counted_at`; in the order of the SKUs, which are sorted.
pub(in crate::ledger::recon) async fn shelves(
    tx: &mut Connection,
    location: &LocationId,
    skus: &[&Sku],
    counted_at: Millis,
) -> Result<Vec<Shelf>, LedgerError> {
    let ids: Vec<&str> = skus.iter().map(|sku| sku.as_str()).collect();
    sqlx::query(
        "-- recon.lock_shelves: whoever posts an event holds this lock, so none comes between the sums and the correction
         SELECT 1 FROM inventory_balance WHERE location_id = $1 AND sku_id = ANY($2)
         ORDER BY sku_id COLLATE \"C\" FOR NO KEY UPDATE",
    )
    .bind(location.as_str())
    .bind(&ids)
    .execute(&mut *tx)
    .await?;
    let shelves: Vec<Shelf> = sqlx::query_as(
        "-- recon.shelves: an instant of the API is a whole millisecond
         SELECT b.sku_id, b.on_hand, b.reserved, b.unavailable, b.safety_stock, b.escrowed, b.sold, b.damaged, b.returned,
             (b.on_hand - coalesce((
                 SELECT sum(on_hand_delta) FROM inventory_movement e
                 WHERE e.sku_id = b.sku_id AND e.location_id = b.location_id
                   AND e.created_at >= $3 + interval '1 ms'
                   AND NOT EXISTS (
                       SELECT 1 FROM reconciliation_discrepancy d JOIN reconciliation_report r USING (report_id)
                       WHERE d.sku_id = b.sku_id AND d.location_id = b.location_id AND d.event_id = e.event_id
                         AND r.counted_at <= $3)), 0))::int8 AS expected,
             (SELECT counted_at FROM count_mark m
              WHERE m.sku_id = b.sku_id AND m.location_id = b.location_id) AS marked_at
         FROM inventory_balance b WHERE b.location_id = $1 AND b.sku_id = ANY($2)
         ORDER BY b.sku_id COLLATE \"C\"",
    )
    .bind(location.as_str())
    .bind(&ids)
    .bind(counted_at.to_utc())
    .fetch_all(tx)
    .await?;
    if shelves
        .iter()
        .map(|shelf| shelf.sku_id.as_str())
        .ne(ids.iter().copied())
    {
        return Err(LedgerError::Broken(format!("balances of {ids:?} at {location}")));
    }
    Ok(shelves)
}

/// Remembers that these items' balances have a count of this moment in them.
pub(in crate::ledger::recon) async fn mark(
    tx: &mut Connection,
    location: &LocationId,
    skus: &[Sku],
    counted_at: Millis,
    report: Uuid,
) -> Result<(), LedgerError> {
    sqlx::query(
        "-- recon.mark: their balances are locked, so no other count is between
         INSERT INTO count_mark AS m (sku_id, location_id, counted_at, report_id)
         SELECT sku_id, $2, $3, $4 FROM UNNEST($1::text[]) AS w(sku_id)
         ON CONFLICT (sku_id, location_id) DO UPDATE SET counted_at = excluded.counted_at,
             report_id = excluded.report_id WHERE m.counted_at < excluded.counted_at",
    )
    .bind(skus.iter().map(Sku::as_str).collect::<Vec<_>>())
    .bind(location.as_str())
    .bind(counted_at.to_utc())
    .bind(report)
    .execute(tx)
    .await?;
    Ok(())
}
