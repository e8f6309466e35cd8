//! Each refusal of a reservation with its fields, and which one wins where several apply.

use chrono::{TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::door::Door;
use crate::support::flash::{ask, raw};
use crate::support::gateway::{Whole, migrate};
use crate::support::servers::shared;
use crate::support::socket::{Heard, line, put_on_sale, reserve, send, with};

/// One request of the table: what is asked under which key, and the answer that wins.
struct Ask {
    why: &'static str,
    key: Option<&'static str>,
    body: Value,
    answer: (u16, &'static str),
}

async fn buy(door: &Door, order: &str, sku: &str, extra: Value) -> Heard {
    reserve(door, &[], &line(order, sku, extra)).await
}

/// Refused, with this problem and these fields.
#[track_caller]
fn refuses(heard: &Heard, status: u16, code: &str, fields: &Value) {
    assert_eq!(heard.problem(), (status, code.to_owned()), "{}", heard.text);
    let body = heard.body();
    for (name, value) in fields.as_object().expect("an object") {
        assert_eq!(&body[name], value, "{name} of {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_says_what_helps() {
    let whole = Whole::empty().await;
    let door: &Door = &whole;
    put_on_sale(door, "few", 3, json!({"buckets": 2})).await;
    assert_eq!(buy(door, "o1", "few", json!({"quantity": 2})).await.status, 201);
    refuses(
        &buy(door, "o2", "few", json!({"quantity": 2})).await,
        409,
        "INSUFFICIENT_STOCK",
        &json!({"available": 1, "retryable": false}),
    );
    assert_eq!(buy(door, "o2", "few", json!({})).await.status, 201);
    refuses(
        &buy(door, "o3", "few", json!({})).await,
        409,
        "INSUFFICIENT_STOCK",
        &json!({"available": 0}),
    );

    put_on_sale(door, "limited", 10, json!({"perUserLimit": 3})).await;
    refuses(
        &buy(door, "o1", "limited", json!({})).await,
        400,
        "USER_REQUIRED",
        &json!({}),
    );
    assert_eq!(
        buy(door, "o1", "limited", json!({"userId": "u1", "quantity": 2}))
            .await
            .status,
        201
    );
    let more = buy(door, "o2", "limited", json!({"userId": "u1", "quantity": 2})).await;
    refuses(&more, 409, "USER_LIMIT_EXCEEDED", &json!({"limit": 3, "held": 2}));
    let over = buy(door, "o3", "limited", json!({"userId": "u2", "quantity": 4})).await;
    refuses(&over, 409, "USER_LIMIT_EXCEEDED", &json!({"limit": 3, "held": 0}));

    put_on_sale(door, "rated", 10, json!({"userRate": {"perSecond": 0.1, "burst": 2}})).await;
    for order in ["o1", "o2"] {
        assert_eq!(buy(door, order, "rated", json!({"userId": "u1"})).await.status, 201);
    }
    let heard = buy(door, "o3", "rated", json!({"userId": "u1"})).await;
    refuses(&heard, 429, "RATE_LIMITED", &json!({"retryable": true}));
    let seconds: u64 = heard
        .header("retry-after")
        .and_then(|text| text.parse().ok())
        .expect("seconds");
    assert!((1..=10).contains(&seconds), "a token takes 10 s: {seconds}");
    assert_eq!(
        buy(door, "o4", "rated", json!({"userId": "u2"})).await.status,
        201,
        "each user has tokens of his own"
    );
    assert_eq!(
        buy(door, "o1", "rated", json!({"userId": "u1"})).await.status,
        201,
        "a replay needs none"
    );

    put_on_sale(door, "short", 10, json!({"holdSeconds": 30, "maxHoldSeconds": 60})).await;
    refuses(
        &buy(door, "o1", "short", json!({"ttlSeconds": 61})).await,
        400,
        "INVALID_REQUEST",
        &json!({"field": "ttlSeconds"}),
    );
    assert_eq!(buy(door, "o1", "short", json!({"ttlSeconds": 60})).await.status, 201);

    refuses(
        &buy(door, "o1", "nothing", json!({})).await,
        404,
        "UNKNOWN_SKU",
        &json!({}),
    );
    refuses(
        &buy(door, "o1", "few", json!({"locationId": "moon"})).await,
        404,
        "UNKNOWN_LOCATION",
        &json!({}),
    );
    whole.settled().await;
    let counted = whole.sale("limited").await;
    assert_eq!(
        (&counted["remaining"], &counted["counts"]["accepted"]),
        (&json!(8), &json!(2))
    );
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_that_does_not_sell_says_in_which_state_it_is() {
    let whole = Whole::empty().await;
    let door: &Door = &whole;
    let starts = (Utc::now() + TimeDelta::hours(1))
        .format("%Y-%m-%dT%H:%M:%S.000Z")
        .to_string();
    put_on_sale(door, "soon", 5, json!({"startsAt": starts})).await;
    let heard = buy(door, "o1", "soon", json!({})).await;
    refuses(
        &heard,
        409,
        "SALE_NOT_LIVE",
        &json!({"state": "scheduled", "startsAt": starts}),
    );
    for sku in ["paused", "frozen"] {
        put_on_sale(door, sku, 5, json!({})).await;
    }
    put_on_sale(door, "cold", 5, json!({"draft": true})).await;
    for (sku, action) in [("paused", "pause"), ("frozen", "freeze"), ("cold", "freeze")] {
        door.act(sku, action).await.expect(200);
    }
    for (sku, state) in [("paused", "paused"), ("frozen", "frozen"), ("cold", "frozen")] {
        let heard = buy(door, "o1", sku, json!({})).await;
        refuses(&heard, 409, "SALE_NOT_LIVE", &json!({"state": state}));
        assert!(
            heard.body().as_object().expect("an object").contains_key("startsAt"),
            "{}",
            heard.text
        );
    }
    whole.settled().await;
    whole.stop().await;
}

/// The contract's order: 400/413/415, replay and 422, 404, `SALE_NOT_LIVE`, the 400s that depend on the sale,
/// `ORDER_ALREADY_RESERVED`, `RATE_LIMITED`, `USER_LIMIT_EXCEEDED`, `INSUFFICIENT_STOCK`. In each request both apply.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_reason_in_the_contract_s_order_wins() {
    let whole = Whole::empty().await;
    let door: &Door = &whole;
    let rate = json!({"perSecond": 0.001, "burst": 2});
    put_on_sale(
        door,
        "a",
        3,
        json!({"perUserLimit": 2, "userRate": rate, "maxHoldSeconds": 60}),
    )
    .await;
    put_on_sale(door, "p", 3, json!({"perUserLimit": 1, "maxHoldSeconds": 60})).await;
    let of = |order: &str, sku: &str, user: &str, extra: Value| {
        with(line(order, sku, json!({"userId": user, "ttlSeconds": 60})), extra)
    };
    // u1 has no tokens and holds his limit, u2 has tokens and holds one; nothing is left.
    for (key, order, user) in [("k1", "o1", "u1"), ("k2", "o2", "u1"), ("k3", "o3", "u2")] {
        let made = reserve(door, &[("idempotency-key", key)], &of(order, "a", user, json!({}))).await;
        assert_eq!(made.status, 201, "{}", made.text);
    }
    assert_eq!(
        reserve(door, &[("idempotency-key", "k4")], &of("o4", "p", "u1", json!({})))
            .await
            .status,
        201
    );
    door.act("p", "pause").await.expect(200);
    let ask = |why, key, body, answer| Ask { why, key, body, answer };
    let table = [
        ask(
            "400 before replay",
            Some("k1"),
            of("o1", "a", "u1", json!({"quantity": 0})),
            (400, "INVALID_REQUEST"),
        ),
        ask(
            "400 before 422",
            Some("k1"),
            of("o1", "a", "u1", json!({"colour": "red"})),
            (400, "INVALID_REQUEST"),
        ),
        ask(
            "400 before 404",
            None,
            of("o9", "nothing", "u1", json!({"quantity": 0})),
            (400, "INVALID_REQUEST"),
        ),
        ask(
            "422 before 404",
            Some("k1"),
            of("o1", "nothing", "u1", json!({})),
            (422, "IDEMPOTENCY_KEY_REUSED"),
        ),
        ask(
            "422 before SALE_NOT_LIVE",
            Some("k4"),
            of("o4", "p", "u1", json!({"ttlSeconds": 50})),
            (422, "IDEMPOTENCY_KEY_REUSED"),
        ),
        ask(
            "replay before SALE_NOT_LIVE",
            Some("k4"),
            of("o4", "p", "u1", json!({})),
            (201, ""),
        ),
        ask(
            "replay before RATE_LIMITED",
            Some("k1"),
            of("o1", "a", "u1", json!({})),
            (201, ""),
        ),
        ask(
            "404 before SALE_NOT_LIVE",
            None,
            of("o9", "p", "u1", json!({"locationId": "moon"})),
            (404, "UNKNOWN_LOCATION"),
        ),
        ask(
            "SALE_NOT_LIVE before USER_REQUIRED",
            None,
            of("o9", "p", "u1", json!({"userId": null})),
            (409, "SALE_NOT_LIVE"),
        ),
        ask(
            "SALE_NOT_LIVE before ttlSeconds",
            None,
            of("o9", "p", "u1", json!({"ttlSeconds": 61})),
            (409, "SALE_NOT_LIVE"),
        ),
        ask(
            "SALE_NOT_LIVE before ORDER_ALREADY_RESERVED",
            Some("k9"),
            of("o4", "p", "u1", json!({})),
            (409, "SALE_NOT_LIVE"),
        ),
        ask(
            "SALE_NOT_LIVE before USER_LIMIT_EXCEEDED",
            None,
            of("o9", "p", "u1", json!({})),
            (409, "SALE_NOT_LIVE"),
        ),
        ask(
            "USER_REQUIRED before INSUFFICIENT_STOCK",
            None,
            of("o9", "a", "u1", json!({"userId": null})),
            (400, "USER_REQUIRED"),
        ),
        ask(
            "ttlSeconds before ORDER_ALREADY_RESERVED",
            Some("k9"),
            of("o1", "a", "u1", json!({"ttlSeconds": 61})),
            (400, "INVALID_REQUEST"),
        ),
        ask(
            "ORDER_ALREADY_RESERVED before RATE_LIMITED",
            Some("k9"),
            of("o1", "a", "u1", json!({})),
            (409, "ORDER_ALREADY_RESERVED"),
        ),
        ask(
            "RATE_LIMITED before USER_LIMIT_EXCEEDED",
            None,
            of("o9", "a", "u1", json!({})),
            (429, "RATE_LIMITED"),
        ),
        ask(
            "USER_LIMIT_EXCEEDED before INSUFFICIENT_STOCK",
            None,
            of("o9", "a", "u2", json!({"quantity": 2})),
            (409, "USER_LIMIT_EXCEEDED"),
        ),
        ask(
            "INSUFFICIENT_STOCK",
            None,
            of("o9", "a", "u3", json!({})),
            (409, "INSUFFICIENT_STOCK"),
        ),
    ];
    for Ask { why, key, body, answer } in table {
        let headers: Vec<(&str, &str)> = key.map(|key| ("idempotency-key", key)).into_iter().collect();
        let heard = reserve(door, &headers, &body).await;
        assert_eq!(
            heard.problem(),
            (answer.0, answer.1.to_owned()),
            "{why}: {}",
            heard.text
        );
        assert_eq!(heard.replayed(), answer.0 == 201, "{why}");
    }
    whole.settled().await;
    assert_eq!(
        (&whole.sale("a").await["remaining"], &whole.sale("p").await["remaining"]),
        (&json!(0), &json!(2))
    );
    whole.stop().await;
}

/// A lane that lost what it knew of a user accepts what the ledger then refuses.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_only_the_ledger_sees_is_told_with_its_numbers() {
    let (redis_url, database_url) = (shared().await.redis(), shared().await.database().await);
    migrate(&database_url).await;
    let whole = Whole::over(&redis_url, &database_url).await;
    put_on_sale(&whole, "a", 10, json!({"perUserLimit": 3})).await;
    let buy = async |order: &str| {
        let body = line(order, "a", json!({"userId": "u1", "quantity": 2}));
        reserve(&whole, &[("prefer", "wait=10")], &body).await
    };
    assert_eq!(buy("o1").await.status, 201);
    let (namespace, sale_no, lane): (String, i32, i16) =
        sqlx::query_as("SELECT namespace, sale_no, sale.lanes[1] FROM deployment, sale")
            .fetch_one(&whole.pool)
            .await
            .expect("Postgres answers");
    let buyers = format!("fg:{{{namespace}-{lane}}}:buyers:{sale_no}");
    ask(&raw(&redis_url).await, "DEL", &[buyers.as_str()]).await;
    refuses(
        &buy("o2").await,
        409,
        "USER_LIMIT_EXCEEDED",
        &json!({"limit": 3, "held": 2}),
    );
    whole.stop().await;
}

/// Nothing is looked up for whom the edge sends away; but what is no request is told so first.
#[tokio::test(flavor = "multi_thread")]
async fn the_edge_s_limit_stands_between_400_and_replay() {
    let whole = Whole::limited(1, 3).await;
    put_on_sale(&whole, "a", 5, json!({})).await;
    let (key, body) = ([("idempotency-key", "k")], line("o1", "a", json!({})));
    let made = reserve(&whole, &key, &body).await;
    assert_eq!(made.status, 201, "{}", made.text);
    for name in ["ratelimit", "ratelimit-policy"] {
        assert!(
            made.header(name).is_some_and(|text| text.starts_with("\"client\";")),
            "{made:?}"
        );
    }
    let mut limited = None;
    for _ in 0..20 {
        let heard = reserve(&whole, &key, &body).await;
        if heard.status == 429 {
            limited = Some(heard);
            break;
        }
        assert_eq!((heard.status, heard.replayed()), (201, true), "{}", heard.text);
    }
    let limited = limited.expect("more than three at once are too many");
    refuses(&limited, 429, "RATE_LIMITED", &json!({"retryable": true}));
    assert!(
        limited.header("ratelimit").is_some_and(|text| text.contains("r=0")),
        "{limited:?}"
    );
    for _ in 0..5 {
        let wrong = reserve(&whole, &key, &line("o1", "a", json!({"quantity": 0}))).await;
        refuses(&wrong, 400, "INVALID_REQUEST", &json!({"field": "quantity"}));
    }
    let ready = send(whole.public, Method::GET, "/readyz", &[], "").await;
    assert_eq!(ready.status, 200, "health is always told");
    whole.settled().await;
    whole.stop().await;
}
