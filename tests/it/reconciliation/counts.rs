//! Counts of shelves and sellers' feeds.

use std::collections::{BTreeMap, BTreeSet};

use flashgate::domain::id::{LocationId, SaleId, Sku};
use flashgate::domain::reconciliation::ReportKind;
use flashgate::ledger::once::By;
use flashgate::ledger::recon::{Count, Counted};
use flashgate::ledger::{self, Ledger};
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{COUNTS, adjust, count, moment, on_hand, report};
use crate::support::door::{Buy, Door};
use crate::support::gateway::Whole;

#[tokio::test(flavor = "multi_thread")]
async fn a_count_is_compared_with_the_moment_it_was_made() {
    let whole = Whole::open().await;
    whole.receive("cold", 50).await;
    adjust(&whole, "hot", -3, "damaged").await;
    let at = moment(&whole).await;
    adjust(&whole, "hot", 10, "stock_received").await;
    let body = count("c1", &at, &[("hot", 98), ("cold", 50)]);
    let told = whole
        .admin_with(Method::POST, COUNTS, body, &[("X-Operator", "ann")])
        .await
        .expect(201);
    assert_eq!(
        (&told["kind"], &told["countId"], &told["operator"], &told["compared"]),
        (&json!("warehouse"), &json!("c1"), &json!("ann"), &json!(2))
    );
    let found = told["discrepancies"].as_array().expect("a list");
    assert_eq!(found.len(), 1, "{told}");
    let event = found[0]["eventId"].as_i64().expect("an event");
    assert_eq!(
        found[0],
        json!({"skuId": "hot", "locationId": "wh1", "figure": "on_hand", "expected": 100, "found": 98,
               "cause": "counted_less", "status": "corrected", "eventId": event})
    );
    assert_eq!(on_hand(&whole, "hot").await, 108, "what came later stays");
    let posted: (String, String, i64, String) = sqlx::query_as(
        "SELECT reason, reference_id, on_hand_delta, operator FROM inventory_movement WHERE event_id = $1",
    )
    .bind(event)
    .fetch_one(&whole.pool)
    .await
    .expect("the event");
    let expected = (
        "cycle_count_correction".to_owned(),
        "c1".to_owned(),
        -2,
        "ann".to_owned(),
    );
    assert_eq!(posted, expected);
    assert_eq!(report(&whole, &told["reportId"]).await, told);
    let listed = whole
        .admin(Method::GET, "/admin/reconciliation?kind=warehouse", None)
        .await
        .expect(200);
    assert_eq!(listed["reports"], json!([told]));
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_that_arrive_late_correct_a_difference_once() {
    let whole = Whole::open().await;
    let first = moment(&whole).await;
    let second = moment(&whole).await;
    let told = whole
        .post(COUNTS, count("c1", &first, &[("hot", 95)]))
        .await
        .expect(201);
    assert_eq!(told["discrepancies"][0]["status"], "corrected");
    // It was made after the first count, and arrives after its correction: the shelf had 95 all the time.
    let told = whole
        .post(COUNTS, count("c2", &second, &[("hot", 95)]))
        .await
        .expect(201);
    assert_eq!((&told["compared"], &told["discrepancies"]), (&json!(1), &json!([])));
    assert_eq!(on_hand(&whole, "hot").await, 95);
    whole.settled().await;
    whole.stop().await;
}

/// What was undone had never been on the shelf, whenever it was undone.
#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_arrives_late_has_never_seen_what_was_undone_since() {
    let whole = Whole::open().await;
    let add = async |reference: &str| {
        let body = json!({"skuId": "hot", "locationId": "wh1", "delta": 5, "reason": "manual_correction",
                          "referenceId": reference});
        whole.post("/api/inventory/adjustments", body).await.expect(201)
    };
    let undo = async |wrong: &Value| {
        let path = format!("/admin/events/{}/undo", wrong["eventId"]);
        whole.post(&path, json!({})).await.expect(201);
    };
    let before = add("a1").await;
    let at = moment(&whole).await;
    let after = add("a2").await;
    undo(&before).await;
    undo(&after).await;
    add("a3").await;
    let told = whole.post(COUNTS, count("c1", &at, &[("hot", 100)])).await.expect(201);
    assert_eq!((&told["compared"], &told["discrepancies"]), (&json!(1), &json!([])));
    assert_eq!(on_hand(&whole, "hot").await, 105);
    whole.settled().await;
    whole.stop().await;
}

