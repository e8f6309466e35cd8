//! Payments that come after the expiry: the units are taken again under the old id, by whichever engine serves the
//! item, or the money goes back.

use std::time::Duration;

use flashgate::ledger::{EndAnswer, LaneRescue, Ledger, Settings};
use serde_json::{Value, json};

use crate::support::door::{Door, until};
use crate::support::gateway::{Whole, migrate};
use crate::support::servers::shared;
use crate::support::shop::{commit, release, with_key};
use crate::support::socket::{Heard, RESERVATIONS, line, put_on_sale, resell, reserve, with};

/// A reservation that has expired.
pub(crate) async fn expired(door: &Door, order: &str, sku: &str, extra: Value) -> String {
    lapsed(door, &with(line(order, sku, json!({"ttlSeconds": 1})), extra)).await
}

/// The reservation that this makes, when it has expired.
pub(crate) async fn lapsed(door: &Door, body: &Value) -> String {
    let made = reserve(door, &[("prefer", "wait=10")], body).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let id = made.id();
    until("the expiry", async || {
        (door.reservation(&id).await.body["status"] == "EXPIRED").then_some(())
    })
    .await;
    id
}

/// A durable reservation, as soon as there are units for it: those of an expiry take a moment to come back.
pub(crate) async fn bought(door: &Door, body: &Value) -> Heard {
    until("units", async || {
        let made = reserve(door, &[("prefer", "wait=10")], body).await;
        (made.status == 201).then_some(made)
    })
    .await
}

pub(crate) async fn stock(door: &Door, sku: &str) -> (i64, i64, i64) {
    sqlx::query_as("SELECT on_hand, reserved, sold FROM inventory_balance WHERE sku_id = $1")
        .bind(sku)
        .fetch_one(&door.pool)
        .await
        .expect("a balance")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_payment_takes_the_units_of_a_live_sale_again() {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "a", 3, json!({"buckets": 2, "perUserLimit": 2})).await;
    let id = expired(
        &whole,
        "o1",
        "a",
        json!({"userId": "u1", "quantity": 2, "idemKey": "k1"}),
    )
    .await;
    let paid = whole
        .shop(&format!("{RESERVATIONS}/{id}/commit"), json!({"paymentId": "p1"}))
        .await
        .expect(200);
    assert_eq!(
        (&paid["status"], &paid["rescued"], &paid["paymentId"]),
        (&json!("COMMITTED"), &json!(true), &json!("p1"))
    );
    assert_eq!(paid["reservationId"], json!(id));
    let again = whole.commit(&id).await;
    assert_eq!((again.status, again.body["status"].as_str()), (200, Some("COMMITTED")));
    assert_eq!(stock(&whole, "a").await, (1, 0, 2));
    // The allowance counts what was bought late.
    let more = reserve(&whole, &[], &line("o2", "a", json!({"userId": "u1"}))).await;
    assert_eq!(more.problem(), (409, "USER_LIMIT_EXCEEDED".into()));
    whole.settled().await;
    let counts = &whole.sale("a").await["counts"];
    assert_eq!((&counts["committed"], &counts["expired"]), (&json!(2), &json!(2)));
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_payment_gets_nothing_that_is_another_s() {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "a", 2, json!({})).await;
    let id = expired(&whole, "o1", "a", json!({"quantity": 2})).await;
    let other = bought(&whole, &line("o2", "a", json!({}))).await;
    let late = whole.commit(&id).await;
    assert_eq!(
        (late.problem(), &late.body["refundRequired"]),
        ((409, "RESERVATION_EXPIRED"), &json!(true))
    );
    assert_eq!(whole.reservation(&id).await.body["status"], "EXPIRED");
    // The units are free again, but the order has the item under another reservation by now.
    whole.release(&other.id()).await.expect(200);
    let anew = bought(&whole, &line("o1", "a", json!({}))).await;
    let late = whole.commit(&id).await;
    assert_eq!(late.problem(), (409, "RESERVATION_EXPIRED"));
    whole.commit(&anew.id()).await.expect(200);
    whole.settled().await;
    assert_eq!(stock(&whole, "a").await, (1, 0, 1));
    whole.stop().await;
}

