//! Carts: several lines, all or nothing, in lanes, in the ledger, and half in each.

use std::time::Duration;

use futures::future::join_all;
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::door::{Door, until};
use crate::support::gateway::{Child, Whole, migrate};
use crate::support::servers::shared;
use crate::support::socket::{Heard, RESERVATIONS, line, put_on_sale, reserve, send, with};

/// A cart's body: one line for each of these, at `wh1`.
fn cart(order: &str, lines: &[(&str, i64)], extra: Value) -> Value {
    let lines: Vec<Value> = lines
        .iter()
        .map(|(sku, units)| json!({"skuId": sku, "locationId": "wh1", "quantity": units}))
        .collect();
    with(json!({"orderId": order, "lines": lines}), extra)
}

async fn buy(door: &Door, order: &str, lines: &[(&str, i64)]) -> Heard {
    reserve(door, &[], &cart(order, lines, json!({}))).await
}

/// Units reserved in the ledger, and free in a sale's counters.
async fn reserved(door: &Door, sku: &str) -> i64 {
    sqlx::query_scalar("SELECT reserved FROM inventory_balance WHERE sku_id = $1")
        .bind(sku)
        .fetch_one(&door.pool)
        .await
        .expect("a balance")
}

fn skus(heard: &Heard) -> Vec<(String, i64)> {
    let lines = heard.body()["lines"].as_array().cloned().unwrap_or_default();
    lines
        .iter()
        .map(|line| {
            let sku = line["skuId"].as_str().expect("a SKU").to_owned();
            (sku, line["quantity"].as_i64().expect("units"))
        })
        .collect()
}

/// `plain` and `other` are not on sale, `hot` and `warm` are.
async fn open() -> Whole {
    let whole = Whole::empty().await;
    stock_up(&whole).await;
    whole
}

