//! A session keeps a lock that ours wait for: one that was left open is ended, and nobody hears of it; one at work is not.

use std::time::{Duration, Instant};

use flashgate::ledger::{Ledger, Settings};
use futures::future::join_all;
use serde_json::json;
use sqlx::{Postgres, Transaction};
use tokio::time::sleep;

use crate::story_operations::metrics;
use crate::support::door::{Buy, Door, until};
use crate::support::gateway::{Child, Whole, migrate};
use crate::support::servers::shared;

const PATIENCE: Duration = Duration::from_secs(2);

/// A gateway that is patient for so long, and its database.
async fn patient() -> (Whole, String) {
    let url = shared().await.database().await;
    migrate(&url).await;
    let redis_url = shared().await.redis();
    let whole = Whole::changed(&redis_url, &url, |settings| settings.ledger.lock_patience = PATIENCE).await;
    whole.until_open().await;
    (whole, url)
}

/// A transaction that keeps the balance of `sku`.
async fn keep(door: &Door, sku: &str) -> Transaction<'static, Postgres> {
    let mut kept = door.pool.begin().await.expect("begins");
    sqlx::query("SELECT FROM inventory_balance WHERE sku_id = $1 FOR UPDATE")
        .bind(sku)
        .execute(&mut *kept)
        .await
        .expect("locks");
    kept
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balance_that_somebody_keeps_holds_nobody_up_for_long() {
    let (whole, _) = patient().await;
    let mut ids = Vec::new();
    for sku in ["kept", "free"] {
        whole.receive(sku, 10).await;
        ids.push(whole.reserve(&Buy::of(sku).sku(sku)).await.id());
    }
    let mut kept = keep(&whole, "kept").await;
    let first = whole.commit(&ids[0]);
    let second = async {
        // In the batch after, which waits for the first.
        sleep(Duration::from_millis(50)).await;
        whole.commit(&ids[1]).await
    };
    let more = Buy::of("more").sku("kept");
    let more = whole.reserve(&more);
    let (first, second, more) = tokio::join!(first, second, more);
    first.expect(200);
    second.expect(200);
    more.expect(201);
    let gone = sqlx::query("SELECT 1").execute(&mut *kept).await;
    assert!(gone.is_err(), "the transaction was ended");
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_between_us_and_the_holder_hides_nobody() {
    let (whole, _) = patient().await;
    whole.receive("kept", 10).await;
    let id = whole.reserve(&Buy::of("kept").sku("kept")).await.id();
    let mut kept = keep(&whole, "kept").await;
    let between = async {
        let between = keep(&whole, "kept").await;
        between.rollback().await.expect("lets go");
    };
    let commit = async {
        sleep(Duration::from_millis(300)).await;
        whole.commit(&id).await
    };
    let ((), committed) = tokio::join!(between, commit);
    committed.expect(200);
    assert!(sqlx::query("SELECT 1").execute(&mut *kept).await.is_err());
    whole.stop().await;
}

#[tokio::test]
async fn who_is_at_work_is_named_and_left_alone() {
    let (whole, url) = patient().await;
    let settings = Settings {
        lock_patience: Duration::from_millis(300),
        ..Settings::new(&url)
    };
    let ledger = Ledger::new(&settings).expect("an address");
    whole.receive("kept", 10).await;
    let id = whole.reserve(&Buy::of("kept").sku("kept")).await.id();
    let mut kept = keep(&whole, "kept").await;
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut *kept)
        .await
        .expect("answers");
    let began = Instant::now();
    let work = async {
        let slept = sqlx::query("SELECT pg_sleep(3.5)").execute(&mut *kept).await;
        slept.expect("nobody ends it");
        kept.commit().await.expect("nobody ends it");
    };
    let look = async {
        let holder = until("the holder is seen", async || {
            ledger.holders().await.expect("Postgres answers").pop()
        })
        .await;
        assert_eq!((holder.session.pid, holder.may_end), (pid, false), "{holder:?}");
        assert!(
            holder.session.query.as_deref().unwrap_or_default().contains("pg_sleep"),
            "{holder:?}"
        );
        assert!(!ledger.end_holder(&holder).await.expect("Postgres answers"));
    };
    let ((), (), committed) = tokio::join!(work, look, whole.commit(&id));
    assert!(began.elapsed() >= Duration::from_secs(3));
    committed.expect(200);
    assert_eq!(ledger.holders().await.expect("Postgres answers"), []);
    whole.stop().await;
}

