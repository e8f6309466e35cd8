//! What became of orders, as the order system tells it. Kept; what follows from it, [`super::judge`] says.

use crate::domain::id::OrderId;
use crate::domain::reconciliation::OrderState;
use crate::domain::time::Millis;
use crate::ledger::once::By;
use crate::ledger::{Ledger, LedgerError};

/// News of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderNews {
    /// Which order.
    pub order: OrderId,
    /// What became of it.
    pub state: OrderState,
    /// When, by the order system's clock.
    pub at: Millis,
}

impl Ledger {
    /// Keeps the news; the same news again changes nothing. Says whether it was new.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn order_state(&self, news: &OrderNews, by: &By) -> Result<bool, LedgerError> {
        let done = sqlx::query(
            "-- order_state.insert
             INSERT INTO order_state (order_id, state, at, operator, trace_id) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT DO NOTHING",
        )
        .bind(news.order.as_str())
        .bind(news.state.as_str())
        .bind(news.at.to_utc())
        .bind(by.operator.as_deref().unwrap_or(super::AUTOMATIC))
        .bind(by.trace.map(|trace| trace.to_uuid()))
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }
}
