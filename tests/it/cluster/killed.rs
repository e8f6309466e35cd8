//! A primary is killed while buyers go on: its replica takes its lanes, and nobody else's lanes are touched.

use super::steady::Steady;
use super::{Stage, durable};
use crate::faults::crowd::{Crowd, assert_kept};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_primary_stops_its_own_lanes_alone() {
    let mut stage = Stage::set().await;
    let mut users = stage.users().await;
    let lanes = stage.lanes_of(0).await;
    let hurt: Vec<String> = lanes.iter().flat_map(|lane| users.remove(lane).expect("it has some")).collect();
    let spared: Vec<String> = users.into_values().flatten().collect();
    let before = stage.epochs().await;
    let kept = durable(&stage.one, "kept", &hurt[0]).await;

    let steady = Steady::start(&stage, &spared);
    let crowd = Crowd::gather(6, &[&stage.one, &stage.other]);
    crowd.buys(100).await;
    stage.cluster.nodes[0].kill();
    crowd.fails_with("STOCK_UNAVAILABLE").await;
    steady.buys(50).await;
    stage.cluster.nodes[3].until("role", "master").await;
    for (n, user) in hurt.iter().enumerate() {
        durable(&stage.other, &format!("after-{n}"), user).await;
    }
    let again = durable(&stage.other, "kept", &hurt[0]).await;
    assert_eq!((again.id(), again.replayed), (kept.id(), true));

    stage.cluster.nodes[0].restart().await;
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
