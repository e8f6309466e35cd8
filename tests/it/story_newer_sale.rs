//! Late payments of what is on another sale by now: the newer sale gives the units, or the money goes back.

use flashgate::ledger::{CallBack, Ledger, Settings};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::story_rescue::{assert_replay, bought, cart, commit_says, expired, lapsed, rescued, stock};
use crate::support::door::{Door, Told, until};
use crate::support::gateway::{Child, LANES, Whole, migrate};
use crate::support::servers::shared;
use crate::support::socket::{line, put_on_sale, resell, reserve, with};

/// `a` was on sale `a`, which is over, and is on sale `b` now.
async fn newer(door: &Door, units: i64, extra: Value) {
    door.act("a", "stop").await.expect(200);
    resell(door, "b", "a", units, extra).await;
}

/// Commits until it is known what came of it.
async fn insist(door: &Door, id: &str) -> Told {
    until("an answer", async || {
        let told = door.commit(id).await;
        (told.status != 503).then_some(told)
    })
    .await
}

fn assert_refund(late: &Told) {
    assert_eq!(
        (late.problem(), &late.body["refundRequired"]),
        ((409, "RESERVATION_EXPIRED"), &json!(true))
    );
}

/// Until this ends, no grant gets a number, and nothing becomes durable.
async fn still_lanes(door: &Door) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut lanes = door.pool.begin().await.expect("Postgres answers");
    sqlx::query("SELECT FROM lane FOR NO KEY UPDATE")
        .execute(&mut *lanes)
        .await
        .expect("the locks are free");
    lanes
}

