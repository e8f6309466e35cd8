//! Low-stock alerts, for whoever orders more.

use std::sync::Arc;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Gateway;
use super::json::Json;
use super::params::Query;
use super::problem::Problem;
use crate::domain::time::Millis;
use crate::ledger::read_model::low_stock::LowStock;

/// Most alerts of one answer.
const LIMIT_MAX: i64 = 1_000;

/// The admin listener's paths.
pub(super) fn routes() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new().routes(routes!(list_alerts))
}

/// Which alerts.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// Those after this one; from the answer's `next`.
    #[param(minimum = 0)]
    after: Option<i64>,
    /// At most so many, 1 to 1,000; 100 where it is not sent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
    /// `true`: only SKUs that are low now.
    open: Option<bool>,
}

/// Alerts, oldest first.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Alerts)]
struct AlertsBody {
    alerts: Vec<AlertBody>,
    /// The next page's `after`; `null`: these are the last so far.
    next: Option<i64>,
}

/// A SKU whose available units came down to its threshold.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Alert)]
struct AlertBody {
    alert_id: i64,
    sku_id: String,
    /// Units, as it was set then.
    threshold: i64,
    /// Units, over all active locations, as they were then.
    available: i64,
    #[schema(value_type = String, format = DateTime)]
    crossed_at: Millis,
    /// When it was above the threshold again; `null`: it is low.
    #[schema(value_type = Option<String>, format = DateTime)]
    recovered_at: Option<Millis>,
}

impl From<LowStock> for AlertBody {
    fn from(alert: LowStock) -> Self {
        AlertBody {
            alert_id: alert.alert_id,
            sku_id: alert.sku.to_string(),
            threshold: alert.threshold,
            available: alert.available,
            crossed_at: alert.crossed_at,
            recovered_at: alert.recovered_at,
        }
    }
}

/// SKUs that became low, once each time they did.
#[utoipa::path(get, path = "/admin/alerts", tag = "Admin", params(Wanted), responses(
    (status = 200, body = AlertsBody),
    (status = 503, description = "`LEDGER_UNAVAILABLE`"),
))]
async fn list_alerts(
    State(gateway): State<Arc<Gateway>>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<AlertsBody>, Problem> {
    let limit = wanted.limit.unwrap_or(100);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Problem::invalid("limit", format!("must be 1 to {LIMIT_MAX}")));
    }
    let after = wanted.after.unwrap_or(0);
    let alerts = gateway
        .ledger
        .low_stock(after, limit, wanted.open.unwrap_or(false))
        .await?;
    let is_full = i64::try_from(alerts.len()) == Ok(limit);
    Ok(Json(AlertsBody {
        next: alerts.last().filter(|_| is_full).map(|alert| alert.alert_id),
        alerts: alerts.into_iter().map(AlertBody::from).collect(),
    }))
}
