//! The ledger engine: what is not on sale is sold by Postgres, through the same calls; and items that go from one engine
//! to the other and back while everybody buys.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};

use crate::support::buyers::Buyers;
use crate::support::door::{Buy, Door, PATIENCE, until};
use crate::support::gateway::{Whole, migrate};
use crate::support::servers::shared;
use crate::support::socket::{RESERVATIONS, line, post, resell, reserve, with};

/// Sales of the toggled item: each begins and ends, so twice as many toggles.
const SALES: usize = 50;

/// Two gateways over one database.
async fn two() -> (Whole, Whole) {
    let database_url = shared().await.database().await;
    migrate(&database_url).await;
    let redis_url = shared().await.redis();
    let one = Whole::over(&redis_url, &database_url).await;
    let other = Whole::over(&redis_url, &database_url).await;
    (one, other)
}

async fn stock(door: &Door, sku: &str) -> (i64, i64, i64) {
    sqlx::query_as("SELECT on_hand, reserved, escrowed FROM inventory_balance WHERE sku_id = $1")
        .bind(sku)
        .fetch_one(&door.pool)
        .await
        .expect("a balance")
}

fn seconds(body: &Value) -> i64 {
    let at = |field: &str| -> chrono::DateTime<chrono::Utc> {
        serde_json::from_value(body[field].clone()).expect("an instant")
    };
    (at("expiresAt") - at("createdAt")).num_seconds()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_without_a_sale_goes_through_the_same_calls() {
    let whole = Whole::empty().await;
    whole.receive("plain", 10).await;
    let hasty = [("prefer", "respond-async")];
    let made = reserve(
        &whole,
        &hasty,
        &line("o1", "plain", json!({"quantity": 4, "userId": "u1"})),
    )
    .await;
    assert_eq!(made.status, 201, "always durable: {}", made.text);
    let body = made.body();
    assert_eq!((&body["status"], &body["ack"]), (&json!("RESERVED"), &json!("durable")));
    assert_eq!(
        body["lines"],
        json!([{"skuId": "plain", "locationId": "wh1", "quantity": 4}])
    );
    assert_eq!((&body["skuId"], &body["quantity"]), (&json!("plain"), &json!(4)));
    assert_eq!(seconds(&body), 900);
    assert_eq!(
        whole.reservation(&made.id()).await.expect(200),
        body,
        "GET shows the same"
    );
    assert_eq!(stock(&whole, "plain").await, (10, 4, 0));

    let again = reserve(
        &whole,
        &[],
        &line("o1", "plain", json!({"quantity": 4, "userId": "u1"})),
    )
    .await;
    assert_eq!((again.status, again.replayed(), again.id()), (201, true, made.id()));
    let more = reserve(
        &whole,
        &[],
        &line("o1", "plain", json!({"quantity": 5, "userId": "u1"})),
    )
    .await;
    assert_eq!(more.problem(), (422, "IDEMPOTENCY_KEY_REUSED".into()));
    let twice = reserve(&whole, &[("idempotency-key", "k")], &line("o1", "plain", json!({}))).await;
    assert_eq!(
        (twice.problem(), &twice.body()["reservationId"]),
        ((409, "ORDER_ALREADY_RESERVED".into()), &json!(made.id()))
    );
    let too_many = reserve(&whole, &[], &line("o2", "plain", json!({"quantity": 7}))).await;
    assert_eq!(
        (too_many.problem(), &too_many.body()["available"]),
        ((409, "INSUFFICIENT_STOCK".into()), &json!(6))
    );
    let long = reserve(&whole, &[], &line("o2", "plain", json!({"ttlSeconds": 3601}))).await;
    assert_eq!(
        (long.problem(), &long.body()["field"]),
        ((400, "INVALID_REQUEST".into()), &json!("ttlSeconds"))
    );
    let own = reserve(&whole, &[], &line("o2", "plain", json!({"ttlSeconds": 3600}))).await;
    assert_eq!((own.status, seconds(&own.body())), (201, 3600));

    whole.commit(&made.id()).await.expect(200);
    let released = whole.release(&own.id()).await.expect(200);
    assert_eq!(
        (&released["status"], released.get("restocked")),
        (&json!("RELEASED"), None)
    );
    assert_eq!(stock(&whole, "plain").await, (6, 0, 0));
    let verb = json!({"orderId": "o3", "skuId": "plain", "qty": 6});
    let verb = post(&whole, "/api/inventory/reserve", &[], &verb).await;
    assert_eq!((verb.status, &verb.body()["status"]), (201, &json!("RESERVED")));
    let more = json!({"ttlSeconds": 1800});
    let extended = whole
        .shop(&format!("{RESERVATIONS}/{}/extend", verb.id()), more)
        .await
        .expect(200);
    assert!(seconds(&extended) >= 1_799, "{extended}");

    let nowhere = reserve(&whole, &[], &line("o4", "plain", json!({"locationId": "moon"}))).await;
    assert_eq!(nowhere.problem(), (404, "UNKNOWN_LOCATION".into()));
    let place = json!({"name": "Two", "kind": "store", "region": "eu", "active": true});
    whole.put("/admin/locations/wh2", place).await.expect(200);
    let empty = reserve(&whole, &[], &line("o4", "plain", json!({"locationId": "wh2"}))).await;
    assert_eq!(
        (empty.problem(), &empty.body()["available"]),
        ((409, "INSUFFICIENT_STOCK".into()), &json!(0))
    );
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_paid_for_in_time_can_be_bought_again() {
    let whole = Whole::empty().await;
    whole.receive("plain", 1).await;
    let made = reserve(&whole, &[], &line("o1", "plain", json!({"ttlSeconds": 1}))).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let next = until("the expiry", async || {
        let heard = reserve(&whole, &[], &line("o2", "plain", json!({}))).await;
        (heard.status == 201).then_some(heard)
    })
    .await;
    assert_eq!(whole.reservation(&made.id()).await.body["status"], "EXPIRED");
    // The derived key lives as long as the reservation is reserved: the order may try again.
    whole.release(&next.id()).await.expect(200);
    assert_eq!(reserve(&whole, &[], &line("o1", "plain", json!({}))).await.status, 201);
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_sell_a_hot_item_to_the_last_unit_and_no_further() {
    let (one, other) = two().await;
    one.receive("hot", 60).await;
    let asks = (0..200).map(|n| {
        let door = if n % 2 == 0 { &one } else { &other };
        async move { door.insist(&Buy::of(&format!("o{n}"))).await }
    });
    let told = join_all(asks).await;
    let made: HashSet<String> = told
        .iter()
        .filter(|told| told.status == 201)
        .map(|told| told.id())
        .collect();
    assert_eq!(made.len(), 60);
    let refused: Vec<_> = told.iter().filter(|told| told.status != 201).collect();
    assert!(
        refused
            .iter()
            .all(|told| told.problem() == (409, "INSUFFICIENT_STOCK") && told.body["available"] == 0),
        "{refused:#?}"
    );
    assert_eq!(stock(&one, "hot").await, (60, 60, 0));
    one.settled().await;
    other.stop().await;
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_requests_under_one_key_make_one_reservation_off_sale_too() {
    let (one, other) = two().await;
    one.receive("a", 50).await;
    let body = line("o1", "a", json!({"quantity": 2, "idemKey": "k"}));
    let all = join_all((0..200).map(|n| if n % 2 == 0 { &one } else { &other }.shop(RESERVATIONS, body.clone()))).await;
    let first = all[0].id();
    assert!(all.iter().all(|told| told.status == 201 && told.id() == first));
    assert_eq!(
        all.iter().filter(|told| !told.replayed).count(),
        1,
        "one of them made it"
    );
    assert_eq!(stock(&one, "a").await, (50, 2, 0));
    one.settled().await;
    other.stop().await;
    one.stop().await;
}

/// Between the engines and back, a hundred times: with more than anybody wants, nobody is ever refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_toggles_between_the_engines_refuse_nobody() {
    let (one, other) = two().await;
    one.receive("hot", 20_000).await;
    let buyers = Buyers::start(&[(*one).clone(), (*other).clone()], "hot", 8);
    for n in 0..SALES {
        let sale = format!("s{n}");
        let desk = if n % 2 == 0 { &one } else { &other };
        resell(desk, &sale, "hot", 9_000, json!({"buckets": 2})).await;
        buyers.after(Instant::now(), 4).await;
        desk.act(&sale, "stop").await.expect(200);
        buyers.after(Instant::now(), 4).await;
    }
    let (deeds, account) = buyers.stop().await;
    let refused: Vec<_> = deeds
        .iter()
        .filter(|deed| !matches!(deed.told.status, 201 | 202 | 503))
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
    // A change may keep somebody waiting for longer than he is let wait, on a machine that is busy.
    let unsure = deeds.iter().filter(|deed| deed.told.status == 503).count();
    assert!(
        unsure * 100 <= deeds.len(),
        "{unsure} of {} were sent away for now",
        deeds.len()
    );
    one.settled().await;
    let committed = i64::try_from(account.committed).expect("few");
    assert_eq!(stock(&one, "hot").await, (20_000 - committed, 0, 0));
    let (by_lane, by_ledger): (i64, i64) = sqlx::query_as(
        "SELECT count(*) FILTER (WHERE sale_no IS NOT NULL), count(*) FILTER (WHERE sale_no IS NULL)
         FROM inventory_reservation",
    )
    .fetch_one(&one.pool)
    .await
    .expect("Postgres answers");
    assert!(by_lane > 50 && by_ledger > 50, "both sold: {by_lane}, {by_ledger}");
    other.stop().await;
    one.stop().await;
}

/// So many buyers, one after the other through either gateway; what they got.
async fn all_served(doors: [&Door; 2], round: usize, buyers: usize, between: Duration) -> Vec<String> {
    let asks = (0..buyers).map(|n| async move {
        tokio::time::sleep(between * u32::try_from(n).expect("few")).await;
        let told = doors[n % 2].insist(&Buy::of(&format!("o{round}-{n}"))).await;
        assert!(matches!(told.status, 201 | 202), "{told:?}");
        told.id()
    });
    join_all(asks).await
}

async fn all_released(door: &Door, made: Vec<String>) {
    for id in made {
        until("a durable reservation", async || {
            (door.release(&id).await.status == 200).then_some(())
        })
        .await;
    }
}

/// As many buyers as the sale has units, all of them asking while it begins: whoever does not meet the ledger before it
/// finds his unit in a lane, though it is on its way there still.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_refused_while_a_start_sends_the_units_out() {
    let (one, other) = two().await;
    // However many are served before it, the sale finds its units.
    one.receive("hot", 32).await;
    for round in 0..10 {
        let sale = format!("s{round}");
        // At once: while it waited, its units would be nobody's.
        let now = json!({"buckets": 2, "startsAt": "2020-01-01T00:00:00.000Z"});
        let asks = all_served([&one, &other], round, 16, Duration::from_millis(5));
        let ((), made) = tokio::join!(resell(&one, &sale, "hot", 16, now), asks);
        all_released(&one, made).await;
        one.act(&sale, "stop").await.expect(200);
        until("the units", async || {
            (stock(&one, "hot").await == (32, 0, 0)).then_some(())
        })
        .await;
    }
    one.settled().await;
    other.stop().await;
    one.stop().await;
}

/// As many buyers as units, all of them asking while the sale is stopped and the units come home.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_refused_while_a_stop_brings_the_units_home() {
    let (one, other) = two().await;
    one.receive("hot", 24).await;
    for round in 0..10 {
        let sale = format!("s{round}");
        resell(&one, &sale, "hot", 24, json!({"buckets": 2})).await;
        let stop = async { one.act(&sale, "stop").await.expect(200) };
        let asks = all_served([&one, &other], round, 24, Duration::from_millis(7));
        let (_, made) = tokio::join!(stop, asks);
        let late = other.insist(&Buy::of("late")).await;
        assert_eq!(late.problem(), (409, "INSUFFICIENT_STOCK"), "they had all there was");
        all_released(&one, made).await;
        until("the units", async || {
            (stock(&one, "hot").await == (24, 0, 0)).then_some(())
        })
        .await;
    }
    one.settled().await;
    other.stop().await;
    one.stop().await;
}

/// A replay finds its reservation in whichever engine made it.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_served_across_the_engines() {
    let whole = Whole::empty().await;
    whole.receive("hot", 100).await;
    let off = whole.reserve(&Buy::of("off").key("k-off")).await;
    assert_eq!(off.status, 201);
    resell(&whole, "s", "hot", 50, json!({})).await;
    let on = whole.reserve(&Buy::of("on").key("k-on").prefer("wait=10")).await;
    assert_eq!(on.status, 201);
    let again = whole.reserve(&Buy::of("off").key("k-off").prefer("wait=10")).await;
    assert_eq!((again.status, again.replayed, again.id()), (201, true, off.id()));
    whole.act("s", "stop").await.expect(200);
    let again = whole.reserve(&Buy::of("on").key("k-on")).await;
    assert_eq!((again.status, again.replayed, again.id()), (201, true, on.id()));
    let other = whole.reserve(&Buy::of("on").key("k-on").units(2)).await;
    assert_eq!(other.problem(), (422, "IDEMPOTENCY_KEY_REUSED"));
    let line = whole.reserve(&Buy::of("on")).await;
    assert_eq!(line.problem(), (409, "ORDER_ALREADY_RESERVED"));
    whole.settled().await;
    whole.stop().await;
}