/// What the sale offers and may sell in all.
async fn figures(door: &Door, sale: &str) -> (Value, Value) {
    let sale = door.sale(sale).await;
    (sale["remaining"].clone(), sale["allocation"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_payment_gets_units_of_the_newer_sale() {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "a", 8, json!({"perUserLimit": 2})).await;
    let body = line("o1", "a", json!({"userId": "u1", "quantity": 2, "ttlSeconds": 1}));
    let id = lapsed(&whole, &body).await;
    let keyed = with(
        line("o2", "a", json!({"ttlSeconds": 1})),
        json!({"userId": "u2", "idemKey": "k2"}),
    );
    let keyed_id = lapsed(&whole, &keyed).await;
    newer(&whole, 8, json!({"buckets": LANES, "perUserLimit": 2})).await;
    assert_eq!(commit_says(&whole, &id).await, rescued());
    assert_eq!(
        commit_says(&whole, &id).await,
        rescued(),
        "counted once, and told again"
    );
    assert_eq!(commit_says(&whole, &keyed_id).await, rescued());
    assert_eq!(stock(&whole, "a").await, (5, 0, 3));
    assert_eq!(figures(&whole, "b").await, (json!(5), json!(5)));
    assert_replay(&reserve(&whole, &[], &body).await, &id);
    assert_replay(&reserve(&whole, &[], &keyed).await, &keyed_id);
    // They were bought under the old sale's limit, and are its units in every figure.
    bought(&whole, &line("o3", "a", json!({"userId": "u1", "quantity": 2}))).await;
    for order in ["o4", "o5", "o6"] {
        bought(&whole, &line(order, "a", json!({"userId": order}))).await;
    }
    assert_replay(&reserve(&whole, &[], &body).await, &id);
    let counts = |sale: Value| (sale["counts"]["committed"].clone(), sale["counts"]["expired"].clone());
    assert_eq!(counts(whole.sale("a").await), (json!(3), json!(3)));
    assert_eq!(counts(whole.sale("b").await), (json!(0), json!(0)));
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_payment_gets_nothing_that_buyers_of_the_newer_sale_hold() {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "a", 3, json!({})).await;
    let id = expired(&whole, "o1", "a", json!({"quantity": 2})).await;
    newer(&whole, 3, json!({"buckets": 2})).await;
    let other = bought(&whole, &line("o2", "a", json!({"quantity": 2}))).await;
    assert_refund(&whole.commit(&id).await);
    assert_eq!(figures(&whole, "b").await, (json!(1), json!(3)));
    whole.release(&other.id()).await.expect(200);
    // The units are free again, but the order has the item under another reservation by now.
    let anew = bought(&whole, &line("o1", "a", json!({}))).await;
    assert_refund(&whole.commit(&id).await);
    whole.release(&anew.id()).await.expect(200);
    whole.act("b", "freeze").await.expect(200);
    assert_refund(&whole.commit(&id).await);
    whole.act("b", "unfreeze").await.expect(200);
    whole.act("b", "pause").await.expect(200);
    assert_eq!(commit_says(&whole, &id).await, rescued());
    assert_eq!(figures(&whole, "b").await, (json!(1), json!(1)));
    whole.settled().await;
    assert_eq!(stock(&whole, "a").await, (1, 0, 2));
    whole.stop().await;
}

/// However many pay at once, and whoever buys meanwhile, each unit goes to one of them.
#[tokio::test(flavor = "multi_thread")]
async fn late_payers_and_buyers_of_the_newer_sale_share_what_there_is() {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "a", 10, json!({"buckets": 2})).await;
    let orders: Vec<String> = (0..8).map(|n| format!("late-{n}")).collect();
    let late = join_all(orders.iter().map(|order| expired(&whole, order, "a", json!({})))).await;
    newer(&whole, 10, json!({"buckets": LANES})).await;
    let commits = join_all(late.iter().flat_map(|id| [id, id, id]).map(|id| insist(&whole, id)));
    let buys = join_all((0..16).map(async |n| {
        let body = line(&format!("new-{n}"), "a", json!({}));
        until("an answer", async || {
            let heard = reserve(&whole, &[("prefer", "wait=10")], &body).await;
            (heard.status != 503).then_some(heard.status)
        })
        .await
    }));
    let (told, bought) = tokio::join!(commits, buys);
    assert!(told.iter().all(|told| matches!(told.status, 200 | 409)), "{told:#?}");
    assert!(bought.iter().all(|status| matches!(status, 201 | 409)), "{bought:?}");
    for of in told.chunks(3) {
        assert!(of.iter().all(|told| told.status == of[0].status), "{of:#?}");
    }
    let sold = told.chunks(3).filter(|of| of[0].status == 200).count();
    let held = bought.iter().filter(|status| **status == 201).count();
    assert_eq!(sold + held, 10, "all are gone: {sold} and {held}");
    whole.settled().await;
    let (sold, held) = (i64::try_from(sold).expect("few"), i64::try_from(held).expect("few"));
    assert_eq!(stock(&whole, "a").await, (10 - sold, held, sold));
    assert_eq!(figures(&whole, "b").await, (json!(0), json!(10 - sold)));
    whole.stop().await;
}

/// It was reserved of no sale at all; and the newer sale has not started.
#[tokio::test(flavor = "multi_thread")]
async fn a_sale_that_waits_for_its_start_gives_units_too() {
    let whole = Whole::empty().await;
    whole.receive("a", 3).await;
    let first = expired(&whole, "o1", "a", json!({"quantity": 2})).await;
    let second = expired(&whole, "o2", "a", json!({"quantity": 2})).await;
    resell(&whole, "b", "a", 3, json!({"startsAt": "2099-01-01T00:00:00Z"})).await;
    assert_eq!(commit_says(&whole, &first).await, rescued());
    assert_refund(&whole.commit(&second).await);
    assert_eq!(whole.sale("b").await["allocation"], 1);
    whole.act("b", "start").await.expect(200);
    assert_refund(&whole.commit(&second).await);
    whole.settled().await;
    assert_eq!(figures(&whole, "b").await, (json!(1), json!(1)));
    assert_eq!(stock(&whole, "a").await, (1, 0, 2));
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_payment_of_a_cart_gets_its_lines_wherever_they_are_sold_by_then() {
    let whole = Whole::empty().await;
    whole.receive("shelf", 3).await;
    put_on_sale(&whole, "a", 3, json!({})).await;
    put_on_sale(&whole, "own", 3, json!({})).await;
    let id = lapsed(&whole, &cart("o1", &[("shelf", 1), ("a", 2), ("own", 1)])).await;
    newer(&whole, 3, json!({"buckets": 2})).await;
    let other = bought(&whole, &line("o2", "a", json!({"quantity": 2}))).await;
    assert_refund(&whole.commit(&id).await);
    until("what was given back", async || {
        (whole.sale("own").await["remaining"] == 3).then_some(())
    })
    .await;
    whole.release(&other.id()).await.expect(200);
    assert_eq!(commit_says(&whole, &id).await, rescued());
    whole.settled().await;
    for (sku, units) in [("shelf", 1), ("a", 2), ("own", 1)] {
        assert_eq!(stock(&whole, sku).await, (3 - units, 0, units), "{sku}");
    }
    assert_eq!(figures(&whole, "b").await, (json!(1), json!(1)));
    whole.stop().await;
}

/// Units that nobody comes for go back on sale; until then nobody is told that all are sold.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_late_payment_called_back_and_left_is_for_sale_again() {
    let database_url = shared().await.database().await;
    migrate(&database_url).await;
    let ledger = Ledger::new(&Settings::new(&database_url)).expect("an address");
    let whole = Whole::over(&shared().await.redis(), &database_url).await;
    put_on_sale(&whole, "a", 2, json!({})).await;
    let id = expired(&whole, "o1", "a", json!({"quantity": 2})).await;
    newer(&whole, 2, json!({"buckets": 2})).await;
    let of = id.parse().expect("an id");
    let lanes = still_lanes(&whole).await;
    let asked = ledger.call_back(of).await.expect("Postgres answers");
    assert!(
        matches!(&asked, CallBack::Asked(grants) if grants.len() == 2),
        "{asked:?}"
    );
    let again = ledger.call_back(of).await.expect("Postgres answers");
    assert_eq!(again, asked, "asked for once");
    lanes.rollback().await.expect("the locks go");
    until("the units", async || {
        let recalled = sqlx::query_scalar::<_, i64>("SELECT max(recalled) FROM sale").fetch_one(&whole.pool);
        (recalled.await.expect("a sale") == 2).then_some(())
    })
    .await;
    assert_eq!(ledger.call_back(of).await.expect("Postgres answers"), CallBack::Ready);
    let early = reserve(&whole, &[], &line("o2", "a", json!({}))).await;
    assert_ne!(early.status, 409, "{}", early.text);
    let back = bought(&whole, &line("o2", "a", json!({}))).await;
    assert_refund(&whole.commit(&id).await);
    whole.release(&back.id()).await.expect(200);
    assert_eq!(commit_says(&whole, &id).await, rescued());
    whole.settled().await;
    assert_eq!(figures(&whole, "b").await, (json!(0), json!(0)));
    whole.stop().await;
}

/// The gateway that was to commit dies when it has asked for the units; the payer repeats the commit at another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_dies_with_a_late_payment_sells_nothing_twice() {
    let (redis_url, database_url) = (shared().await.redis(), shared().await.database().await);
    migrate(&database_url).await;
    let (mut dies, stays) = tokio::join!(
        Child::over(&redis_url, &database_url),
        Child::over(&redis_url, &database_url)
    );
    put_on_sale(&stays, "a", 4, json!({})).await;
    let id = expired(&stays, "o1", "a", json!({"quantity": 2})).await;
    newer(&stays, 4, json!({"buckets": LANES})).await;
    let lanes = still_lanes(&stays).await;
    let path = format!("/api/inventory/reservations/{id}/commit");
    let asks = async {
        dies.try_shop(&path, &json!({})).await;
    };
    let asked = until("the units are asked for", async || {
        let asked = "SELECT count(*) FROM lane_grant WHERE kind = 'take' AND reservation_id IS NOT NULL";
        let asked: i64 = sqlx::query_scalar(asked).fetch_one(&stays.pool).await.ok()?;
        (asked > 0).then_some(())
    });
    tokio::select! {
        () = asks => panic!("nobody gave it units"),
        () = asked => {}
    }
    dies.kill();
    lanes.rollback().await.expect("the locks go");
    assert_eq!(insist(&stays, &id).await.expect(200)["rescued"], true);
    assert_eq!(commit_says(&stays, &id).await, rescued());
    stays.settled().await;
    assert_eq!(stock(&stays, "a").await, (2, 0, 2));
    assert_eq!(figures(&stays, "b").await, (json!(2), json!(2)));
    stays.stop().await;
}
