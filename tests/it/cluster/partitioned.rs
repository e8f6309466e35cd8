//! A primary is cut off from its replica and from one of two gateways, and the replica is promoted: two primaries at a
//! time, each with a gateway that believes in it.

use std::time::Duration;

use flashgate::drill::wire::{Trouble, Wire};
use serde_json::json;

use super::pair::{Pair, assert_kept, reserve};
use crate::faults::crowd::{self, Crowd};
use crate::support::door::{Buy, until};
use crate::support::gateway::{LANES, Whole};
use crate::support::redis_node::RedisNode;

const UNITS: i64 = 200;

/// A gateway on either side of where the partition will be.
struct Split {
    pair: Pair,
    /// Between the primary and its replica.
    link: Wire,
    /// Goes on seeing the primary of before.
    stays: Whole,
    /// What it sees of Redis.
    stays_sees: Wire,
    /// Sees the promoted replica.
    leaves: Whole,
    leaves_sees: Wire,
}

impl Split {
    /// Both over the primary, which has these settings, with a sale of which early reservations are durable.
    async fn prepare(settings: &[&str]) -> (Split, Vec<String>) {
        let primary = RedisNode::start(settings, |_| None).await;
        let wire = async || Wire::to(primary.socket(), 1).await.expect("a port");
        let (link, stays_sees, leaves_sees) = (wire().await, wire().await, wire().await);
        let pair = Pair::of(primary, link.address().port()).await;
        let over = async |wire: &Wire| Whole::over(&format!("redis://{}", wire.address()), &pair.database_url).await;
        let (stays, leaves) = (over(&stays_sees).await, over(&leaves_sees).await);
        stays.sell("s", UNITS, json!({"buckets": LANES})).await;
        let early = reserve(&stays, "early", 6).await;
        pair.until_level().await;
        let split = Split {
            pair,
            link,
            stays,
            stays_sees,
            leaves,
            leaves_sees,
        };
        (split, early)
    }

    /// Cuts the primary off and promotes the replica, which lacks what came since.
    async fn split(&self) {
        self.pair.replica.tell("REPLICAOF NO ONE").await;
        self.leaves_sees.lead_to(self.pair.replica.socket());
    }

    /// The partition ends: who was the primary follows the new one, and everybody sees that.
    async fn mend(&self) {
        self.link.trouble(Trouble::Calm);
        let follows = format!("REPLICAOF 127.0.0.1 {}", self.pair.replica.port);
        self.pair.primary.tell(&follows).await;
        self.stays_sees.lead_to(self.pair.replica.socket());
    }

    async fn epochs(&self) -> Vec<i64> {
        let epochs = sqlx::query_scalar("SELECT epoch FROM lane ORDER BY lane");
        epochs.fetch_all(&self.stays.pool).await.expect("Postgres answers")
    }

    /// Waits until every lane has a newer epoch than `before`.
    async fn until_all_newer_than(&self, before: &[i64]) -> Vec<i64> {
        until("newer epochs of all lanes", async || {
            let now = self.epochs().await;
            now.iter().zip(before).all(|(now, then)| now > then).then_some(now)
        })
        .await
    }
}

/// Nothing but the ledger can tell who is right, and each side shuts the other out by a new epoch: what either sells is
/// decided there, once.
#[tokio::test(flavor = "multi_thread")]
async fn two_primaries_at_a_time_sell_no_unit_twice() {
    let (split, early) = Split::prepare(&[]).await;
    split.link.trouble(Trouble::Held);
    let late = reserve(&split.leaves, "late", 6).await;
    let crowd = Crowd::gather(4, &[&split.stays, &split.leaves]);
    crowd.buys(10).await;
    let before = split.epochs().await;
    split.split().await;
    crowd.buys(30).await;
    // Those who buy may all be on the side that stays.
    split.until_all_newer_than(&before).await;
    split.mend().await;
    crowd.buys(10).await;
    let heard = crowd.leave().await;
    for gateway in [&split.stays, &split.leaves] {
        gateway.settled().await;
    }
    crowd::assert_kept(&split.leaves, &heard).await;
    let made = [("early", &*early), ("late", &*late)];
    let reserved: i64 = sqlx::query_scalar("SELECT reserved FROM inventory_balance")
        .fetch_one(&split.stays.pool)
        .await
        .expect("Postgres answers");
    assert_kept(&split.stays, &made, UNITS - reserved).await;
}

/// With `min-replicas-to-write` the primary that is cut off refuses to write, so the other side has no rival.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_asks_for_a_replica_steps_back_by_itself() {
    let (split, early) = Split::prepare(&["min-replicas-to-write 1", "min-replicas-max-lag 1"]).await;
    split.link.trouble(Trouble::Held);
    split.pair.primary.until("min_slaves_good_slaves", "0").await;
    let refused = split.stays.reserve(&Buy::of("refused").prefer("respond-async")).await;
    assert_eq!(refused.problem(), (503, "STOCK_UNAVAILABLE"), "{}", refused.body);
    let before = split.epochs().await;
    split.split().await;
    // A lane may be open while the others are still being recovered.
    let epochs = split.until_all_newer_than(&before).await;
    let crowd = Crowd::gather(1, &[&split.leaves]);
    crowd.buys(10).await;
    for n in 0..10 {
        let told = split
            .stays
            .reserve(&Buy::of(&format!("refused-{n}")).prefer("respond-async"))
            .await;
        assert_eq!(told.problem(), (503, "STOCK_UNAVAILABLE"), "{}", told.body);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    crowd.buys(20).await;
    assert_eq!(split.epochs().await, epochs, "nobody else takes the lanes");
    split.mend().await;
    let heard = crowd.leave().await;
    until("the gateway that was refused", async || {
        let told = split
            .stays
            .try_reserve(&Buy::of("again").key("again").prefer("wait=10"))
            .await?;
        (told.standing() == "RESERVED durable").then_some(())
    })
    .await;
    assert_eq!(split.epochs().await, epochs);
    assert_eq!(crowd::assert_kept(&split.stays, &heard).await, 0);
    let sold = i64::try_from(heard.len()).expect("few");
    assert_kept(&split.stays, &[("early", &*early)], UNITS - 7 - sold).await;
}
