//! A primary dies or hangs while buyers go on: its replica takes its lanes, and nobody else's lanes are touched.

use nix::sys::signal::Signal;

use super::steady::Steady;
use super::{Stage, durable};
use crate::faults::crowd::{Crowd, assert_kept};
use crate::support::redis_cluster::RedisCluster;

/// Has the first primary fall away and its replica take its place, while `comes_back` brings it back later.
async fn replace_the_first(
    mut stage: Stage,
    falls_away: impl FnOnce(&mut RedisCluster),
    comes_back: impl AsyncFnOnce(&mut RedisCluster),
) {
    let mut users = stage.users().await;
    let lanes = stage.lanes_of(0).await;
    let hurt: Vec<String> = lanes
        .iter()
        .flat_map(|lane| users.remove(lane).expect("it has some"))
        .collect();
    let spared: Vec<String> = users.into_values().flatten().collect();
    let before = stage.epochs().await;
    let kept = durable(&stage.one, "kept", &hurt[0]).await;

    let steady = Steady::start(&stage, &spared);
    let crowd = Crowd::gather(6, &[&stage.one, &stage.other]);
    crowd.buys(100).await;
    falls_away(&mut stage.cluster);
    crowd.fails_with("STOCK_UNAVAILABLE").await;
    steady.buys(50).await;
    stage.cluster.nodes[3].until("role", "master").await;
    for (n, user) in hurt.iter().enumerate() {
        durable(&stage.other, &format!("after-{n}"), user).await;
    }
    let again = durable(&stage.other, "kept", &hurt[0]).await;
    assert_eq!((again.id(), again.replayed), (kept.id(), true));

    comes_back(&mut stage.cluster).await;
    stage.cluster.until_whole().await;
    stage.cluster.nodes[0].until("role", "slave").await;
    crowd.buys(50).await;
    steady.buys(20).await;
    let (heard, spared) = (crowd.leave().await, steady.leave().await);
    stage.settled().await;
    assert_kept(&stage.one, &heard).await;
    assert_eq!(assert_kept(&stage.other, &spared).await, 0);
    stage.assert_recovered(&lanes, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_primary_stops_its_own_lanes_alone() {
    let stage = Stage::set().await;
    replace_the_first(
        stage,
        |cluster| cluster.nodes[0].kill(),
        async |cluster| cluster.nodes[0].restart().await,
    )
    .await;
}

/// Its connections stay, and it never says a word: that must hold up nobody else, and when it wakes up nobody listens.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_hangs_stops_its_own_lanes_alone() {
    let stage = Stage::set().await;
    replace_the_first(
        stage,
        |cluster| cluster.nodes[0].signal(Signal::SIGSTOP),
        async |cluster| cluster.nodes[0].signal(Signal::SIGCONT),
    )
    .await;
}
