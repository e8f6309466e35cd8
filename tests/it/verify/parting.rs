//! A gateway that ends, and what is left of it.

use std::time::Duration;

use flashgate::worker::{Roles, start};

use super::fair::Fair;
use crate::support::door::until;

/// A beat that is under way when the gateway is told to end comes through after all: others must not wait for three
/// seconds for one that is gone, and share the lanes with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_has_ended_does_not_count_as_living() {
    let fair = Fair::open().await;
    let pool = &fair.desk.pool;
    let mut locked = pool.begin().await.expect("Postgres answers");
    let lock = "LOCK TABLE gateway IN SHARE MODE";
    sqlx::query(lock).execute(&mut *locked).await.expect("nobody writes");
    // Without lanes to give back, which would say it too.
    let roles = Roles {
        writer: false,
        granter: false,
        expiry: false,
        relay: false,
        reconcile: false,
    };
    let tasks = start(&fair.context, roles);
    until("a beat that waits", async || {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
            AND wait_event_type = 'Lock' AND query LIKE '%gateway.beat%'";
        (fair.desk.count(waits).await > 0).then_some(())
    })
    .await;
    fair.context.stop.cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    locked.rollback().await.expect("they may write");
    tasks.wait().await;
    let living = "SELECT count(*) FROM gateway";
    assert_eq!(
        fair.desk.count(living).await,
        0,
        "it beat for the last time, and said so"
    );
}
