//! What operations people are woken by: the counters of rare events count each of them once, in a process that has seen
//! nothing else.

use std::time::Duration;

use flashgate::drill::wire::Trouble;
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

const AGE: &str = "flashgate_grant_age_seconds";

/// It is that of the oldest grant on its way, and nothing once that is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_waits_tells_for_how_long() {
    let (redis_url, database_url) = (shared().await.redis(), shared().await.database().await);
    migrate(&database_url).await;
    let (wire, through) = wired(&redis_url).await;
    let child = Child::over(&through, &database_url).await;
    put_on_sale(&child, "a", 3, json!({})).await;
    child.until_drained().await;
    assert!(sum(&child, AGE, "").await < 60.0);
    // Made an hour ago, and a while on their way.
    for statement in [
        "CREATE FUNCTION made_long_ago() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN NEW.created_at := NEW.created_at - interval ''1 hour''; RETURN NEW; END'",
        "CREATE TRIGGER made_long_ago BEFORE INSERT ON lane_grant FOR EACH ROW EXECUTE FUNCTION made_long_ago()",
    ] {
        sqlx::query(statement).execute(&child.pool).await.expect(statement);
    }
    wire.trouble(Trouble::Late(Duration::from_millis(100)));
    let mut hold = 60;
    until("the age of a grant", async || {
        hold += 1;
        let body = json!({"holdSeconds": hold});
        let change = child.patch("/admin/sales/a", body);
        let look = async {
            let mut most = 0.0_f64;
            for _ in 0..20 {
                most = most.max(sum(&child, AGE, "").await);
            }
            most
        };
        let (changed, most) = tokio::join!(change, look);
        changed.expect(200);
        (most >= 3_600.0).then_some(())
    })
    .await;
    wire.trouble(Trouble::Calm);
    until("no age", async || (sum(&child, AGE, "").await == 0.0).then_some(())).await;
    child.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_low_or_does_not_agree_is_counted() {
    let (redis_url, database_url) = (shared().await.redis(), shared().await.database().await);
    migrate(&database_url).await;
    let child = Child::over(&redis_url, &database_url).await;
    child.until_open().await;
    child.receive("a", 10).await;
    let low = json!({"display": "exact", "lowStockThreshold": 5});
    child.put("/admin/skus/a", low).await.expect(200);
    let counts = async |name: &str, expected: f64| {
        until(name, async || (sum(&child, name, "").await == expected).then_some(())).await;
    };
    counts("flashgate_low_stock_alerts_total", 0.0).await;
    let lost = json!({"skuId": "a", "locationId": "wh1", "delta": -6, "reason": "lost"});
    child.post("/api/inventory/adjustments", lost).await.expect(201);
    counts("flashgate_low_stock_alerts_total", 1.0).await;
    let paid = json!({"orderId": "never", "state": "paid", "at": "2026-01-01T00:00:00.000Z"});
    child.post("/api/inventory/order-states", paid).await.expect(202);
    counts("flashgate_reconciliation_mismatches_total", 0.0).await;
    let run = child
        .post("/admin/reconciliation/run", json!({"kind": "order_state"}))
        .await;
    assert!(run.status < 300, "{run:?}");
    counts("flashgate_reconciliation_mismatches_total", 1.0).await;
    child.stop().await;
}
