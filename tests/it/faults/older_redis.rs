//! Redis steps back in time: an older AOF, or older data under a server that never stopped.

use std::fs;
use std::path::Path;

use flashgate::config::Role;
use fred::types::Value;
use serde_json::json;

use super::{durable, redis, sell_out, selling};
use crate::support::door::{Buy, until};
use crate::support::gateway::{Whole, migrate};
use crate::support::servers::{home, shared};

const UNITS: i64 = 12;
const EARLY: [&str; 3] = ["e0", "e1", "e2"];
const LATE: [&str; 3] = ["l0", "l1", "l2"];

async fn reserve_all(gateway: &Whole, orders: [&str; 3]) -> Vec<String> {
    let mut ids = Vec::new();
    for order in orders {
        ids.push(durable(gateway, order).await);
    }
    gateway.until_drained().await;
    ids
}

/// All that was done after the data's time: reservations, and a unit given back.
async fn go_on(gateway: &Whole, early: &mut Vec<String>) -> Vec<String> {
    let late = reserve_all(gateway, LATE).await;
    let released = gateway.release(&early.remove(0)).await.expect(200);
    assert_ne!(released["restocked"], false, "{released}");
    gateway.until_drained().await;
    late
}

/// What was durable replays under its key, and exactly the rest is for sale.
async fn assert_caught_up(gateway: &Whole, early: &[String], late: &[String]) {
    let orders = EARLY[1..].iter().zip(early).chain(LATE.iter().zip(late));
    for (order, id) in orders {
        let again = gateway.insist(&Buy::of(order).key(order).prefer("wait=10")).await;
        assert_eq!((again.status, &again.id(), again.replayed), (201, id, true));
    }
    assert_eq!(sell_out(gateway).await, UNITS - 5);
    gateway.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_aof_is_brought_up_to_date() {
    let (mut servers, gateway) = selling(UNITS).await;
    let mut early = reserve_all(&gateway, EARLY).await;
    let older = home();
    let aof = servers.redis.data().join("appendonlydir");
    copy(&aof, older.path());
    let late = go_on(&gateway, &mut early).await;
    servers.redis.kill();
    put_back(older.path(), &aof);
    servers.restart_redis().await;
    assert_caught_up(&gateway, &early, &late).await;
}

/// The older AOF is just where the ledger is: nothing in it is wrong, but answers were given since.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_aof_lacks_and_the_ledger_too_is_known_as_lost() {
    let (mut servers, gateway) = selling(UNITS).await;
    let early = reserve_all(&gateway, EARLY).await;
    let older = home();
    let aof = servers.redis.data().join("appendonlydir");
    copy(&aof, older.path());
    gateway.stop().await;
    // Nobody carries the queue into the ledger now.
    let (redis_url, database_url) = (servers.redis.url(), servers.postgres.url());
    let taking = Whole::start_as(&[Role::Http], &redis_url, &database_url).await;
    taking.until_open().await;
    let mut lost = Vec::new();
    for order in LATE {
        let told = taking.insist(&Buy::of(order).key(order).prefer("respond-async")).await;
        assert_eq!(told.standing(), "RESERVED accepted", "{}", told.body);
        lost.push(told.id());
    }
    servers.redis.kill();
    put_back(older.path(), &aof);
    servers.restart_redis().await;
    let gateway = Whole::start(&redis_url, &database_url).await;
    for (order, id) in LATE.iter().zip(&lost) {
        let told = until("the word that it is lost", async || {
            let told = gateway.reservation(id).await;
            (told.status == 200 && told.body["status"] == "REJECTED").then_some(told)
        })
        .await;
        assert_eq!(told.body["cause"], "lost");
        assert_ne!(durable(&gateway, order).await, *id);
    }
    for id in &early {
        assert_eq!(taking.reservation(id).await.standing(), "RESERVED durable");
    }
    assert_eq!(sell_out(&taking).await, UNITS - 6);
    gateway.settled().await;
}

fn put_back(older: &Path, aof: &Path) {
    fs::remove_dir_all(aof).expect("it is ours");
    fs::create_dir(aof).expect("it is ours");
    copy(older, aof);
}

fn copy(from: &Path, to: &Path) {
    for file in fs::read_dir(from).expect("it can be read") {
        let file = file.expect("it can be read");
        fs::copy(file.path(), to.join(file.file_name())).expect("it can be written");
    }
}

