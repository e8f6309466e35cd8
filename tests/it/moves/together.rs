//! Everything that moves stock, at the same time and on the same items.

use serde_json::json;

use super::{open, post_as};
use crate::support::door::{Buy, PATIENCE, Told};
use crate::support::gateway::Whole;

/// Asks until there is an answer to keep: lanes may take longer than a correction waits for them.
async fn insist(mut ask: impl AsyncFnMut() -> Told) -> Told {
    let since = std::time::Instant::now();
    loop {
        let told = ask().await;
        let is_late = told.body["detail"]
            .as_str()
            .is_some_and(|text| text.contains("called back"));
        if told.status != 503 || !is_late || since.elapsed() > PATIENCE {
            return told;
        }
    }
}

async fn buyer(whole: &Whole, n: i64) {
    let id = whole.insist(&Buy::of(&format!("o{n}")).prefer("wait=30")).await;
    if id.status != 201 {
        assert_eq!(id.problem(), (409, "INSUFFICIENT_STOCK"));
        return;
    }
    let id = id.id();
    if n % 3 == 0 {
        whole.release(&id).await.expect(200);
        return;
    }
    whole.commit(&id).await.expect(200);
    let condition = if n % 2 == 0 { "sellable" } else { "damaged" };
    let body = json!({"returnId": format!("r{n}"), "condition": condition});
    whole
        .shop(&format!("/api/inventory/reservations/{id}/returns"), body)
        .await
        .expect(201);
}

async fn mover(whole: &Whole, n: i64) {
    let (from, to) = if n % 2 == 0 { ("wh1", "wh2") } else { ("wh2", "wh1") };
    let body = json!({"transferId": format!("t{n}"), "skuId": "hot", "fromLocationId": from, "toLocationId": to,
                      "quantity": 3});
    let told = whole.post("/api/inventory/transfers", body).await;
    assert!(matches!(told.status, 201 | 409), "{told:?}");
}

async fn corrector(whole: &Whole, n: i64) {
    let place = if n % 3 == 0 { "wh2" } else { "wh1" };
    let delta = match n % 4 {
        0 => -2,
        1 => 1,
        2 => -4,
        _ => 3,
    };
    let body = json!({"skuId": "hot", "locationId": place, "delta": delta, "reason": "cycle_count_correction",
                      "referenceId": format!("c{n}")});
    let told = insist(async || post_as(whole, "ann", "/api/inventory/adjustments", body.clone()).await).await;
    assert!(matches!(told.status, 201 | 409), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_movements_at_once_end_and_leave_the_books_right() {
    let whole = Whole::empty().await;
    whole.receive("hot", 20).await;
    whole.sell("s", 40, json!({"buckets": 2})).await;
    open(&whole, "wh2", true).await;
    let body = json!({"skuId": "hot", "locationId": "wh2", "delta": 20, "reason": "stock_received"});
    whole.post("/api/inventory/adjustments", body).await.expect(201);
    let buyers = futures::future::join_all((0..24).map(|n| buyer(&whole, n)));
    let movers = futures::future::join_all((0..24).map(|n| mover(&whole, n)));
    let correctors = futures::future::join_all((0..24).map(|n| corrector(&whole, n)));
    tokio::join!(buyers, movers, correctors);
    // Whatever was asked twice was done once.
    let twice: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT reference_id FROM inventory_movement WHERE reference_id LIKE 'c%'
             AND event_type = 'inventory_adjusted' GROUP BY reference_id HAVING count(*) > 1) AS twice",
    )
    .fetch_one(&whole.pool)
    .await
    .expect("reads");
    assert_eq!(twice, 0);
    whole.settled().await;
    whole.stop().await;
}
