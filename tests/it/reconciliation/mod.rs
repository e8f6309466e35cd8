//! Reconciliation of the ledger: with its events, with counts and feeds, with what became of orders.

mod books;
mod command;
mod counts;
mod locked;
mod orders;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::door::{Door, until};

pub(crate) const COUNTS: &str = "/api/inventory/counts";

/// The present millisecond by Postgres' clock, once it is over.
pub(crate) async fn moment(door: &Door) -> String {
    let now = async || -> i64 {
        let now = sqlx::query_scalar("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::int8");
        now.fetch_one(&door.pool).await.expect("a time")
    };
    let at = now().await;
    until("the next millisecond", async || (now().await > at).then_some(())).await;
    flashgate::domain::time::Millis(at).to_string()
}

/// A count of the warehouse `wh1`.
pub(crate) fn count(id: &str, at: &str, lines: &[(&str, i64)]) -> Value {
    let lines: Vec<Value> = lines
        .iter()
        .map(|(sku, counted)| json!({"skuId": sku, "counted": counted}))
        .collect();
    json!({"countId": id, "source": "warehouse", "locationId": "wh1", "countedAt": at, "lines": lines})
}

async fn report(door: &Door, id: &Value) -> Value {
    let path = format!("/admin/reconciliation/{}", id.as_str().expect("an id"));
    door.admin(Method::GET, &path, None).await.expect(200)
}

async fn on_hand(door: &Door, sku: &str) -> i64 {
    sqlx::query_scalar("SELECT on_hand FROM inventory_balance WHERE sku_id = $1")
        .bind(sku)
        .fetch_one(&door.pool)
        .await
        .expect("a balance")
}

async fn adjust(door: &Door, sku: &str, delta: i64, reason: &str) -> Value {
    let body = json!({"skuId": sku, "locationId": "wh1", "delta": delta, "reason": reason});
    door.post("/api/inventory/adjustments", body).await.expect(201)
}