/// As after a failover to a replica that lagged and has kept its scripts.
#[tokio::test(flavor = "multi_thread")]
async fn older_data_under_a_running_server_sells_nothing_again() {
    let (redis_url, database_url) = (shared().await.redis(), shared().await.database().await);
    migrate(&database_url).await;
    let gateway = Whole::over(&redis_url, &database_url).await;
    gateway.sell("s", UNITS, json!({})).await;
    let mut early = reserve_all(&gateway, EARLY).await;
    let older = Data::of(&redis_url).await;
    let late = go_on(&gateway, &mut early).await;
    older.put_back(&redis_url).await;

    // At once, before anyone has had the time to look: the older lane has a free unit for this key.
    let again = gateway
        .insist(&Buy::of(LATE[0]).key(LATE[0]).prefer("respond-async"))
        .await;
    assert_eq!((&again.id(), again.replayed), (&late[0], true), "{}", again.body);
    assert_caught_up(&gateway, &early, &late).await;
}

/// The same where the ledger is no further than the older data: only who took the calls since then can tell.
#[tokio::test(flavor = "multi_thread")]
async fn what_older_data_under_a_running_server_lacks_is_known_as_lost() {
    let (redis_url, database_url) = (shared().await.redis(), shared().await.database().await);
    migrate(&database_url).await;
    let gateway = Whole::over(&redis_url, &database_url).await;
    gateway.sell("s", UNITS, json!({})).await;
    reserve_all(&gateway, EARLY).await;
    let taking = Whole::start_as(&[Role::Http], &redis_url, &database_url).await;
    taking.until_open().await;
    gateway.stop().await;
    let older = Data::of(&redis_url).await;
    let mut lost = Vec::new();
    for order in LATE {
        let told = taking.insist(&Buy::of(order).key(order).prefer("respond-async")).await;
        assert_eq!(told.standing(), "RESERVED accepted", "{}", told.body);
        lost.push(told.id());
    }
    older.put_back(&redis_url).await;

    let told = taking.insist(&Buy::of("next").prefer("respond-async")).await;
    assert_eq!(told.standing(), "RESERVED accepted", "{}", told.body);
    let gateway = Whole::over(&redis_url, &database_url).await;
    gateway.until_drained().await;
    for id in &lost {
        let told = gateway.reservation(id).await;
        assert_eq!(
            (told.status, &told.body["cause"]),
            (200, &json!("lost")),
            "{}",
            told.body
        );
    }
    assert_eq!(sell_out(&gateway).await, UNITS - 4);
    gateway.settled().await;
}

/// The lane has gone on since it stepped back, and is further than the ledger: nothing but what its queue says next can
/// tell that it is another road.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_went_on_after_it_stepped_back_is_recovered() {
    let (redis_url, database_url) = (shared().await.redis(), shared().await.database().await);
    migrate(&database_url).await;
    let gateway = Whole::over(&redis_url, &database_url).await;
    gateway.sell("s", UNITS, json!({})).await;
    let mut kept = reserve_all(&gateway, EARLY).await;
    let taking = Whole::start_as(&[Role::Http], &redis_url, &database_url).await;
    taking.until_open().await;
    gateway.stop().await;
    let older = Data::of(&redis_url).await;
    for order in LATE {
        let told = taking.insist(&Buy::of(order).key(order).prefer("respond-async")).await;
        assert_eq!(told.standing(), "RESERVED accepted", "{}", told.body);
        kept.push(told.id());
    }
    let other_road = Data::of(&redis_url).await;
    taking.stop().await;
    older.put_back(&redis_url).await;
    let gateway = Whole::over(&redis_url, &database_url).await;
    kept.push(durable(&gateway, "x").await);
    gateway.until_drained().await;
    gateway.stop().await;
    other_road.put_back(&redis_url).await;

    let gateway = Whole::over(&redis_url, &database_url).await;
    gateway.until_drained().await;
    for id in &kept {
        assert_eq!(gateway.reservation(id).await.standing(), "RESERVED durable");
    }
    assert_eq!(sell_out(&gateway).await, UNITS - 7);
    gateway.settled().await;
}

/// What a Redis database holds.
pub(crate) struct Data {
    keys: Vec<Value>,
    dumps: Vec<Value>,
}

impl Data {
    pub(crate) async fn of(redis_url: &str) -> Data {
        let keys = redis(redis_url, "KEYS", vec!["*".into()]).await.into_array();
        let mut dumps = Vec::new();
        for key in &keys {
            dumps.push(redis(redis_url, "DUMP", vec![key.clone()]).await);
        }
        Data { keys, dumps }
    }

    /// Puts it in the place of whatever is there now, in one step.
    pub(crate) async fn put_back(self, redis_url: &str) {
        let restore = "redis.call('FLUSHDB')
            for i, key in ipairs(KEYS) do redis.call('RESTORE', key, 0, ARGV[i]) end";
        let count = i64::try_from(self.keys.len()).expect("few");
        let mut args = vec![Value::from(restore), count.into()];
        args.extend(self.keys.into_iter().chain(self.dumps));
        redis(redis_url, "EVAL", args).await;
    }
}
