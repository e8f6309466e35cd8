//! A wrong adjustment, taken back.

use reqwest::Method;
use serde_json::{Value, json};

use super::pages::page;
use crate::reconciliation::{COUNTS, count, moment};
use crate::support::door::Buy;
use crate::support::gateway::Whole;

async fn adjust(whole: &Whole, delta: i64, reason: &str) -> Value {
    let body = json!({"skuId": "hot", "locationId": "wh1", "delta": delta, "reason": reason, "referenceId": "slip-7"});
    whole.post("/api/inventory/adjustments", body).await.expect(201)
}

fn undo_path(event: &Value) -> String {
    format!("/admin/events/{event}/undo")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_names_what_it_takes_back_and_happens_once() {
    let whole = Whole::open().await;
    for (delta, reason) in [
        (-7, "damaged"),
        (40, "manual_correction"),
        (3, "return_processed"),
        (-2, "lost"),
    ] {
        let wrong = adjust(&whole, delta, reason).await;
        let path = undo_path(&wrong["eventId"]);
        let undo = whole.post(&path, json!({"note": "typo"})).await.expect(201);
        assert_eq!(
            (&undo["before"], &undo["after"]),
            (&wrong["after"], &wrong["before"]),
            "{reason}"
        );
        let again = whole.post(&path, json!({})).await;
        assert!(again.replayed);
        assert_eq!(again.expect(201), undo);
        let told = page(&whole, &format!("after={}", wrong["eventId"]), 1).await;
        let event = &told["events"][0];
        assert_eq!(event["metadata"], json!({"undoes": wrong["eventId"], "note": "typo"}));
        assert_eq!(
            (&event["eventId"], &event["quantityDelta"], &event["referenceId"]),
            (&undo["eventId"], &json!(-delta), &json!("slip-7"))
        );
        let undone = whole.post(&undo_path(&undo["eventId"]), json!({})).await;
        assert_eq!(undone.problem(), (409, "NOT_UNDOABLE"));
    }
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_at_once_undo_it_once() {
    let whole = Whole::open().await;
    let wrong = adjust(&whole, 40, "manual_correction").await;
    let path = undo_path(&wrong["eventId"]);
    let told = futures::future::join_all((0..10).map(|_| whole.post(&path, json!({})))).await;
    let first: Vec<_> = told.iter().filter(|told| !told.replayed).collect();
    assert_eq!(first.len(), 1, "{told:?}");
    for told in &told {
        assert_eq!((told.status, &told.body), (201, &first[0].body));
    }
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_s_key_is_for_one_event() {
    let whole = Whole::open().await;
    let wrong = adjust(&whole, 40, "manual_correction").await;
    let mut events = Vec::new();
    for reference in ["slip-8", "slip-9"] {
        let body = json!({"skuId": "hot", "locationId": "wh1", "delta": 1, "reason": "manual_correction",
                          "referenceId": reference});
        let told = whole.post("/api/inventory/adjustments", body).await.expect(201);
        events.push(told["eventId"].clone());
    }
    let undo = async |event: &Value, key: &str| {
        whole
            .admin_with(Method::POST, &undo_path(event), json!({}), &[("Idempotency-Key", key)])
            .await
    };
    let first = undo(&events[0], "k1").await;
    let again = undo(&events[0], "k1").await;
    assert_eq!((first.replayed, again.replayed), (false, true));
    assert_eq!(again.expect(201), first.expect(201));
    assert_eq!(undo(&events[1], "k1").await.problem(), (422, "IDEMPOTENCY_KEY_REUSED"));
    // A key of what was undone before is kept with that answer; one of what was refused is free.
    assert!(undo(&events[0], "k2").await.replayed);
    assert_eq!(undo(&events[1], "k2").await.problem(), (422, "IDEMPOTENCY_KEY_REUSED"));
    assert_eq!(undo(&json!(9_999_999), "k3").await.problem(), (404, "UNKNOWN_EVENT"));
    undo(&wrong["eventId"], "k3").await.expect(201);
    undo(&events[1], "k4").await.expect(201);
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_takes_nothing_that_is_promised() {
    let whole = Whole::empty().await;
    whole.receive("hot", 10).await;
    let wrong = adjust(&whole, 5, "stock_received").await;
    whole.reserve(&Buy::of("o1").units(11)).await.expect(201);
    // What the sale has would not be enough.
    let sale = json!({"saleId": "s1", "skuId": "hot", "locationId": "wh1", "allocation": 1});
    whole.post("/admin/sales", sale).await.expect(201);
    let told = whole.post(&undo_path(&wrong["eventId"]), json!({})).await;
    assert_eq!(told.problem(), (409, "INSUFFICIENT_STOCK"));
    assert_eq!(
        (&told.body["available"], &told.body["reserved"], &told.body["escrowed"]),
        (&json!(3), &json!(11), &json!(1))
    );
    let events = page(&whole, "skuId=hot", 4).await;
    for other in [2, 3] {
        let path = undo_path(&events["events"][other]["eventId"]);
        assert_eq!(whole.post(&path, json!({})).await.problem(), (409, "NOT_UNDOABLE"));
    }
    let none = json!(9_999_999);
    assert_eq!(
        whole.post(&undo_path(&none), json!({})).await.problem(),
        (404, "UNKNOWN_EVENT")
    );
    let told = whole.post("/admin/events/x/undo", json!({})).await;
    assert_eq!(
        (told.problem(), &told.body["field"]),
        ((400, "INVALID_REQUEST"), &json!("eventId"))
    );
    whole.settled().await;
    whole.stop().await;
}

/// The shelf was counted, and the balance made what was found: to take the wrong adjustment back too would be wrong again.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_count_has_put_right_is_not_undone_as_well() {
    let whole = Whole::open().await;
    let wrong = adjust(&whole, 5, "manual_correction").await;
    let broken = adjust(&whole, -3, "damaged").await;
    let large = adjust(&whole, 2_000, "stock_received").await;
    let waiting = whole.post(&undo_path(&large["eventId"]), json!({})).await.expect(202);
    let at = moment(&whole).await;
    let later = adjust(&whole, -4, "lost").await;
    let body = count("c1", &at, &[("hot", 2_100)]);
    let told = whole.post(COUNTS, body).await.expect(201);
    assert_eq!(told["discrepancies"][0]["status"], "corrected", "{told}");
    let refused = whole.post(&undo_path(&wrong["eventId"]), json!({})).await;
    assert_eq!(
        (refused.problem(), &refused.body["countedAt"]),
        ((409, "NOT_UNDOABLE"), &json!(at))
    );
    let path = format!(
        "/admin/approvals/{}/approve",
        waiting["approvalId"].as_str().expect("an id")
    );
    let refused = whole
        .admin_with(Method::POST, &path, json!({}), &[("X-Operator", "bob")])
        .await;
    assert_eq!(
        (refused.problem(), &refused.body["countedAt"]),
        ((409, "NOT_UNDOABLE"), &json!(at))
    );
    // What the count does not tell, or came later, is undone.
    for (event, left) in [(&broken, 2_096), (&later, 2_100)] {
        let undo = whole.post(&undo_path(&event["eventId"]), json!({})).await.expect(201);
        assert_eq!(undo["after"]["onHand"], left, "{undo}");
    }
    whole.settled().await;
    whole.stop().await;
}
