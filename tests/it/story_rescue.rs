//! Payments that come after the expiry: the units are taken again under the old id, by whichever engine serves the
//! item, or the money goes back.

use serde_json::{Value, json};

use crate::support::door::{Door, until};
use crate::support::gateway::Whole;
use crate::support::socket::{RESERVATIONS, line, put_on_sale, resell, reserve};

/// A reservation that has expired.
async fn expired(door: &Door, order: &str, sku: &str, extra: Value) -> String {
    let mut body = line(order, sku, json!({"ttlSeconds": 1}));
    for (name, value) in extra.as_object().expect("an object") {
        body[name] = value.clone();
    }
    let made = reserve(door, &[("prefer", "wait=10")], &body).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let id = made.id();
    until("the expiry", async || {
        (door.reservation(&id).await.body["status"] == "EXPIRED").then_some(())
    })
    .await;
    id
}

async fn stock(door: &Door, sku: &str) -> (i64, i64, i64) {
    sqlx::query_as("SELECT on_hand, reserved, sold FROM inventory_balance WHERE sku_id = $1")
        .bind(sku)
        .fetch_one(&door.pool)
        .await
        .expect("a balance")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_payment_takes_the_units_of_a_live_sale_again() {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "a", 3, json!({"buckets": 2, "perUserLimit": 2})).await;
    let id = expired(
        &whole,
        "o1",
        "a",
        json!({"userId": "u1", "quantity": 2, "idemKey": "k1"}),
    )
    .await;
    let paid = whole
        .shop(&format!("{RESERVATIONS}/{id}/commit"), json!({"paymentId": "p1"}))
        .await
        .expect(200);
    assert_eq!(
        (&paid["status"], &paid["rescued"], &paid["paymentId"]),
        (&json!("COMMITTED"), &json!(true), &json!("p1"))
    );
    assert_eq!(paid["reservationId"], json!(id));
    let again = whole.commit(&id).await;
    assert_eq!((again.status, again.body["status"].as_str()), (200, Some("COMMITTED")));
    assert_eq!(stock(&whole, "a").await, (1, 0, 2));
    // The allowance counts what was bought late.
    let more = reserve(&whole, &[], &line("o2", "a", json!({"userId": "u1"}))).await;
    assert_eq!(more.problem(), (409, "USER_LIMIT_EXCEEDED".into()));
    whole.settled().await;
    let counts = &whole.sale("a").await["counts"];
    assert_eq!((&counts["committed"], &counts["expired"]), (&json!(2), &json!(2)));
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_payment_gets_nothing_that_is_another_s() {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "a", 2, json!({})).await;
    let id = expired(&whole, "o1", "a", json!({"quantity": 2})).await;
    let other = reserve(&whole, &[("prefer", "wait=10")], &line("o2", "a", json!({}))).await;
    assert_eq!(other.status, 201, "{}", other.text);
    let late = whole.commit(&id).await;
    assert_eq!(
        (late.problem(), &late.body["refundRequired"]),
        ((409, "RESERVATION_EXPIRED"), &json!(true))
    );
    assert_eq!(whole.reservation(&id).await.body["status"], "EXPIRED");
    // The units are free again, but the order has the item under another reservation by now.
    whole.release(&other.id()).await.expect(200);
    let anew = reserve(&whole, &[("prefer", "wait=10")], &line("o1", "a", json!({}))).await;
    assert_eq!(anew.status, 201, "{}", anew.text);
    let late = whole.commit(&id).await;
    assert_eq!(late.problem(), (409, "RESERVATION_EXPIRED"));
    whole.commit(&anew.id()).await.expect(200);
    whole.settled().await;
    assert_eq!(stock(&whole, "a").await, (1, 0, 1));
    whole.stop().await;
}

/// However many pay at once, the units are taken once.
#[tokio::test(flavor = "multi_thread")]
async fn many_late_payments_of_one_reservation_are_one() {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "a", 5, json!({})).await;
    let id = expired(&whole, "o1", "a", json!({"quantity": 2})).await;
    let told = futures::future::join_all((0..12).map(|_| whole.commit(&id))).await;
    assert!(told.iter().all(|told| told.status == 200), "{told:#?}");
    whole.settled().await;
    assert_eq!(stock(&whole, "a").await, (3, 0, 2));
    assert_eq!(whole.sale("a").await["remaining"], 3);
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_payment_is_served_by_the_engine_that_serves_the_item_by_then() {
    let whole = Whole::empty().await;
    whole.receive("a", 4).await;
    let off = expired(&whole, "o1", "a", json!({})).await;
    let rescued = whole.commit(&off).await.expect(200);
    assert_eq!(
        (&rescued["status"], &rescued["rescued"]),
        (&json!("COMMITTED"), &json!(true))
    );
    resell(&whole, "s", "a", 3, json!({})).await;
    let on = expired(&whole, "o2", "a", json!({})).await;
    whole.act("s", "stop").await.expect(200);
    let rescued = whole.commit(&on).await.expect(200);
    assert_eq!(
        (&rescued["status"], &rescued["rescued"]),
        (&json!("COMMITTED"), &json!(true))
    );
    whole.settled().await;
    assert_eq!(stock(&whole, "a").await, (2, 0, 2));
    whole.stop().await;
}