/// A repeat gets its first answer also where the engine that serves the item by then has nothing left, or would refuse
/// the buyer for another reason; and an order that holds the item is told so.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_never_refused_for_what_came_after_it() {
    let (one, other) = two().await;
    one.receive("a", 20).await;
    one.receive("b", 5).await;
    let wait = [("prefer", "wait=10")];
    let keyed = |order: &str, user: Value| line(order, "a", json!({"userId": user, "idemKey": format!("k-{order}")}));
    let mut made: Vec<(Value, String)> = Vec::new();
    let before = [
        keyed("o1", json!("u1")),
        keyed("o2", Value::Null),
        line("o3", "a", json!({})),
        line("o4", "a", json!({"locationId": null, "userId": "u4"})),
    ];
    for body in before {
        let heard = reserve(&one, &wait, &body).await;
        assert_eq!(heard.status, 201, "{}", heard.text);
        made.push((body, heard.id()));
    }
    let item = |sku: &str| json!({"skuId": sku, "locationId": "wh1", "quantity": 1});
    let cart = reserve(&one, &[], &json!({"orderId": "o5", "lines": [item("a"), item("b")]})).await;
    assert_eq!(cart.status, 201, "{}", cart.text);
    let gone = reserve(&one, &wait, &keyed("o6", json!("u6"))).await;
    one.release(&gone.id()).await.expect(200);

    for sale in ["s1", "s2"] {
        resell(&one, sale, "a", 2, json!({"perUserLimit": 1})).await;
        // u1 is at the limit, and nothing is left.
        for user in ["u1", "u9"] {
            let body = keyed(&format!("{sale}-{user}"), json!(user));
            let heard = reserve(&one, &wait, &body).await;
            assert_eq!(heard.status, 201, "{}", heard.text);
            made.push((body, heard.id()));
        }
        for door in [&one, &other, &one, &other] {
            let nobody = reserve(door, &wait, &keyed("new", json!("new"))).await;
            assert_eq!(nobody.problem(), (409, "INSUFFICIENT_STOCK".into()));
            for (body, id) in &made {
                let again = reserve(door, &wait, body).await;
                assert_eq!(
                    (again.status, again.replayed(), &again.id()),
                    (201, true, id),
                    "{body}: {}",
                    again.text
                );
            }
            let again = reserve(door, &wait, &keyed("o6", json!("u6"))).await;
            assert_eq!(
                (again.status, again.replayed(), again.id()),
                (200, true, gone.id()),
                "{}",
                again.text
            );
            let changed = with(keyed("o1", json!("u1")), json!({"quantity": 2}));
            let changed = reserve(door, &wait, &changed).await;
            assert_eq!(changed.problem(), (422, "IDEMPOTENCY_KEY_REUSED".into()));
            for (order, holds) in [("o1", &made[0].1), ("o3", &made[2].1), ("o5", &cart.id())] {
                let body = line(order, "a", json!({"userId": "new", "idemKey": "k-new"}));
                let held = reserve(door, &wait, &body).await;
                assert_eq!(held.problem(), (409, "ORDER_ALREADY_RESERVED".into()), "{order}");
                assert_eq!(held.body()["reservationId"], json!(holds), "a cart by its own id");
            }
        }
        one.act(sale, "stop").await.expect(200);
    }
    // The other way round: made in a lane, and the shelf is empty.
    let (on_hand, reserved, _) = stock(&one, "a").await;
    let rest = line("rest", "a", json!({"quantity": on_hand - reserved}));
    assert_eq!(reserve(&one, &[], &rest).await.status, 201);
    let nobody = reserve(&other, &[], &keyed("new", json!("new"))).await;
    assert_eq!(nobody.problem(), (409, "INSUFFICIENT_STOCK".into()));
    for (body, id) in &made {
        let again = reserve(&other, &[], body).await;
        assert_eq!(
            (again.status, again.replayed(), &again.id()),
            (201, true, id),
            "{body}: {}",
            again.text
        );
    }
    one.settled().await;
    other.stop().await;
    one.stop().await;
}

/// A draft sets units aside; the rest is sold until it starts.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_draft_leaves_is_sold() {
    let whole = Whole::empty().await;
    whole.receive("a", 10).await;
    resell(&whole, "s", "a", 7, json!({"draft": true})).await;
    let few = reserve(&whole, &[], &line("o1", "a", json!({"quantity": 4}))).await;
    assert_eq!(
        (few.problem(), &few.body()["available"]),
        ((409, "INSUFFICIENT_STOCK".into()), &json!(3))
    );
    assert_eq!(
        reserve(&whole, &[], &line("o1", "a", json!({"quantity": 3})))
            .await
            .status,
        201
    );
    whole.act("s", "start").await.expect(200);
    let since = Instant::now();
    let sold = loop {
        let heard = reserve(&whole, &[], &line("o2", "a", json!({"quantity": 7}))).await;
        if heard.status != 503 {
            break heard;
        }
        assert!(since.elapsed() < PATIENCE, "{}", heard.text);
    };
    assert_eq!(sold.status, 201, "{}", sold.text);
    whole.settled().await;
    whole.stop().await;
}
