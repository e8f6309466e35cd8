//! The items that a count names: their balances, what was on hand when it was made, and that it is in them.

use uuid::Uuid;

use super::Count;
use super::since::Since;
use crate::domain::balance::Balance;
use crate::domain::id::{LocationId, Sku};
use crate::domain::time::Millis;
use crate::ledger::LedgerError;
use crate::ledger::adjust::NEAR;
use crate::ledger::balance::{BalanceRow, ensure_balance};
use crate::ledger::connection::Connection;
use crate::ledger::once::By;
use crate::ledger::recon::RESTORED;

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

/// The balances of these SKUs, locked, with what was on hand then; in the order of the SKUs, which are sorted.
pub(in crate::ledger::recon) async fn shelves(
    tx: &mut Connection,
    location: &LocationId,
    skus: &[&Sku],
    since: &Since,
) -> Result<Vec<Shelf>, LedgerError> {
    let ids: Vec<&str> = skus.iter().map(|sku| sku.as_str()).collect();
    sqlx::query(
        "-- recon.lock_shelves: whoever posts an event holds this lock, so none comes between the look and the correction
         SELECT 1 FROM inventory_balance WHERE location_id = $1 AND sku_id = ANY($2)
         ORDER BY sku_id COLLATE \"C\" FOR NO KEY UPDATE",
    )
    .bind(location.as_str())
    .bind(&ids)
    .execute(&mut *tx)
    .await?;
    let shelves: Vec<Shelf> = sqlx::query_as(
        "-- recon.shelves: what was undone since had never been there; a balance that was brought back to its events was not what their images say, so there all of
         -- them are summed up. The first since, where nobody has seen one, is among few
         SELECT b.sku_id, b.on_hand, b.reserved, b.unavailable, b.safety_stock, b.escrowed, b.sold, b.damaged, b.returned,
             (CASE WHEN EXISTS (
                     SELECT FROM inventory_movement e
                     WHERE e.sku_id = b.sku_id AND e.location_id = b.location_id
                       AND e.event_type = 'inventory_adjusted' AND e.reason = $7
                       AND e.metadata -> 'corrected' ? 'on_hand'
                       AND e.event_id > $4 AND e.created_at >= $3)
                 THEN b.on_hand - (
                     SELECT coalesce(sum(e.on_hand_delta), 0) FROM inventory_movement e
                     WHERE e.sku_id = b.sku_id AND e.location_id = b.location_id
                       AND e.event_id > $4 AND e.created_at >= $3)
                 ELSE coalesce(moved.on_hand, (
                     SELECT (array_agg(e.on_hand - e.on_hand_delta ORDER BY e.event_id))[1] FROM inventory_movement e
                     WHERE e.sku_id = b.sku_id AND e.location_id = b.location_id
                       AND e.event_id > $4 AND e.created_at >= $3), b.on_hand)
             END + (
                 SELECT coalesce(sum(e.on_hand_delta), 0)
                 FROM reconciliation_discrepancy d JOIN reconciliation_report r USING (report_id)
                     JOIN inventory_movement e ON e.event_id = d.event_id AND e.created_at >= $3
                 WHERE d.sku_id = b.sku_id AND d.location_id = b.location_id AND d.event_id > $4
                   AND r.counted_at < $3) + (
                 SELECT coalesce(sum(e.on_hand_delta), 0)
                 FROM adjustment u JOIN adjustment a ON a.event_id = u.undoes
                     JOIN inventory_movement w ON w.event_id = a.event_id AND w.created_at < $3
                         AND w.created_at BETWEEN a.created_at - $8 AND a.created_at + $8
                     JOIN inventory_movement e ON e.event_id = u.event_id AND e.created_at >= $3
                         AND e.created_at BETWEEN u.created_at - $8 AND u.created_at + $8
                 WHERE u.sku_id = b.sku_id AND u.location_id = b.location_id AND u.undoes IS NOT NULL
                   AND u.event_id > $4))::int8 AS expected,
             (SELECT counted_at FROM count_mark m
              WHERE m.sku_id = b.sku_id AND m.location_id = b.location_id) AS marked_at
         FROM inventory_balance b LEFT JOIN UNNEST($5::text[], $6::int8[]) AS moved(sku_id, on_hand) USING (sku_id)
         WHERE b.location_id = $1 AND b.sku_id = ANY($2)
         ORDER BY b.sku_id COLLATE \"C\"",
    )
    .bind(location.as_str())
    .bind(&ids)
    .bind(since.from)
    .bind(since.after_id)
    .bind(&since.moved)
    .bind(&since.on_hand)
    .bind(RESTORED)
    .bind(NEAR)
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
