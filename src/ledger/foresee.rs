//! What is known of a reservation that is not in the ledger yet, beside its queue entry: its sale's item, its deadline.

use chrono::{DateTime, Utc};

use super::sale_row::read_item;
use super::{Ledger, LedgerError};
use crate::domain::id::Item;
use crate::domain::time::Millis;

impl Ledger {
    /// What a queue entry leaves out: the item of its sale, and the deadline with the stalls since it was written;
    /// `None` where there is no such sale.
    ///
    /// # Errors
    /// Postgres could not be asked.
    pub async fn foresee(
        &self,
        sale_no: i32,
        created_at: Millis,
        expires_at: Millis,
    ) -> Result<Option<(Item, Millis)>, LedgerError> {
        let row: Option<(String, String, DateTime<Utc>)> = sqlx::query_as(
            "-- reservation.foresee
             SELECT sku_id, location_id, deadline($2, $3, sale_no, 0) FROM sale WHERE sale_no = $1",
        )
        .bind(sale_no)
        .bind(expires_at.to_utc())
        .bind(created_at.to_utc())
        .fetch_optional(&self.pool)
        .await?;
        let Some((sku, location, due)) = row else {
            return Ok(None);
        };
        Ok(Some((read_item(&sku, &location)?, due.into())))
    }
}
