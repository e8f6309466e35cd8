//! What operations people are woken by: the counters of rare events count each of them once, in a process that has seen
//! nothing else.

use serde_json::json;

use crate::story_operations::metrics;
use crate::story_rescue::{bought, expired};
use crate::support::door::{Door, until};
use crate::support::flash::{ask, raw};
use crate::support::gateway::{Child, migrate};
use crate::support::servers::shared;
use crate::support::socket::{line, put_on_sale, reserve};
use crate::support::wire::{server_of, wired};

/// The sum of a metric's samples that have this label.
async fn sum(door: &Door, name: &str, label: &str) -> f64 {
    let page = metrics(door).await;
    let of = |sample: &str| {
        let (metric, labels) = sample.split_once('{').unwrap_or((sample, ""));
        metric == name && labels.contains(label)
    };
    page.iter()
        .filter(|(sample, _)| of(sample))
        .map(|(_, value)| value)
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn rare_events_are_counted_once_each() {
    let (redis_url, database_url) = (shared().await.redis(), shared().await.database().await);
    migrate(&database_url).await;
    let child = Child::over(&redis_url, &database_url).await;
    put_on_sale(&child, "a", 3, json!({})).await;
    let counts = async |name: &str, label: &str, expected: f64| {
        until(name, async || {
            (sum(&child, name, label).await == expected).then_some(())
        })
        .await;
    };

    // One that is over, and one whose payment comes when another has all units.
    let late = expired(&child, "o1", "a", json!({"quantity": 3})).await;
    counts("flashgate_reservations_expired_total", "", 1.0).await;
    let all = bought(&child, &line("o2", "a", json!({"quantity": 3}))).await;
    assert_eq!(child.commit(&late).await.problem(), (409, "RESERVATION_EXPIRED"));
    counts("flashgate_commits_total", "code=\"RESERVATION_EXPIRED\"", 1.0).await;
    child.commit(&all.id()).await.expect(200);
    counts("flashgate_commits_total", "code=\"OK\"", 1.0).await;

    // Redis says that there are two more than the ledger has.
    let namespace: String = sqlx::query_scalar("SELECT namespace FROM deployment")
        .fetch_one(&child.pool)
        .await
        .expect("Postgres answers");
    let (sale_no, lane): (i32, i16) = sqlx::query_as("SELECT sale_no, lanes[1] FROM sale")
        .fetch_one(&child.pool)
        .await
        .expect("Postgres answers");
    let key = format!("fg:{{{namespace}-{lane}}}:sale:{sale_no}");
    ask(&raw(&redis_url).await, "HINCRBY", &[&key, "free", "2"]).await;
    for name in ["flashgate_oversell_attempts_total", "flashgate_sales_frozen_total"] {
        assert_eq!(sum(&child, name, "").await, 0.0, "{name}");
    }
    let surplus = reserve(
        &child,
        &[("prefer", "wait=10")],
        &line("o3", "a", json!({"quantity": 2})),
    )
    .await;
    assert_eq!(surplus.status, 409, "{}", surplus.text);
    counts("flashgate_oversell_attempts_total", "", 1.0).await;
    counts("flashgate_reservations_rejected_total", "cause=\"surplus\"", 1.0).await;
    counts("flashgate_sales_frozen_total", "cause=\"oversell_attempt\"", 1.0).await;
    counts("flashgate_sales_frozen", "", 1.0).await;
}

const DEPTH: &str = "flashgate_queue_depth";
const LAG: &str = "flashgate_queue_lag_seconds";

/// It is told by what the lanes have: also when there is nobody who could carry anything.
#[tokio::test(flavor = "multi_thread")]
async fn the_lag_grows_while_postgres_is_away() {
    let (redis_url, database_url) = (shared().await.redis(), shared().await.tcp_database().await);
    migrate(&database_url).await;
    let (wire, through) = wired(&database_url).await;
    let child = Child::over(&redis_url, &through).await;
    put_on_sale(&child, "a", 3, json!({})).await;
    bought(&child, &line("o1", "a", json!({}))).await;
    wire.lead_nowhere();
    wire.cut();
    let accepted = reserve(&child, &[("prefer", "respond-async")], &line("o2", "a", json!({}))).await;
    assert_eq!(accepted.status, 202, "{}", accepted.text);
    until("a lag", async || (sum(&child, LAG, "").await > 2.0).then_some(())).await;
    assert_eq!(sum(&child, DEPTH, "").await, 1.0);
    wire.lead_to(server_of(&database_url));
    until("no lag", async || {
        (sum(&child, LAG, "").await + sum(&child, DEPTH, "").await == 0.0).then_some(())
    })
    .await;
    child.stop().await;
}

/// A writer that ends between its commit and its word to the lane leaves the lane with something that seems to wait.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_lane_was_not_told_it_is_told_by_the_next_writer() {
    let (redis_url, database_url) = (shared().await.redis(), shared().await.database().await);
    migrate(&database_url).await;
    let child = Child::over(&redis_url, &database_url).await;
    put_on_sale(&child, "a", 3, json!({})).await;
    bought(&child, &line("o1", "a", json!({}))).await;
    child.until_drained().await;
    let (namespace, lane): (String, i16) = sqlx::query_as("SELECT namespace, sale.lanes[1] FROM deployment, sale")
        .fetch_one(&child.pool)
        .await
        .expect("Postgres answers");
    child.stop().await;
    let meta = format!("fg:{{{namespace}-{lane}}}:meta");
    let redis = raw(&redis_url).await;
    for told in ["done", "cursor"] {
        ask(&redis, "HINCRBY", &[&meta, told, "-1"]).await;
    }
    let next = Child::over(&redis_url, &database_url).await;
    until("a lane that knows", async || {
        let told = ask(&redis, "HMGET", &[&meta, "total", "done", "seq", "cursor"]).await;
        (told[0] == told[1] && told[2] == told[3]).then_some(())
    })
    .await;
    next.stop().await;
}
