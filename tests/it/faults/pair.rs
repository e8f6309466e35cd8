//! Two gateways over the same lanes tell one truth.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::door::{Buy, Told, until};
use crate::support::gateway::{LANES, Whole, migrate};
use crate::support::proxy::{Proxy, Trick};
use crate::support::servers::shared;

/// Two gateways, and a live sale of so many units that the first was asked for.
async fn pair(units: i64, buckets: u16) -> [Whole; 2] {
    let (redis_url, database_url) = (shared().await.redis(), shared().await.database().await);
    migrate(&database_url).await;
    let (one, other) = tokio::join!(
        Whole::over(&redis_url, &database_url),
        Whole::over(&redis_url, &database_url)
    );
    one.sell("s", units, json!({"buckets": buckets})).await;
    [one, other]
}

async fn buy(gateway: &Whole, order: &str) -> Told {
    gateway.reserve(&Buy::of(order).prefer("wait=10")).await
}

const SOLD_OUT: (u16, &str) = (409, "INSUFFICIENT_STOCK");
const NOT_LIVE: (u16, &str) = (409, "SALE_NOT_LIVE");

#[tokio::test(flavor = "multi_thread")]
async fn sold_out_here_is_sold_out_there_but_never_for_the_holder() {
    let [one, other] = pair(2, 2).await;
    assert_eq!(buy(&one, "first").await.status, 201);
    let last = buy(&one, "last").await;
    assert_eq!(last.status, 201);
    for _ in 0..5 {
        for (n, gateway) in [&other, &one].into_iter().enumerate() {
            assert_eq!(buy(gateway, &format!("late-{n}")).await.problem(), SOLD_OUT);
        }
        // Its buyer has lost the answer: the sold-out word is not for them, whichever gateway they ask.
        for gateway in [&other, &one] {
            let again = buy(gateway, "last").await;
            assert_eq!((again.status, again.id(), again.replayed), (201, last.id(), true));
        }
    }
    one.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_here_is_for_sale_there_when_it_is_answered() {
    let [one, other] = pair(1, 1).await;
    let mut held = buy(&one, "o0").await.id();
    for n in 1..=10 {
        let (from, to) = if n % 2 == 0 { (&other, &one) } else { (&one, &other) };
        assert_eq!(buy(to, "waits").await.problem(), SOLD_OUT);
        let released = from.release(&held).await.expect(200);
        assert_ne!(released["restocked"], false, "{released}");
        let next = buy(to, &format!("o{n}")).await;
        assert_eq!(next.status, 201, "{}", next.body);
        held = next.id();
    }
    one.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_answer_comes_from_either_gateway() {
    let [one, other] = pair(100, 4).await;
    for n in 0..20 {
        for (gateway, name) in [(&one, "one"), (&other, "other")] {
            let asked = Instant::now();
            assert_eq!(
                buy(gateway, &format!("{name}-{n}")).await.standing(),
                "RESERVED durable"
            );
            // The wait is 10 s: it was the other's word that ended it, not the wait.
            assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        }
    }
    one.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_tells_one_gateway_is_in_force_on_the_other() {
    let [one, other] = pair(100, 2).await;
    let user = |order: &str| Buy::of(order).user("u").prefer("wait=10");
    assert_eq!(other.reserve(&user("before")).await.status, 201);
    for n in 0..5 {
        one.act("s", "pause").await.expect(200);
        assert_eq!(buy(&other, &format!("paused-{n}")).await.problem(), NOT_LIVE);
        other.act("s", "resume").await.expect(200);
        assert_eq!(buy(&one, &format!("resumed-{n}")).await.status, 201);
    }
    one.patch("/admin/sales/s", json!({"perUserLimit": 2}))
        .await
        .expect(200);
    assert_eq!(other.reserve(&user("second")).await.status, 201);
    let told = other.reserve(&user("third")).await;
    assert_eq!(told.problem(), (409, "USER_LIMIT_EXCEEDED"));
    assert_eq!((&told.body["limit"], &told.body["held"]), (&json!(2), &json!(2)));
    other
        .patch("/admin/sales/s", json!({"perUserLimit": 3}))
        .await
        .expect(200);
    assert_eq!(one.reserve(&user("third")).await.status, 201);

    // Of 100 units 8 are sold; now 9 are there in all, then 10.
    let buyer = |order: &str| Buy::of(order).user(order).prefer("wait=10");
    one.patch("/admin/sales/s", json!({"allocation": 9})).await.expect(200);
    assert_eq!(other.reserve(&buyer("ninth")).await.status, 201);
    assert_eq!(other.reserve(&buyer("tenth")).await.problem(), SOLD_OUT);
    assert_eq!(one.reserve(&buyer("tenth")).await.problem(), SOLD_OUT);
    one.patch("/admin/sales/s", json!({"allocation": 10})).await.expect(200);
    assert_eq!(other.reserve(&buyer("tenth")).await.status, 201);
    one.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_joins_finds_lanes_that_get_grants_meanwhile_sound() {
    let (redis_url, database_url) = (shared().await.redis(), shared().await.database().await);
    migrate(&database_url).await;
    let one = Whole::over(&redis_url, &database_url).await;
    one.sell("s", 100, json!({})).await;
    let mut held = Vec::new();
    for n in 0..100 {
        held.push(buy(&one, &format!("o{n}")).await.id());
    }
    let epochs = async || {
        let epochs = sqlx::query_scalar::<_, i64>("SELECT epoch FROM lane ORDER BY lane");
        epochs.fetch_all(&one.pool).await.expect("Postgres answers")
    };
    let before = epochs().await;

    // It takes its time between its looks at the ledger and at the lanes, and all the while units come back.
    let slow = Proxy::before(&redis_url).await;
    for _ in 0..2 {
        slow.play("EXISTS", Trick::Slow(Duration::from_millis(500)));
    }
    let other = Whole::start(slow.url(), &database_url).await;
    until("open lanes", async || {
        let next = held.pop().expect("it joins before all is given back");
        one.release(&next).await.expect(200);
        (other.ready().await["lanes"]["open"] == LANES).then_some(())
    })
    .await;
    assert_eq!(epochs().await, before, "nothing was wrong with any lane");
    assert_eq!(buy(&other, "late").await.standing(), "RESERVED durable");
    one.settled().await;
}
