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
