//! Reserving, as the contract tells it: levels of acknowledgement, the location, the verb style, the trace.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::door::{PATIENCE, until};
use crate::support::gateway::Whole;
use crate::support::socket::{Heard, RESERVATIONS, line, post, put_on_sale, reserve, send};

fn instant(body: &Value, field: &str) -> DateTime<Utc> {
    let text = body[field].as_str().unwrap_or_default();
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z", "{field} of {body}");
    text.parse().expect("an instant")
}

fn level(heard: &Heard) -> (u16, Value, Value) {
    let body = heard.body();
    (heard.status, body["status"].clone(), body["ack"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_is_told_to_the_letter() {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "a", 10, json!({"holdSeconds": 600, "maxHoldSeconds": 1200})).await;
    let before = Utc::now();
    let heard = reserve(&whole, &[], &line("o1", "a", json!({"userId": "u9", "quantity": 2}))).await;
    assert_eq!(level(&heard), (201, json!("RESERVED"), json!("durable")));
    assert_eq!(heard.header("content-type"), Some("application/json"));
    assert_eq!(heard.header("idempotent-replayed"), None);
    let body = heard.body();
    let (created, expires) = (instant(&body, "createdAt"), instant(&body, "expiresAt"));
    assert_eq!(
        expires - created,
        chrono::TimeDelta::seconds(600),
        "the sale's holdSeconds"
    );
    assert!(
        (created - before).abs() < chrono::TimeDelta::seconds(5),
        "{before} {created}"
    );
    instant(&body, "updatedAt");
    let expected = json!({
        "reservationId": heard.id(), "orderId": "o1", "userId": "u9", "status": "RESERVED", "ack": "durable",
        "lines": [{"skuId": "a", "locationId": "wh1", "quantity": 2}],
        "skuId": "a", "locationId": "wh1", "quantity": 2,
        "expiresAt": body["expiresAt"], "createdAt": body["createdAt"], "updatedAt": body["updatedAt"],
    });
    assert_eq!(body, expected);
    let read = send(
        whole.public,
        Method::GET,
        &format!("{RESERVATIONS}/{}", heard.id()),
        &[],
        "",
    )
    .await;
    let mut read = read.body();
    read["updatedAt"] = body["updatedAt"].clone();
    assert_eq!(read, body, "GET shows the same");
    let own = reserve(&whole, &[], &line("o2", "a", json!({"ttlSeconds": 1200})))
        .await
        .body();
    assert_eq!(own.get("userId"), None, "the order is its own buyer");
    let hold = instant(&own, "expiresAt") - instant(&own, "createdAt");
    assert_eq!(hold, chrono::TimeDelta::seconds(1200), "as asked");
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wait_for_durable_ends_as_the_caller_prefers() {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "a", 100, json!({"ackWaitMs": 4_000})).await;
    // Until this ends, nothing becomes durable, and everything can be read.
    let mut hold = whole.pool.begin().await.expect("Postgres answers");
    sqlx::query("LOCK TABLE inventory_event IN SHARE ROW EXCLUSIVE MODE")
        .execute(&mut *hold)
        .await
        .expect("the lock is free");
    let timed = async |order: &str, prefer: Option<&str>| {
        let since = Instant::now();
        let headers: Vec<(&str, &str)> = prefer.map(|prefer| ("prefer", prefer)).into_iter().collect();
        let heard = reserve(&whole, &headers, &line(order, "a", json!({}))).await;
        assert_eq!(level(&heard), (202, json!("RESERVED"), json!("accepted")), "{prefer:?}");
        (since.elapsed(), heard)
    };
    let (took, first) = timed("o1", Some("wait=0.2")).await;
    assert!(took >= Duration::from_millis(200), "{took:?}");
    let (took, _) = timed("o2", Some("respond-async")).await;
    assert!(took < Duration::from_secs(4), "it is not waited for: {took:?}");
    let (took, _) = timed("o3", Some("wait=0")).await;
    assert!(took < Duration::from_secs(4), "it is not waited for: {took:?}");
    timed("o4", None).await;
    let (_, again) = timed("o1", Some("respond-async")).await;
    assert!(again.replayed(), "202 where it is not durable yet");
    assert_eq!(again.id(), first.id());
    let read = whole.reservation(&first.id()).await;
    assert_eq!((read.status, read.standing()), (200, "RESERVED accepted".to_owned()));
    let commit = whole.commit(&first.id()).await;
    assert_eq!(
        commit.problem(),
        (503, "LEDGER_UNAVAILABLE"),
        "endings answer only when durable"
    );
    assert!(commit.retry_after.is_some());
    hold.rollback().await.expect("the lock goes");
    until("a durable reservation", async || {
        (whole.reservation(&first.id()).await.standing() == "RESERVED durable").then_some(())
    })
    .await;
    let late = reserve(&whole, &[], &line("o1", "a", json!({}))).await;
    assert_eq!(
        (level(&late), late.replayed()),
        ((201, json!("RESERVED"), json!("durable")), true)
    );
    assert_eq!(late.id(), first.id());
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verb_style_is_the_same_calls() {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "a", 3, json!({"perUserLimit": 2})).await;
    let verb = json!({"orderId": "o1", "skuId": "a", "qty": 2, "idemKey": "k1", "userId": "u1"});
    let made = post(&whole, "/api/inventory/reserve", &[], &verb).await;
    assert_eq!(made.status, 201);
    assert_eq!(made.body(), json!({"reservationId": made.id(), "status": "RESERVED"}));
    let again = post(&whole, "/api/inventory/reserve", &[], &verb).await;
    assert_eq!((again.status, again.replayed(), again.id()), (201, true, made.id()));
    // The key is the resource style's too.
    let same = line(
        "o1",
        "a",
        json!({"locationId": null, "quantity": 2, "idemKey": "k1", "userId": "u1"}),
    );
    let same = reserve(&whole, &[], &same).await;
    assert_eq!((same.status, same.replayed(), same.id()), (201, true, made.id()));
    let other = json!({"orderId": "o1", "skuId": "a", "qty": 1, "idemKey": "k1", "userId": "u1"});
    let other = post(&whole, "/api/inventory/reserve", &[], &other).await;
    assert_eq!(other.problem(), (422, "IDEMPOTENCY_KEY_REUSED".into()));
    let more = json!({"orderId": "o2", "skuId": "a", "qty": 1, "userId": "u1"});
    let more = post(&whole, "/api/inventory/reserve", &[], &more).await;
    assert_eq!(more.problem(), (409, "USER_LIMIT_EXCEEDED".into()));
    let named = json!({"reservationId": made.id(), "paymentId": "p1", "idemKey": "c1"});
    let confirmed = post(&whole, "/api/inventory/confirm", &[], &named).await;
    assert_eq!(
        (confirmed.status, &confirmed.body()["status"]),
        (200, &json!("CONFIRMED"))
    );
    let verb = json!({"orderId": "o3", "skuId": "a", "qty": 1, "userId": "u2"});
    let second = post(&whole, "/api/inventory/reserve", &[], &verb).await;
    let late = json!({"orderId": "o4", "skuId": "a", "qty": 1, "userId": "u3"});
    let late = post(&whole, "/api/inventory/reserve", &[], &late).await;
    assert_eq!(late.problem(), (409, "INSUFFICIENT_STOCK".into()));
    let released = json!({"reservationId": second.id(), "reason": "dear", "idemKey": "r1"});
    let heard = post(&whole, "/api/inventory/release", &[], &released).await;
    assert_eq!((heard.status, &heard.body()["status"]), (200, &json!("RELEASED")));
    for path in ["confirm", "release"] {
        let unknown = json!({"reservationId": "nonsense"});
        let heard = post(&whole, &format!("/api/inventory/{path}"), &[], &unknown).await;
        assert_eq!(heard.problem(), (404, "UNKNOWN_RESERVATION".into()));
    }
    let late = post(
        &whole,
        "/api/inventory/confirm",
        &[],
        &json!({"reservationId": second.id()}),
    )
    .await;
    assert_eq!(late.problem(), (409, "RESERVATION_RELEASED".into()));
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_is_found_on_every_row_and_answer() {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "a", 10, json!({})).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let headers = [("traceparent", parent.as_str())];
    let made = reserve(&whole, &headers, &line("o1", "a", json!({}))).await;
    let id = made.id();
    let committed = post(
        &whole,
        &format!("{RESERVATIONS}/{id}/commit"),
        &headers,
        &json!({"paymentId": "p"}),
    )
    .await;
    let refused = reserve(&whole, &headers, &line("o1", "a", json!({"quantity": 0}))).await;
    for heard in [&made, &committed, &refused] {
        let told = heard.header("traceparent").unwrap_or_default();
        assert!(
            told.starts_with(&format!("00-{trace}-")) && told != parent,
            "our span below the caller's: {told}"
        );
    }
    assert_eq!(refused.body()["traceId"], trace);
    let events: Vec<(String, i64)> = sqlx::query_as(
        "SELECT event_type::text, quantity_delta FROM inventory_movement
         WHERE replace(trace_id::text, '-', '') = $1 AND order_id = 'o1' ORDER BY event_id",
    )
    .bind(trace)
    .fetch_all(&whole.pool)
    .await
    .expect("Postgres answers");
    let kinds: Vec<&str> = events.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["inventory_reserved", "inventory_committed"]);
    let row: String = sqlx::query_scalar("SELECT replace(trace_id::text, '-', '') FROM inventory_reservation")
        .fetch_one(&whole.pool)
        .await
        .expect("its row");
    assert_eq!(row, trace);
    // What is no trace is not taken for one.
    let zero = [("traceparent", "00-00000000000000000000000000000000-00f067aa0ba902b7-01")];
    let made = reserve(&whole, &zero, &line("o2", "a", json!({}))).await;
    let told = made.header("traceparent").unwrap_or_default();
    assert!(told.len() == 55 && !told.contains(&"0".repeat(32)), "{told}");
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_requests_under_one_key_make_one_reservation() {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "a", 50, json!({"buckets": 4})).await;
    let body = line("o1", "a", json!({"userId": "u1", "quantity": 2, "idemKey": "k"}));
    let asks = (0..200).map(|_| async {
        let since = Instant::now();
        loop {
            let told = whole.shop(RESERVATIONS, body.clone()).await;
            if told.status != 503 {
                return told;
            }
            assert!(since.elapsed() < PATIENCE, "{told:?}");
        }
    });
    let all = futures::future::join_all(asks).await;
    let first = all[0].id();
    for told in &all {
        assert!(matches!(told.status, 201 | 202), "{told:?}");
        assert_eq!(told.id(), first);
    }
    assert_eq!(
        all.iter().filter(|told| !told.replayed).count(),
        1,
        "one of them made it"
    );
    let sale = whole.sale("a").await;
    assert_eq!(
        (&sale["remaining"], &sale["counts"]["accepted"]),
        (&json!(48), &json!(2))
    );
    whole.settled().await;
    whole.stop().await;
}
