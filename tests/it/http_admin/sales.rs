//! Sales, steered while they sell.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::door::until;
use crate::support::gateway::{LANES, Whole};

const SALES: &str = "/admin/sales";

fn sale(id: &str, allocation: i64) -> Value {
    json!({"saleId": id, "skuId": "hot", "locationId": "wh1", "allocation": allocation, "buckets": 2})
}

async fn live(allocation: i64) -> Whole {
    let whole = Whole::open().await;
    whole.post(SALES, sale("s", allocation)).await.expect(201);
    let started = whole.act("s", "start").await.expect(200);
    assert_eq!(
        (&started["state"], &started["remaining"]),
        (&json!("live"), &json!(allocation))
    );
    whole
}

async fn reserve(whole: &Whole, order: &str, quantity: i64) -> (u16, String) {
    let body = json!({"orderId": order, "skuId": "hot", "locationId": "wh1", "quantity": quantity});
    let told = whole.shop("/api/inventory/reservations", body).await;
    let word = if told.status == 201 { "status" } else { "code" };
    (told.status, told.body[word].as_str().unwrap_or_default().to_owned())
}

fn made() -> (u16, String) {
    (201, "RESERVED".into())
}

fn refused(code: &str) -> (u16, String) {
    (409, code.into())
}

async fn stock(whole: &Whole) -> (i64, i64, i64) {
    sqlx::query_as("SELECT on_hand, reserved, escrowed FROM inventory_balance")
        .fetch_one(&whole.pool)
        .await
        .expect("a balance")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_reads_as_the_contract_says() {
    let whole = Whole::open().await;
    let draft = whole.post(SALES, sale("s", 10)).await.expect(201);
    let expected = json!({
        "saleId": "s", "skuId": "hot", "locationId": "wh1", "state": "draft", "startsAt": null, "endsAt": null,
        "allocation": 10, "remaining": 10, "buckets": [], "perUserLimit": null, "userRate": null, "holdSeconds": 900,
        "maxHoldSeconds": 3600, "ackWaitMs": 1000, "redisDown": "refuse",
        "counts": {"accepted": 0, "durable": 0, "committed": 0, "released": 0, "expired": 0, "rejected": 0},
        "refused": {"INSUFFICIENT_STOCK": 0, "USER_LIMIT_EXCEEDED": 0, "RATE_LIMITED": 0},
        "queueDepth": 0, "lagMs": 0, "drift": 0,
    });
    assert_eq!(draft, expected);
    whole.act("s", "start").await.expect(200);
    assert_eq!(reserve(&whole, "o1", 3).await, made());
    let selling = whole.admin(Method::GET, "/admin/sales/s", None).await.expect(200);
    assert_eq!(selling["remaining"], 7);
    let buckets = selling["buckets"].as_array().expect("buckets");
    assert_eq!(
        buckets
            .iter()
            .filter_map(|bucket| bucket["remaining"].as_i64())
            .sum::<i64>(),
        7
    );
    assert_eq!(
        (&selling["counts"]["accepted"], &selling["counts"]["durable"]),
        (&json!(3), &json!(3))
    );
    let all = whole.admin(Method::GET, SALES, None).await.expect(200);
    assert_eq!(all["sales"][0]["saleId"], "s");
    assert_eq!(
        whole.admin(Method::GET, "/admin/sales/x", None).await.problem(),
        (404, "UNKNOWN_SALE")
    );
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_action_is_in_force_when_it_answers() {
    let whole = live(10).await;
    assert_eq!(reserve(&whole, "o1", 1).await, made());
    for (action, state, outcome) in [
        ("pause", "paused", refused("SALE_NOT_LIVE")),
        ("resume", "live", made()),
        ("freeze", "frozen", refused("SALE_NOT_LIVE")),
        ("freeze", "frozen", refused("SALE_NOT_LIVE")),
        ("unfreeze", "live", made()),
    ] {
        assert_eq!(whole.act("s", action).await.expect(200)["state"], state);
        assert_eq!(
            reserve(&whole, &format!("o-{action}"), 1).await,
            outcome,
            "after {action}"
        );
    }
    let told = whole.post("/admin/sales/s/pause", json!({"reason": "a doubt"})).await;
    assert_eq!(told.expect(200)["state"], "paused");
    let told = whole.act("s", "start").await;
    assert_eq!(
        (told.problem(), &told.body["state"]),
        ((409, "INVALID_SALE_STATE"), &json!("paused"))
    );
    assert_eq!(whole.act("x", "start").await.problem(), (404, "UNKNOWN_SALE"));
    assert_eq!(whole.act("s", "shout").await.problem(), (404, "NOT_FOUND"));
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_answers_when_every_unsold_unit_is_back() {
    let whole = live(10).await;
    assert_eq!(reserve(&whole, "o1", 4).await, made());
    assert_eq!(stock(&whole).await, (100, 4, 6));
    let stopped = whole.act("s", "stop").await.expect(200);
    assert_eq!((&stopped["state"], &stopped["remaining"]), (&json!("ended"), &json!(0)));
    assert_eq!(stopped["counts"]["accepted"], 4);
    assert_eq!(stock(&whole).await, (100, 4, 0));
    whole.act("s", "stop").await.expect(200);
    whole.post(SALES, sale("s2", 96)).await.expect(201);
    assert_eq!(stock(&whole).await, (100, 4, 96));
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_allocation_grows_and_shrinks_while_the_sale_sells() {
    let whole = live(10).await;
    let path = "/admin/sales/s";
    assert_eq!(reserve(&whole, "o1", 3).await, made());
    let more = whole.patch(path, json!({"allocation": 20})).await.expect(200);
    assert_eq!((&more["allocation"], &more["remaining"]), (&json!(20), &json!(17)));
    let fewer = whole.patch(path, json!({"allocation": 5})).await.expect(200);
    assert_eq!((&fewer["allocation"], &fewer["remaining"]), (&json!(5), &json!(2)));
    assert_eq!(stock(&whole).await, (100, 3, 2));
    let told = whole.patch(path, json!({"allocation": 2})).await;
    assert_eq!(
        (told.problem(), &told.body["held"]),
        ((409, "INSUFFICIENT_STOCK"), &json!(3))
    );
    let told = whole.patch(path, json!({"allocation": 101})).await;
    assert_eq!(told.problem(), (409, "INSUFFICIENT_STOCK"));
    assert_eq!(stock(&whole).await, (100, 3, 2));
    assert_eq!(reserve(&whole, "o2", 1).await, made());
    assert_eq!(reserve(&whole, "o3", 1).await, made());
    assert_eq!(reserve(&whole, "o4", 1).await, refused("INSUFFICIENT_STOCK"));
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_change_while_the_sale_sells_and_null_clears_them() {
    let whole = live(10).await;
    let path = "/admin/sales/s";
    let limited = whole
        .patch(path, json!({"perUserLimit": 2, "holdSeconds": 60, "ackWaitMs": 500}))
        .await
        .expect(200);
    assert_eq!(
        (&limited["perUserLimit"], &limited["holdSeconds"]),
        (&json!(2), &json!(60))
    );
    let of_user =
        |order: &str| json!({"orderId": order, "skuId": "hot", "locationId": "wh1", "quantity": 2, "userId": "u"});
    whole
        .shop("/api/inventory/reservations", of_user("o1"))
        .await
        .expect(201);
    let told = whole.shop("/api/inventory/reservations", of_user("o2")).await;
    assert_eq!(told.problem(), (409, "USER_LIMIT_EXCEEDED"));
    let rate = json!({"userRate": {"perSecond": 0.5, "burst": 1}, "perUserLimit": null});
    let cleared = whole.patch(path, rate).await.expect(200);
    assert_eq!(
        (&cleared["perUserLimit"], &cleared["userRate"]["perSecond"]),
        (&json!(null), &json!(0.5))
    );
    let cleared = whole.patch(path, json!({"userRate": null})).await.expect(200);
    assert_eq!(cleared["userRate"], json!(null));
    whole
        .shop("/api/inventory/reservations", of_user("o3"))
        .await
        .expect(201);
    assert_eq!(whole.patch(path, json!({})).await.expect(200)["holdSeconds"], 60);
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_is_checked_field_by_field() {
    let whole = Whole::open().await;
    let with = |field: &str, value: Value| {
        let mut body = sale("s", 10);
        body[field] = value;
        body
    };
    for (field, value, named) in [
        ("allocation", json!(0), "allocation"),
        ("allocation", json!(1_000_001), "allocation"),
        ("buckets", json!(0), "buckets"),
        ("buckets", json!(LANES + 1), "buckets"),
        ("holdSeconds", json!(0), "holdSeconds"),
        ("holdSeconds", json!(2_592_001), "holdSeconds"),
        ("perUserLimit", json!(0), "perUserLimit"),
        ("userRate", json!({"perSecond": 0, "burst": 1}), "userRate.perSecond"),
        ("userRate", json!({"perSecond": 1, "burst": 0}), "userRate.burst"),
        ("userRate", json!({"perSecond": 1}), "userRate.burst"),
        ("userRate", json!([1, 1]), "userRate"),
        ("endsAt", json!("2020-01-01T00:00:00Z"), "endsAt"),
        ("startsAt", json!("tomorrow"), "startsAt"),
        ("startsAt", json!("1969-12-31T23:59:59Z"), "startsAt"),
        ("endsAt", json!("+10000-01-01T00:00:00Z"), "endsAt"),
        ("ackWaitMs", json!(30_001), "ackWaitMs"),
        ("redisDown", json!("maybe"), "redisDown"),
        ("redisDownRate", json!(0), "redisDownRate"),
        ("undurableMax", json!(1_000_001), "undurableMax"),
        ("colour", json!("red"), "colour"),
        ("saleId", json!("a b"), "saleId"),
    ] {
        let told = whole.post(SALES, with(field, value)).await;
        assert_eq!(
            (told.problem(), &told.body["field"]),
            ((400, "INVALID_REQUEST"), &json!(named))
        );
    }
    let mut both = with("holdSeconds", json!(61));
    both["maxHoldSeconds"] = json!(60);
    assert_eq!(whole.post(SALES, both).await.body["field"], "holdSeconds");
    assert_eq!(
        whole.post(SALES, sale("s", 101)).await.problem(),
        (409, "INSUFFICIENT_STOCK")
    );
    assert_eq!(
        whole.post(SALES, with("skuId", json!("cold"))).await.problem(),
        (404, "UNKNOWN_SKU")
    );
    whole.post(SALES, sale("s", 10)).await.expect(201);
    assert_eq!(whole.post(SALES, sale("s", 10)).await.problem(), (409, "SALE_EXISTS"));
    // What is wrong with the request comes before what it meets.
    let past = json!("2020-01-01T00:00:00Z");
    for (field, value) in [("endsAt", past.clone()), ("buckets", json!(LANES + 1))] {
        for (other, meets) in [
            ("skuId", json!("cold")),
            ("saleId", json!("s")),
            ("allocation", json!(101)),
        ] {
            let mut body = with(field, value.clone());
            body[other] = meets;
            let told = whole.post(SALES, body).await;
            assert_eq!(
                (told.problem(), &told.body["field"]),
                ((400, "INVALID_REQUEST"), &json!(field)),
                "{other}"
            );
        }
    }
    for allocation in [5, 1_000] {
        let told = whole
            .patch("/admin/sales/s", json!({"allocation": allocation, "endsAt": past}))
            .await;
        assert_eq!(
            (told.problem(), &told.body["field"]),
            ((400, "INVALID_REQUEST"), &json!("endsAt"))
        );
    }
    for (field, value) in [
        ("holdSeconds", json!(3601)),
        ("allocation", json!(null)),
        ("endsAt", json!("2020-01-01T00:00:00Z")),
        ("endsAt", json!("9999-12-31T23:59:59-00:01")),
        ("redisDown", json!(null)),
        ("userRate", json!([1, 1])),
        ("startsAt", json!(null)),
    ] {
        let told = whole.patch("/admin/sales/s", json!({field: value})).await;
        assert_eq!(
            (told.problem(), &told.body["field"]),
            ((400, "INVALID_REQUEST"), &json!(field))
        );
    }
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_writes_happen_once_under_their_key() {
    let whole = Whole::open().await;
    let key = [("Idempotency-Key", "k")];
    let first = whole.admin_with(Method::POST, SALES, sale("s", 10), &key).await;
    let again = whole.admin_with(Method::POST, SALES, sale("s", 10), &key).await;
    assert!(!first.replayed && again.replayed);
    assert_eq!(first.expect(201), again.expect(201));
    let other = whole.admin_with(Method::POST, SALES, sale("s", 11), &key).await;
    assert_eq!(other.problem(), (422, "IDEMPOTENCY_KEY_REUSED"));
    whole.act("s", "start").await.expect(200);
    let pause = "/admin/sales/s/pause";
    whole.admin_with(Method::POST, pause, json!({}), &key).await.expect(200);
    whole.act("s", "resume").await.expect(200);
    let late = whole.admin_with(Method::POST, pause, json!({}), &key).await;
    assert!(late.replayed);
    assert_eq!(late.expect(200)["state"], "live");
    let other = whole
        .admin_with(Method::POST, pause, json!({"reason": "x"}), &key)
        .await;
    assert_eq!(other.problem(), (422, "IDEMPOTENCY_KEY_REUSED"));
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_whose_start_is_past_is_live_at_once() {
    let whole = Whole::open().await;
    let mut body = sale("s", 10);
    body["startsAt"] = "2020-01-01T00:00:00Z".into();
    assert_eq!(whole.post(SALES, body).await.expect(201)["state"], "live");
    assert_eq!(reserve(&whole, "o1", 1).await, made());
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_that_froze_by_itself_waits_for_a_person() {
    let whole = live(10).await;
    sqlx::query(
        "INSERT INTO alarm (sale_no, lane, cause, units) SELECT sale_no, lanes[1], 'oversell_attempt', 2 FROM sale",
    )
    .execute(&whole.pool)
    .await
    .expect("raises an alarm");
    let frozen = until("the sale to be frozen", async || {
        let sale = whole.admin(Method::GET, "/admin/sales/s", None).await.expect(200);
        (sale["state"] == "frozen").then_some(sale)
    })
    .await;
    assert_eq!(frozen["frozenFor"], "oversell_attempt");
    let reports = whole
        .admin(Method::GET, "/admin/reconciliation?kind=live&open=true", None)
        .await
        .expect(200);
    let report = &reports["reports"][0];
    let found = &report["discrepancies"][0];
    assert_eq!(
        (
            &found["cause"],
            &found["saleId"],
            &found["skuId"],
            &found["found"],
            &found["status"]
        ),
        (
            &json!("oversell_attempt"),
            &json!("s"),
            &json!("hot"),
            &json!(2),
            &json!("manual_review")
        )
    );
    assert_eq!(found["lane"], frozen["buckets"][0]["lane"]);
    let refused = whole.act("s", "unfreeze").await;
    assert_eq!(refused.problem(), (409, "INVALID_SALE_STATE"));
    assert_eq!(
        (&refused.body["state"], &refused.body["reports"]),
        (&json!("frozen"), &json!([report["reportId"]]))
    );
    sqlx::query("UPDATE reconciliation_discrepancy SET status = 'closed'")
        .execute(&whole.pool)
        .await
        .expect("closes it");
    let live = whole.act("s", "unfreeze").await.expect(200);
    assert_eq!((&live["state"], live.get("frozenFor")), (&json!("live"), None));
}
