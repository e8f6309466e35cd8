//! What operators look at: the document, the metrics, lanes, health.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::door::{Door, until};
use crate::support::gateway::{LANES, Whole, migrate};
use crate::support::servers::shared;
use crate::support::socket::{RESERVATIONS, line, post, put_on_sale, reserve, send};
use crate::support::wire::{server_of, wired};

#[tokio::test(flavor = "multi_thread")]
async fn the_document_lists_every_call_of_the_contract() {
    let whole = Whole::empty().await;
    let heard = send(whole.public, Method::GET, "/openapi.json", &[], "").await;
    assert_eq!(
        (heard.status, heard.header("content-type")),
        (200, Some("application/json"))
    );
    let admin = send(whole.admin, Method::GET, "/openapi.json", &[], "").await;
    assert_eq!(admin.body(), heard.body());
    let document = heard.body();
    let mut told = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in ["get", "put", "post", "patch", "delete"] {
            if item.get(method).is_some() {
                told.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    for call in [
        "POST /api/inventory/reservations",
        "GET /api/inventory/reservations/{reservationId}",
        "POST /api/inventory/reservations/{reservationId}/commit",
        "POST /api/inventory/reservations/{reservationId}/release",
        "POST /api/inventory/reservations/{reservationId}/extend",
        "POST /api/inventory/reserve",
        "POST /api/inventory/confirm",
        "POST /api/inventory/release",
        "GET /api/inventory",
        "GET /api/inventory/{skuId}",
        "POST /api/inventory/adjustments",
        "POST /api/inventory/counts",
        "POST /api/inventory/order-states",
        "PUT /admin/locations/{locationId}",
        "PUT /admin/skus/{skuId}",
        "PUT /admin/skus/{skuId}/locations/{locationId}",
        "POST /admin/sales",
        "GET /admin/sales",
        "GET /admin/sales/{saleId}",
        "PATCH /admin/sales/{saleId}",
        "POST /admin/sales/{saleId}/{action}",
        "GET /admin/reconciliation",
        "POST /admin/reconciliation/run",
        "GET /admin/reconciliation/{reportId}",
        "GET /admin/quarantine",
        "POST /admin/quarantine/{id}/replay",
        "POST /admin/quarantine/{id}/reject",
        "GET /admin/lanes",
        "GET /healthz",
        "GET /readyz",
        "GET /metrics",
        "GET /openapi.json",
    ] {
        assert!(told.contains(call), "{call} is not among {told:?}");
    }
    // And the other way round: what is listed is served.
    for call in &told {
        let (method, path) = call.split_once(' ').expect("a method and a path");
        let path = path.replace(['{', '}'], "");
        let method: Method = method.parse().expect("a method");
        let at_admin = send(whole.admin, method.clone(), &path, &[], "").await.problem();
        let at_public = send(whole.public, method, &path, &[], "").await.problem();
        let served = |(status, code): &(u16, String)| *status != 405 && code != "NOT_FOUND";
        // An action is part of the path, and `action` is none.
        assert!(
            served(&at_admin) || served(&at_public) || call.ends_with("{action}"),
            "{call}: {at_admin:?} {at_public:?}"
        );
    }
    whole.stop().await;
}

/// Whoever replaces Redis waits until its queues are empty: one that can't be asked is not known to be.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_lane_that_does_not_answer_nobody_says_that_nothing_waits() {
    let (redis_url, database_url) = (shared().await.redis(), shared().await.database().await);
    migrate(&database_url).await;
    let (wire, through) = wired(&redis_url).await;
    let whole = Whole::over(&through, &database_url).await;
    let lanes = async || -> Vec<Value> {
        let told = whole.admin(Method::GET, "/admin/lanes", None).await.expect(200);
        told["lanes"].as_array().expect("a list").clone()
    };
    for lane in lanes().await {
        assert_eq!((&lane["queueDepth"], &lane["lagMs"]), (&json!(0), &json!(0)), "{lane}");
    }
    wire.lead_nowhere();
    wire.cut();
    let away = until("lanes that don't answer", async || {
        let lanes = lanes().await;
        lanes.iter().all(|lane| lane["state"] == "unreachable").then_some(lanes)
    })
    .await;
    for lane in away {
        assert_eq!(
            (&lane["queueDepth"], &lane["lagMs"]),
            (&Value::Null, &Value::Null),
            "{lane}"
        );
    }
    wire.lead_to(server_of(&redis_url));
    whole.until_open().await;
    whole.stop().await;
}

/// The samples of the metrics page: name with labels, value.
pub(crate) async fn metrics(door: &Door) -> Vec<(String, f64)> {
    let heard = send(door.admin, Method::GET, "/metrics", &[], "").await;
    assert_eq!(heard.status, 200);
    let samples = heard
        .text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            (name.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_shows_on_the_metrics_page() {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "a", 3, json!({"buckets": 2, "perUserLimit": 3})).await;
    let mut ids = Vec::new();
    for user in ["u1", "u2", "u3"] {
        ids.push(
            reserve(
                &whole,
                &[],
                &line("o", "a", json!({"userId": user, "orderId": format!("o-{user}")})),
            )
            .await
            .id(),
        );
    }
    reserve(&whole, &[], &line("o-u1", "a", json!({"userId": "u1"}))).await;
    assert_eq!(
        reserve(&whole, &[], &line("o4", "a", json!({"userId": "u4"})))
            .await
            .status,
        409
    );
    post(
        &whole,
        &format!("{RESERVATIONS}/{}/extend", ids[2]),
        &[],
        &json!({"ttlSeconds": 1000}),
    )
    .await;
    whole.commit(&ids[0]).await.expect(200);
    whole.commit(&ids[1]).await.expect(200);
    assert_eq!(whole.release(&ids[1]).await.status, 409);
    whole.release(&ids[2]).await.expect(200);
    whole.settled().await;
    let page = metrics(&whole).await;
    let has = |name: &str, labels: &[&str]| {
        let found = page.iter().any(|(sample, value)| {
            let (metric, rest) = sample.split_once('{').unwrap_or((sample, ""));
            metric == name && *value > 0.0 && labels.iter().all(|label| rest.contains(label))
        });
        assert!(found, "{name} {labels:?} is not on the page");
    };
    has("flashgate_http_responses_total", &["code=\"OK\""]);
    has("flashgate_http_responses_total", &["code=\"INSUFFICIENT_STOCK\""]);
    has("flashgate_http_request_seconds_count", &["level=\"durable\""]);
    has("flashgate_reservations_total", &["outcome=\"RESERVED\""]);
    has("flashgate_reservations_total", &["outcome=\"REPLAYED\""]);
    has("flashgate_reservations_total", &["outcome=\"INSUFFICIENT_STOCK\""]);
    has("flashgate_acknowledgement_seconds_count", &["level=\"accepted\""]);
    has("flashgate_acknowledgement_seconds_count", &["level=\"durable\""]);
    has("flashgate_mover_waits_total", &[]);
    has("flashgate_mover_verdicts_total", &["verdict=\"sold_out\""]);
    has("flashgate_commits_total", &["code=\"OK\""]);
    has("flashgate_releases_total", &["code=\"OK\""]);
    has("flashgate_releases_total", &["code=\"RESERVATION_COMMITTED\""]);
    has("flashgate_extensions_total", &["code=\"OK\""]);
    has("flashgate_adjustments_total", &["reason=\"stock_received\""]);
    has("flashgate_reserve_call_size_count", &[]);
    has("flashgate_writer_flush_rows_count", &[]);
    has("flashgate_writer_flush_seconds_count", &[]);
    has("flashgate_redis_call_seconds_count", &["call=\""]);
    has("flashgate_postgres_call_seconds_count", &["call=\"end\""]);
    for (sample, _) in &page {
        for secret in ["sku=", "user", "order=", "\"o-u1\"", "\"u1\""] {
            assert!(!sample.contains(secret), "{sample}");
        }
    }
    // Gauges, whose values are those of the last gateway in this process that spoke.
    for name in [
        "flashgate_queue_depth",
        "flashgate_queue_lag_seconds",
        "flashgate_lanes{state=\"open\"}",
        "flashgate_lanes{state=\"closed\"}",
        "flashgate_dependency_up{dependency=\"redis\"}",
        "flashgate_dependency_up{dependency=\"postgres\"}",
        "flashgate_http_in_flight",
        "flashgate_http_connections",
    ] {
        assert!(page.iter().any(|(sample, _)| sample.starts_with(name)), "{name}");
    }
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_and_health_are_told() {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "a", 5, json!({"buckets": 2})).await;
    assert_eq!(reserve(&whole, &[], &line("o1", "a", json!({}))).await.status, 201);
    whole.settled().await;
    let told = whole.admin(Method::GET, "/admin/lanes", None).await.expect(200);
    let lanes = told["lanes"].as_array().expect("lanes");
    assert_eq!(lanes.len(), usize::from(LANES));
    for lane in lanes {
        let fields: BTreeSet<&str> = lane
            .as_object()
            .expect("an object")
            .keys()
            .map(String::as_str)
            .collect();
        for field in [
            "lane",
            "owner",
            "epoch",
            "state",
            "seq",
            "cursor",
            "queueDepth",
            "lagMs",
            "lastGrant",
        ] {
            assert!(fields.contains(field), "{field} of {lane}");
        }
        assert_eq!(
            (&lane["state"], &lane["queueDepth"], &lane["seq"]),
            (&json!("open"), &json!(0), &lane["cursor"])
        );
        assert!(lane["owner"].is_string(), "{lane}");
    }
    let quarantine = whole.admin(Method::GET, "/admin/quarantine", None).await.expect(200);
    assert_eq!(quarantine, json!({"quarantine": []}));
    for action in ["replay", "reject"] {
        let told = whole
            .post(&format!("/admin/quarantine/7/{action}"), json!({"note": "x"}))
            .await;
        assert_eq!(told.status, 404, "{told:?}");
    }
    for at in [whole.public, whole.admin] {
        let alive = send(at, Method::GET, "/healthz", &[], "").await;
        assert_eq!((alive.status, alive.body()), (200, json!({"status": "up"})));
        let ready = send(at, Method::GET, "/readyz", &[], "").await;
        let body: Value = ready.body();
        assert_eq!(
            (ready.status, &body["ready"], &body["mode"]),
            (200, &json!(true), &json!("serving"))
        );
        assert_eq!(body["dependencies"]["redis"]["standing"], "up");
        assert_eq!(body["dependencies"]["postgres"]["standing"], "up");
    }
    whole.stop().await;
}
