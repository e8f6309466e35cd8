//! Corrections of stock that a sale has set aside.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{post_as, stock, while_stopping};
use crate::support::door::{Buy, Told};
use crate::support::gateway::Whole;

async fn correct(whole: &Whole, delta: i64, reason: &str) -> Told {
    let body = json!({"skuId": "hot", "locationId": "wh1", "delta": delta, "reason": reason, "referenceId": "c1"});
    post_as(whole, "ann", "/api/inventory/adjustments", body).await
}

/// A live sale of all 100 units, in two lanes, 10 of them reserved.
async fn selling() -> Whole {
    let whole = Whole::empty().await;
    whole.sell("s", 100, json!({"buckets": 2})).await;
    for n in 0..10 {
        whole
            .reserve(&Buy::of(&format!("o{n}")).prefer("wait=30"))
            .await
            .expect(201);
    }
    whole
}

impl Told {
    fn taken(&self) -> (u16, &Value, &Value) {
        (
            self.status,
            &self.body["after"]["onHand"],
            &self.body["after"]["escrowed"],
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn units_of_a_live_sale_are_called_back_before_they_are_written_off() {
    let whole = selling().await;
    let told = correct(&whole, -70, "lost").await;
    assert_eq!(told.taken(), (201, &json!(30), &json!(20)), "{}", told.body);
    let sale = whole.sale("s").await;
    assert_eq!((&sale["allocation"], &sale["state"]), (&json!(30), &json!("live")));
    let again = correct(&whole, -70, "lost").await;
    assert_eq!((again.replayed, again.body), (true, told.body));
    // What is left is still sold, to the last unit.
    for n in 10..30 {
        whole
            .reserve(&Buy::of(&format!("o{n}")).prefer("wait=30"))
            .await
            .expect(201);
    }
    let none = whole.reserve(&Buy::of("late")).await;
    assert_eq!(none.problem(), (409, "INSUFFICIENT_STOCK"));
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_buyers_hold_is_never_written_off() {
    let whole = selling().await;
    let told = correct(&whole, -91, "manual_correction").await;
    assert_eq!(told.problem(), (409, "INSUFFICIENT_STOCK"));
    for (field, units) in [("reserved", 10), ("escrowed", 90), ("available", 0), ("unavailable", 0)] {
        assert_eq!(told.body[field], units, "{field} in {}", told.body);
    }
    assert_eq!(stock(&whole, "wh1").await["onHand"], 100);
    // The rest of the sale is there as before; damage takes all of it.
    let told = correct(&whole, -90, "damaged").await;
    assert_eq!(told.taken(), (201, &json!(100), &json!(0)), "{}", told.body);
    assert_eq!(told.body["after"]["unavailable"], 90);
    let none = whole.reserve(&Buy::of("late")).await;
    assert_eq!(none.problem(), (409, "INSUFFICIENT_STOCK"));
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_correction_waits_for_a_sale_that_is_being_stopped() {
    let whole = selling().await;
    let (early, waited) = while_stopping(&whole, async {
        let since = Instant::now();
        (correct(&whole, -50, "lost").await, since.elapsed())
    })
    .await;
    assert_eq!(early.problem(), (503, "STOCK_UNAVAILABLE"), "{}", early.body);
    assert!(waited >= Duration::from_secs(1), "it gave the stop {waited:?}");
    // The same under the same reference: nothing came of the first.
    let told = correct(&whole, -50, "lost").await;
    assert_eq!(
        (told.replayed, told.taken()),
        (false, (201, &json!(50), &json!(0))),
        "{}",
        told.body
    );
    let none = correct(&whole, -41, "damaged").await;
    assert_eq!(none.problem(), (409, "INSUFFICIENT_STOCK"));
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_calls_units_back_from_a_live_sale() {
    let whole = Whole::empty().await;
    whole.receive("hot", 30).await;
    let mut paths = Vec::new();
    for (reference, delta) in [("s1", 40), ("s2", 30)] {
        let body = json!({"skuId": "hot", "locationId": "wh1", "delta": delta, "reason": "stock_received",
                          "referenceId": reference});
        let wrong = whole.post("/api/inventory/adjustments", body).await.expect(201);
        paths.push(format!("/admin/events/{}/undo", wrong["eventId"]));
    }
    let sale = json!({"saleId": "s", "skuId": "hot", "locationId": "wh1", "allocation": 100, "buckets": 2});
    whole.post("/admin/sales", sale).await.expect(201);
    whole.act("s", "start").await.expect(200);
    for n in 0..4 {
        let buy = Buy::of(&format!("o{n}")).units(10).prefer("wait=30");
        whole.reserve(&buy).await.expect(201);
    }
    let told = post_as(&whole, "ann", &paths[0], json!({})).await;
    assert_eq!(told.taken(), (201, &json!(60), &json!(20)), "{}", told.body);
    let sale = whole.sale("s").await;
    assert_eq!((&sale["allocation"], &sale["state"]), (&json!(60), &json!("live")));
    let again = post_as(&whole, "ann", &paths[0], json!({})).await;
    assert_eq!((again.replayed, again.body), (true, told.body));
    // What buyers hold is never undone.
    let none = post_as(&whole, "ann", &paths[1], json!({})).await;
    assert_eq!(none.problem(), (409, "INSUFFICIENT_STOCK"));
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_waits_for_a_sale_that_is_being_stopped() {
    let whole = Whole::empty().await;
    whole.receive("hot", 30).await;
    let body = json!({"skuId": "hot", "locationId": "wh1", "delta": 40, "reason": "stock_received",
                      "referenceId": "s1"});
    let wrong = whole.post("/api/inventory/adjustments", body).await.expect(201);
    let path = format!("/admin/events/{}/undo", wrong["eventId"]);
    let sale = json!({"saleId": "s", "skuId": "hot", "locationId": "wh1", "allocation": 70});
    whole.post("/admin/sales", sale).await.expect(201);
    whole.act("s", "start").await.expect(200);
    let early = while_stopping(&whole, post_as(&whole, "ann", &path, json!({}))).await;
    assert_eq!(early.problem(), (503, "STOCK_UNAVAILABLE"), "{}", early.body);
    let told = post_as(&whole, "ann", &path, json!({})).await;
    assert_eq!(told.taken(), (201, &json!(30), &json!(0)), "{}", told.body);
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sale_has_not_granted_yet_leaves_it_at_once() {
    let whole = Whole::open().await;
    let sale = json!({"saleId": "s", "skuId": "hot", "locationId": "wh1", "allocation": 80});
    whole.post("/admin/sales", sale).await.expect(201);
    let told = correct(&whole, -50, "lost").await;
    assert_eq!(told.taken(), (201, &json!(50), &json!(50)), "{}", told.body);
    whole.act("s", "start").await.expect(200);
    assert_eq!(whole.sale("s").await["remaining"], 50);
    whole.act("s", "stop").await.expect(200);
    whole.settled().await;
    whole.stop().await;
}
