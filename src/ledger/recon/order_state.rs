//! What became of orders, as the order system tells it. Kept; what follows from it, [`super::judge`] says.

use uuid::Uuid;

use crate::domain::id::OrderId;
use crate::domain::reconciliation::OrderState;
use crate::domain::time::Millis;
use crate::ledger::once::{By, Claim, Key, claim};
use crate::ledger::retry::retried;
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

/// What came of news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewsAnswer {
    /// Kept now.
    Kept,
    /// Kept before.
    Known,
    /// The key belongs to other news; nothing was kept.
    KeyReused,
}

impl Ledger {
    /// Keeps the news; the same news again changes nothing.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn order_state(&self, news: &OrderNews, by: &By, key: Option<&Key>) -> Result<NewsAnswer, LedgerError> {
        retried!(self, self.order_state_once(news, by, key))
    }

    async fn order_state_once(&self, news: &OrderNews, by: &By, key: Option<&Key>) -> Result<NewsAnswer, LedgerError> {
        let mut tx = self.begin().await?;
        if let Some(key) = key
            && claim(&mut tx, key, false, Uuid::new_v4()).await? == Claim::Reused
        {
            return Ok(NewsAnswer::KeyReused);
        }
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
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(match done.rows_affected() {
            0 => NewsAnswer::Known,
            _ => NewsAnswer::Kept,
        })
    }
}
