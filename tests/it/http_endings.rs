//! Commit, release, extend and reads over HTTP, for reservations that are durable.

use flashgate::domain::key::{Fingerprint, KeyHash};
use flashgate::domain::reservation_id::ReservationId;
use serde_json::{Value, json};

use crate::support::shop::{Shop, Wish, commit, release};
use crate::support::web::{Answer, Web};

fn path(id: ReservationId, verb: &str) -> String {
    format!("/api/inventory/reservations/{id}/{verb}")
}

async fn get(web: &Web, id: ReservationId) -> Value {
    let answer = web.get(&format!("/api/inventory/reservations/{id}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

/// Status, `status` and whether it was marked as given before.
fn told(answer: &Answer) -> (u16, &str, bool) {
    let status = answer.body["status"].as_str().unwrap_or("a problem");
    (answer.status.as_u16(), status, answer.replayed)
}

#[tokio::test]
async fn a_reservation_reads_as_the_contract_says() {
    let shop = Shop::open().await;
    let web = Web::open(&shop).await;
    let id = shop.reserve(Wish::default()).await;
    let body = get(&web, id).await;
    let row = shop
        .ledger
        .reservation(id)
        .await
        .expect("Postgres answers")
        .expect("there");
    let expected = json!({
        "reservationId": id.to_string(), "orderId": "o1", "userId": "u9", "status": "RESERVED", "ack": "durable",
        "lines": [{"skuId": "sku1", "locationId": "wh1", "quantity": 2}],
        "skuId": "sku1", "locationId": "wh1", "quantity": 2,
        "expiresAt": row.expires_at.to_string(), "createdAt": row.created_at.to_string(),
        "updatedAt": row.updated_at.to_string(),
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn committing_twice_answers_twice_and_counts_once() {
    let shop = Shop::open().await;
    let web = Web::open(&shop).await;
    let id = shop.reserve(Wish::default()).await;
    let headers = [
        ("X-Operator", "ann"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    let first = web
        .post_with(&path(id, "commit"), &headers, json!({"paymentId": "p1"}))
        .await;
    assert_eq!(told(&first), (200, "COMMITTED", false));
    let second = web.post(&path(id, "commit"), json!({"paymentId": "p2"})).await;
    assert_eq!(told(&second), (200, "COMMITTED", true));
    assert_eq!(
        (&second.body["paymentId"], &second.body["quantity"]),
        (&json!("p1"), &json!(2))
    );
    assert_eq!(shop.tally().await, (2, 0, 0));
    let event = "SELECT count(*) FROM inventory_movement WHERE operator IS NULL
        AND trace_id = '0af7651916cd43dd8448eb211c80319c'";
    assert_eq!(
        shop.number(event).await,
        1,
        "who calls checkout can't sign as an operator"
    );
    let lone = web
        .post(&path(shop.reserve(Wish::default()).await, "commit"), json!({}))
        .await;
    assert_eq!(told(&lone), (200, "COMMITTED", false));
    assert_eq!(lone.body.get("paymentId"), None);
}

#[tokio::test]
async fn an_explicit_key_is_for_one_request() {
    let shop = Shop::open().await;
    let web = Web::open(&shop).await;
    let id = shop.reserve(Wish::default()).await;
    let header = [("Idempotency-Key", "\"k1\"")];
    let first = web
        .post_with(&path(id, "commit"), &header, json!({"paymentId": "p1"}))
        .await;
    assert_eq!(told(&first), (200, "COMMITTED", false));
    let same = web
        .post(&path(id, "commit"), json!({"paymentId": "p1", "idemKey": "k1"}))
        .await;
    assert_eq!(told(&same), (200, "COMMITTED", true));
    let other = web
        .post_with(&path(id, "commit"), &header, json!({"paymentId": "p2"}))
        .await;
    assert_eq!(other.problem(), (422, "IDEMPOTENCY_KEY_REUSED"));
    let two = web
        .post_with(&path(id, "commit"), &header, json!({"idemKey": "k2"}))
        .await;
    assert_eq!(two.problem(), (400, "INVALID_REQUEST"));
    let verb = json!({"reservationId": id.to_string(), "paymentId": "p1", "idemKey": "k1"});
    let same = web.post("/api/inventory/confirm", verb).await;
    assert_eq!(told(&same), (200, "CONFIRMED", true), "the verb is the same call");
    let fingerprint = Fingerprint::of(&[&id.to_string(), "p1"]);
    let keys = shop
        .ledger
        .find_keys(&[KeyHash::explicit("commit", "k1")])
        .await
        .expect("Postgres answers");
    assert_eq!((keys[0].reservation, keys[0].fingerprint), (id, fingerprint));
}

#[tokio::test]
async fn a_release_says_whether_its_units_are_back() {
    let shop = Shop::open().await;
    let web = Web::open(&shop).await;
    let id = shop.reserve(Wish::default()).await;
    let first = web
        .post(&path(id, "release"), json!({"reason": "changed my mind"}))
        .await;
    assert_eq!(told(&first), (200, "RELEASED", false));
    assert_eq!(first.body["restocked"], json!(false), "no granter runs here");
    let body = get(&web, id).await;
    assert_eq!(body["status"], "RELEASED");
    // As when its delivery has become durable.
    shop.sql("DELETE FROM lane_grant").await;
    let second = web
        .post("/api/inventory/release", json!({"reservationId": id.to_string()}))
        .await;
    assert_eq!(told(&second), (200, "RELEASED", true));
    assert_eq!(second.body.get("restocked"), None);
}

#[tokio::test]
async fn each_refusal_has_its_code() {
    let shop = Shop::open().await;
    let web = Web::open(&shop).await;
    let lapsed = Wish {
        created_ms: -900_000,
        expires_ms: -1,
        ..Wish::default()
    };
    let expired = shop.reserve(lapsed).await;
    shop.ledger.expire_due(10).await.expect("Postgres answers");
    shop.sql("DELETE FROM lane_grant").await;
    let (released, committed, rejected, frozen) = (
        shop.reserve(Wish::default()).await,
        shop.reserve(Wish::default()).await,
        shop.reserve(Wish::default()).await,
        shop.reserve(Wish::default()).await,
    );
    shop.end(release(released)).await;
    shop.end(commit(committed, "p")).await;
    let more_time = || json!({"ttlSeconds": 60});
    // Its sale is over, and nothing is left on the shelf.
    shop.sql(&format!(
        "UPDATE inventory_reservation SET status = 'REJECTED', cause = 'surplus' WHERE reservation_id = '{}';
         UPDATE sale SET state = 'ended', drained = true;
         UPDATE inventory_balance SET on_hand = reserved + unavailable + escrowed",
        rejected.0
    ))
    .await;
    let late = web.post(&path(expired, "commit"), json!({})).await;
    assert_eq!(
        (late.problem(), &late.body["refundRequired"]),
        ((409, "RESERVATION_EXPIRED"), &json!(true))
    );
    let verb = json!({"reservationId": expired.to_string(), "paymentId": "p"});
    assert_eq!(
        web.post("/api/inventory/confirm", verb).await.problem(),
        (409, "RESERVATION_EXPIRED")
    );
    shop.sql("UPDATE sale SET state = 'frozen', thaws_to = 'live', frozen_at = now(), drained = false")
        .await;
    for (id, verb, body, expected) in [
        (expired, "commit", json!({}), "SALE_FROZEN"),
        (expired, "extend", more_time(), "RESERVATION_EXPIRED"),
        (released, "commit", json!({}), "RESERVATION_RELEASED"),
        (released, "extend", more_time(), "RESERVATION_RELEASED"),
        (committed, "release", json!({}), "RESERVATION_COMMITTED"),
        (committed, "extend", more_time(), "RESERVATION_COMMITTED"),
        (rejected, "commit", json!({}), "RESERVATION_REJECTED"),
        (rejected, "release", json!({}), "RESERVATION_REJECTED"),
        (rejected, "extend", more_time(), "RESERVATION_REJECTED"),
        (frozen, "commit", json!({}), "SALE_FROZEN"),
        (frozen, "extend", more_time(), "SALE_FROZEN"),
    ] {
        let answer = web.post(&path(id, verb), body).await;
        assert_eq!(answer.problem(), (409, expected), "{verb}");
        assert_eq!(answer.body.get("refundRequired"), None, "{verb}");
        let cause = (id == rejected).then_some(json!("surplus"));
        assert_eq!(answer.body.get("cause"), cause.as_ref(), "{verb}");
    }
    let body = get(&web, rejected).await;
    assert_eq!(
        (&body["status"], &body["cause"]),
        (&json!("REJECTED"), &json!("surplus"))
    );
    let lapsed = web.post(&path(expired, "release"), json!({})).await;
    assert_eq!(told(&lapsed), (200, "EXPIRED", false), "nothing is held either way");
}

#[tokio::test]
async fn an_extension_answers_with_the_deadline() {
    let shop = Shop::open().await;
    let web = Web::open(&shop).await;
    let id = shop.reserve(Wish::default()).await;
    let longer = web
        .post(&path(id, "extend"), json!({"ttlSeconds": 1800, "reason": "bank"}))
        .await;
    assert_eq!(told(&longer), (200, "RESERVED", false));
    let given = "SELECT extract(epoch FROM expires_at - clock_timestamp())::int8 FROM inventory_reservation";
    let given = shop.number(given).await;
    assert!((1795..=1800).contains(&given), "{given}");
    assert_eq!(longer.body["expiresAt"], get(&web, id).await["expiresAt"]);
    for (body, field) in [
        (json!({}), "ttlSeconds"),
        (json!({"ttlSeconds": 0}), "ttlSeconds"),
        (json!({"ttlSeconds": -1}), "ttlSeconds"),
        (json!({"ttlSeconds": 1.5}), "ttlSeconds"),
        (json!({"ttlSeconds": 10_000_000}), "ttlSeconds"),
        (json!({"ttlSeconds": 60, "reason": "a\u{0}b"}), "reason"),
        (json!({"ttlSeconds": 60, "idemKey": "k"}), "idemKey"),
    ] {
        let answer = web.post(&path(id, "extend"), body).await;
        assert_eq!(answer.problem(), (400, "INVALID_REQUEST"));
        assert_eq!(answer.body["field"], field);
    }
}
