//! Redis as a cluster, and as a primary with a replica: real servers that are killed, paused, promoted and moved while
//! buyers go on.
//!
//! Every test ends at rest, and then the books balance.

mod behind;
mod killed;
mod moved;
mod pair;
mod partitioned;
mod spread;
mod steady;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flashgate::app::Settings;
use flashgate::domain::lane::LaneNo;
use flashgate::domain::reservation_id::ReservationId;
use serde_json::json;
use sqlx::PgPool;

use crate::support::door::{Buy, Told, until};
use crate::support::gateway::{Whole, migrate_lanes};
use crate::support::redis_cluster::RedisCluster;
use crate::support::servers::shared;

const LANES: u16 = 16;
const UNITS: i64 = 100_000;
/// Every node has at least so many lanes, or the test would show little.
const LANES_MIN: usize = 2;

/// A machine that is busy is not a server that is away.
const COMMAND_MAX: Duration = Duration::from_secs(5);
const USERS: usize = 12 * LANES as usize;

/// Two gateways over a cluster, with a live sale that has a bucket in each of 16 lanes.
struct Stage {
    one: Whole,
    other: Whole,
    cluster: RedisCluster,
    /// A key of each lane, in order.
    keys: Vec<String>,
}

impl Stage {
    async fn set() -> Stage {
        let cluster = RedisCluster::start().await;
        let redis_url = cluster.url();
        let (database_url, keys) = loop {
            let database_url = shared().await.database().await;
            migrate_lanes(&database_url, LANES).await;
            let keys = keys_of_lanes(&database_url).await;
            let owners = cluster.owners(&keys, 0).await;
            let enough = (0..3).all(|node| owners.iter().filter(|owner| **owner == node).count() >= LANES_MIN);
            if enough {
                break (database_url, keys);
            }
        };
        let patient = |settings: &mut Settings| settings.flash.command_timeout = COMMAND_MAX;
        let one = Whole::changed(&redis_url, &database_url, patient).await;
        let other = Whole::changed(&redis_url, &database_url, patient).await;
        until_all_open(&one).await;
        one.sell("s", UNITS, json!({"buckets": LANES})).await;
        until_all_open(&other).await;
        Stage {
            one,
            other,
            cluster,
            keys,
        }
    }

    /// The lanes that a node serves, as another one tells it.
    async fn lanes_of(&self, node: usize) -> BTreeSet<u16> {
        let owners = self.cluster.owners(&self.keys, node).await;
        let of_node = (0..).zip(owners).filter(|(_, owner)| *owner == node);
        of_node.map(|(lane, _)| lane).collect()
    }

    /// Users by the lane that is their home, each with a reservation.
    async fn users(&self) -> BTreeMap<u16, Vec<String>> {
        let mut users = BTreeMap::<u16, Vec<String>>::new();
        for n in 0..USERS {
            let user = format!("u{n}");
            let wanted = Buy::of(&format!("first-{n}")).user(&user).prefer("respond-async");
            let lane = lane_of(&self.one.insist(&wanted).await);
            users.entry(lane).or_default().push(user);
        }
        assert_eq!(users.len(), usize::from(LANES), "a user for each lane");
        users
    }

    /// Asserts that the lanes of `recovered` have newer epochs than `before`, and no others.
    async fn assert_recovered(&self, recovered: &BTreeSet<u16>, before: &[i64]) {
        let raised = (0..).zip(self.epochs().await.into_iter().zip(before));
        let raised: BTreeSet<u16> = raised
            .filter(|(_, (now, then))| now > then)
            .map(|(lane, _)| lane)
            .collect();
        assert_eq!(raised, *recovered, "lanes with a newer epoch");
    }

    /// Waits until all has come to rest, on both gateways.
    async fn settled(&self) {
        for gateway in [&self.one, &self.other] {
            until_all_open(gateway).await;
            gateway.settled().await;
        }
    }

    async fn epochs(&self) -> Vec<i64> {
        let epochs = sqlx::query_scalar("SELECT epoch FROM lane ORDER BY lane");
        epochs.fetch_all(&self.one.pool).await.expect("Postgres answers")
    }
}

async fn keys_of_lanes(database_url: &str) -> Vec<String> {
    let pool = PgPool::connect(database_url).await.expect("Postgres answers");
    let namespace: String = sqlx::query_scalar("SELECT namespace FROM deployment")
        .fetch_one(&pool)
        .await
        .expect("it is migrated");
    (0..LANES)
        .map(|lane| format!("fg:{{{namespace}-{lane}}}:meta"))
        .collect()
}

async fn until_all_open(gateway: &Whole) {
    until("open lanes", async || {
        let told = gateway.ready().await;
        (told["mode"] == "serving" && told["lanes"]["open"] == LANES).then_some(())
    })
    .await;
}

/// The lane that a reservation is in.
fn lane_of(told: &Told) -> u16 {
    let id: ReservationId = told.id().parse().expect("an id");
    let LaneNo(lane) = id.lane();
    lane
}

/// Makes a reservation durable; its order is its key too.
async fn durable(gateway: &Whole, order: &str, user: &str) -> Told {
    let told = gateway
        .insist(&Buy::of(order).key(order).user(user).prefer("wait=10"))
        .await;
    assert_eq!(told.standing(), "RESERVED durable", "{}", told.body);
    told
}
