//! Idempotency: what a key means, how long it lives, and what an order without one may do.

use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};

use crate::support::door::{Door, until};
use crate::support::gateway::Whole;
use crate::support::socket::{Heard, line, put_on_sale, resell, reserve, with};

/// A reservation of this order by this user, under this key if any.
async fn ask(door: &Door, order: &str, user: &str, key: Option<&str>, extra: Value) -> Heard {
    let headers: Vec<(&str, &str)> = key.map(|key| ("idempotency-key", key)).into_iter().collect();
    let body = line(order, "a", json!({"userId": user}));
    reserve(door, &headers, &with(body, extra)).await
}

/// Status code, whether it is a replay, and the reservation's status or the problem's code.
fn told(heard: &Heard) -> (u16, bool, String) {
    let body = heard.body();
    let word = body["code"].as_str().or(body["status"].as_str()).unwrap_or_default();
    (heard.status, heard.replayed(), word.to_owned())
}

fn replay(status: u16, word: &str) -> (u16, bool, String) {
    (status, true, word.to_owned())
}

fn fresh(status: u16, word: &str) -> (u16, bool, String) {
    (status, false, word.to_owned())
}

fn reused() -> (u16, bool, String) {
    fresh(422, "IDEMPOTENCY_KEY_REUSED")
}

async fn open(buckets: i64) -> Whole {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "a", 100, json!({"buckets": buckets})).await;
    whole
}

