//! Who owns which lane, and what gateways agree on.

use flashgate::domain::lane::LaneNo;
use flashgate::ledger::{Ledger, LedgerError, Settings};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::servers::shared;

async fn migrated(lanes: u16) -> (Ledger, PgPool) {
    let url = shared().await.database().await;
    let ledger = Ledger::new(&Settings::new(&url)).expect("an address");
    assert!(!ledger.is_migrated().await.expect("answers"));
    ledger.migrate(lanes).await.expect("migrates");
    (ledger, PgPool::connect_lazy(&url).expect("an address"))
}

#[tokio::test]
async fn a_database_is_migrated_once_whoever_comes() {
    let url = shared().await.database().await;
    let ledgers: Vec<Ledger> = (0..4)
        .map(|_| Ledger::new(&Settings::new(&url)).expect("an address"))
        .collect();
    let all = futures::future::join_all(ledgers.iter().map(|ledger| ledger.migrate(4))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert!(ledgers[0].is_migrated().await.expect("answers"));
    let (one, two) = (
        ledgers[0].deployment().await.expect("reads"),
        ledgers[1].deployment().await.expect("reads"),
    );
    assert_eq!((one.namespace.len(), one.lanes), (8, 4));
    assert_eq!((one.namespace, one.id_key.0), (two.namespace, two.id_key.0));
    assert_eq!(ledgers[0].lanes().await.expect("reads").len(), 4);
    let error = ledgers[0].migrate(8).await.expect_err("another number");
    assert!(
        matches!(&error, LedgerError::Broken(why) if why.contains("4 lanes")),
        "{error}"
    );
}

#[tokio::test]
async fn lanes_are_shared_and_taken_over_from_the_dead() {
    let (ledger, pool) = migrated(5).await;
    let (a, b) = (Uuid::new_v4(), Uuid::new_v4());
    ledger.beat(a, "a").await.expect("beats");
    ledger.beat(b, "b").await.expect("beats");
    let of_a = ledger.claim_lanes(a, 99, &[]).await.expect("claims");
    let of_b = ledger.claim_lanes(b, 99, &[]).await.expect("claims");
    assert_eq!(
        (of_a, of_b),
        (vec![LaneNo(0), LaneNo(1), LaneNo(2)], vec![LaneNo(3), LaneNo(4)])
    );
    let owner = ledger.lane(LaneNo(4)).await.expect("reads");
    assert_eq!((owner.owner, owner.owner_name.as_deref()), (Some(b), Some("b")));
    assert_eq!(ledger.claim_lanes(b, 99, &[]).await.expect("claims"), []);
    // a falls silent
    sqlx::query("UPDATE gateway SET beat_at = now() - interval '4 seconds' WHERE gateway_id = $1")
        .bind(a)
        .execute(&pool)
        .await
        .expect("updates");
    assert_eq!(
        ledger.claim_lanes(b, 2, &[]).await.expect("claims"),
        [LaneNo(0), LaneNo(1)]
    );
    assert_eq!(ledger.claim_lanes(b, 2, &[]).await.expect("claims"), [LaneNo(2)]);
    // b ends in order
    ledger.beat(a, "a").await.expect("beats");
    ledger.release_lanes(b).await.expect("releases");
    assert_eq!(ledger.claim_lanes(a, 99, &[]).await.expect("claims").len(), 5);
}

#[tokio::test]
async fn a_lane_that_its_owner_can_t_ask_is_left_to_whoever_can() {
    let (ledger, pool) = migrated(4).await;
    let (a, b) = (Uuid::new_v4(), Uuid::new_v4());
    ledger.beat(a, "a").await.expect("beats");
    assert_eq!(ledger.claim_lanes(a, 99, &[]).await.expect("claims").len(), 4);
    let away = [LaneNo(1), LaneNo(2)];
    assert_eq!(
        ledger.leave_lanes(a, &away).await.expect("leaves"),
        [],
        "nobody else is there"
    );
    ledger.beat(b, "b").await.expect("beats");
    assert_eq!(
        ledger.leave_lanes(a, &away).await.expect("leaves"),
        [],
        "b does not say that it reaches them"
    );
    ledger.tell_reach(b, &[LaneNo(2), LaneNo(3)]).await.expect("tells");
    assert_eq!(
        ledger.leave_lanes(b, &away).await.expect("leaves"),
        [],
        "they are not b's"
    );
    assert_eq!(ledger.leave_lanes(a, &away).await.expect("leaves"), [LaneNo(2)]);
    assert_eq!(ledger.claim_lanes(a, 99, &away).await.expect("claims"), []);
    assert_eq!(ledger.claim_lanes(b, 99, &[]).await.expect("claims"), [LaneNo(2)]);
    // What b said counts for as long as it lives.
    sqlx::query("UPDATE lane SET owner = $1")
        .bind(a)
        .execute(&pool)
        .await
        .expect("updates");
    sqlx::query("UPDATE gateway SET beat_at = now() - interval '4 seconds' WHERE gateway_id = $1")
        .bind(b)
        .execute(&pool)
        .await
        .expect("updates");
    assert_eq!(ledger.leave_lanes(a, &away).await.expect("leaves"), []);
}

#[tokio::test]
async fn a_lane_that_nobody_wants_goes_to_whoever_comes() {
    let (ledger, pool) = migrated(4).await;
    let (a, idle) = (Uuid::new_v4(), Uuid::new_v4());
    ledger.beat(a, "a").await.expect("beats");
    ledger.beat(idle, "reads only").await.expect("beats");
    assert_eq!(ledger.claim_lanes(a, 99, &[]).await.expect("claims").len(), 2);
    assert_eq!(ledger.claim_lanes(a, 99, &[]).await.expect("claims"), []);
    sqlx::query("UPDATE lane SET owner_at = now() - interval '6 seconds'")
        .execute(&pool)
        .await
        .expect("updates");
    assert_eq!(ledger.claim_lanes(a, 99, &[]).await.expect("claims").len(), 2);
}

#[tokio::test]
async fn claims_at_once_share_nothing() {
    let (ledger, _pool) = migrated(64).await;
    let gateways: Vec<Uuid> = (0..4).map(|_| Uuid::new_v4()).collect();
    for gateway in &gateways {
        ledger.beat(*gateway, "g").await.expect("beats");
    }
    let claims = futures::future::join_all(gateways.iter().map(|gateway| ledger.claim_lanes(*gateway, 99, &[]))).await;
    let mut all: Vec<LaneNo> = claims.into_iter().flat_map(|lanes| lanes.unwrap_or_default()).collect();
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[tokio::test]
async fn one_recovers_at_a_time() {
    let (ledger, _pool) = migrated(1).await;
    let lock = ledger.recovery_lock().await.expect("locks");
    let mut second = Box::pin(ledger.recovery_lock());
    assert!(futures::poll!(second.as_mut()).is_pending());
    let waited = tokio::time::timeout(std::time::Duration::from_millis(200), second.as_mut()).await;
    assert!(waited.is_err(), "the second waits");
    drop(lock);
    second.await.expect("locks").release().await;
}