/// Whoever is told to refund has a key all the same: it names what was answered for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_payment_that_is_refused_keeps_its_key() {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "a", 5, json!({"perUserLimit": 1})).await;
    let mine = |order: &str, key: &str| json!({"userId": "u1", "orderId": order, "idemKey": key});
    let id = expired(&whole, "o1", "a", mine("o1", "k1")).await;
    bought(&whole, &line("o2", "a", mine("o2", "k2"))).await;
    let late = whole.commit(&id).await;
    assert_eq!(late.problem(), (409, "RESERVATION_EXPIRED"), "the limit is reached");
    let other = with(
        line("o1", "a", json!({"quantity": 3, "ttlSeconds": 1})),
        mine("o1", "k1"),
    );
    let reused = reserve(&whole, &[], &other).await;
    assert_eq!(reused.problem(), (422, "IDEMPOTENCY_KEY_REUSED".to_owned()));
    whole.stop().await;
}

/// What is taken anew stays taken, so a commit that is refused all the same takes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_payment_that_is_refused_takes_nothing() {
    let database_url = shared().await.database().await;
    migrate(&database_url).await;
    let ledger = Ledger::new(&Settings::new(&database_url)).expect("an address");
    let whole = Whole::over(&shared().await.redis(), &database_url).await;
    stock_up(&whole).await;
    let mut ids = Vec::new();
    for order in ["o1", "o2", "o3", "o5", "o6"] {
        let id = expired(&whole, order, "shelf", json!({})).await;
        ids.push(id.parse().expect("an id"));
    }
    let [first, second, third, fifth, sixth] = ids[..] else {
        panic!("five reservations")
    };
    let asks = [
        with_key(commit(first, "p"), "k"),
        with_key(commit(second, "p"), "k"),
        release(third),
        commit(third, "p"),
        with_key(commit(fifth, "p"), "k5"),
        with_key(commit(fifth, "p"), "k6"),
        with_key(commit(sixth, "p"), "k6"),
    ];
    let answers = ledger.end(&asks).await.expect("Postgres answers");
    assert!(
        matches!(
            &answers[..],
            [
                EndAnswer::Done { rescued: true, .. },
                EndAnswer::KeyReused,
                EndAnswer::Done { rescued: false, .. },
                EndAnswer::Refused(_),
                EndAnswer::Done { rescued: true, .. },
                EndAnswer::Done { replayed: true, .. },
                EndAnswer::KeyReused,
            ]
        ),
        "{answers:?}"
    );
    assert_eq!(stock(&whole, "shelf").await, (3, 0, 2));
    // A lane has taken its line again when its sale is frozen.
    let cart = lapsed(&whole, &cart("o4", &[("shelf", 1), ("hot", 1)])).await;
    let asked = ledger.rescue_in_lane(cart.parse().expect("an id")).await;
    assert!(matches!(asked, Ok(LaneRescue::Asked(_))), "{asked:?}");
    until("the line in its lane", async || {
        (stock(&whole, "hot").await.1 == 1).then_some(())
    })
    .await;
    whole.act("hot", "freeze").await.expect(200);
    assert_eq!(whole.commit(&cart).await.problem(), (409, "SALE_FROZEN"));
    assert_eq!(
        (stock(&whole, "shelf").await, stock(&whole, "hot").await.1),
        ((3, 0, 2), 1)
    );
    whole.act("hot", "unfreeze").await.expect(200);
    bought(&whole, &line("o7", "shelf", json!({"quantity": 3}))).await;
    let late = whole.commit(&cart).await;
    assert_eq!(
        (late.problem(), &late.body["refundRequired"]),
        ((409, "RESERVATION_EXPIRED"), &json!(true))
    );
    assert_eq!(stock(&whole, "hot").await.1, 0, "what the lane took is given back");
    whole.stop().await;
}

