//! Pages of events over HTTP: filters, images, cursors.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::door::{Buy, Door, until};
use crate::support::gateway::Whole;

/// The page, when it has at least so many events: other databases' transactions may hold the newest back for a while.
pub(super) async fn page(door: &Door, query: &str, at_least: usize) -> Value {
    let path = format!("/api/inventory/events?{query}");
    until("events", async || {
        let told = door.admin(Method::GET, &path, None).await.expect(200);
        (told["events"].as_array().map_or(0, Vec::len) >= at_least).then_some(told)
    })
    .await
}

pub(super) fn of(events: &Value, field: &str) -> Vec<Value> {
    let events = events["events"].as_array().expect("a list");
    events.iter().map(|event| event[field].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_tells_all_there_is_to_know() {
    let whole = Whole::open().await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let lost = json!({"skuId": "hot", "locationId": "wh1", "delta": -3, "reason": "lost", "referenceId": "r1"});
    let headers = [
        ("X-Operator", "ann"),
        ("traceparent", &format!("00-{trace}-b7ad6b7169203331-01")),
    ];
    let done = whole
        .admin_with(Method::POST, "/api/inventory/adjustments", lost, &headers)
        .await
        .expect(201);
    let mut event = page(&whole, "skuId=hot&type=inventory_adjusted", 1).await["events"][0].clone();
    let created = event.as_object_mut().expect("an object").remove("createdAt");
    assert!(created.is_some_and(|at| at.as_str().is_some_and(|at| at.len() == 24 && at.ends_with('Z'))));
    let image = |on_hand: i64| {
        json!({"onHand": on_hand, "reserved": 0, "unavailable": 0, "escrowed": 0, "sold": 0, "damaged": 0,
               "returned": 0})
    };
    assert_eq!(
        event,
        json!({"eventId": done["eventId"], "eventType": "inventory_adjusted", "skuId": "hot", "locationId": "wh1",
               "quantityDelta": -3, "before": image(100), "after": image(97), "reason": "lost", "referenceId": "r1",
               "reservationId": null, "orderId": null, "operator": "ann", "traceId": trace, "metadata": null})
    );
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_filter_finds_its_own_events_oldest_first() {
    let whole = Whole::empty().await;
    whole.sell("s1", 10, json!({})).await;
    whole.receive("cold", 5).await;
    let first = whole.reserve(&Buy::of("o1")).await.id();
    let second = whole.reserve(&Buy::of("o2").units(2)).await.id();
    whole.commit(&first).await.expect(200);
    whole.release(&second).await.expect(200);
    let one = page(&whole, "orderId=o1", 2).await;
    assert_eq!(of(&one, "eventType"), ["inventory_reserved", "inventory_committed"]);
    assert_eq!(page(&whole, &format!("reservationId={first}"), 2).await, one);
    assert_eq!(of(&one, "reservationId"), [json!(first), json!(first)]);
    let both = page(&whole, "skuId=hot&locationId=wh1&type=inventory_reserved", 2).await;
    assert_eq!(of(&both, "orderId"), ["o1", "o2"]);
    let all = page(&whole, "", 7).await;
    assert_eq!(page(&whole, "locationId=wh1", 7).await, all);
    let received = page(&whole, "type=inventory_received", 2).await;
    assert_eq!(of(&received, "skuId"), ["hot", "cold"]);
    assert_eq!(
        page(&whole, "locationId=wh1&type=inventory_received", 2).await,
        received
    );
    assert_eq!(of(&page(&whole, "skuId=cold", 1).await, "quantityDelta"), [5]);
    let ids: Vec<i64> = of(&all, "eventId").iter().filter_map(Value::as_i64).collect();
    assert!(ids.is_sorted() && all["next"].is_null(), "{ids:?}");
    for nothing in [
        "skuId=none",
        "locationId=wh9",
        "orderId=o9",
        "type=inventory_expired",
        &format!("orderId=o2&reservationId={first}"),
    ] {
        let told = page(&whole, nothing, 0).await;
        assert_eq!(
            (&told["events"], &told["next"]),
            (&json!([]), &json!(null)),
            "{nothing}"
        );
    }
    // Pages of two, and then from an event that the client remembers.
    let (mut walked, mut after) = (Vec::new(), String::new());
    loop {
        let told = page(&whole, &format!("limit=2{after}"), 0).await;
        walked.extend(of(&told, "eventId").iter().filter_map(Value::as_i64));
        let Some(next) = told["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(walked, ids);
    let rest = page(&whole, &format!("after={}", ids[3]), ids.len() - 4).await;
    assert_eq!(of(&rest, "eventId"), ids[4..]);
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_asked_of_the_ledger_is_named() {
    let whole = Whole::empty().await;
    for (query, field) in [
        ("skuId=", "skuId"),
        ("type=inventory_lost", "type"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("after=x", "after"),
        ("after=12345", "after"),
        ("reservationId=1", "reservationId"),
        ("colour=red", "colour"),
    ] {
        let told = whole
            .admin(Method::GET, &format!("/api/inventory/events?{query}"), None)
            .await;
        assert_eq!(
            (told.problem(), &told.body["field"]),
            ((400, "INVALID_REQUEST"), &json!(field)),
            "{query}"
        );
    }
    whole.stop().await;
}
