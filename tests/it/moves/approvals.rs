//! Adjustments that one person may not make alone.

use reqwest::Method;
use serde_json::{Value, json};

use super::{post_as, stock, while_stopping};
use crate::support::door::{Buy, Told};
use crate::support::gateway::Whole;

const ADJUSTMENTS: &str = "/api/inventory/adjustments";

fn change(delta: i64, reason: &str, reference: &str) -> Value {
    json!({"skuId": "hot", "locationId": "wh1", "delta": delta, "reason": reason, "referenceId": reference,
           "note": "counted twice"})
}

async fn decide(whole: &Whole, person: &str, id: &str, word: &str) -> Told {
    let path = format!("/admin/approvals/{id}/{word}");
    post_as(whole, person, &path, json!({"note": "seen it"})).await
}

/// 5,000 units, and ann's wish to write 2,000 of them off.
async fn asked() -> (Whole, String) {
    let whole = Whole::empty().await;
    whole.receive("hot", 5_000).await;
    let told = post_as(&whole, "ann", ADJUSTMENTS, change(-2_000, "lost", "l1"))
        .await
        .expect(202);
    let id = told["approvalId"].as_str().expect("an id").to_owned();
    (whole, id)
}

async fn on_hand(whole: &Whole) -> Value {
    stock(whole, "wh1").await["onHand"].clone()
}

/// Who asked for the change of this event, and who agreed to it.
async fn people(whole: &Whole, event_id: &Value) -> Value {
    sqlx::query_scalar(
        "SELECT jsonb_build_object('operator', operator, 'metadata', metadata) FROM inventory_movement
         WHERE event_id = $1",
    )
    .bind(event_id.as_i64())
    .fetch_one(&whole.pool)
    .await
    .expect("the event")
}

