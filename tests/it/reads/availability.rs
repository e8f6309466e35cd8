//! Availability: what a listing page shows of many SKUs.

use serde_json::{Value, json};

use crate::support::door::until;
use crate::support::gateway::Whole;

async fn receive(whole: &Whole, sku: &str, location: &str, units: i64) {
    let body = json!({"skuId": sku, "locationId": location, "delta": units, "reason": "stock_received"});
    whole.post("/api/inventory/adjustments", body).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_shows_what_there_is_and_how_soon() {
    let whole = Whole::empty().await;
    for (id, kind, hours, active) in [
        ("wh1", "warehouse", json!(49), true),
        ("shop", "store", json!(2), true),
        ("shut", "store", json!(0), false),
        ("wh2", "warehouse", Value::Null, true),
    ] {
        let mut place = json!({"name": id, "kind": kind, "region": "eu", "active": active});
        if !hours.is_null() {
            place["handlingHours"] = hours;
        }
        whole.put(&format!("/admin/locations/{id}"), place).await.expect(200);
    }
    for (sku, body) in [
        ("plenty", json!({"display": "exact", "lowStockThreshold": 5})),
        ("few", json!({"display": "exact", "lowStockThreshold": 5})),
        ("none", json!({"display": "exact", "lowStockThreshold": 5})),
        ("coarse", json!({"display": "limited"})),
        ("gone", json!({"display": "limited"})),
    ] {
        whole.put(&format!("/admin/skus/{sku}"), body).await.expect(200);
    }
    receive(&whole, "plenty", "wh1", 10).await;
    receive(&whole, "plenty", "shop", 2).await;
    receive(&whole, "few", "wh2", 3).await;
    receive(&whole, "none", "shut", 50).await;
    receive(&whole, "coarse", "wh1", 1_000).await;
    let path = "/api/inventory/availability?skuIds=plenty,few,none,coarse,gone,unknown";
    let expected = json!([
        {"skuId": "plenty", "display": "in_stock", "available": 12, "deliveryDays": 1},
        {"skuId": "few", "display": "limited", "available": 3},
        {"skuId": "none", "display": "sold_out", "available": 0},
        {"skuId": "coarse", "display": "limited", "deliveryDays": 3},
        {"skuId": "gone", "display": "sold_out"},
    ]);
    let strong = whole.get(&format!("{path}&consistency=strong")).await.expect(200);
    assert_eq!(strong["items"], expected);
    assert!(strong["asOf"].is_string());
    until("the listing", async || {
        let told = whole.get(path).await.expect(200);
        (told["items"] == expected).then_some(())
    })
    .await;
    let at = async |location: &str| {
        let path = format!("/api/inventory/availability?skuIds=plenty,few&locationId={location}&consistency=strong");
        whole.get(&path).await
    };
    assert_eq!(
        at("shop").await.expect(200)["items"],
        json!([
            {"skuId": "plenty", "display": "limited", "available": 2, "deliveryDays": 1},
            {"skuId": "few", "display": "sold_out", "available": 0},
        ])
    );
    assert_eq!(at("wh9").await.problem(), (404, "UNKNOWN_LOCATION"));
    let many = (0..101).map(|n| format!("s{n}")).collect::<Vec<_>>().join(",");
    for (query, field) in [
        ("", "skuIds"),
        ("skuIds=", "skuIds"),
        ("skuIds=a,,b", "skuIds"),
        (&format!("skuIds={many}"), "skuIds"),
        ("skuIds=a&locationId=", "locationId"),
        ("skuIds=a&x=1", "x"),
    ] {
        let told = whole.get(&format!("/api/inventory/availability?{query}")).await;
        assert_eq!(told.problem(), (400, "INVALID_REQUEST"), "{query}");
        assert_eq!(told.body["field"], field, "{query}: {}", told.body);
    }
    whole.stop().await;
}
