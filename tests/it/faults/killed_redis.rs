//! Redis dies and comes back with its AOF.

use futures::future::join_all;

use super::crowd::{Crowd, assert_kept};
use super::{durable, redis, selling};
use crate::support::door::{Buy, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_redis_comes_back_with_every_durable_answer() {
    let (mut servers, gateway) = selling(100_000).await;
    let [kept, paid, dropped] = [
        durable(&gateway, "kept").await,
        durable(&gateway, "paid").await,
        durable(&gateway, "dropped").await,
    ];
    let crowd = Crowd::gather(6, &[&gateway]);
    crowd.buys(30).await;
    servers.redis.kill();

    let told = gateway.reserve(&Buy::of("away")).await;
    assert_eq!(told.problem(), (503, "STOCK_UNAVAILABLE"), "{}", told.body);
    assert!(told.retry_after.is_some_and(|seconds| seconds > 0));
    assert_eq!(told.body["retryable"], true);
    gateway.commit(&paid).await.expect(200);
    let released = gateway.release(&dropped).await.expect(200);
    assert_eq!(released["restocked"], false, "nobody can put them back now");
    until("a gateway that says so", async || {
        (gateway.ready().await["mode"] == "endings_only").then_some(())
    })
    .await;

    // Nobody has seen an answer to this key, however often it is sent.
    let storm = Buy::of("storm").key("storm");
    let door = (*gateway).clone();
    let insisting = tokio::spawn(async move { join_all((0..20).map(|_| door.insist(&storm))).await });
    crowd.fails_with("STOCK_UNAVAILABLE").await;
    servers.restart_redis().await;
    let storm = insisting.await.expect("it ends");
    assert!(storm.iter().all(|told| told.id() == storm[0].id()), "{storm:?}");
    assert!(storm.iter().filter(|told| !told.replayed).count() <= 1, "{storm:?}");

    crowd.buys(30).await;
    let heard = crowd.leave().await;
    gateway.settled().await;
    assert_eq!(
        assert_kept(&gateway, &heard).await,
        0,
        "the AOF had all that was answered"
    );
    let again = gateway.reserve(&Buy::of("kept").key("kept").prefer("wait=10")).await;
    assert_eq!((again.status, again.id(), again.replayed), (201, kept, true));
    assert_eq!(gateway.reservation(&paid).await.body["status"], "COMMITTED");
    assert_eq!(gateway.reservation(&dropped).await.body["status"], "RELEASED");
    let live = i64::try_from(heard.len()).expect("few") + 3;
    let sale = gateway.sale("s").await;
    assert_eq!(sale["remaining"], 100_000 - live, "crowd, kept, paid and storm");
}

/// Connections that this Redis serves.
async fn connections(url: &str) -> usize {
    let listed = redis(url, "CLIENT", vec!["LIST".into()]).await;
    listed.as_string().expect("a list").lines().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_was_away_gets_no_more_connections_than_it_had() {
    let (mut servers, gateway) = selling(10).await;
    durable(&gateway, "before").await;
    let before = connections(&servers.redis.url()).await;
    servers.redis.kill();
    for n in 0..10 {
        let told = gateway.reserve(&Buy::of(&format!("away-{n}"))).await;
        assert_eq!(told.problem(), (503, "STOCK_UNAVAILABLE"), "{}", told.body);
    }
    servers.restart_redis().await;
    durable(&gateway, "after").await;
    // A moment for whoever is late, but no more than that.
    until("as many connections as before", async || {
        (connections(&servers.redis.url()).await <= before).then_some(())
    })
    .await;
    gateway.settled().await;
}
