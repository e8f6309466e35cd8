//! What of the ledger's own books is checked all the time: what is set aside for sales that have not ended, and the grants
//! on their way. Both are small at any moment, however long the sales have been.

use super::{Audit, lanes, rows_max};
use crate::domain::difference::{Difference, Kind, Site};
use crate::ledger::connection::Connection;
use crate::ledger::{Ledger, LedgerError};

#[derive(sqlx::FromRow)]
struct SetAside {
    sale_id: String,
    sku_id: String,
    location_id: String,
    expected: i64,
    found: i64,
}

impl Ledger {
    /// Compares escrow with counters, grants and recalled units, and grants with their numbers, in one snapshot.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn audit_live(&self) -> Result<Vec<Difference>, LedgerError> {
        let mut tx = self.snapshot().await?;
        let mut audit = Audit::default();
        audit.take(escrow(&mut tx).await?);
        lanes::check_grants(&mut tx, &mut audit).await?;
        tx.rollback().await?;
        Ok(audit.differences)
    }
}

async fn escrow(tx: &mut Connection) -> Result<Vec<Difference>, LedgerError> {
    let rows: Vec<SetAside> = sqlx::query_as(
        "-- audit.live_escrow: of an item's sales only one is not drained; each table is read once, as for audit.escrow
         WITH parts AS (
             SELECT sale_no, recalled AS units FROM sale WHERE NOT drained
             UNION ALL SELECT sale_no, counter FROM sale_bucket JOIN sale USING (sale_no) WHERE NOT drained
             UNION ALL SELECT sale_no, units FROM lane_grant WHERE kind IN ('units', 'end')
         ), had AS (
             SELECT sale_no, sum(units)::int8 AS expected FROM parts GROUP BY sale_no
         )
         SELECT sale_id, sku_id, location_id, escrowed AS found, expected
         FROM had JOIN sale USING (sale_no) JOIN inventory_balance USING (sku_id, location_id)
         WHERE NOT drained AND escrowed <> expected ORDER BY sku_id, location_id LIMIT $1",
    )
    .bind(rows_max())
    .fetch_all(tx)
    .await?;
    let says = "units set aside, and those in counters, on the way and recalled";
    let difference = |row: SetAside| {
        let site = Site::item(&row.sku_id, &row.location_id)
            .with_sale(&row.sale_id)
            .with_figure("escrowed");
        Difference::new(Kind::Escrow, site, says, row.expected, row.found)
    };
    Ok(rows.into_iter().map(difference).collect())
}
