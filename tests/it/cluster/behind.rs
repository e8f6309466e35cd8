//! A replica that lags is promoted: what it lacks was answered already, and must neither be taken back nor sold again.

use super::steady::Steady;
use super::{Stage, durable};
use crate::faults::crowd::{Crowd, assert_kept};
use crate::support::door::Told;

/// Has `behind`, which replicates `ahead`, lag; sells; and has it promoted while `ahead` dies.
async fn promote_behind(stage: &mut Stage, ahead: usize, behind: usize) {
    let mut users = stage.users().await;
    let lanes = stage.lanes_of(ahead).await;
    let hurt: Vec<String> = lanes
        .iter()
        .flat_map(|lane| users.remove(lane).expect("it has some"))
        .collect();
    let spared: Vec<String> = users.into_values().flatten().collect();
    let before = stage.epochs().await;
    let mut early = reserve(stage, "early", &hurt).await;
    stage.one.until_drained().await;

    let steady = Steady::start(stage, &spared);
    stage.cluster.nodes[behind].lose(&stage.cluster.nodes[ahead]).await;
    let late = reserve(stage, "late", &hurt).await;
    let gone = early.remove(0);
    stage.other.release(&gone.id()).await.expect(200);
    let crowd = Crowd::gather(6, &[&stage.one, &stage.other]);
    crowd.buys(60).await;
    stage.cluster.nodes[ahead].kill();
    stage.cluster.nodes[behind].tell("CLUSTER FAILOVER TAKEOVER").await;
    stage.cluster.nodes[behind].until("role", "master").await;

    for (n, was) in late.iter().enumerate() {
        let again = durable(&stage.other, &format!("late-{n}"), &hurt[n]).await;
        assert_eq!((again.id(), again.replayed), (was.id(), true), "{}", again.body);
    }
    for was in early.iter().chain(&late) {
        assert_eq!(stage.one.reservation(&was.id()).await.standing(), "RESERVED durable");
    }
    steady.buys(20).await;
    crowd.buys(60).await;
    stage.cluster.nodes[behind].may_follow().await;
    stage.cluster.nodes[ahead].restart().await;
    stage.cluster.until_whole().await;
    let (heard, spared) = (crowd.leave().await, steady.leave().await);
    stage.settled().await;
    assert_kept(&stage.one, &heard).await;
    assert_eq!(assert_kept(&stage.other, &spared).await, 0);
    stage.assert_recovered(&lanes, &before).await;
}

async fn reserve(stage: &Stage, what: &str, users: &[String]) -> Vec<Told> {
    let mut all = Vec::new();
    for (n, user) in users.iter().enumerate() {
        all.push(durable(&stage.one, &format!("{what}-{n}"), user).await);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_replica_that_lagged_is_brought_up_to_date() {
    let mut stage = Stage::set().await;
    promote_behind(&mut stage, 0, 3).await;
}

/// It has kept its scripts, so nothing but the lanes' epochs and entries tells that it is behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_was_demoted_and_comes_back_behind_is_brought_up_to_date() {
    let mut stage = Stage::set().await;
    let before = stage.epochs().await;
    let lanes = stage.lanes_of(1).await;
    stage.cluster.hand_over(4).await;
    let user = stage
        .users()
        .await
        .remove(lanes.first().expect("it has lanes"))
        .expect("it has users");
    durable(&stage.one, "there", &user[0]).await;
    stage.settled().await;
    stage.assert_recovered(&lanes, &before).await;
    let scripts = stage.cluster.nodes[1].info("number_of_cached_scripts").await;
    assert_ne!(
        scripts.as_deref(),
        Some("0"),
        "the replica that was a primary has kept its scripts"
    );
    promote_behind(&mut stage, 4, 1).await;
}

/// Handed over in order, and back: nothing is lost, and on the way back nothing has to be recovered.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_is_demoted_and_promoted_again_while_it_sells() {
    let stage = Stage::set().await;
    let before = stage.epochs().await;
    let lanes = stage.lanes_of(2).await;
    let crowd = Crowd::gather(6, &[&stage.one, &stage.other]);
    crowd.buys(60).await;
    stage.cluster.hand_over(5).await;
    crowd.buys(100).await;
    for gateway in [&stage.one, &stage.other] {
        super::until_all_open(gateway).await;
    }
    stage.assert_recovered(&lanes, &before).await;
    let between = stage.epochs().await;
    stage.cluster.hand_over(2).await;
    crowd.buys(100).await;
    let heard = crowd.leave().await;
    stage.settled().await;
    assert_eq!(assert_kept(&stage.one, &heard).await, 0);
    assert_eq!(stage.epochs().await, between);
}