async fn stock_up(door: &Door) {
    door.receive("plain", 10).await;
    door.receive("other", 10).await;
    put_on_sale(door, "hot", 10, json!({"buckets": 2})).await;
    put_on_sale(door, "warm", 10, json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cart_stands_and_ends_as_one() {
    let whole = open().await;
    let lines = [("plain", 2), ("hot", 3), ("warm", 1), ("other", 1)];
    let hasty = [("prefer", "respond-async")];
    let made = reserve(&whole, &hasty, &cart("o1", &lines, json!({"userId": "u1"}))).await;
    assert_eq!(made.status, 201, "always durable: {}", made.text);
    let body = made.body();
    assert_eq!((&body["status"], &body["ack"]), (&json!("RESERVED"), &json!("durable")));
    assert_eq!(body.get("skuId"), None, "only a single line has one at the top");
    let mut sorted = lines.map(|(sku, units)| (sku.to_owned(), units));
    sorted.sort();
    assert_eq!(skus(&made), sorted);
    assert_eq!(whole.reservation(&made.id()).await.expect(200)["lines"], body["lines"]);
    let again = reserve(&whole, &[], &cart("o1", &lines, json!({"userId": "u1"}))).await;
    assert_eq!((again.status, again.replayed(), again.id()), (201, true, made.id()));
    let other = reserve(&whole, &[], &cart("o1", &lines[..3], json!({"userId": "u1"}))).await;
    assert_eq!(
        other.problem(),
        (422, "IDEMPOTENCY_KEY_REUSED".into()),
        "one cart an order without keys"
    );
    for (sku, units) in lines {
        assert_eq!(reserved(&whole, sku).await, units, "{sku}");
        let single = reserve(
            &whole,
            &[("prefer", "wait=10")],
            &line("o1", sku, json!({"userId": "u1"})),
        )
        .await;
        assert_eq!(single.problem(), (409, "ORDER_ALREADY_RESERVED".into()), "{sku}");
    }
    let extended = whole
        .shop(
            &format!("{RESERVATIONS}/{}/extend", made.id()),
            json!({"ttlSeconds": 1200}),
        )
        .await
        .expect(200);
    assert!(
        extended["expiresAt"].as_str() > body["expiresAt"].as_str(),
        "{extended}"
    );
    let paid = whole.commit(&made.id()).await.expect(200);
    assert_eq!((&paid["status"], &paid["lines"]), (&json!("COMMITTED"), &body["lines"]));
    for (sku, _) in lines {
        assert_eq!(reserved(&whole, sku).await, 0, "{sku}");
    }
    let again = reserve(&whole, &hasty, &cart("o1", &lines, json!({"userId": "u1"}))).await;
    assert_eq!(
        (again.status, again.replayed()),
        (200, true),
        "the replay of what has ended"
    );
    whole.settled().await;
    assert_eq!(whole.sale("hot").await["remaining"], 7);
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cart_names_the_lines_that_its_order_holds_already() {
    let whole = open().await;
    let held = ["plain", "hot"];
    let mut first = Vec::new();
    for sku in held {
        let made = reserve(
            &whole,
            &[("prefer", "wait=10")],
            &line("o1", sku, json!({"userId": "u1"})),
        )
        .await;
        assert_eq!(made.status, 201, "{}", made.text);
        first.push(made.id());
    }
    for lines in [&[("other", 1), ("plain", 1)][..], &[("hot", 1), ("warm", 1)]] {
        let refused = reserve(&whole, &[], &cart("o1", lines, json!({"userId": "u1"}))).await;
        assert_eq!(refused.problem(), (409, "ORDER_ALREADY_RESERVED".into()));
        let body = refused.body();
        let (sku, id) = held
            .iter()
            .zip(&first)
            .find(|(sku, _)| lines.iter().any(|line| line.0 == **sku))
            .expect("one");
        assert_eq!(body["reservationId"], **id, "{body}");
        let told: Vec<&Value> = body["lines"].as_array().expect("lines").iter().collect();
        let [line] = told[..] else { panic!("{body}") };
        assert_eq!(
            (&line["skuId"], &line["code"], &line["reservationId"]),
            (&json!(sku), &json!("ORDER_ALREADY_RESERVED"), &json!(id))
        );
    }
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_on_one_item_count_together() {
    let whole = open().await;
    let made = buy(&whole, "o1", &[("plain", 4), ("hot", 2), ("plain", 5), ("hot", 1)]).await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(skus(&made), [("hot".to_owned(), 3), ("plain".to_owned(), 9)]);
    // One item alone is a single line, also as to what it waits for.
    let hasty = [("prefer", "respond-async")];
    let alone = reserve(&whole, &hasty, &cart("o3", &[("warm", 1), ("warm", 1)], json!({}))).await;
    assert_eq!((alone.status, &alone.body()["ack"]), (202, &json!("accepted")));
    let twice = buy(&whole, "o2", &[("other", 6), ("other", 5)]).await;
    assert_eq!(
        (twice.problem(), &twice.body()["available"]),
        ((409, "INSUFFICIENT_STOCK".into()), &json!(10)),
        "together, and as a single line"
    );
    let one = buy(&whole, "o2", &[("other", 6), ("other", 4)]).await;
    assert_eq!((one.status, &one.body()["skuId"]), (201, &json!("other")));
    whole.settled().await;
    whole.stop().await;
}

/// The lines asked for; the status and code of the answer; its `lines`.
type Refused = (&'static [(&'static str, i64)], (u16, &'static str), Value);

#[tokio::test(flavor = "multi_thread")]
async fn a_cart_that_fails_anywhere_holds_nothing() {
    let whole = open().await;
    whole.act("warm", "pause").await.expect(200);
    let table: [Refused; 4] = [
        (
            &[("plain", 2), ("hot", 11)],
            (409, "INSUFFICIENT_STOCK"),
            json!([{"skuId": "hot", "locationId": "wh1", "quantity": 11, "code": "INSUFFICIENT_STOCK", "available": 10}]),
        ),
        (
            &[("plain", 11), ("hot", 2), ("other", 12)],
            (409, "INSUFFICIENT_STOCK"),
            json!([
                {"skuId": "other", "locationId": "wh1", "quantity": 12, "code": "INSUFFICIENT_STOCK", "available": 10},
                {"skuId": "plain", "locationId": "wh1", "quantity": 11, "code": "INSUFFICIENT_STOCK", "available": 10},
            ]),
        ),
        (
            &[("plain", 1), ("hot", 1), ("warm", 1)],
            (409, "SALE_NOT_LIVE"),
            json!([{"skuId": "warm", "locationId": "wh1", "quantity": 1, "code": "SALE_NOT_LIVE", "state": "paused",
                    "startsAt": null}]),
        ),
        (
            &[("hot", 1), ("nothing", 1)],
            (404, "UNKNOWN_SKU"),
            json!([{"skuId": "nothing", "locationId": "wh1", "quantity": 1, "code": "UNKNOWN_SKU"}]),
        ),
    ];
    for (lines, (status, code), failed) in table {
        let heard = buy(&whole, "o1", lines).await;
        assert_eq!(heard.problem(), (status, code.to_owned()), "{}", heard.text);
        assert_eq!(heard.body()["lines"], failed);
        assert_eq!(
            whole.sale("hot").await["remaining"],
            10,
            "the units are back when it answers"
        );
        for sku in ["plain", "hot", "other", "warm"] {
            assert_eq!(reserved(&whole, sku).await, 0, "{sku} after {code}");
        }
    }
    // Nothing stands in the way of the same order.
    assert_eq!(buy(&whole, "o1", &[("plain", 10), ("hot", 10)]).await.status, 201);
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_s_limits_hold_for_its_line() {
    let whole = Whole::empty().await;
    whole.receive("plain", 10).await;
    put_on_sale(
        &whole,
        "hot",
        10,
        json!({"perUserLimit": 2, "maxHoldSeconds": 60, "holdSeconds": 60}),
    )
    .await;
    let nobody = buy(&whole, "o1", &[("plain", 1), ("hot", 1)]).await;
    assert_eq!(nobody.problem(), (400, "USER_REQUIRED".into()));
    let ask = |units, extra| {
        with(
            cart("o1", &[("plain", 1), ("hot", units)], json!({"userId": "u1"})),
            extra,
        )
    };
    let many = reserve(&whole, &[], &ask(3, json!({}))).await;
    assert_eq!(
        (many.problem(), &many.body()["lines"][0]["limit"]),
        ((409, "USER_LIMIT_EXCEEDED".into()), &json!(2))
    );
    // Too long comes before too many, of the user and of the sale.
    for units in [2, 3, 11] {
        let long = reserve(&whole, &[], &ask(units, json!({"ttlSeconds": 61}))).await;
        assert_eq!(
            (long.problem(), &long.body()["field"]),
            ((400, "INVALID_REQUEST".into()), &json!("ttlSeconds")),
            "{units}"
        );
        assert_eq!(long.body()["lines"][0]["code"], "INVALID_REQUEST");
    }
    assert_eq!(whole.sale("hot").await["remaining"], 10);
    let made = reserve(&whole, &[], &ask(2, json!({"ttlSeconds": 60}))).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let more = reserve(&whole, &[], &line("o2", "hot", json!({"userId": "u1"}))).await;
    assert_eq!(more.problem(), (409, "USER_LIMIT_EXCEEDED".into()), "the cart counts");
    whole.release(&made.id()).await.expect(200);
    let more = reserve(&whole, &[], &line("o2", "hot", json!({"userId": "u1", "quantity": 2}))).await;
    assert_eq!(more.status, 201, "{}", more.text);
    whole.settled().await;
    whole.stop().await;
}

/// A buyer has as long to pay for a cart as for the line that gives least, alone or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_cart_is_held_as_long_as_its_shortest_line() {
    let whole = Whole::empty().await;
    whole.receive("plain", 10).await;
    put_on_sale(&whole, "short", 10, json!({"holdSeconds": 120})).await;
    put_on_sale(&whole, "long", 10, json!({"holdSeconds": 1800})).await;
    let held = |made: &Heard| -> i64 {
        let at = |name: &str| -> chrono::DateTime<chrono::Utc> {
            serde_json::from_value(made.body()[name].clone()).expect("an instant")
        };
        (at("expiresAt") - at("createdAt")).num_seconds()
    };
    for (order, lines, seconds) in [
        ("o1", &[("plain", 1), ("short", 1)][..], 120),
        ("o2", &[("long", 1), ("short", 1)], 120),
        ("o3", &[("plain", 1), ("long", 1)], 900),
    ] {
        let made = buy(&whole, order, lines).await;
        assert_eq!((made.status, held(&made)), (201, seconds), "{}", made.text);
    }
    let sku = |sku| line("o4", sku, json!({}));
    for (sku, seconds) in [(sku("short"), 120), (sku("long"), 1800), (sku("plain"), 900)] {
        let made = reserve(&whole, &[], &sku).await;
        assert_eq!((made.status, held(&made)), (201, seconds), "{}", made.text);
    }
    whole.settled().await;
    whole.stop().await;
}

/// Sends a cart to a gateway that dies when its lines are held in their lanes, before the cart is made.
async fn dies_halfway(whole: &Whole, child: Child, body: &Value) {
    // The transaction that makes carts waits for this; the lanes' lines do not.
    let mut hold = whole.pool.begin().await.expect("Postgres answers");
    sqlx::query("SELECT 1 FROM inventory_balance WHERE sku_id = 'plain' FOR UPDATE")
        .execute(&mut *hold)
        .await
        .expect("the lock is free");
    let asked = {
        let (door, body): (Door, Value) = ((*child).clone(), body.clone());
        tokio::spawn(async move { door.try_shop(RESERVATIONS, &body).await })
    };
    until("two lines in their lanes", async || {
        (alone(whole).await == 2).then_some(())
    })
    .await;
    until("the transaction that waits", async || {
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        let count: i64 = sqlx::query_scalar(waits).fetch_one(&whole.pool).await.ok()?;
        (count > 0).then_some(())
    })
    .await;
    child.signal(Signal::SIGKILL);
    assert!(asked.await.expect("it does not panic").is_none(), "nobody answers");
    hold.rollback().await.expect("the lock goes");
}

/// Lines that are held and belong to no cart.
async fn alone(door: &Door) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM inventory_reservation WHERE status = 'RESERVED' AND cart_id IS NULL")
        .fetch_one(&door.pool)
        .await
        .expect("Postgres answers")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cart_whose_gateway_dies_holds_nothing_a_few_seconds_later() {
    let (whole, child) = with_a_child().await;
    let body = cart("o1", &[("plain", 2), ("hot", 3), ("warm", 1)], json!({}));
    dies_halfway(&whole, child, &body).await;
    until("the lines' expiry", async || (alone(&whole).await == 0).then_some(())).await;
    until("the units", async || {
        (whole.sale("hot").await["remaining"] == 10 && whole.sale("warm").await["remaining"] == 10).then_some(())
    })
    .await;
    for sku in ["plain", "hot", "warm"] {
        assert_eq!(reserved(&whole, sku).await, 0, "{sku}");
    }
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cart_whose_gateway_dies_is_finished_by_a_repeat_through_another() {
    let (whole, child) = with_a_child().await;
    let body = cart("o1", &[("plain", 2), ("hot", 3), ("warm", 1)], json!({"idemKey": "k"}));
    dies_halfway(&whole, child, &body).await;
    let made = until("the cart", async || {
        let heard = reserve(&whole, &[], &body).await;
        (heard.status != 503).then_some(heard)
    })
    .await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(
        skus(&made),
        [("hot".to_owned(), 3), ("plain".to_owned(), 2), ("warm".to_owned(), 1)]
    );
    for (sku, units) in [("plain", 2), ("hot", 3), ("warm", 1)] {
        until("one cart's units alone", async || {
            (reserved(&whole, sku).await == units).then_some(())
        })
        .await;
    }
    whole.settled().await;
    whole.stop().await;
}

/// Items on live sales in two lanes: the item, and its lane.
async fn in_two_lanes(door: &Door) -> [(String, i16); 2] {
    let mut found: Vec<(String, i16)> = Vec::new();
    for n in 0.. {
        let sku = format!("lane-{n}");
        put_on_sale(door, &sku, 10, json!({})).await;
        let lane: i16 = sqlx::query_scalar("SELECT lanes[1] FROM sale WHERE sale_id = $1")
            .bind(&sku)
            .fetch_one(&door.pool)
            .await
            .expect("a sale");
        if found.iter().all(|(_, taken)| *taken != lane) {
            found.push((sku, lane));
        }
        if found.len() == 2 {
            break;
        }
    }
    found.try_into().expect("two")
}

/// Sends a cart to a gateway that dies when the first of these lanes' lines is durable and the other's is not.
async fn dies_between_lanes(whole: &Whole, child: Child, body: &Value, lanes: &[(String, i16); 2]) {
    let mut hold = whole.pool.begin().await.expect("Postgres answers");
    sqlx::query("SELECT 1 FROM lane WHERE lane = $1 FOR NO KEY UPDATE")
        .bind(lanes[1].1)
        .execute(&mut *hold)
        .await
        .expect("the lock is free");
    let asked = {
        let (door, body): (Door, Value) = ((*child).clone(), body.clone());
        tokio::spawn(async move { door.try_shop(RESERVATIONS, &body).await })
    };
    until("the first line", async || {
        (lines_of(whole, &lanes[0].0).await == 1).then_some(())
    })
    .await;
    child.signal(Signal::SIGKILL);
    let told = asked.await.expect("it does not panic");
    assert!(told.is_none_or(|told| told.status == 503), "there is no cart");
    assert_eq!(lines_of(whole, &lanes[1].0).await, 0, "the other lane's is not durable");
    hold.rollback().await.expect("the lock goes");
}

/// Reservations of an item, whatever became of them.
async fn lines_of(door: &Door, sku: &str) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM inventory_reservation WHERE sku_id = $1")
        .bind(sku)
        .fetch_one(&door.pool)
        .await
        .expect("Postgres answers")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cart_whose_gateway_dies_between_its_lanes_holds_nothing_and_can_be_repeated() {
    let (whole, child) = with_a_child().await;
    let lanes = in_two_lanes(&whole).await;
    let lines = [("plain", 2), (&*lanes[0].0, 3), (&*lanes[1].0, 4)];
    let body = cart("o1", &lines, json!({"idemKey": "k"}));
    dies_between_lanes(&whole, child, &body, &lanes).await;
    until("the other line", async || {
        (lines_of(&whole, &lanes[1].0).await == 1).then_some(())
    })
    .await;
    until("the lines' end", async || (alone(&whole).await == 0).then_some(())).await;
    for (sku, _) in &lines[1..] {
        until("the units", async || {
            (whole.sale(sku).await["remaining"] == 10).then_some(())
        })
        .await;
        assert_eq!(reserved(&whole, sku).await, 0, "{sku}");
    }
    let made = until("the cart", async || {
        let heard = reserve(&whole, &[], &body).await;
        (heard.status != 503).then_some(heard)
    })
    .await;
    assert_eq!((made.status, made.replayed()), (201, false), "{}", made.text);
    for (sku, units) in lines {
        assert_eq!(reserved(&whole, sku).await, units, "{sku}");
    }
    whole.settled().await;
    whole.stop().await;
}

/// A gateway within this process, and one of its own, over the same stock.
async fn with_a_child() -> (Whole, Child) {
    let database_url = shared().await.database().await;
    migrate(&database_url).await;
    let redis_url = shared().await.redis();
    let whole = Whole::over(&redis_url, &database_url).await;
    stock_up(&whole).await;
    (whole, Child::over(&redis_url, &database_url).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_cart_through_two_gateways_at_once_is_made_once() {
    let database_url = shared().await.database().await;
    migrate(&database_url).await;
    let redis_url = shared().await.redis();
    let one = Whole::over(&redis_url, &database_url).await;
    let other = Whole::over(&redis_url, &database_url).await;
    stock_up(&one).await;
    for round in 0..5 {
        let order = format!("o{round}");
        let body = cart(
            &order,
            &[("plain", 1), ("hot", 1), ("warm", 1)],
            json!({"idemKey": order}),
        );
        let asks = (0..8).map(|n| {
            let door: &Door = if n % 2 == 0 { &one } else { &other };
            let body = body.clone();
            async move {
                until("an answer to keep", async || {
                    let heard = reserve(door, &[], &body).await;
                    (heard.status != 503).then_some(heard)
                })
                .await
            }
        });
        let told = join_all(asks).await;
        let first = told[0].id();
        for heard in &told {
            assert_eq!((heard.status, heard.id()), (201, first.clone()), "{}", heard.text);
        }
        assert_eq!(told.iter().filter(|heard| !heard.replayed()).count(), 1);
    }
    one.settled().await;
    for sku in ["plain", "hot", "warm"] {
        assert_eq!(reserved(&one, sku).await, 5, "{sku}");
    }
    other.stop().await;
    one.stop().await;
}

/// Carts of scarce items, from both sides, while one of the items goes on sale and off: never half a cart, never a unit
/// too many.
#[tokio::test(flavor = "multi_thread")]
async fn carts_are_whole_while_their_items_change_engines() {
    let whole = Whole::empty().await;
    whole.receive("a", 40).await;
    whole.receive("b", 40).await;
    let toggles = async {
        for n in 0..6 {
            let sale = format!("s{n}");
            let body = json!({"saleId": sale, "skuId": "a", "locationId": "wh1", "allocation": 4});
            if whole.post("/admin/sales", body).await.status != 201 {
                break;
            }
            whole.act(&sale, "start").await.expect(200);
            tokio::time::sleep(Duration::from_millis(150)).await;
            whole.act(&sale, "stop").await.expect(200);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let carts = (0..6).map(|buyer| {
        let whole = &whole;
        async move {
            let mut made = 0;
            for n in 0..10 {
                let order = format!("o{buyer}-{n}");
                let heard = buy(whole, &order, &[("a", 1), ("b", 1)]).await;
                match heard.status {
                    201 => made += 1,
                    409 | 503 => {}
                    _ => panic!("{}", heard.text),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            made
        }
    });
    let (made, ()) = tokio::join!(join_all(carts), toggles);
    let made: i64 = made.into_iter().sum();
    assert!(made > 0);
    until("the parts that were given back", async || {
        let left: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM inventory_reservation WHERE status = 'RESERVED' AND cart_id IS NULL",
        )
        .fetch_one(&whole.pool)
        .await
        .ok()?;
        (left == 0).then_some(())
    })
    .await;
    assert_eq!((reserved(&whole, "a").await, reserved(&whole, "b").await), (made, made));
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cart_is_checked_line_by_line() {
    let whole = open().await;
    let good = json!({"skuId": "plain", "locationId": "wh1", "quantity": 1});
    let many: Vec<Value> = (0..101)
        .map(|n| with(good.clone(), json!({"skuId": format!("s{n}")})))
        .collect();
    let half = with(good.clone(), json!({"quantity": 600_000}));
    for (lines, extra, field) in [
        (json!([]), json!({}), "lines"),
        (json!(many), json!({}), "lines"),
        (json!([half.clone(), half]), json!({}), "lines"),
        (json!({"skuId": "plain"}), json!({}), "lines"),
        (
            json!([good.clone(), {"skuId": "hot", "quantity": 0}]),
            json!({}),
            "lines[1].quantity",
        ),
        (json!([good.clone(), {"quantity": 1}]), json!({}), "lines[1].skuId"),
        (json!([good.clone(), ["plain", "wh1", 1]]), json!({}), "lines[1]"),
        (json!([good.clone()]), json!({"shipTo": [50, 9, null]}), "shipTo"),
        (json!([good.clone()]), json!({"skuId": "plain"}), "skuId"),
        (json!([good.clone()]), json!({"locationId": "wh1"}), "locationId"),
        (json!([good]), json!({"quantity": 1}), "quantity"),
    ] {
        let body = with(json!({"orderId": "o1", "lines": lines}), extra);
        let heard = reserve(&whole, &[], &body).await;
        assert_eq!(
            (heard.problem(), heard.body()["field"].as_str()),
            ((400, "INVALID_REQUEST".into()), Some(field)),
            "{body}"
        );
    }
    let unknown = send(whole.public, Method::GET, &format!("{RESERVATIONS}/nonsense"), &[], "").await;
    assert_eq!(unknown.status, 404);
    whole.settled().await;
    whole.stop().await;
}

/// A payment that has begun may pass the longest hold, by as much as the settings say.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_s_grace_is_a_setting() {
    let database_url = shared().await.database().await;
    migrate(&database_url).await;
    let whole = Whole::changed(&shared().await.redis(), &database_url, |settings| {
        settings.ledger.extend.payment_grace_seconds = 60;
    })
    .await;
    whole.until_open().await;
    whole.receive("plain", 10).await;
    let made = reserve(&whole, &[], &line("o1", "plain", json!({}))).await;
    assert_eq!(made.status, 201, "{}", made.text);
    for (reason, longest) in [(None, 3_600), (Some("payment_started"), 3_660), (None, 3_660)] {
        let path = format!("{RESERVATIONS}/{}/extend", made.id());
        let body = json!({"ttlSeconds": 5_000, "reason": reason});
        let extended = whole.shop(&path, body).await.expect(200);
        let at = |field: &str| -> chrono::DateTime<chrono::Utc> {
            serde_json::from_value(extended[field].clone()).expect("an instant")
        };
        assert_eq!((at("expiresAt") - at("createdAt")).num_seconds(), longest, "{reason:?}");
    }
    whole.settled().await;
    whole.stop().await;
}
