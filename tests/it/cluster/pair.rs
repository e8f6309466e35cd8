//! A single primary with a replica, which is promoted by hand.

use serde_json::json;

use super::durable;
use crate::support::door::{Buy, until};
use crate::support::gateway::{Whole, migrate};
use crate::support::redis_node::RedisNode;
use crate::support::servers::shared;

const UNITS: i64 = 20;
const SERVICE: &str = "stock";

pub(super) struct Pair {
    pub(super) primary: RedisNode,
    pub(super) replica: RedisNode,
    pub(super) database_url: String,
}

impl Pair {
    async fn start() -> Pair {
        let primary = RedisNode::start(&[], |_| None).await;
        let port = primary.port;
        Pair::of(primary, port).await
    }

    /// The replica reaches its primary at this port.
    pub(super) async fn of(primary: RedisNode, port: u16) -> Pair {
        let follows = format!("replicaof 127.0.0.1 {port}");
        let replica = RedisNode::start(&[&follows, "repl-diskless-sync-delay 0"], |_| None).await;
        replica.until("master_link_status", "up").await;
        let database_url = shared().await.database().await;
        migrate(&database_url).await;
        Pair {
            primary,
            replica,
            database_url,
        }
    }

    /// Waits until the replica has all that the primary has.
    pub(super) async fn until_level(&self) {
        until("a replica that is level", async || {
            let (there, here) = tokio::join!(
                self.primary.info("master_repl_offset"),
                self.replica.info("slave_repl_offset")
            );
            (there.is_some() && there == here).then_some(())
        })
        .await;
    }
}

/// Makes so many reservations durable; their ids.
pub(super) async fn reserve(gateway: &Whole, what: &str, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..count {
        let order = format!("{what}-{n}");
        ids.push(durable(gateway, &order, &order).await.id());
    }
    ids
}

/// Asserts that these are what their orders still get, and that exactly `left` units are for sale.
pub(super) async fn assert_kept(gateway: &Whole, made: &[(&str, &[String])], left: i64) {
    for (what, ids) in made {
        for (n, id) in ids.iter().enumerate() {
            let order = format!("{what}-{n}");
            let again = durable(gateway, &order, &order).await;
            assert_eq!((&again.id(), again.replayed), (id, true), "{}", again.body);
        }
    }
    for n in 0..left {
        let order = format!("left-{n}");
        durable(gateway, &order, &order).await;
    }
    let told = gateway.insist(&Buy::of("too-late").prefer("wait=10")).await;
    assert_eq!(told.problem(), (409, "INSUFFICIENT_STOCK"), "{}", told.body);
    gateway.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_at_another_address_takes_over_by_a_restart() {
    let mut pair = Pair::start().await;
    let gateway = Whole::over(&pair.primary.url(), &pair.database_url).await;
    gateway.sell("s", UNITS, json!({})).await;
    let made = reserve(&gateway, "made", 6).await;
    pair.until_level().await;
    pair.primary.kill();
    pair.replica.tell("REPLICAOF NO ONE").await;
    gateway.stop().await;

    let gateway = Whole::over(&pair.replica.url(), &pair.database_url).await;
    assert_kept(&gateway, &[("made", &made)], UNITS - 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lagged_takes_over_the_address() {
    let mut pair = Pair::start().await;
    let gateway = Whole::over(&pair.primary.url(), &pair.database_url).await;
    gateway.sell("s", UNITS, json!({})).await;
    let early = reserve(&gateway, "early", 4).await;
    pair.until_level().await;
    pair.replica.lose(&pair.primary).await;
    let late = reserve(&gateway, "late", 4).await;
    let given_back = reserve(&gateway, "back", 1).await;
    gateway.release(&given_back[0]).await.expect(200);
    gateway.until_drained().await;

    pair.primary.kill();
    pair.replica.kill();
    pair.replica.unset("replicaof");
    pair.replica.restart_at(pair.primary.port).await;
    assert_kept(&gateway, &[("early", &early), ("late", &late)], UNITS - 8).await;
}

/// The primary is demoted in its place, lags, and is promoted again: it has kept its scripts all the while. Meanwhile
/// another gateway has sold over the other server.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_comes_back_behind_sells_nothing_again() {
    let pair = Pair::start().await;
    let here = Whole::over(&pair.primary.url(), &pair.database_url).await;
    here.sell("s", UNITS, json!({})).await;
    let early = reserve(&here, "early", 4).await;
    pair.until_level().await;

    pair.replica.tell("REPLICAOF NO ONE").await;
    pair.primary
        .tell(&format!("REPLICAOF 127.0.0.1 {}", pair.replica.port))
        .await;
    pair.primary.until("master_link_status", "up").await;
    let refused = here.reserve(&Buy::of("refused")).await;
    assert_eq!(
        refused.problem(),
        (503, "STOCK_UNAVAILABLE"),
        "a replica takes no writes"
    );
    let there = Whole::over(&pair.replica.url(), &pair.database_url).await;
    // Who reaches a replica only can serve no lane, and leaves them to who can.
    until("one owner of all lanes", async || {
        let owners = "SELECT count(DISTINCT owner) = 1 AND count(owner) = count(*) FROM lane";
        sqlx::query_scalar::<_, bool>(owners)
            .fetch_one(&there.pool)
            .await
            .ok()?
            .then_some(())
    })
    .await;
    let between = reserve(&there, "between", 3).await;
    until("the primary of before, level", async || {
        let there = pair.replica.info("master_repl_offset").await?;
        (pair.primary.info("slave_repl_offset").await? == there).then_some(())
    })
    .await;
    pair.primary.lose(&pair.replica).await;
    let late = reserve(&there, "late", 3).await;
    there.until_drained().await;
    there.stop().await;

    pair.primary.tell("REPLICAOF NO ONE").await;
    let made = [("early", &*early), ("between", &*between), ("late", &*late)];
    assert_kept(&here, &made, UNITS - 10).await;
}

/// A sentinel tells who the primary is, and promotes the replica by itself.
#[tokio::test(flavor = "multi_thread")]
async fn sentinels_replace_the_primary_without_a_restart_of_the_gateway() {
    let mut pair = Pair::start().await;
    let sentinel = RedisNode::sentinel(&pair.primary, SERVICE).await;
    let url = format!("redis-sentinel://{}?sentinelServiceName={SERVICE}", sentinel.address());
    until("a sentinel that knows the replica", async || {
        (sentinel.info("master0").await?.contains("slaves=1")).then_some(())
    })
    .await;
    let gateway = Whole::over(&url, &pair.database_url).await;
    gateway.sell("s", UNITS, json!({})).await;
    let made = reserve(&gateway, "made", 6).await;
    pair.until_level().await;
    pair.primary.kill();
    pair.replica.until("role", "master").await;
    assert_kept(&gateway, &[("made", &made)], UNITS - 6).await;
}