/// Events that never happened: each says that it brought a unit.
async fn plant(pool: &PgPool, sku: &str, from: &str, until: &str) {
    sqlx::query(&format!(
        "SELECT ensure_day(at) FROM (VALUES ({from}), ({until})) AS planted(at)"
    ))
    .execute(pool)
    .await
    .expect("makes room");
    sqlx::query(&format!(
        "INSERT INTO inventory_event (event_type, sku_id, location_id, quantity_delta, on_hand_delta, on_hand, created_at)
         SELECT 'inventory_received', $1, 'wh1', 1, 1, n, {from} + n * (({until}) - ({from})) / 5000
         FROM generate_series(1, 5000) AS n"
    ))
    .bind(sku)
    .execute(pool)
    .await
    .expect("plants");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_event_since_a_count_tells_what_was_there() {
    let whole = Whole::open().await;
    plant(
        &whole.pool,
        "cold",
        "now() - interval '1 hour'",
        "now() - interval '10 s'",
    )
    .await;
    let at = moment(&whole).await;
    adjust(&whole, "hot", 10, "stock_received").await;
    // Of a hot item there may be millions of others, while its buyers wait: none of them is looked at.
    plant(
        &whole.pool,
        "hot",
        "clock_timestamp()",
        "clock_timestamp() + interval '1 s'",
    )
    .await;
    let told = whole.post(COUNTS, count("c1", &at, &[("hot", 98)])).await.expect(201);
    let found = &told["discrepancies"][0];
    assert_eq!(
        (&found["expected"], &found["found"], &found["status"]),
        (&json!(100), &json!(98), &json!("corrected"))
    );
    assert_eq!(on_hand(&whole, "hot").await, 108);
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_feed_is_refused_and_changes_nothing() {
    let whole = Whole::open().await;
    whole.receive("cold", 50).await;
    let old = moment(&whole).await;
    let new = moment(&whole).await;
    whole.post(COUNTS, count("c1", &new, &[("hot", 99)])).await.expect(201);
    let mut feed = count("f1", &old, &[("cold", 49), ("hot", 90)]);
    feed["source"] = "seller_feed".into();
    for at in [&old, &new] {
        feed["countedAt"] = at.as_str().into();
        let told = whole.post(COUNTS, feed.clone()).await;
        assert_eq!(told.problem(), (409, "STALE_COUNT"));
        assert_eq!(
            (&told.body["skuId"], &told.body["countedAt"]),
            (&json!("hot"), &json!(new))
        );
    }
    assert_eq!((on_hand(&whole, "hot").await, on_hand(&whole, "cold").await), (99, 50));
    feed["lines"] = json!([{"skuId": "cold", "counted": 49}]);
    let told = whole.post(COUNTS, feed).await.expect(201);
    assert_eq!(
        (&told["kind"], &told["discrepancies"][0]["cause"]),
        (&json!("seller_feed"), &json!("seller_has_less"))
    );
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_happens_once_under_its_name() {
    let whole = Whole::open().await;
    let at = moment(&whole).await;
    let body = count("c1", &at, &[("hot", 90)]);
    let answers = join_all((0..6).map(|_| whole.post(COUNTS, body.clone()))).await;
    assert_eq!(answers.iter().filter(|told| !told.replayed).count(), 1);
    let first = answers[0].clone().expect(201);
    for told in answers {
        assert_eq!(told.expect(201), first);
    }
    assert_eq!(on_hand(&whole, "hot").await, 90);
    for other in [
        count("c1", &at, &[("hot", 91)]),
        count("c1", &moment(&whole).await, &[("hot", 90)]),
    ] {
        assert_eq!(
            whole.post(COUNTS, other).await.problem(),
            (422, "IDEMPOTENCY_KEY_REUSED")
        );
    }
    let (key, at) = ([("Idempotency-Key", "k")], moment(&whole).await);
    let body = count("c2", &at, &[("hot", 90)]);
    let told = whole.admin_with(Method::POST, COUNTS, body.clone(), &key).await;
    let again = whole.admin_with(Method::POST, COUNTS, body, &key).await;
    assert!(!told.replayed && again.replayed);
    assert_eq!(told.expect(201), again.expect(201));
    let other = whole
        .admin_with(Method::POST, COUNTS, count("c3", &at, &[("hot", 90)]), &key)
        .await;
    assert_eq!(other.problem(), (422, "IDEMPOTENCY_KEY_REUSED"));
    assert_eq!(on_hand(&whole, "hot").await, 90);
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_large_or_promised_waits_for_a_person() {
    let whole = Whole::empty().await;
    whole.sell("s1", 60, json!({})).await;
    whole
        .reserve(&Buy::of("o1").units(55).prefer("wait=30"))
        .await
        .expect(201);
    whole.receive("cold", 500).await;
    let at = moment(&whole).await;
    let body = count("c1", &at, &[("hot", 50), ("cold", 399)]);
    let told = whole.post(COUNTS, body).await.expect(201);
    let reviews: Vec<_> = told["discrepancies"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|d| (d["skuId"].as_str(), d["status"].as_str(), d["review"].as_str()))
        .collect();
    let waits = Some("manual_review");
    assert_eq!(
        reviews,
        [
            (Some("cold"), waits, Some("over_threshold")),
            (Some("hot"), waits, Some("promised"))
        ]
    );
    assert_eq!((&told["different"], &told["waiting"]), (&json!(2), &json!(2)));
    assert_eq!((on_hand(&whole, "hot").await, on_hand(&whole, "cold").await), (60, 500));
    let open = whole.admin(Method::GET, "/admin/reconciliation?open=true", None).await;
    assert_eq!(open.expect(200)["reports"], json!([told]));
    whole.settled().await;
    whole.stop().await;
}

/// On hand, and what is left of the item's sale.
async fn left(door: &Door, sku: &str) -> (i64, Value, Value) {
    let path = format!("/admin/sales/of-{sku}");
    let sale = door.admin(Method::GET, &path, None).await.expect(200);
    (
        on_hand(door, sku).await,
        sale["allocation"].clone(),
        sale["remaining"].clone(),
    )
}

fn statuses(told: &Value) -> Vec<&str> {
    let found = told["discrepancies"].as_array().expect("a list");
    found.iter().map(|d| d["status"].as_str().expect("a word")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_count_misses_is_called_back_from_the_sales_that_have_it() {
    let whole = Whole::empty().await;
    for sku in ["a", "b", "c", "d", "e"] {
        whole.receive(sku, 40).await;
        let sale = format!("of-{sku}");
        let body = json!({"saleId": sale, "skuId": sku, "locationId": "wh1", "allocation": 30});
        whole.post("/admin/sales", body).await.expect(201);
        whole.act(&sale, "start").await.expect(200);
    }
    whole
        .reserve(&Buy::of("o1").sku("a").units(5).prefer("wait=30"))
        .await
        .expect(201);
    let held = whole
        .reserve(&Buy::of("o2").sku("b").units(25).prefer("wait=30"))
        .await
        .id();
    let at = moment(&whole).await;
    let lines = [("a", 22), ("b", 40), ("c", 1), ("d", 12), ("e", 29)];
    let body = count("c1", &at, &lines);
    let told = whole.post(COUNTS, body.clone()).await.expect(201);
    assert_eq!(statuses(&told), ["corrected"; 4], "{told}");
    let figures = |units: i64, allocation: i64, remaining: i64| (units, json!(allocation), json!(remaining));
    for (sku, units, allocation, remaining) in [
        ("a", 22, 22, 17),
        ("b", 40, 30, 5),
        ("c", 1, 1, 1),
        ("d", 12, 12, 12),
        ("e", 29, 29, 29),
    ] {
        assert_eq!(left(&whole, sku).await, figures(units, allocation, remaining), "{sku}");
    }
    assert_eq!(whole.post(COUNTS, body).await.expect(201), told, "once");
    // What buyers hold, and what is frozen, waits; the others give all the same.
    whole.act("of-d", "freeze").await.expect(200);
    let body = count("c2", &moment(&whole).await, &[("a", 21), ("b", 20), ("d", 11)]);
    let told = whole.post(COUNTS, body).await.expect(201);
    assert_eq!(
        statuses(&told),
        ["corrected", "manual_review", "manual_review"],
        "{told}"
    );
    assert_eq!(left(&whole, "a").await, figures(21, 21, 16));
    assert_eq!((on_hand(&whole, "b").await, on_hand(&whole, "d").await), (40, 12));
    // A sale that could give nothing is left alone.
    let ledger = Ledger::new(&ledger::Settings::new(&whole.database_url)).expect("an address");
    let count = Count {
        id: "c3".to_owned(),
        source: ReportKind::Warehouse,
        location: LocationId::try_from("wh1").expect("a location"),
        counted_at: ledger.now().await.expect("Postgres answers"),
        lines: BTreeMap::from([(Sku::try_from("e").expect("a SKU"), 28)]),
        key: None,
    };
    let keep = BTreeSet::from([SaleId::try_from("of-e").expect("a sale")]);
    let Counted::Done(told) = ledger.count(&count, &By::default(), &keep).await.expect("counts") else {
        panic!("it is compared");
    };
    assert_eq!(told.discrepancies[0].review.as_deref(), Some("promised"));
    assert_eq!(left(&whole, "e").await, figures(29, 29, 29));
    whole.act("of-d", "unfreeze").await.expect(200);
    whole.commit(&held).await.expect(200);
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_count_can_not_say_is_refused_by_field_or_code() {
    let whole = Whole::open().await;
    let at = moment(&whole).await;
    for (field, value) in [
        ("lines", json!([])),
        (
            "lines[1].skuId",
            json!([{"skuId": "hot", "counted": 1}, {"skuId": "hot", "counted": 2}]),
        ),
        ("lines[0].counted", json!([{"skuId": "hot", "counted": -1}])),
        ("lines[0]", json!([["hot", 1]])),
        ("countedAt", json!("2999-01-01T00:00:00Z")),
        ("countedAt", json!("yesterday")),
        ("countedAt", json!("1969-12-31T23:59:59Z")),
        ("countedAt", json!("-5000-01-01T00:00:00Z")),
        ("countedAt", json!("2020-1-1 0:0:0 Z")),
        ("source", json!("rumour")),
        ("countId", json!("")),
    ] {
        let mut body = count("c1", &at, &[("hot", 1)]);
        body[field.split('[').next().expect("a name")] = value;
        let told = whole.post(COUNTS, body).await;
        assert_eq!(
            (told.problem(), &told.body["field"]),
            ((400, "INVALID_REQUEST"), &json!(field))
        );
    }
    let told = whole
        .post(COUNTS, count("c1", &at, &[("hot", 1), ("nothing", 1)]))
        .await;
    assert_eq!(
        (told.problem(), &told.body["skuId"]),
        ((404, "UNKNOWN_SKU"), &json!("nothing"))
    );
    let mut body = count("c1", &at, &[("hot", 1)]);
    body["locationId"] = "nowhere".into();
    assert_eq!(whole.post(COUNTS, body).await.problem(), (404, "UNKNOWN_LOCATION"));
    let told = whole.admin(Method::GET, "/admin/reconciliation/none", None).await;
    assert_eq!(told.problem(), (404, "UNKNOWN_REPORT"));
    assert_eq!(on_hand(&whole, "hot").await, 100);
    // Nothing of these was kept, so the name is free; a SKU that never lay there is counted as well.
    whole
        .put("/admin/skus/new", json!({"display": "exact"}))
        .await
        .expect(200);
    let told = whole
        .post(COUNTS, count("c1", &at, &[("hot", 100), ("new", 4)]))
        .await
        .expect(201);
    assert_eq!(told["discrepancies"][0]["expected"], 0);
    assert_eq!(on_hand(&whole, "new").await, 4);
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_adjustments_and_buyers_at_once_leave_the_books_right() {
    let whole = Whole::empty().await;
    whole.sell("s1", 80, json!({})).await;
    whole.receive("cold", 200).await;
    let counting = join_all((0..8).map(async |n| {
        let at = moment(&whole).await;
        let lines = [("cold", 190 + n), ("hot", 79 + n)];
        let told = whole.post(COUNTS, count(&format!("c{n}"), &at, &lines)).await;
        assert!(matches!(told.status, 201 | 409), "{told:?}");
    }));
    let adjusting = join_all((0..12).map(async |n| {
        let sku = if n % 2 == 0 { "hot" } else { "cold" };
        adjust(&whole, sku, 1 + n, "stock_received").await;
    }));
    let buying = join_all((0..20).map(async |n| {
        let told = whole.reserve(&Buy::of(&format!("o{n}"))).await;
        let id = told.id();
        if n % 2 == 0 {
            whole.commit(&id).await.expect(200);
        } else {
            whole.release(&id).await.expect(200);
        }
    }));
    futures::join!(counting, adjusting, buying);
    whole.settled().await;
    whole.stop().await;
}