#[tokio::test]
async fn whose_snapshot_is_the_oldest_is_told() {
    let (redis_url, url) = (shared().await.redis(), shared().await.database().await);
    migrate(&url).await;
    let child = Child::over(&redis_url, &url).await;
    // As a role that may see no more of others' sessions than anybody.
    let separator = if url.contains('?') { '&' } else { '?' };
    let url = format!("{url}{separator}options=-c%20role%3Dpg_signal_backend");
    let ledger = Ledger::new(&Settings::new(&url)).expect("an address");
    let keeps = async |pid: i32| {
        let kept = ledger.snapshots().await.expect("Postgres answers");
        kept.iter().any(|snapshot| snapshot.session.pid == pid)
    };
    let begin = async |how: &'static str| {
        let mut open = child.pool.begin().await.expect("begins");
        sqlx::query(how).execute(&mut *open).await.expect("is one");
        let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
            .fetch_one(&mut *open)
            .await
            .expect("answers");
        (open, pid)
    };
    // It keeps a snapshot only while a statement of its own runs.
    let (idle, idle_pid) = begin("SET TRANSACTION ISOLATION LEVEL READ COMMITTED").await;
    let (dump, dump_pid) = begin("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await;
    let (writes, writes_pid) = begin("CREATE TABLE left_open ()").await;
    assert!(keeps(dump_pid).await && keeps(writes_pid).await && !keeps(idle_pid).await);
    until("the gateway tells", async || {
        let page = metrics(&child).await;
        let age = page
            .iter()
            .find(|(sample, _)| sample == "flashgate_postgres_oldest_snapshot_seconds");
        age.filter(|(_, age)| *age > 2.0).map(|_| ())
    })
    .await;
    dump.rollback().await.expect("ends");
    writes.rollback().await.expect("ends");
    assert!(!keeps(dump_pid).await && !keeps(writes_pid).await);
    drop(idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_somebody_keeps_holds_up_no_other_of_its_sale() {
    let (redis_url, url) = (shared().await.redis(), shared().await.database().await);
    migrate(&url).await;
    let child = Child::over(&redis_url, &url).await;
    child.sell("s", 200, json!({"buckets": 4, "perUserLimit": 2})).await;
    let buy = |round: &str, user: usize| {
        Buy::of(&format!("{round}{user}"))
            .user(&format!("u{user}"))
            .prefer("wait=30")
    };
    let reserve = async |round: &str, user| child.reserve(&buy(round, user)).await.expect(201);
    join_all((0..40).map(|user| reserve("a", user))).await;
    let written = async || {
        let page = metrics(&child).await;
        let of = |name: &str| {
            page.iter()
                .find(|(sample, _)| sample == name)
                .map_or(0.0, |(_, value)| *value)
        };
        of("flashgate_writer_flush_lanes_sum")
    };
    let before = written().await;
    assert!(before > 0.0, "some were written together");
    let homes: Vec<(String, i16)> = sqlx::query_as("SELECT user_id, lane FROM inventory_reservation")
        .fetch_all(&child.pool)
        .await
        .expect("reads");
    let kept = homes.iter().map(|(_, lane)| *lane).min().expect("some");
    let is_kept = |user: &usize| homes.contains(&(format!("u{user}"), kept));
    let (held_up, others): (Vec<usize>, Vec<usize>) = (0..40).partition(is_kept);
    assert!(!held_up.is_empty() && !others.is_empty(), "{homes:?}");

    let mut keeper = child.pool.begin().await.expect("begins");
    sqlx::query("SELECT FROM lane WHERE lane = $1 FOR UPDATE")
        .bind(kept)
        .execute(&mut *keeper)
        .await
        .expect("locks");
    let held_up = join_all(held_up.into_iter().map(|user| reserve("b", user)));
    let others = async {
        join_all(others.into_iter().map(|user| reserve("b", user))).await;
        keeper.rollback().await.expect("it was kept until now");
    };
    tokio::join!(held_up, others);
    assert_eq!(
        sqlx::query_scalar("SELECT count(*) FROM inventory_reservation")
            .fetch_one(&child.pool)
            .await
            .ok(),
        Some(80_i64)
    );
    child.settled().await;
    child.stop().await;
}
