//! Slots move to other nodes while buyers go on.

use std::collections::BTreeSet;

use super::{Stage, durable};
use crate::faults::crowd::{Crowd, assert_kept};
use crate::support::redis_cluster::RedisCluster;

/// Moves the slot of `key`, with all that is in it, as `redis-cli --cluster reshard` does.
async fn move_slot(cluster: &RedisCluster, key: &str, from: usize, to: usize) {
    let slot = fred::util::redis_keyslot(key.as_bytes());
    let (source, target) = (&cluster.nodes[from], &cluster.nodes[to]);
    let (source_id, target_id) = (cluster.id(from).await, cluster.id(to).await);
    target
        .tell(&format!("CLUSTER SETSLOT {slot} IMPORTING {source_id}"))
        .await;
    source
        .tell(&format!("CLUSTER SETSLOT {slot} MIGRATING {target_id}"))
        .await;
    loop {
        let keys = source
            .tell(&format!("CLUSTER GETKEYSINSLOT {slot} 3"))
            .await
            .into_array();
        if keys.is_empty() {
            break;
        }
        for key in keys {
            let key = key.as_string().expect("a key");
            source
                .tell(&format!("MIGRATE 127.0.0.1 {} {key} 0 5000", target.port))
                .await;
        }
    }
    for node in [target, source] {
        node.tell(&format!("CLUSTER SETSLOT {slot} NODE {target_id}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_that_move_to_another_node_go_on_selling() {
    let mut stage = Stage::set().await;
    let users = stage.users().await;
    let before = stage.epochs().await;
    let lanes: Vec<u16> = stage.lanes_of(0).await.into_iter().collect();
    let crowd = Crowd::gather(6, &[&stage.one, &stage.other]);
    crowd.buys(100).await;
    for lane in &lanes {
        move_slot(&stage.cluster, &stage.keys[usize::from(*lane)], 0, 1).await;
    }
    for lane in &lanes {
        durable(&stage.other, &format!("moved-{lane}"), &users[lane][0]).await;
    }
    assert_eq!(
        stage.epochs().await,
        before,
        "that node has its scripts, and the lanes have all they had"
    );

    // A node that has just joined has none: what comes to it is recovered.
    stage.cluster.join().await;
    let (new, lane) = (stage.cluster.nodes.len() - 1, lanes[0]);
    crowd.buys(50).await;
    move_slot(&stage.cluster, &stage.keys[usize::from(lane)], 1, new).await;
    durable(&stage.one, "joined", &users[&lane][1]).await;
    crowd.buys(100).await;
    let heard = crowd.leave().await;
    stage.settled().await;
    assert_eq!(assert_kept(&stage.one, &heard).await, 0);
    stage.assert_recovered(&BTreeSet::from([lane]), &before).await;
}
