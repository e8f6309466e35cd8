//! What reads may take: a ceiling while Redis is away, and never what a reservation needs.

use serde_json::json;

use crate::support::door::{Buy, Told, until};
use crate::support::gateway::{Whole, migrate};
use crate::support::servers::Private;

const PATHS: [&str; 5] = [
    "/api/inventory?skuId=hot",
    "/api/inventory/hot",
    "/api/inventory/availability?skuIds=hot",
    "/api/orders/o1/inventory-status",
    "/api/read-model/orders/o1/inventory-status",
];

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_reads_go_on_up_to_a_ceiling_and_say_so() {
    let mut servers = Private::start().await;
    migrate(&servers.postgres.url()).await;
    let whole = Whole::changed(&servers.redis.url(), &servers.postgres.url(), |settings| {
        settings.admission.reads_rate = 2;
    })
    .await;
    whole.until_open().await;
    whole.receive("hot", 10).await;
    for path in PATHS.iter().cycle().take(20) {
        whole.get(path).await.expect(200);
    }
    assert_eq!(whole.ready().await.get("readsPerSecondMax"), None);

    servers.redis.kill();
    until("a gateway that knows", async || {
        (whole.ready().await["readsPerSecondMax"] == 2).then_some(())
    })
    .await;
    for path in PATHS {
        let refused = until("a refusal", async || {
            let told: Told = whole.get(path).await;
            (told.status != 200).then_some(told)
        })
        .await;
        assert_eq!(refused.problem(), (503, "READS_LIMITED"), "{path}");
        assert!(refused.retry_after.is_some());
        assert_eq!(refused.body["perSecond"], 2);
        // What is refused now is served when its time has come.
        let served = until("an answer", async || {
            let told = whole.get(path).await;
            (told.status == 200).then_some(told.body)
        })
        .await;
        if path != PATHS[3] {
            assert_eq!(served["degraded"], true, "{path}");
        }
    }
    servers.restart_redis().await;
    until("a gateway that serves all", async || {
        whole.ready().await.get("readsPerSecondMax").is_none().then_some(())
    })
    .await;
    for path in PATHS.iter().cycle().take(20) {
        whole.get(path).await.expect(200);
    }
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_hang_hold_up_no_reservation() {
    let whole = Whole::empty().await;
    whole.sell("s", 100, json!({})).await;
    // More readers than any pool has connections wait behind this lock.
    let mut jam = whole.pool.begin().await.expect("Postgres answers");
    sqlx::query("LOCK TABLE inventory_snapshot, snapshot_feed")
        .execute(&mut *jam)
        .await
        .expect("it locks");
    let mut readers = Vec::new();
    for n in 0..40 {
        let door = (*whole).clone();
        readers.push(tokio::spawn(async move { door.get(PATHS[n % PATHS.len()]).await }));
    }
    until("readers that wait", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%snapshot_feed%'";
        let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&whole.pool).await.ok()?;
        (waiting >= 4).then_some(())
    })
    .await;
    for n in 0..20 {
        let told = whole.reserve(&Buy::of(&format!("o{n}")).prefer("wait=10")).await;
        let id = (told.id(), told.expect(201)).0;
        whole.commit(&id).await.expect(200);
    }
    assert!(readers.iter().any(|reader| !reader.is_finished()), "they still wait");
    jam.rollback().await.expect("it lets go");
    for reader in readers {
        let told = reader.await.expect("it ends");
        assert!([200, 503].contains(&told.status), "{}", told.body);
    }
    whole.settled().await;
    whole.stop().await;
}