/// Whether there is a unit for whoever pays late is known when the sale sells again, so nobody is told to refund before.
#[tokio::test(flavor = "multi_thread")]
async fn while_a_sale_is_frozen_nobody_is_told_to_refund() {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "a", 3, json!({})).await;
    let id = expired(&whole, "o1", "a", json!({})).await;
    whole.act("a", "freeze").await.expect(200);
    let late = whole.commit(&id).await;
    assert_eq!(
        (late.problem(), late.body.get("refundRequired")),
        ((409, "SALE_FROZEN"), None)
    );
    whole.act("a", "unfreeze").await.expect(200);
    let paid = whole.commit(&id).await.expect(200);
    assert_eq!((&paid["status"], &paid["rescued"]), (&json!("COMMITTED"), &json!(true)));
    whole.settled().await;
    whole.stop().await;
}

/// A stop brings all units home, so whoever asks a lane for units holds the sale until the lane is sure to be asked first.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_and_a_late_payment_that_asks_a_lane_take_turns() {
    let database_url = shared().await.database().await;
    migrate(&database_url).await;
    let ledger = Ledger::new(&Settings::new(&database_url)).expect("an address");
    let whole = Whole::over(&shared().await.redis(), &database_url).await;
    put_on_sale(&whole, "a", 3, json!({})).await;
    let id = expired(&whole, "o1", "a", json!({})).await.parse().expect("an id");
    // As a stop has it.
    let mut stop = whole.pool.begin().await.expect("Postgres answers");
    let held = sqlx::query("SELECT FROM sale FOR NO KEY UPDATE")
        .execute(&mut *stop)
        .await;
    assert_eq!(held.expect("it locks").rows_affected(), 1);
    let asking = ledger.rescue_in_lane(id);
    tokio::pin!(asking);
    let early = tokio::time::timeout(Duration::from_millis(500), &mut asking).await;
    assert!(early.is_err(), "it did not wait: {early:?}");
    stop.rollback().await.expect("Postgres answers");
    let asked = asking.await.expect("Postgres answers");
    assert!(matches!(asked, LaneRescue::Asked(_)), "{asked:?}");
    whole.stop().await;
}

/// However many pay at once, the units are taken once.
#[tokio::test(flavor = "multi_thread")]
async fn many_late_payments_of_one_reservation_are_one() {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "a", 5, json!({})).await;
    let id = expired(&whole, "o1", "a", json!({"quantity": 2})).await;
    let told = futures::future::join_all((0..12).map(|_| whole.commit(&id))).await;
    assert!(told.iter().all(|told| told.status == 200), "{told:#?}");
    whole.settled().await;
    assert_eq!(stock(&whole, "a").await, (3, 0, 2));
    assert_eq!(whole.sale("a").await["remaining"], 3);
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_payment_is_served_by_the_engine_that_serves_the_item_by_then() {
    let whole = Whole::empty().await;
    whole.receive("a", 4).await;
    let off = expired(&whole, "o1", "a", json!({})).await;
    let rescued = whole.commit(&off).await.expect(200);
    assert_eq!(
        (&rescued["status"], &rescued["rescued"]),
        (&json!("COMMITTED"), &json!(true))
    );
    resell(&whole, "s", "a", 3, json!({})).await;
    let on = expired(&whole, "o2", "a", json!({})).await;
    whole.act("s", "stop").await.expect(200);
    let rescued = whole.commit(&on).await.expect(200);
    assert_eq!(
        (&rescued["status"], &rescued["rescued"]),
        (&json!("COMMITTED"), &json!(true))
    );
    whole.settled().await;
    assert_eq!(stock(&whole, "a").await, (2, 0, 2));
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_payment_waits_for_a_sale_that_is_being_stopped() {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "a", 3, json!({})).await;
    let id = expired(&whole, "o1", "a", json!({})).await;
    // No grant gets a number while the lanes are locked, so no unit comes home.
    let mut lanes = whole.pool.begin().await.expect("Postgres answers");
    let lock = sqlx::query("SELECT FROM lane FOR NO KEY UPDATE")
        .execute(&mut *lanes)
        .await;
    assert!(lock.expect("it locks").rows_affected() > 0);
    let told_early = async {
        until("the end", async || {
            let state = sqlx::query_scalar::<_, String>("SELECT state::text FROM sale").fetch_one(&whole.pool);
            (state.await.expect("a sale") == "ended").then_some(())
        })
        .await;
        let early = whole.commit(&id).await;
        lanes.rollback().await.expect("it lets go");
        early
    };
    let (_, early) = tokio::join!(whole.act("a", "stop"), told_early);
    assert_eq!(early.problem(), (503, "STOCK_UNAVAILABLE"), "{}", early.body);
    whole.until_drained().await;
    assert_eq!(whole.commit(&id).await.expect(200)["rescued"], true);
    whole.settled().await;
    assert_eq!(stock(&whole, "a").await, (2, 0, 1));
    whole.stop().await;
}