async fn remaining(door: &Door) -> Value {
    door.sale("a").await["remaining"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_answer_comes_again_in_its_present_standing() {
    let whole = open(4).await;
    let first = ask(&whole, "o1", "u1", Some("k1"), json!({})).await;
    assert_eq!(told(&first), fresh(201, "RESERVED"));
    let again = ask(&whole, "o1", "u1", Some("k1"), json!({})).await;
    assert_eq!(told(&again), replay(201, "RESERVED"));
    let steady = |heard: &Heard| with(heard.body(), json!({"updatedAt": null}));
    assert_eq!(steady(&again), steady(&first));
    for header in ["\"k1\"", "k1"] {
        let body = line("o1", "a", json!({"userId": "u1"}));
        let quoted = reserve(&whole, &[("x-idempotency-key", header)], &body).await;
        assert_eq!((told(&quoted), quoted.id()), (replay(201, "RESERVED"), first.id()));
    }
    let in_body = ask(&whole, "o1", "u1", None, json!({"idemKey": "k1"})).await;
    assert_eq!((told(&in_body), in_body.id()), (replay(201, "RESERVED"), first.id()));
    whole.commit(&first.id()).await.expect(200);
    let sold = ask(&whole, "o1", "u1", Some("k1"), json!({})).await;
    assert_eq!((told(&sold), sold.id()), (replay(200, "COMMITTED"), first.id()));
    let second = ask(&whole, "o2", "u2", Some("k2"), json!({})).await;
    whole.release(&second.id()).await.expect(200);
    let back = ask(&whole, "o2", "u2", Some("k2"), json!({})).await;
    assert_eq!((told(&back), back.id()), (replay(200, "RELEASED"), second.id()));
    let other = ask(&whole, "o2", "u2", Some("k2"), json!({"quantity": 2})).await;
    assert_eq!(told(&other), reused(), "also where the first has ended");
    assert_eq!(remaining(&whole).await, 99);
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_for_one_request_in_whatever_lane() {
    let whole = open(4).await;
    let first = ask(&whole, "o1", "u1", Some("k1"), json!({})).await;
    for extra in [
        json!({"quantity": 2}),
        json!({"orderId": "o2"}),
        json!({"ttlSeconds": 60}),
        json!({"locationId": null}),
    ] {
        assert_eq!(
            told(&ask(&whole, "o1", "u1", Some("k1"), extra.clone()).await),
            reused(),
            "{extra}"
        );
    }
    // Users of other lanes: found at the latest when it would become durable.
    for user in 2..10 {
        let heard = ask(&whole, "o1", &format!("u{user}"), Some("k1"), json!({})).await;
        assert_eq!(told(&heard), reused(), "{user}");
    }
    let gone = ask(&whole, "o1", "u1", Some("k1"), json!({"skuId": "nothing"})).await;
    assert_eq!(told(&gone), reused(), "422 stands with replay, before 404");
    // What was accepted and then refused says so, and holds nothing.
    let body = line("o1", "a", json!({"userId": "u11", "idemKey": "k1"}));
    let hasty = reserve(&whole, &[("prefer", "respond-async")], &body).await;
    if hasty.status == 202 {
        let read = until("the ledger's word", async || {
            let read = whole.reservation(&hasty.id()).await;
            (read.body["status"] != "RESERVED").then_some(read)
        })
        .await;
        assert_eq!(
            (read.status, &read.body["status"], &read.body["cause"]),
            (200, &json!("REJECTED"), &json!("key_reused"))
        );
    } else {
        assert_eq!(told(&hasty), reused());
    }
    whole.settled().await;
    assert_eq!(remaining(&whole).await, 99);
    let again = ask(&whole, "o1", "u1", Some("k1"), json!({})).await;
    assert_eq!((told(&again), again.id()), (replay(201, "RESERVED"), first.id()));
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_the_order_s_line_is_the_key() {
    let whole = open(4).await;
    let first = ask(&whole, "o1", "u1", None, json!({})).await;
    assert_eq!(told(&first), fresh(201, "RESERVED"));
    let again = ask(&whole, "o1", "u1", None, json!({})).await;
    assert_eq!((told(&again), again.id()), (replay(201, "RESERVED"), first.id()));
    assert_eq!(
        told(&ask(&whole, "o1", "u1", None, json!({"quantity": 3})).await),
        reused()
    );
    whole.release(&first.id()).await.expect(200);
    let second = ask(&whole, "o1", "u1", None, json!({"quantity": 3})).await;
    assert_eq!(
        told(&second),
        fresh(201, "RESERVED"),
        "after release the order may reserve again"
    );
    assert_ne!(second.id(), first.id());
    whole.commit(&second.id()).await.expect(200);
    let sold = ask(&whole, "o1", "u1", None, json!({"quantity": 3})).await;
    assert_eq!((told(&sold), sold.id()), (replay(200, "COMMITTED"), second.id()));
    let short = ask(&whole, "o2", "u2", None, json!({"ttlSeconds": 1})).await;
    until("an expiry", async || {
        (whole.reservation(&short.id()).await.body["status"] == "EXPIRED").then_some(())
    })
    .await;
    let renewed = until("a free line", async || {
        let heard = ask(&whole, "o2", "u2", None, json!({"ttlSeconds": 600})).await;
        (heard.status == 201).then_some(heard)
    })
    .await;
    assert!(!renewed.replayed() && renewed.id() != short.id(), "after expiry too");
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_holds_an_item_once() {
    let whole = open(4).await;
    let first = ask(&whole, "o1", "u1", Some("k1"), json!({})).await;
    let holds = |heard: &Heard| {
        assert_eq!(heard.problem(), (409, "ORDER_ALREADY_RESERVED".into()));
        assert_eq!(heard.body()["reservationId"], first.id());
    };
    holds(&ask(&whole, "o1", "u1", Some("k2"), json!({})).await);
    holds(&ask(&whole, "o1", "u1", None, json!({})).await);
    holds(&ask(&whole, "o1", "u1", Some("k3"), json!({"quantity": 5})).await);
    holds(&ask(&whole, "o1", "u1", None, json!({"locationId": null})).await);
    for user in 2..10 {
        holds(&ask(&whole, "o1", &format!("u{user}"), Some(&format!("k-{user}")), json!({})).await);
    }
    whole.settled().await;
    assert_eq!(remaining(&whole).await, 99);
    whole.release(&first.id()).await.expect(200);
    let second = ask(&whole, "o1", "u5", Some("k2"), json!({})).await;
    assert_eq!(told(&second), fresh(201, "RESERVED"));
    whole.commit(&second.id()).await.expect(200);
    let sold = ask(&whole, "o1", "u5", Some("k9"), json!({})).await;
    assert_eq!(
        sold.problem(),
        (409, "ORDER_ALREADY_RESERVED".into()),
        "what is bought is held"
    );
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_served_whatever_the_sale_s_state() {
    let whole = open(2).await;
    let first = ask(&whole, "o1", "u1", Some("k1"), json!({})).await;
    let line_key = ask(&whole, "o2", "u2", None, json!({})).await;
    let check = async |when: &str, not_live: Option<&str>| {
        let again = ask(&whole, "o1", "u1", Some("k1"), json!({})).await;
        assert_eq!(
            (told(&again), again.id()),
            (replay(201, "RESERVED"), first.id()),
            "{when}"
        );
        let again = ask(&whole, "o2", "u2", None, json!({})).await;
        assert_eq!(
            (told(&again), again.id()),
            (replay(201, "RESERVED"), line_key.id()),
            "{when}"
        );
        let other = ask(&whole, "o1", "u1", Some("k1"), json!({"quantity": 2})).await;
        assert_eq!(told(&other), reused(), "{when}");
        if let Some(state) = not_live {
            let new = ask(&whole, "o3", "u3", None, json!({})).await;
            assert_eq!(
                (new.problem(), &new.body()["state"]),
                ((409, "SALE_NOT_LIVE".into()), &json!(state)),
                "{when}"
            );
        }
    };
    check("live", None).await;
    for (action, state) in [("pause", "paused"), ("freeze", "frozen")] {
        whole.act("a", action).await.expect(200);
        check(state, Some(state)).await;
    }
    whole.act("a", "stop").await.expect(200);
    check("ended: by the ledger engine", None).await;
    resell(&whole, "b", "a", 50, json!({"draft": true})).await;
    check("the next sale is a draft: by the ledger engine", None).await;
    whole.act("b", "start").await.expect(200);
    whole.act("b", "pause").await.expect(200);
    check("the next sale is paused", Some("paused")).await;
    whole.act("b", "resume").await.expect(200);
    check("the next sale is live", None).await;
    whole.settled().await;
    assert_eq!(whole.sale("b").await["remaining"], 50);
    whole.stop().await;
}

/// What only its lane knows yet is replayed by the lane, before it looks at the sale's state.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_durable_yet_is_replayed_after_the_end() {
    let whole = Whole::empty().await;
    let ends = (Utc::now() + TimeDelta::milliseconds(2_500)).to_rfc3339();
    put_on_sale(&whole, "a", 1_000, json!({"endsAt": ends})).await;
    // Until this ends, nothing becomes durable, and no grant is numbered.
    let mut hold = whole.pool.begin().await.expect("Postgres answers");
    sqlx::query("LOCK TABLE inventory_event IN SHARE ROW EXCLUSIVE MODE")
        .execute(&mut *hold)
        .await
        .expect("the lock is free");
    let hasty = [("prefer", "respond-async")];
    let body = line("o1", "a", json!({"userId": "u1", "idemKey": "k1"}));
    let first = reserve(&whole, &hasty, &body).await;
    assert_eq!(told(&first), fresh(202, "RESERVED"));
    // One that waited for its entry would take a second each time.
    let mut quickest = Duration::MAX;
    for _ in 0..5 {
        let asked = Instant::now();
        let again = reserve(&whole, &hasty, &body).await;
        assert_eq!((told(&again), again.id()), (replay(202, "RESERVED"), first.id()));
        quickest = quickest.min(asked.elapsed());
    }
    assert!(
        quickest < Duration::from_secs(1),
        "a replay waits as `Prefer` says: {quickest:?}"
    );
    let mut n = 1;
    let refused = until("the end of the sale", async || {
        n += 1;
        let heard = reserve(&whole, &hasty, &line(&format!("o{n}"), "a", json!({}))).await;
        (heard.status != 202).then_some(heard)
    })
    .await;
    // By its lane at once, and from when the ledger knows of the end until the units are back: come again.
    assert!(matches!(refused.status, 409 | 503), "{}", refused.text);
    let again = reserve(&whole, &hasty, &body).await;
    assert_eq!((told(&again), again.id()), (replay(202, "RESERVED"), first.id()));
    hold.rollback().await.expect("the lock goes");
    until("the drain", async || {
        (whole.sale("a").await["state"] == "ended").then_some(())
    })
    .await;
    whole.settled().await;
    let late = reserve(&whole, &[], &body).await;
    assert_eq!((told(&late), late.id()), (replay(201, "RESERVED"), first.id()));
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_not_remembered() {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "a", 1, json!({})).await;
    let first = ask(&whole, "o1", "u1", Some("k1"), json!({})).await;
    let refused = ask(&whole, "o2", "u2", Some("k2"), json!({})).await;
    assert_eq!(refused.problem(), (409, "INSUFFICIENT_STOCK".into()));
    whole.release(&first.id()).await.expect(200);
    let retried = ask(&whole, "o2", "u2", Some("k2"), json!({})).await;
    assert_eq!(told(&retried), fresh(201, "RESERVED"), "judged anew");
    // A key that was refused may even be another request's.
    assert_eq!(ask(&whole, "o3", "u3", Some("k3"), json!({})).await.status, 409);
    whole.release(&retried.id()).await.expect(200);
    assert_eq!(
        told(&ask(&whole, "o4", "u3", Some("k3"), json!({})).await),
        fresh(201, "RESERVED")
    );
    whole.settled().await;
    whole.stop().await;
}

/// What was reserved before the sale may be a long list. Whether a gateway has read it or can't, nobody waits for it, who
/// repeats a request from then has its first answer, and is not told of a new reservation that the ledger will refuse.
#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_the_sale_is_known_before_the_list_of_it_is_read() {
    let whole = Whole::empty().await;
    whole.receive("a", 10).await;
    let before = [
        ask(&whole, "o1", "u1", Some("k1"), json!({})).await,
        ask(&whole, "o2", "u2", None, json!({})).await,
    ];
    // No reading of the list ends, and nothing else reads this table.
    let mut hold = whole.pool.begin().await.expect("Postgres answers");
    sqlx::query("LOCK TABLE inventory_reservation_cold IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *hold)
        .await
        .expect("the lock is free");
    resell(&whole, "s", "a", 3, json!({})).await;
    let check = async |when: &str| {
        // Who waits learns it from the ledger, which refuses what it has.
        let again = async |order: &str, key: Option<&str>| {
            let body = line(order, "a", json!({"userId": order.replace('o', "u"), "idemKey": key}));
            reserve(&whole, &[("prefer", "respond-async")], &body).await
        };
        for (order, key, first) in [("o1", Some("k1"), &before[0]), ("o2", None, &before[1])] {
            for nth in 1..=2 {
                let heard = again(order, key).await;
                let expected = (replay(201, "RESERVED"), first.id());
                assert_eq!((told(&heard), heard.id()), expected, "{when}, {nth}");
            }
            let other = again(order, Some(&format!("other-{order}"))).await;
            assert_eq!(other.problem(), (409, "ORDER_ALREADY_RESERVED".into()), "{when}");
            assert_eq!(other.body()["reservationId"], first.id());
        }
    };
    check("units are left, the list is not read").await;
    // The ledger refuses the repeats, and their units come back.
    let rest = until("all units", async || {
        let heard = ask(&whole, "o3", "u3", None, json!({"quantity": 3})).await;
        (heard.status == 201).then_some(heard)
    })
    .await;
    check("sold out, the list is not read").await;
    let refused = ask(&whole, "o4", "u4", None, json!({})).await;
    assert_eq!(refused.problem(), (409, "INSUFFICIENT_STOCK".into()), "and not 503");
    hold.rollback().await.expect("the lock goes");
    check("sold out").await;
    whole.release(&rest.id()).await.expect(200);
    check("units are left").await;
    whole.settled().await;
    assert_eq!(whole.sale("s").await["remaining"], 3);
    whole.stop().await;
}
