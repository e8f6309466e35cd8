//! A cluster at peace: all lanes sell, whichever node they are on, and both gateways hear of everything.

use std::collections::BTreeSet;
use std::time::Duration;

use flashgate::flash::Flash;

use super::{LANES, Stage, durable, lane_of};
use crate::faults::crowd::{Crowd, assert_kept};
use crate::support::door::until;
use crate::support::flash::{LANE, Rig};
use crate::support::redis_cluster::RedisCluster;

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_sell_through_lanes_on_three_nodes() {
    let stage = Stage::set().await;
    let before = stage.epochs().await;
    let crowd = Crowd::gather(8, &[&stage.one, &stage.other]);
    crowd.buys(400).await;
    let heard = crowd.leave().await;
    let lanes: BTreeSet<u16> = heard.iter().map(|heard| lane_of(&heard.told)).collect();
    assert_eq!(lanes.len(), usize::from(LANES), "every lane has sold: {lanes:?}");
    assert_eq!(assert_kept(&stage.one, &heard).await, 0);

    // Whichever gateway owns the lane, who waits at the other one hears of it: of the durable unit, and of the one that
    // came back.
    for n in 0..2 * LANES {
        let (door, next) = if n % 2 == 0 {
            (&stage.one, &stage.other)
        } else {
            (&stage.other, &stage.one)
        };
        let order = format!("told-{n}");
        let told = durable(door, &order, &order).await;
        let again = durable(next, &order, &order).await;
        assert_eq!((again.id(), again.replayed), (told.id(), true));
        let released = next.release(&told.id()).await.expect(200);
        assert_ne!(released["restocked"], false, "{released}");
    }
    stage.settled().await;
    assert_eq!(stage.epochs().await, before, "no lane was recovered");
}

/// What one gateway tells, the other hears from the lane's own node, whichever that is by now.
#[tokio::test(flavor = "multi_thread")]
async fn notices_reach_the_other_gateway_before_and_after_a_failover() {
    let mut cluster = RedisCluster::start().await;
    let rig = Rig::at(&cluster.url(), 1).await;
    let other = rig.gateway().await;
    assert_hears(&rig.flash, &other, 1).await;
    let key = format!("fg:{{{}-0}}:meta", rig.deployment.namespace);
    let owner = cluster.owners(&[key], 0).await[0];
    cluster.nodes[owner].kill();
    cluster.nodes[owner + 3].until("role", "master").await;
    assert_hears(&rig.flash, &other, 2).await;
}

async fn assert_hears(one: &Flash, other: &Flash, grant: i64) {
    until("what was told", async || {
        one.tell_delivered(LANE, &[grant]).await;
        other
            .wait_delivered(grant, Duration::from_millis(100))
            .await
            .then_some(())
    })
    .await;
}
