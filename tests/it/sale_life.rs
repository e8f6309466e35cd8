//! A sale's life while it sells: every change is in force when the call answers, no unit is lost or doubled, and other
//! sales do not notice.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::support::buyers::{Buyers, Deed};
use crate::support::door::{Buy, Door, until};
use crate::support::gateway::{Whole, migrate};
use crate::support::servers::shared;
use crate::support::socket::{put_on_sale, resell};

/// Requests that have to be seen after each change.
const SEEN: usize = 40;
const PATH: &str = "/admin/sales/hot";

/// Two gateways over the same servers.
async fn two() -> (Whole, Whole) {
    let (redis_url, database_url) = (shared().await.redis(), shared().await.database().await);
    migrate(&database_url).await;
    let one = Whole::over(&redis_url, &database_url).await;
    let other = Whole::over(&redis_url, &database_url).await;
    (one, other)
}

/// Buyers of `hot` through both gateways, and the one where the operator sits.
struct Street<'a> {
    desk: &'a Door,
    buyers: Buyers,
}

impl Street<'_> {
    /// Does something to the sale; the answer, and what buyers heard who asked after it.
    async fn act(&self, action: &str) -> (Value, Vec<Deed>) {
        let sale = self.desk.act("hot", action).await.expect(200);
        (sale, self.buyers.after(Instant::now(), SEEN).await)
    }

    async fn patch(&self, body: Value) -> (Value, Vec<Deed>) {
        let sale = self.desk.patch(PATH, body).await.expect(200);
        (sale, self.buyers.after(Instant::now(), SEEN).await)
    }

    /// An action after which nobody buys.
    async fn closes(&self, action: &str, state: &str) {
        let (sale, deeds) = self.act(action).await;
        assert_eq!(sale["state"], state);
        assert_closed(&deeds, state);
    }

    /// An action after which everybody may buy.
    async fn opens(&self, action: &str) {
        let (sale, deeds) = self.act(action).await;
        assert_eq!(sale["state"], "live");
        assert!(
            deeds.iter().all(|deed| deed.code() != "SALE_NOT_LIVE"),
            "after {action}: {deeds:#?}"
        );
        assert!(deeds.iter().any(Deed::sold), "after {action} something is sold");
    }
}

/// Nobody got anything but what he had before; who heard a state heard this one.
fn assert_closed(deeds: &[Deed], state: &str) {
    for deed in deeds {
        assert!(!deed.sold(), "{state}: {deed:?}");
        if deed.code() == "SALE_NOT_LIVE" {
            assert_eq!(deed.told.body["state"], state, "{deed:?}");
        }
    }
    assert!(
        deeds.iter().any(|deed| deed.code() == "SALE_NOT_LIVE"),
        "{state}: {deeds:#?}"
    );
}

async fn stock(door: &Door, sku: &str) -> (i64, i64, i64) {
    sqlx::query_as("SELECT on_hand, reserved, escrowed FROM inventory_balance WHERE sku_id = $1")
        .bind(sku)
        .fetch_one(&door.pool)
        .await
        .expect("a balance")
}

/// Reservations of one unit each that no sale made, by how they ended; as a sale counts them.
async fn by_ledger_engine(door: &Door, sku: &str) -> Value {
    let (made, paid, back): (i64, i64, i64) = sqlx::query_as(
        "SELECT count(*), count(*) FILTER (WHERE status = 'COMMITTED'), count(*) FILTER (WHERE status = 'RELEASED')
         FROM inventory_reservation WHERE sku_id = $1 AND sale_no IS NULL",
    )
    .bind(sku)
    .fetch_one(&door.pool)
    .await
    .expect("Postgres answers");
    json!({"accepted": made, "durable": made, "committed": paid, "released": back})
}