/// A key stands for one decision: where it is sent along with another, nothing is decided.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_decides_one_approval() {
    let (whole, first) = asked().await;
    let told = post_as(&whole, "ann", ADJUSTMENTS, change(-1_500, "lost", "l2"))
        .await
        .expect(202);
    let second = told["approvalId"].as_str().expect("an id");
    let bob = [("X-Operator", "bob"), ("Idempotency-Key", "k")];
    let decide = async |id: &str, action: &str, body: Value| {
        whole
            .admin_with(Method::POST, &format!("/admin/approvals/{id}/{action}"), body, &bob)
            .await
    };
    for replayed in [false, true] {
        let told = decide(&first, "approve", json!({})).await;
        assert_eq!(told.replayed, replayed, "{told:?}");
        assert_eq!(told.expect(200)["status"], "APPROVED");
    }
    for (id, body) in [(second, json!({})), (&first, json!({"note": "another"}))] {
        let told = decide(id, "approve", body).await;
        assert_eq!(told.problem(), (422, "IDEMPOTENCY_KEY_REUSED"));
    }
    assert_eq!(on_hand(&whole).await, 3_000);
    decide(second, "reject", json!({})).await.expect(200);
    let told = decide(&first, "reject", json!({})).await;
    assert_eq!(told.problem(), (422, "IDEMPOTENCY_KEY_REUSED"));
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_change_waits_for_a_second_person_and_is_made_once() {
    let (whole, id) = asked().await;
    assert_eq!(on_hand(&whole).await, 5_000);
    let again = post_as(&whole, "ann", ADJUSTMENTS, change(-2_000, "lost", "l1")).await;
    assert_eq!(
        (
            again.status,
            again.replayed,
            &again.body["approvalId"],
            &again.body["status"]
        ),
        (202, true, &json!(id), &json!("PENDING_APPROVAL"))
    );
    let other = post_as(&whole, "ann", ADJUSTMENTS, change(-2_001, "lost", "l1")).await;
    assert_eq!(other.problem(), (422, "IDEMPOTENCY_KEY_REUSED"));

    let listed = whole
        .admin(Method::GET, "/admin/approvals?status=PENDING", None)
        .await
        .expect(200);
    let found = &listed["approvals"][0];
    assert_eq!(listed["approvals"].as_array().map(Vec::len), Some(1));
    for (field, value) in [
        ("status", json!("PENDING")),
        ("operator", json!("ann")),
        ("note", json!("counted twice")),
        ("why", json!("size")),
        ("delta", json!(-2_000)),
        ("reason", json!("lost")),
        ("referenceId", json!("l1")),
    ] {
        assert_eq!(found[field], value, "{field}");
    }
    assert_eq!(
        (&found["before"]["onHand"], &found["after"]["onHand"]),
        (&json!(5_000), &json!(3_000))
    );

    assert_eq!(
        decide(&whole, "ann", &id, "approve").await.problem(),
        (403, "SAME_PERSON")
    );
    let unknown = "00000000-0000-0000-0000-000000000000";
    for id in [unknown, "x"] {
        let told = decide(&whole, "bob", id, "approve").await;
        assert_eq!(told.problem(), (404, "UNKNOWN_APPROVAL"), "{id}");
    }
    // The balance of the moment counts: stock came in meanwhile.
    whole.receive("hot", 100).await;
    let many = (0..6).map(|_| decide(&whole, "bob", &id, "approve"));
    let answers = futures::future::join_all(many).await;
    for told in &answers {
        assert_eq!(
            (told.status, &told.body["status"]),
            (200, &json!("APPROVED")),
            "{told:?}"
        );
        assert_eq!(told.body["adjustment"], answers[0].body["adjustment"]);
    }
    assert_eq!(answers.iter().filter(|told| !told.replayed).count(), 1, "{answers:?}");
    let done = &answers[0].body;
    assert_eq!(
        (&done["decidedBy"], &done["decisionNote"]),
        (&json!("bob"), &json!("seen it"))
    );
    assert_eq!(
        (
            &done["adjustment"]["before"]["onHand"],
            &done["adjustment"]["after"]["onHand"]
        ),
        (&json!(5_100), &json!(3_100))
    );
    assert_eq!(on_hand(&whole).await, 3_100);
    // The ledger names both, and the list the event.
    let event_id = &done["adjustment"]["eventId"];
    assert_eq!(
        people(&whole, event_id).await,
        json!({"operator": "ann",
               "metadata": {"approvalId": id, "approvedBy": "bob", "decisionNote": "seen it"}})
    );
    let listed = whole
        .admin(Method::GET, "/admin/approvals?status=APPROVED", None)
        .await
        .expect(200);
    assert_eq!(
        (
            &listed["approvals"][0]["approvalId"],
            &listed["approvals"][0]["eventId"]
        ),
        (&json!(id), event_id)
    );
    let replayed = post_as(&whole, "ann", ADJUSTMENTS, change(-2_000, "lost", "l1")).await;
    assert_eq!(
        (replayed.status, replayed.replayed, &replayed.body),
        (201, true, &done["adjustment"])
    );
    assert_eq!(
        decide(&whole, "bob", &id, "reject").await.problem(),
        (409, "APPROVAL_CLOSED")
    );
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rejected_changes_nothing_and_may_be_asked_anew() {
    let (whole, id) = asked().await;
    for replayed in [false, true] {
        let told = decide(&whole, "ann", &id, "reject").await;
        assert_eq!(told.replayed, replayed, "{told:?}");
        let told = told.expect(200);
        assert_eq!(
            (&told["status"], &told["decidedBy"]),
            (&json!("REJECTED"), &json!("ann"))
        );
    }
    let told = decide(&whole, "bob", &id, "approve").await;
    assert_eq!(
        (told.problem(), &told.body["approvalStatus"]),
        ((409, "APPROVAL_CLOSED"), &json!("REJECTED"))
    );
    assert_eq!(on_hand(&whole).await, 5_000);
    let anew = post_as(&whole, "ann", ADJUSTMENTS, change(-2_000, "lost", "l1")).await;
    assert_eq!((anew.status, anew.replayed), (202, false));
    assert_ne!(anew.body["approvalId"], id.as_str());
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_decides_expires() {
    let (whole, id) = asked().await;
    sqlx::query("UPDATE approval SET expires_at = clock_timestamp()")
        .execute(&whole.pool)
        .await
        .expect("writes");
    // Whoever asks again is not told of what is over.
    let anew = post_as(&whole, "ann", ADJUSTMENTS, change(-2_000, "lost", "l1")).await;
    assert_eq!((anew.status, anew.replayed), (202, false), "{}", anew.body);
    let told = decide(&whole, "bob", &id, "approve").await;
    assert_eq!(
        (told.problem(), &told.body["approvalStatus"]),
        ((409, "APPROVAL_CLOSED"), &json!("EXPIRED"))
    );
    let next = anew.body["approvalId"].as_str().expect("an id").to_owned();
    sqlx::query("UPDATE approval SET expires_at = clock_timestamp() WHERE status = 'PENDING'")
        .execute(&whole.pool)
        .await
        .expect("writes");
    let told = decide(&whole, "bob", &next, "approve").await;
    assert_eq!(told.problem(), (409, "APPROVAL_CLOSED"));
    let expired = whole
        .admin(Method::GET, "/admin/approvals?status=EXPIRED", None)
        .await
        .expect(200);
    assert_eq!(expired["approvals"].as_array().map(Vec::len), Some(2));
    assert_eq!(on_hand(&whole).await, 5_000);
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_asks_for_manual_changes_alone() {
    let whole = Whole::empty().await;
    // A delivery is a fact, however large.
    whole.receive("hot", 100_000).await;
    let alone = post_as(&whole, "ann", ADJUSTMENTS, change(-1_000, "manual_correction", "m1")).await;
    assert_eq!(alone.status, 201, "{}", alone.body);
    for reason in [
        "manual_correction",
        "cycle_count_correction",
        "lost",
        "damaged",
        "supplier_shipment_correction",
    ] {
        let told = post_as(&whole, "ann", ADJUSTMENTS, change(-1_001, reason, reason)).await;
        assert_eq!((told.status, &told.body["why"]), (202, &json!("size")), "{reason}");
    }
    whole
        .put("/admin/skus/hot", json!({"display": "exact", "safetyStock": 98_990}))
        .await
        .expect(200);
    // 99,000 are sellable: ten may go, one more breaks into the safety stock.
    post_as(&whole, "ann", ADJUSTMENTS, change(-10, "damaged", "d1"))
        .await
        .expect(201);
    let told = post_as(&whole, "ann", ADJUSTMENTS, change(-1, "damaged", "d2")).await;
    assert_eq!((told.status, &told.body["why"]), (202, &json!("safety_stock")));
    // More than there is can't be approved either.
    let told = post_as(&whole, "ann", ADJUSTMENTS, change(-100_000, "lost", "x")).await;
    assert_eq!(told.problem(), (409, "INSUFFICIENT_STOCK"));
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_that_can_not_be_carried_out_goes_on_waiting() {
    let (whole, id) = asked().await;
    let gone = json!({"saleId": "s", "skuId": "hot", "locationId": "wh1", "allocation": 4_500});
    whole.post("/admin/sales", gone).await.expect(201);
    for n in 0..3 {
        let told = post_as(&whole, "ann", ADJUSTMENTS, change(-1_000, "lost", &format!("g{n}"))).await;
        assert_eq!(told.status, 201, "{}", told.body);
    }
    // 2,000 are left, in the draft of a sale, which gives them up; then it fits no more.
    post_as(&whole, "ann", ADJUSTMENTS, change(-1, "lost", "g9"))
        .await
        .expect(201);
    let told = decide(&whole, "bob", &id, "approve").await;
    assert_eq!(told.problem(), (409, "INSUFFICIENT_STOCK"));
    assert_eq!(told.body["escrowed"], 1_999);
    whole.receive("hot", 1).await;
    decide(&whole, "bob", &id, "approve").await.expect(200);
    assert_eq!(on_hand(&whole).await, 0);
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_waits_for_a_sale_that_is_being_stopped() {
    let (whole, id) = asked().await;
    let sale = json!({"saleId": "s", "skuId": "hot", "locationId": "wh1", "allocation": 5_000});
    whole.post("/admin/sales", sale).await.expect(201);
    whole.act("s", "start").await.expect(200);
    let early = while_stopping(&whole, decide(&whole, "bob", &id, "approve")).await;
    assert_eq!(early.problem(), (503, "STOCK_UNAVAILABLE"), "{}", early.body);
    let done = decide(&whole, "bob", &id, "approve").await.expect(200);
    assert_eq!(
        (&done["status"], &done["adjustment"]["after"]["onHand"]),
        (&json!("APPROVED"), &json!(3_000))
    );
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approved_undo_calls_units_back_from_a_live_sale() {
    let whole = Whole::empty().await;
    whole.receive("hot", 1).await;
    let received = post_as(&whole, "ann", ADJUSTMENTS, change(5_000, "stock_received", "s1"))
        .await
        .expect(201);
    let sale = json!({"saleId": "s", "skuId": "hot", "locationId": "wh1", "allocation": 5_001});
    whole.post("/admin/sales", sale).await.expect(201);
    whole.act("s", "start").await.expect(200);
    let path = format!("/admin/events/{}/undo", received["eventId"]);
    let waits = post_as(&whole, "ann", &path, json!({})).await.expect(202);
    let id = waits["approvalId"].as_str().expect("an id");
    let done = decide(&whole, "bob", id, "approve").await.expect(200);
    let after = &done["adjustment"]["after"];
    assert_eq!((&after["onHand"], &after["escrowed"]), (&json!(1), &json!(1)));
    assert_eq!(whole.sale("s").await["allocation"], 1);
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_of_a_large_change_takes_two_like_the_change_itself() {
    let whole = Whole::empty().await;
    whole.receive("hot", 1).await;
    let received = post_as(&whole, "ann", ADJUSTMENTS, change(5_000, "stock_received", "s1"))
        .await
        .expect(201);
    let path = format!("/admin/events/{}/undo", received["eventId"]);
    let note = json!({"note": "the wrong lorry"});
    let many = (0..4).map(|_| post_as(&whole, "ann", &path, note.clone()));
    let answers = futures::future::join_all(many).await;
    assert_eq!(answers.iter().filter(|told| !told.replayed).count(), 1, "{answers:?}");
    let waits = &answers[0].body;
    for told in &answers {
        assert_eq!(
            (told.status, &told.body["status"], &told.body["approvalId"]),
            (202, &json!("PENDING_APPROVAL"), &waits["approvalId"])
        );
    }
    for (field, value) in [
        ("undoes", &received["eventId"]),
        ("delta", &json!(-5_000)),
        ("why", &json!("size")),
        ("reason", &json!("manual_correction")),
        ("note", &json!("the wrong lorry")),
    ] {
        assert_eq!(&waits[field], value, "{field}");
    }
    assert_eq!(waits["after"]["onHand"], 1);
    assert_eq!(on_hand(&whole).await, 5_001);
    let id = waits["approvalId"].as_str().expect("an id");
    assert_eq!(
        decide(&whole, "ann", id, "approve").await.problem(),
        (403, "SAME_PERSON")
    );
    // Rejected, it may be asked anew.
    decide(&whole, "bob", id, "reject").await.expect(200);
    let anew = post_as(&whole, "ann", &path, note.clone()).await.expect(202);
    assert_ne!(anew["approvalId"], waits["approvalId"]);
    let id = anew["approvalId"].as_str().expect("an id");
    // Some of it is promised by now: it goes on waiting.
    let held = whole.reserve(&Buy::of("o1").units(2)).await.id();
    let told = decide(&whole, "bob", id, "approve").await;
    assert_eq!(told.problem(), (409, "INSUFFICIENT_STOCK"));
    let again = post_as(&whole, "ann", &path, note.clone()).await;
    assert_eq!(
        (again.replayed, &again.expect(202)["approvalId"]),
        (true, &anew["approvalId"])
    );
    whole.release(&held).await.expect(200);
    let many = (0..4).map(|_| decide(&whole, "bob", id, "approve"));
    for told in futures::future::join_all(many).await {
        let done = told.expect(200);
        assert_eq!(
            (&done["status"], &done["adjustment"]["after"]["onHand"]),
            (&json!("APPROVED"), &json!(1))
        );
    }
    let again = post_as(&whole, "ann", &path, json!({})).await;
    assert_eq!((again.status, again.replayed), (201, true));
    assert_eq!(
        people(&whole, &again.body["eventId"]).await,
        json!({"operator": "ann", "metadata": {"undoes": received["eventId"], "note": "the wrong lorry",
               "approvalId": id, "approvedBy": "bob", "decisionNote": "seen it"}})
    );
    // One below the safety stock takes two as well.
    whole
        .put("/admin/skus/hot", json!({"display": "exact", "safetyStock": 8}))
        .await
        .expect(200);
    let small = post_as(&whole, "ann", ADJUSTMENTS, change(9, "stock_received", "s2"))
        .await
        .expect(201);
    let path = format!("/admin/events/{}/undo", small["eventId"]);
    let waits = post_as(&whole, "ann", &path, json!({})).await.expect(202);
    assert_eq!(waits["why"], "safety_stock");
    whole.settled().await;
    whole.stop().await;
}