/// `shelf` is not on sale, `hot` and `warm` are.
async fn shop() -> Whole {
    let whole = Whole::empty().await;
    stock_up(&whole).await;
    whole
}

async fn stock_up(door: &Door) {
    door.receive("shelf", 5).await;
    put_on_sale(door, "hot", 5, json!({})).await;
    put_on_sale(door, "warm", 5, json!({})).await;
}

/// A cart of these for one second, all at `wh1`.
pub(crate) fn cart(order: &str, lines: &[(&str, i64)]) -> Value {
    let lines: Vec<Value> = lines
        .iter()
        .map(|(sku, units)| json!({"skuId": sku, "locationId": "wh1", "quantity": units}))
        .collect();
    json!({"orderId": order, "lines": lines, "ttlSeconds": 1})
}

pub(crate) async fn commit_says(door: &Door, id: &str) -> (u16, Value, Value) {
    let told = door.commit(id).await;
    (told.status, told.body["status"].clone(), told.body["rescued"].clone())
}

pub(crate) fn rescued() -> (u16, Value, Value) {
    (200, json!("COMMITTED"), json!(true))
}

/// A reservation that has ended and is told again.
pub(crate) fn assert_replay(heard: &Heard, id: &str) {
    assert_eq!((heard.status, heard.replayed()), (200, true), "{}", heard.text);
    assert_eq!(
        (heard.id(), &heard.body()["status"]),
        (id.to_owned(), &json!("COMMITTED"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_payment_of_a_cart_takes_its_lines_again_wherever_they_are_sold() {
    let whole = shop().await;
    let lines = [("shelf", 2), ("hot", 3), ("warm", 1)];
    let body = cart("o1", &lines);
    let id = lapsed(&whole, &body).await;
    assert_eq!(commit_says(&whole, &id).await, rescued());
    assert_eq!(
        commit_says(&whole, &id).await,
        rescued(),
        "counted once, and told again"
    );
    assert_replay(&reserve(&whole, &[], &body).await, &id);
    for (sku, units) in lines {
        assert_eq!(stock(&whole, sku).await, (5 - units, 0, units), "{sku}");
    }
    // Both lines in lanes, and nothing on the shelf.
    let body = cart("o2", &[("hot", 2), ("warm", 1)]);
    let id = lapsed(&whole, &body).await;
    let told = futures::future::join_all((0..6).map(|_| commit_says(&whole, &id))).await;
    assert!(told.iter().all(|told| *told == rescued()), "{told:?}");
    assert_replay(&reserve(&whole, &[], &body).await, &id);
    assert_eq!(stock(&whole, "hot").await, (0, 0, 5));
    assert_eq!(stock(&whole, "warm").await, (3, 0, 2));
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_payment_of_a_cart_gets_all_of_it_or_nothing() {
    let whole = shop().await;
    let lines = [("shelf", 2), ("hot", 3), ("warm", 1)];
    let id = lapsed(&whole, &cart("o1", &lines)).await;
    for sku in ["hot", "warm"] {
        until("the units of the expiry", async || {
            (whole.sale(sku).await["remaining"] == 5).then_some(())
        })
        .await;
    }
    // Whoever takes what is needed of a line, in a lane or from the shelf, stands in the way of all of them.
    for (sku, units) in [("hot", 3), ("shelf", 4), ("warm", 5)] {
        let other = reserve(
            &whole,
            &[("prefer", "wait=10")],
            &line("o2", sku, json!({"quantity": units})),
        )
        .await;
        assert_eq!(other.status, 201, "{}", other.text);
        let late = whole.commit(&id).await;
        assert_eq!(
            (late.problem(), &late.body["refundRequired"]),
            ((409, "RESERVATION_EXPIRED"), &json!(true)),
            "{sku}"
        );
        assert_eq!(whole.reservation(&id).await.body["status"], "EXPIRED");
        for (named, _) in lines {
            let held = if named == sku { units } else { 0 };
            assert_eq!(stock(&whole, named).await, (5, held, 0), "{named} after {sku}");
            if named != "shelf" {
                until("the units that were given back", async || {
                    (whole.sale(named).await["remaining"] == 5 - held).then_some(())
                })
                .await;
            }
        }
        whole.release(&other.id()).await.expect(200);
    }
    assert_eq!(commit_says(&whole, &id).await, rescued());
    whole.settled().await;
    whole.stop().await;
}

/// What a gateway has taken again before it died is held for some seconds only, and a repeat of the commit finds it.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_payment_that_stops_halfway_holds_nothing_for_long() {
    let database_url = shared().await.database().await;
    migrate(&database_url).await;
    let ledger = Ledger::new(&Settings::new(&database_url)).expect("an address");
    let whole = Whole::over(&shared().await.redis(), &database_url).await;
    stock_up(&whole).await;
    let finished = lapsed(&whole, &cart("o1", &[("shelf", 1), ("hot", 1), ("warm", 1)])).await;
    let left = lapsed(&whole, &cart("o2", &[("shelf", 1), ("hot", 1), ("warm", 1)])).await;
    for id in [&finished, &left] {
        let id = id.parse().expect("an id");
        let asked = ledger.rescue_in_lane(id).await.expect("Postgres answers");
        assert!(
            matches!(&asked, LaneRescue::Asked(grants) if grants.len() == 2),
            "{asked:?}"
        );
    }
    until("the lines in lanes", async || {
        (stock(&whole, "hot").await.1 == 2 && stock(&whole, "warm").await.1 == 2).then_some(())
    })
    .await;
    assert_eq!(
        whole.reservation(&left).await.body["status"],
        "EXPIRED",
        "not all of it is held"
    );
    assert_eq!(commit_says(&whole, &finished).await, rescued());
    sqlx::query(
        "UPDATE inventory_reservation SET expires_at = created_at WHERE status = 'RESERVED' AND order_id = 'o2'",
    )
    .execute(&whole.pool)
    .await
    .expect("Postgres answers");
    until("the rest to be let go", async || {
        (stock(&whole, "hot").await.1 == 0 && stock(&whole, "warm").await.1 == 0).then_some(())
    })
    .await;
    whole.settled().await;
    for sku in ["hot", "warm"] {
        assert_eq!(
            (whole.sale(sku).await["remaining"].clone(), stock(&whole, sku).await),
            (json!(4), (4, 0, 1))
        );
    }
    whole.stop().await;
}

/// The keys of what was rescued are its own again, also those that nobody chose.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_of_what_was_rescued_is_a_replay() {
    let whole = shop().await;
    for (n, sku) in ["hot", "shelf"].into_iter().enumerate() {
        for (key, place) in [
            (json!(null), json!("wh1")),
            (json!(null), json!(null)),
            (json!("k"), json!("wh1")),
        ] {
            let key = key.as_str().map(|key| format!("{key}{sku}"));
            let order = format!("o{n}{}{}", key.is_some(), place.is_null());
            let body = with(
                line(
                    &order,
                    sku,
                    json!({"ttlSeconds": 1, "locationId": place, "idemKey": key}),
                ),
                json!({}),
            );
            let id = lapsed(&whole, &body).await;
            assert_eq!(commit_says(&whole, &id).await, rescued(), "{body}");
            assert_replay(&reserve(&whole, &[], &body).await, &id);
        }
    }
    let body = json!({"orderId": "o", "lines": cart("", &[("shelf", 1), ("hot", 1)])["lines"], "ttlSeconds": 1,
        "idemKey": "chosen"});
    let id = lapsed(&whole, &body).await;
    assert_eq!(commit_says(&whole, &id).await, rescued());
    assert_replay(&reserve(&whole, &[], &body).await, &id);
    whole.settled().await;
    whole.stop().await;
}

/// The first commit could not find out what came of it; the next one says that the units were taken again.
#[tokio::test(flavor = "multi_thread")]
async fn a_rescue_is_told_by_whichever_commit_is_answered() {
    let whole = shop().await;
    for body in [
        line("o1", "hot", json!({"ttlSeconds": 1})),
        cart("o2", &[("hot", 1), ("warm", 1)]),
    ] {
        let id = lapsed(&whole, &body).await;
        let mut hold = whole.pool.begin().await.expect("Postgres answers");
        sqlx::query("SELECT 1 FROM lane FOR NO KEY UPDATE")
            .execute(&mut *hold)
            .await
            .expect("the locks are free");
        let unknown = whole.commit(&id).await;
        assert_eq!(unknown.status, 503, "{}", unknown.body);
        hold.rollback().await.expect("the locks go");
        until("the units", async || {
            (whole.reservation(&id).await.body["status"] == "RESERVED").then_some(())
        })
        .await;
        assert_eq!(commit_says(&whole, &id).await, rescued());
        assert_eq!(commit_says(&whole, &id).await, rescued());
        assert_replay(&reserve(&whole, &[], &body).await, &id);
    }
    whole.settled().await;
    whole.stop().await;
}

/// The lane that held the reservation is dry by now, and the sale's other bucket is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_payment_gets_units_from_every_bucket() {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "a", 4, json!({"buckets": 2})).await;
    let id = expired(&whole, "o1", "a", json!({"quantity": 2})).await;
    until("the units", async || {
        (whole.sale("a").await["remaining"] == 4).then_some(())
    })
    .await;
    let lane_of = async |order: &str| -> i16 {
        sqlx::query_scalar("SELECT lane FROM inventory_reservation WHERE order_id = $1")
            .bind(order)
            .fetch_one(&whole.pool)
            .await
            .expect("a reservation")
    };
    let home = lane_of("o1").await;
    for n in 0.. {
        let buckets = whole.sale("a").await["buckets"].clone();
        let buckets = buckets.as_array().expect("buckets");
        if buckets.iter().any(|of| of["lane"] == home && of["remaining"] == 0) {
            break;
        }
        let order = format!("other-{n}");
        let heard = bought(&whole, &line(&order, "a", json!({}))).await;
        if lane_of(&order).await != home {
            whole.release(&heard.id()).await.expect(200);
        }
    }
    assert_eq!(whole.sale("a").await["remaining"], 2, "all in the other bucket");
    let told = futures::future::join_all((0..8).map(|_| commit_says(&whole, &id))).await;
    assert!(told.iter().all(|told| *told == rescued()), "{told:?}");
    assert_eq!(whole.sale("a").await["remaining"], 0);
    whole.settled().await;
    whole.stop().await;
}
