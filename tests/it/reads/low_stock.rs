//! Low-stock alerts: one for each time that a SKU comes down to its threshold.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::door::until;
use crate::support::gateway::Whole;

async fn moved(whole: &Whole, location: &str, delta: i64) {
    let reason = if delta > 0 { "stock_received" } else { "lost" };
    let body = json!({"skuId": "hot", "locationId": location, "delta": delta, "reason": reason});
    whole.post("/api/inventory/adjustments", body).await.expect(201);
}

async fn alerts(whole: &Whole, query: &str) -> Vec<Value> {
    let path = format!("/admin/alerts?{query}");
    let told = whole.admin(Method::GET, &path, None).await.expect(200);
    told["alerts"].as_array().expect("a list").clone()
}

async fn until_told(whole: &Whole, open: usize, all: usize) {
    until("alerts", async || {
        let told = (alerts(whole, "open=true").await.len(), alerts(whole, "").await.len());
        (told == (open, all)).then_some(())
    })
    .await;
}

/// Waits until the feed has seen all that was done.
async fn until_followed(whole: &Whole) {
    until("the feed", async || {
        let behind =
            "SELECT count(*) FROM inventory_balance b LEFT JOIN inventory_snapshot n USING (sku_id, location_id)
             WHERE b.version IS DISTINCT FROM n.version";
        let behind: i64 = sqlx::query_scalar(behind).fetch_one(&whole.pool).await.ok()?;
        (behind == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_threshold_is_told_once_per_crossing() {
    let whole = Whole::empty().await;
    let place = |name: &str| json!({"name": name, "kind": "warehouse", "region": "eu", "active": true});
    for id in ["wh1", "wh2"] {
        whole
            .put(&format!("/admin/locations/{id}"), place(id))
            .await
            .expect(200);
    }
    let sku = |threshold: i64| json!({"display": "exact", "lowStockThreshold": threshold});
    whole.put("/admin/skus/hot", sku(5)).await.expect(200);
    moved(&whole, "wh1", 10).await;
    moved(&whole, "wh2", 3).await;
    until_followed(&whole).await;
    assert_eq!(alerts(&whole, "").await, Vec::<Value>::new(), "13 are more than 5");

    moved(&whole, "wh1", -8).await;
    until_told(&whole, 1, 1).await;
    let alert = alerts(&whole, "").await.remove(0);
    assert_eq!(
        (
            &alert["skuId"],
            &alert["threshold"],
            &alert["available"],
            &alert["recoveredAt"]
        ),
        (&json!("hot"), &json!(5), &json!(5), &Value::Null)
    );
    assert!(alert["crossedAt"].is_string());
    for delta in [-1, -1, 2] {
        moved(&whole, "wh2", delta).await;
        until_followed(&whole).await;
    }
    until_told(&whole, 1, 1).await;

    moved(&whole, "wh2", 1).await;
    until_told(&whole, 0, 1).await;
    moved(&whole, "wh2", -1).await;
    until_told(&whole, 1, 2).await;
    // A threshold that is moved past the stock is crossed as well.
    whole.put("/admin/skus/hot", sku(4)).await.expect(200);
    until_told(&whole, 0, 2).await;
    whole.put("/admin/skus/hot", sku(7)).await.expect(200);
    until_told(&whole, 1, 3).await;
    whole
        .put("/admin/skus/hot", json!({"display": "exact"}))
        .await
        .expect(200);
    until_told(&whole, 0, 3).await;

    // What is not offered is not there: three at wh2 are left.
    whole.put("/admin/skus/hot", sku(4)).await.expect(200);
    until_followed(&whole).await;
    assert_eq!(alerts(&whole, "open=true").await, Vec::<Value>::new());
    let closed = json!({"name": "wh1", "kind": "warehouse", "region": "eu", "active": false});
    whole.put("/admin/locations/wh1", closed).await.expect(200);
    until_told(&whole, 1, 4).await;
    assert_eq!(alerts(&whole, "open=true").await[0]["available"], 3);
    whole.put("/admin/locations/wh1", place("wh1")).await.expect(200);
    until_told(&whole, 0, 4).await;

    let first = whole
        .admin(Method::GET, "/admin/alerts?limit=2", None)
        .await
        .expect(200);
    let next = first["next"].as_i64().expect("there is more");
    assert_eq!(alerts(&whole, &format!("after={next}")).await.len(), 2);
    let bad = whole.admin(Method::GET, "/admin/alerts?limit=0", None).await;
    assert_eq!(
        (bad.problem(), &bad.body["field"]),
        ((400, "INVALID_REQUEST"), &json!("limit"))
    );
    whole.stop().await;
}
