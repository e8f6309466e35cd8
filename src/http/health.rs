//! Operations: whether the process is up, what it can do, and its metrics.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Gateway;
use super::json::Json;
use crate::health::{Mode, Standing};

/// When to ask again, in seconds: what a gateway waits for takes moments, and asking costs nothing.
const AGAIN_AFTER: &str = "1";

/// Both listeners: `/healthz` and `/readyz`.
pub(super) fn routes() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new().routes(routes!(healthz)).routes(routes!(readyz))
}

/// The admin listener: `/metrics`.
pub(super) fn admin_routes() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new().routes(routes!(metrics))
}

/// The process is up.
#[derive(Serialize, utoipa::ToSchema)]
struct Alive {
    /// Always `up`.
    status: &'static str,
}

/// What the process can do.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct Readiness {
    /// Whether to send requests here.
    ready: bool,
    /// What they can expect.
    mode: Mode,
    dependencies: Dependencies,
    lanes: Lanes,
    /// Whether lanes are being rebuilt from the ledger.
    recovering: bool,
    /// How many reads per second are served while live stock is away; not there while it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reads_per_second_max: Option<u32>,
}

/// How each dependency stands.
#[derive(Serialize, utoipa::ToSchema)]
struct Dependencies {
    /// Live stock: `{"standing": "up" | "unknown" | "away", "cause"?}`.
    #[schema(value_type = Object)]
    redis: Standing,
    /// The ledger: likewise.
    #[schema(value_type = Object)]
    postgres: Standing,
}

/// How many lanes take reservations.
#[derive(Serialize, utoipa::ToSchema)]
struct Lanes {
    open: u16,
    closed: u16,
    /// Of the closed ones, those for which the ledger decides; not there where there are none.
    #[serde(skip_serializing_if = "is_zero")]
    fallback: u16,
}

fn is_zero(count: &u16) -> bool {
    *count == 0
}

/// Whether the process is up. Asks nobody.
#[utoipa::path(get, path = "/healthz", tag = "Operations", responses((status = 200, body = Alive)))]
async fn healthz() -> Json<Alive> {
    Json(Alive { status: "up" })
}

/// Whether it can serve, and in which degraded mode.
#[utoipa::path(get, path = "/readyz", tag = "Operations", responses(
    (status = 200, description = "Send requests", body = Readiness),
    (status = 503, description = "Send none, and ask again after `Retry-After`", body = Readiness),
))]
async fn readyz(State(gateway): State<Arc<Gateway>>) -> Response {
    let state = gateway.health.now();
    let mode = state.mode();
    let readiness = Readiness {
        ready: mode.is_ready(),
        mode,
        dependencies: Dependencies {
            redis: state.redis,
            postgres: state.postgres,
        },
        lanes: Lanes {
            open: state.lanes_open,
            closed: state.lanes_closed,
            fallback: state.lanes_fallback,
        },
        recovering: state.recovering,
        reads_per_second_max: Some(gateway.admission.reads_rate())
            .filter(|rate| *rate > 0 && super::reads::is_degraded(&gateway)),
    };
    if mode.is_ready() {
        return Json(readiness).into_response();
    }
    let status = StatusCode::SERVICE_UNAVAILABLE;
    (status, [(RETRY_AFTER, AGAIN_AFTER)], Json(readiness)).into_response()
}

/// Metrics, for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "Operations", responses(
    (status = 200, description = "Prometheus text format", body = String, content_type = "text/plain"),
))]
async fn metrics(State(gateway): State<Arc<Gateway>>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], gateway.metrics.render()).into_response()
}
