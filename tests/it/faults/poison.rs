//! A reservation that Postgres can't store: it alone is set aside.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flashgate::clock::Clock;
use flashgate::domain::entry::Slip;
use flashgate::domain::id::SaleId;
use flashgate::domain::key::{Fingerprint, KeyHash};
use flashgate::domain::outcome::Decision;
use flashgate::domain::trace::TraceId;
use flashgate::flash::{self, Flash};
use flashgate::ledger::{self, Ledger};
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{durable, selling};
use crate::support::door::{Buy, until};
use crate::support::gateway::{Whole, migrate};
use crate::support::servers::shared;
use crate::support::socket::put_on_sale;

fn slip(order: &str, quantity: u32) -> Slip {
    let line = KeyHash::order_line(order, "hot", "wh1");
    Slip {
        explicit_key: false,
        quantity,
        ttl_ms: 0,
        key: line,
        line,
        fingerprint: Fingerprint::of(&[order]),
        trace: TraceId(rand::random()),
        order: order.to_owned(),
        user: None,
    }
}

/// Reserves in the sale `s` without the checks of the gateway's door, in one call; the reservations.
async fn reserve_unchecked(redis_url: &str, database_url: &str, slips: &[Slip]) -> Vec<String> {
    let ledger = Ledger::new(&ledger::Settings::new(database_url)).expect("an address");
    let deployment = ledger.deployment().await.expect("Postgres answers");
    let deployment = flash::Deployment {
        namespace: deployment.namespace,
        lanes: deployment.lanes,
        id_key: deployment.id_key,
    };
    let clock = Arc::new(Clock::new());
    clock.measure(
        ledger.now().await.expect("Postgres answers"),
        Instant::now(),
        Duration::ZERO,
    );
    let settings = flash::Settings::new(redis_url);
    let flash = Flash::start(settings, &deployment, clock, Uuid::new_v4()).expect("an address");
    until("a connection", async || flash.is_connected().then_some(())).await;
    for lane in ledger.lanes().await.expect("Postgres answers") {
        flash.adopt_lane(lane.lane, lane.epoch, lane.cursor.seq);
    }
    let sale = ledger.sale(&SaleId::try_from("s").expect("an id")).await;
    let sale = Arc::new(sale.expect("Postgres answers").expect("it is there"));
    // An idle batcher takes all that is asked at once.
    let outcomes = join_all(slips.iter().map(|slip| flash.reserve(&sale, slip, false))).await;
    flash.quit().await;
    ledger.close().await;
    outcomes
        .into_iter()
        .map(|outcome| match outcome.expect("Redis answers").decision {
            Decision::Reserved { id, .. } => id.to_string(),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_that_cant_be_stored_is_set_aside_alone() {
    let (redis_url, database_url) = (shared().await.redis(), shared().await.database().await);
    migrate(&database_url).await;
    let gateway = Whole::over(&redis_url, &database_url).await;
    gateway.sell("s", 10, json!({})).await;
    durable(&gateway, "before").await;
    // No text in Postgres holds this byte.
    let slips = [slip("left", 1), slip("nul\0order", 4), slip("right", 1)];
    let ids = reserve_unchecked(&redis_url, &database_url, &slips).await;
    let [left, poison, right] = [0, 1, 2].map(|at| ids[at].as_str());
    let told = until("its end", async || {
        let told = gateway.reservation(poison).await;
        (told.body["status"] == "REJECTED").then_some(told)
    })
    .await;
    assert_eq!(told.body["cause"], "poison", "{}", told.body);
    for id in [left, right] {
        assert_eq!(gateway.reservation(id).await.standing(), "RESERVED durable");
    }
    durable(&gateway, "after").await;
    gateway.settled().await;
    let sale = gateway.sale("s").await;
    assert_eq!(
        (&sale["remaining"], &sale["counts"]["rejected"]),
        (&json!(6), &json!(4))
    );
    let commit = gateway.commit(poison).await;
    assert_eq!(commit.problem(), (409, "RESERVATION_REJECTED"));

    let case = only_case(&gateway).await;
    assert_eq!(
        (&case["state"], &case["quantity"]),
        (&json!("waiting"), &json!(4)),
        "{case}"
    );
    assert_eq!(case["reservationId"], poison);
    let path = format!("/admin/quarantine/{}", case["id"]);
    // What Postgres can't store it can't store again.
    let replayed = gateway.post(&format!("{path}/replay"), json!({})).await;
    assert_eq!(replayed.problem(), (409, "RESERVATION_REJECTED"), "{}", replayed.body);
    gateway.settled().await;
    let note = json!({"note": "the order was made by hand"});
    let key = [("Idempotency-Key", "k")];
    let reject = async |note: Value| {
        gateway
            .admin_with(Method::POST, &format!("{path}/reject"), note, &key)
            .await
    };
    for replayed in [false, true] {
        let told = reject(note.clone()).await;
        assert_eq!(told.replayed, replayed, "{told:?}");
        assert_eq!(told.expect(200)["state"], "rejected");
    }
    assert_eq!(reject(json!({})).await.problem(), (422, "IDEMPOTENCY_KEY_REUSED"));
    let case = only_case(&gateway).await;
    assert_eq!(
        (&case["state"], &case["note"]),
        (&json!("rejected"), &note["note"]),
        "{case}"
    );
    assert_eq!(gateway.post(&format!("{path}/replay"), json!({})).await.status, 409);
    gateway.settled().await;
    assert_eq!(gateway.sale("s").await["remaining"], 6, "they were given back once");
}

/// A lane whose queue holds too much that Postgres can't store stays closed; nobody else waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_cant_be_recovered_stops_no_other() {
    let (mut servers, gateway) = selling(100).await;
    put_on_sale(&gateway, "calm", 100, json!({})).await;
    // The writer waits for its lane, so that one batch gets nearly all of what follows.
    let mut hold = gateway.pool.begin().await.expect("Postgres answers");
    sqlx::query("SELECT 1 FROM lane FOR UPDATE")
        .execute(&mut *hold)
        .await
        .expect("the lanes are there");
    let alter = async |change: &str| {
        let change = format!("ALTER TABLE inventory_reservation {change}");
        sqlx::query(&change).execute(&gateway.pool).await.expect("it alters");
    };
    alter("ADD CONSTRAINT no_evil CHECK (order_id NOT LIKE 'evil%')").await;
    for n in 0..20 {
        let told = gateway
            .reserve(&Buy::of(&format!("evil{n}")).prefer("respond-async"))
            .await;
        assert_eq!(told.standing(), "RESERVED accepted", "{}", told.body);
    }
    hold.rollback().await.expect("the lock goes");
    servers.redis.kill();
    servers.restart_redis().await;

    let told = gateway.insist(&Buy::of("good").sku("calm").prefer("wait=10")).await;
    assert_eq!(told.standing(), "RESERVED durable");
    let lanes = gateway.admin(Method::GET, "/admin/lanes", None).await.expect(200);
    let closed = |lane: &&Value| lane["state"] == "closed";
    let lanes = lanes["lanes"].as_array().expect("lanes");
    assert_eq!(lanes.iter().filter(closed).count(), 1, "{lanes:?}");
    let told = gateway.reserve(&Buy::of("waits")).await;
    assert_eq!(told.problem(), (503, "STOCK_UNAVAILABLE"), "{}", told.body);

    alter("DROP CONSTRAINT no_evil").await;
    gateway.settled().await;
    let sale = gateway.sale("s").await;
    assert_eq!(
        sale["remaining"],
        100 - sale["counts"]["durable"].as_i64().expect("a count")
    );
    assert!(
        sale["counts"]["durable"].as_i64() > Some(8),
        "they were stored when they could be: {sale}"
    );
}

async fn only_case(gateway: &Whole) -> Value {
    let told = gateway.admin(Method::GET, "/admin/quarantine", None).await.expect(200);
    match told["quarantine"].as_array().expect("cases").as_slice() {
        [case] => case.clone(),
        cases => panic!("{cases:?}"),
    }
}
