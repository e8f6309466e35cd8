//! A Redis Cluster on loopback: three primaries and a replica of each, real servers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fred::types::Value;

use super::door::until;
use super::redis_node::RedisNode;

/// How long a node must be silent before the others take it for dead.
const NODE_TIMEOUT_MS: u32 = 5_000;
/// Redis gives up a failover that it was asked for after five seconds.
const HAND_OVER_MAX: Duration = Duration::from_secs(6);
const PRIMARIES: usize = 3;
const SLOTS: usize = 16_384;

/// The nodes; of the first three each was a primary at first, and the one three further on its replica.
pub(crate) struct RedisCluster {
    pub(crate) nodes: Vec<RedisNode>,
}

async fn node() -> RedisNode {
    let timeout = format!("cluster-node-timeout {NODE_TIMEOUT_MS}");
    let settings = [
        "cluster-enabled yes",
        timeout.as_str(),
        // Slots without a primary are no reason to stop the others.
        "cluster-require-full-coverage no",
        "cluster-allow-replica-migration no",
        // A replica may be promoted however long it has heard nothing.
        "cluster-replica-validity-factor 0",
        "repl-diskless-sync-delay 0",
    ];
    RedisNode::start(&settings, |port| Some(format!("cluster-port {port}"))).await
}

impl RedisCluster {
    /// A cluster in which every slot has a primary with a replica that follows.
    pub(crate) async fn start() -> RedisCluster {
        let mut nodes = Vec::new();
        for _ in 0..2 * PRIMARIES {
            nodes.push(node().await);
        }
        let cluster = RedisCluster { nodes };
        cluster.meet().await;
        cluster
    }

    async fn meet(&self) {
        for (n, node) in self.nodes.iter().enumerate() {
            node.tell(&format!("CLUSTER SET-CONFIG-EPOCH {}", n + 1)).await;
            if n < PRIMARIES {
                let (first, next) = (n * SLOTS / PRIMARIES, (n + 1) * SLOTS / PRIMARIES);
                node.tell(&format!("CLUSTER ADDSLOTSRANGE {first} {}", next - 1)).await;
            }
        }
        for node in &self.nodes[1..] {
            self.introduce(node).await;
        }
        self.until_met().await;
        for n in PRIMARIES..2 * PRIMARIES {
            let primary = self.id(n - PRIMARIES).await;
            self.nodes[n].tell(&format!("CLUSTER REPLICATE {primary}")).await;
        }
        self.until_whole().await;
    }

    async fn introduce(&self, node: &RedisNode) {
        let bus = node.tell("CONFIG GET cluster-port").await.into_array();
        let bus = bus[1].as_string().expect("a port");
        self.nodes[0]
            .tell(&format!("CLUSTER MEET 127.0.0.1 {} {bus}", node.port))
            .await;
    }

    async fn until_met(&self) {
        until("nodes that know each other", async || {
            for node in &self.nodes {
                let known = node.ask("CLUSTER NODES").await.ok()?.as_string()?;
                let met = known.lines().filter(|line| !line.contains("handshake")).count();
                if met != self.nodes.len() {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    /// Takes in another node, the last of `nodes` from here on. It has no slots yet.
    pub(crate) async fn join(&mut self) {
        let node = node().await;
        self.introduce(&node).await;
        self.nodes.push(node);
        self.until_met().await;
        // It takes nothing before it has heard of most primaries that they live.
        let node = self.nodes.last().expect("it has just come");
        until("a node that takes part", async || {
            let info = node.ask("CLUSTER INFO").await.ok()?.as_string()?;
            info.contains("cluster_state:ok").then_some(())
        })
        .await;
    }

    /// Its address: the first three nodes.
    pub(crate) fn url(&self) -> String {
        let [first, rest @ ..] = &self.nodes[..PRIMARIES] else {
            unreachable!("there are three");
        };
        let rest: Vec<String> = rest.iter().map(|node| format!("node={}", node.address())).collect();
        format!("redis-cluster://{}?{}", first.address(), rest.join("&"))
    }

    /// The name by which the others know a node.
    pub(crate) async fn id(&self, n: usize) -> String {
        self.nodes[n].tell("CLUSTER MYID").await.as_string().expect("a name")
    }

    /// Waits until all nodes live, agree that the cluster is well, and each primary has a replica that is up to date.
    pub(crate) async fn until_whole(&self) {
        until("a whole cluster", async || {
            let mut primaries = 0;
            for node in &self.nodes {
                let info = node.ask("CLUSTER INFO").await.ok()?.as_string()?;
                let has = |line: &str| info.lines().any(|told| told.trim() == line);
                if !has("cluster_state:ok") || !has("cluster_slots_ok:16384") || !has("cluster_size:3") {
                    return None;
                }
                let is_primary = node.info("role").await? == "master";
                primaries += usize::from(is_primary);
                let linked = match is_primary {
                    true => node
                        .info("slave0")
                        .await
                        .is_some_and(|told| told.contains("state=online")),
                    false => node.info("master_link_status").await? == "up",
                };
                if !linked {
                    return None;
                }
            }
            (primaries == PRIMARIES).then_some(())
        })
        .await;
    }

    /// Which node serves each of these keys, as another node than `not` tells it.
    pub(crate) async fn owners(&self, keys: &[String], not: usize) -> Vec<usize> {
        let asked = &self.nodes[usize::from(not == 0)];
        let told = asked.tell("CLUSTER SLOTS").await.into_array();
        let mut owners = BTreeMap::new();
        for range in told {
            let parts = range.into_array();
            let number = |value: &Value| usize::try_from(value.as_i64().expect("a number")).expect("small");
            let port = number(&parts[2].clone().into_array()[1]);
            let node = self.nodes.iter().position(|node| usize::from(node.port) == port);
            owners.insert(number(&parts[0]), (number(&parts[1]), node.expect("it is ours")));
        }
        let owner = |key: &String| {
            let slot = usize::from(fred::util::redis_keyslot(key.as_bytes()));
            let (_, (last, node)) = owners.range(..=slot).next_back().expect("every slot is served");
            assert!(slot <= *last, "every slot is served");
            *node
        };
        keys.iter().map(owner).collect()
    }

    /// Has a replica promoted by its primary, which goes on as its replica. Nothing is lost by that.
    pub(crate) async fn hand_over(&self, to: usize) {
        // On a busy machine the two may not agree in time, and then nothing has happened.
        let mut asked = None::<Instant>;
        until("a primary that was handed its place", async || {
            if self.nodes[to].info("role").await? == "master" {
                return Some(());
            }
            if asked.is_none_or(|at| at.elapsed() > HAND_OVER_MAX) {
                self.nodes[to].ask("CLUSTER FAILOVER").await.ok();
                asked = Some(Instant::now());
            }
            None
        })
        .await;
        self.until_whole().await;
    }
}