fn whole_units(count: usize) -> i64 {
    i64::try_from(count).expect("few")
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_done_to_a_sale_is_in_force_when_it_answers() {
    let (one, other) = two().await;
    put_on_sale(
        &one,
        "hot",
        400,
        json!({"draft": true, "buckets": 2, "holdSeconds": 600}),
    )
    .await;
    put_on_sale(&one, "calm", 100_000, json!({"buckets": 2})).await;
    let doors = [(*one).clone(), (*other).clone()];
    let calm = Buyers::start(&doors, "calm", 2);
    let street = Street {
        desk: &one,
        buyers: Buyers::start(&doors, "hot", 16),
    };
    for deed in street.buyers.after(Instant::now(), SEEN).await {
        // The ledger engine serves the item; all its units are set aside for the sale.
        assert!(
            matches!(deed.code(), "INSUFFICIENT_STOCK" | "STOCK_UNAVAILABLE"),
            "{deed:?}"
        );
    }
    street.opens("start").await;
    let kept = [
        other.insist(&Buy::of("kept-1")).await.id(),
        other.insist(&Buy::of("kept-2")).await.id(),
    ];
    street.closes("pause", "paused").await;
    other.commit(&kept[0]).await.expect(200);
    street.opens("resume").await;
    street.closes("freeze", "frozen").await;
    let late = one.insist(&Buy::of("kept-2")).await;
    assert_eq!(
        (late.status, late.replayed),
        (201, true),
        "keyless, so a replay of what is held"
    );
    assert_eq!(other.commit(&kept[1]).await.problem(), (409, "SALE_FROZEN"));
    other.release(&kept[1]).await.expect(200);
    street.opens("unfreeze").await;

    let (sale, _) = street.patch(json!({"allocation": 300})).await;
    assert_eq!(sale["allocation"], 300);
    assert_eq!(
        one.patch(PATH, json!({"allocation": 1})).await.problem(),
        (409, "INSUFFICIENT_STOCK")
    );
    let (sale, deeds) = street.patch(json!({"allocation": 390})).await;
    assert_eq!(sale["allocation"], 390);
    assert!(
        deeds.iter().all(|deed| deed.code() != "INSUFFICIENT_STOCK"),
        "there are enough: {deeds:#?}"
    );

    let (sale, deeds) = street.patch(json!({"perUserLimit": 1})).await;
    assert_eq!(sale["perUserLimit"], 1);
    for deed in &deeds {
        assert!(!deed.sold() || deed.had == 0, "{deed:?}");
        if deed.code() == "USER_LIMIT_EXCEEDED" {
            assert_eq!(deed.told.body["limit"], 1, "{deed:?}");
        }
    }
    assert!(
        deeds.iter().any(|deed| deed.code() == "USER_LIMIT_EXCEEDED"),
        "{deeds:#?}"
    );
    let (_, deeds) = street.patch(json!({"perUserLimit": null})).await;
    assert!(
        deeds.iter().all(|deed| deed.code() != "USER_LIMIT_EXCEEDED"),
        "{deeds:#?}"
    );

    let (_, deeds) = street.patch(json!({"userRate": {"perSecond": 0.2, "burst": 1}})).await;
    for buyer in 0..16 {
        let his: Vec<&Deed> = deeds.iter().filter(|deed| deed.buyer == buyer).collect();
        let Some((first, last)) = his.first().zip(his.last()) else {
            continue;
        };
        let tokens = 1.0 + (last.heard - first.begun).as_secs_f64() * 0.2;
        let sold = his.iter().filter(|deed| deed.sold()).count();
        assert!(
            sold as f64 <= tokens,
            "buyer {buyer} got {sold} for {tokens} tokens: {his:#?}"
        );
    }
    let limited: Vec<&Deed> = deeds.iter().filter(|deed| deed.code() == "RATE_LIMITED").collect();
    assert!(
        !limited.is_empty() && limited.iter().all(|deed| deed.told.retry_after.is_some()),
        "{deeds:#?}"
    );
    let (_, deeds) = street.patch(json!({"userRate": null, "holdSeconds": 120})).await;
    assert!(deeds.iter().all(|deed| deed.code() != "RATE_LIMITED"), "{deeds:#?}");
    for deed in deeds.iter().filter(|deed| deed.sold()) {
        let at = |field: &str| -> DateTime<Utc> {
            serde_json::from_value(deed.told.body[field].clone()).expect("an instant")
        };
        assert_eq!(at("expiresAt") - at("createdAt"), TimeDelta::seconds(120), "{deed:?}");
    }

    let stopped = one.act("hot", "stop").await.expect(200);
    let escrowed = stock(&one, "hot").await.2;
    assert_eq!(
        (&stopped["state"], &stopped["remaining"], escrowed),
        (&json!("ended"), &json!(0), 0),
        "all is back"
    );
    let deeds = street.buyers.after(Instant::now(), SEEN).await;
    assert!(
        deeds.iter().all(|deed| deed.code() != "SALE_NOT_LIVE"),
        "the ledger engine sells: {deeds:#?}"
    );
    assert!(deeds.iter().any(Deed::sold));
    resell(&one, "hot-2", "hot", 100, json!({"buckets": 4})).await;
    let deeds = street.buyers.after(Instant::now(), SEEN).await;
    assert!(
        deeds.iter().all(|deed| deed.code() != "SALE_NOT_LIVE"),
        "the next sale sells: {deeds:#?}"
    );
    assert!(deeds.iter().any(Deed::sold));

    let (deeds, account) = street.buyers.stop().await;
    let (calm_deeds, calm) = calm.stop().await;
    one.settled().await;
    let busy = deeds.iter().filter(|deed| deed.told.status == 503).count();
    assert!(
        busy * 5 < deeds.len(),
        "{busy} of {} were told to come back",
        deeds.len()
    );
    let sales = [one.sale("hot").await, one.sale("hot-2").await];
    let off_sale = by_ledger_engine(&one, "hot").await;
    let counted = |name: &str| {
        let of_sales = sales.iter().map(|sale| sale["counts"][name].as_i64().expect("a count"));
        of_sales.sum::<i64>() + off_sale[name].as_i64().unwrap_or(0)
    };
    let all = ["accepted", "durable", "committed", "released", "expired", "rejected"].map(counted);
    let (made, paid, back) = (
        whole_units(account.made) + 2,
        whole_units(account.committed) + 1,
        whole_units(account.released) + 1,
    );
    assert_eq!(all, [made, made, paid, back, 0, 0]);
    assert_eq!(made, paid + back);
    let second_paid = sales[1]["counts"]["committed"].as_i64().expect("a count");
    assert_eq!(sales[1]["remaining"], 100 - second_paid);
    assert_eq!(stock(&one, "hot").await, (400 - paid, 0, 100 - second_paid));
    assert_steady(&calm_deeds);
    assert_eq!(stock(&one, "calm").await.0, 100_000 - whole_units(calm.committed));
    other.stop().await;
    one.stop().await;
}

/// The other sale sold all the time.
fn assert_steady(deeds: &[Deed]) {
    let mut last: Option<Instant> = None;
    for deed in deeds {
        assert!(deed.sold(), "{deed:?}");
        let gap = last.map_or(Duration::ZERO, |last| deed.heard.saturating_duration_since(last));
        assert!(gap < Duration::from_secs(10), "nothing was sold for {gap:?}");
        last = Some(deed.heard);
    }
    assert!(deeds.len() > 20, "{}", deeds.len());
}

fn rfc(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_is_kept_to_the_second() {
    let (one, other) = two().await;
    let starts = Utc::now() + TimeDelta::milliseconds(2_500);
    let ends = starts + TimeDelta::seconds(2);
    put_on_sale(
        &one,
        "hot",
        1_000,
        json!({"startsAt": rfc(starts), "endsAt": rfc(ends), "buckets": 2}),
    )
    .await;
    assert_eq!(one.sale("hot").await["state"], "scheduled");
    let buyers = Buyers::start(&[(*one).clone(), (*other).clone()], "hot", 4);
    let zero = Instant::now();
    let offset = |at: DateTime<Utc>| (at - Utc::now()).to_std().unwrap_or_default() + zero.elapsed();
    let ends_at = ends;
    let (starts, ends) = (offset(starts), offset(ends));
    until("the end", async || {
        (one.sale("hot").await["state"] == "ended").then_some(())
    })
    .await;
    until("the units' way home", async || {
        (stock(&one, "hot").await.2 == 0).then_some(())
    })
    .await;
    let back = zero.elapsed();
    assert!(
        back < ends + Duration::from_secs(10),
        "all units were back {back:?}, the end was {ends:?}"
    );
    let (deeds, account) = buyers.stop().await;
    let first = deeds.iter().find(|deed| deed.sold()).expect("something is sold");
    assert!(first.heard - zero >= starts, "not before its time");
    assert!(
        first.begun - zero <= starts + Duration::from_secs(5),
        "{:?} for {starts:?}",
        first.begun - zero
    );
    let (last, after): (DateTime<Utc>, i64) = sqlx::query_as(
        "SELECT max(created_at) FILTER (WHERE sale_no IS NOT NULL), count(*) FILTER (WHERE sale_no IS NULL)
         FROM inventory_reservation",
    )
    .fetch_one(&one.pool)
    .await
    .expect("Postgres answers");
    let early = ends_at - last;
    assert!(
        (TimeDelta::milliseconds(-100)..=TimeDelta::milliseconds(1_500)).contains(&early),
        "the sale sold until its end: {last} for {ends_at}"
    );
    assert!(after > 0, "then the ledger engine sells");
    for deed in deeds.iter().filter(|deed| deed.heard - zero < starts) {
        assert_eq!(
            (deed.code(), &deed.told.body["state"]),
            ("SALE_NOT_LIVE", &json!("scheduled")),
            "{deed:?}"
        );
        assert!(deed.told.body["startsAt"].is_string(), "{deed:?}");
    }
    assert_eq!(stock(&one, "hot").await, (1_000 - whole_units(account.committed), 0, 0));
    one.settled().await;
    other.stop().await;
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_sale_is_frozen_deadlines_stand_still() {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "hot", 10, json!({})).await;
    put_on_sale(&whole, "calm", 10, json!({})).await;
    let made = whole.insist(&Buy::of("o1").ttl(2)).await;
    let other = whole.insist(&Buy::of("o1").sku("calm").ttl(2)).await.id();
    let id = made.id();
    let due =
        |body: &Value| -> DateTime<Utc> { serde_json::from_value(body["expiresAt"].clone()).expect("an instant") };
    let froze = Instant::now();
    whole.act("hot", "freeze").await.expect(200);
    let frozen = Instant::now();
    until("the other sale's expiry", async || {
        (whole.reservation(&other).await.body["status"] == "EXPIRED").then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(2_500).saturating_sub(frozen.elapsed())).await;
    assert_eq!(whole.reservation(&id).await.standing(), "RESERVED durable");
    let thaws = Instant::now();
    whole.act("hot", "unfreeze").await.expect(200);
    let read = whole.reservation(&id).await.expect(200);
    let moved = (due(&read) - due(&made.body)).to_std().expect("later") - Duration::from_secs(30);
    let (least, most) = (thaws - frozen, froze.elapsed());
    let slack = Duration::from_millis(50);
    assert!(
        moved + slack >= least && moved <= most + slack,
        "by the time frozen and 30 s: {moved:?}, {least:?} to {most:?}"
    );
    whole.commit(&id).await.expect(200);
    whole.settled().await;
    whole.stop().await;
}
