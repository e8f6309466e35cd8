//! Reconciliation: its reports, and a run on demand.

use std::sync::Arc;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::Gateway;
use super::author::Author;
use super::code::Code;
use super::json::{Json, OptionalJson};
use super::params::{Path, Query};
use super::problem::Problem;
use crate::domain::reconciliation::ReportKind;
use crate::ledger::recon::{Compare, Filter, Report};
use crate::metric;

/// Reports a page, and differences of each in a list.
const PAGE_MAX: i64 = 50;
const LISTED_MAX: i64 = 100;

/// The admin listener's paths.
pub(super) fn routes() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new()
        .routes(routes!(list_reports))
        .routes(routes!(run))
        .routes(routes!(show))
}

/// Which reports to list.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ListQuery {
    /// Only reports older than this one: `next` of the page before.
    after: Option<i64>,
    /// Only reports of this kind.
    kind: Option<ReportKind>,
    /// Only reports with differences that wait for a person.
    #[serde(default)]
    open: bool,
}

/// What to compare; both where it is left out.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RunBody {
    kind: Option<RunKind>,
}

/// What can be compared without being sent anything.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
enum RunKind {
    /// All balances with the sums of their events.
    Ledger,
    /// Reservations with the states of their orders that are new.
    OrderState,
}

/// Reports.
#[derive(Serialize, utoipa::ToSchema)]
struct ReportsBody {
    /// Newest first; of each, up to 100 differences.
    reports: Vec<Report>,
    /// `after` of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<i64>,
}

/// Reports, newest first.
#[utoipa::path(get, path = "/admin/reconciliation", tag = "Admin", params(ListQuery),
    operation_id = "list_reports", responses(
    (status = 200, description = "A page of reports", body = ReportsBody),
))]
async fn list_reports(
    State(gateway): State<Arc<Gateway>>,
    Query(query): Query<ListQuery>,
) -> Result<Json<ReportsBody>, Problem> {
    let filter = Filter {
        before: query.after,
        kind: query.kind,
        open: query.open,
        limit: PAGE_MAX,
        discrepancies: LISTED_MAX,
    };
    let reports = gateway.ledger.reports(filter).await?;
    let is_full = i64::try_from(reports.len()).is_ok_and(|n| n == PAGE_MAX);
    let next = reports.last().filter(|_| is_full).map(|report| report.no);
    Ok(Json(ReportsBody { reports, next }))
}

/// Compares now: all balances with their events, and reservations with the order states that are new.
#[utoipa::path(post, path = "/admin/reconciliation/run", tag = "Admin", request_body = Option<RunBody>,
    operation_id = "run_reconciliation", responses(
    (status = 200, description = "A report of each comparison", body = ReportsBody),
))]
async fn run(
    State(gateway): State<Arc<Gateway>>,
    author: Author,
    OptionalJson(body): OptionalJson<RunBody>,
) -> Result<Json<ReportsBody>, Problem> {
    let (by, wanted) = (author.by(), |kind| body.kind.is_none_or(|only| only == kind));
    let mut reports = Vec::new();
    if wanted(RunKind::Ledger) {
        reports.extend(gateway.ledger.compare_balances(Compare::All, &by).await?);
    }
    if wanted(RunKind::OrderState) {
        let judged = gateway.ledger.judge_orders(0, true, &by).await?;
        for ticket in &judged.tickets {
            gateway.flash.nudge_grants(ticket.lane);
        }
        reports.extend(judged.report);
    }
    reports.iter().for_each(tell);
    Ok(Json(ReportsBody { reports, next: None }))
}

/// A report, with all that it found.
#[utoipa::path(get, path = "/admin/reconciliation/{reportId}", tag = "Admin",
    operation_id = "show_report", params(("reportId" = String, Path)), responses(
    (status = 200, description = "The report", body = Report),
    (status = 404, description = "`UNKNOWN_REPORT`"),
))]
async fn show(State(gateway): State<Arc<Gateway>>, Path(id): Path<String>) -> Result<Json<Report>, Problem> {
    // What is no id names no report.
    let report = match Uuid::try_parse(&id) {
        Ok(id) => gateway.ledger.report(id).await?,
        Err(_) => None,
    };
    match report {
        Some(report) => Ok(Json(report)),
        None => Err(Problem::new(Code::UnknownReport, format!("there is no report {id}"))),
    }
}

/// Counts what differed, and logs what waits for a person.
pub(super) fn tell(report: &Report) {
    for found in &report.discrepancies {
        metrics::counter!(metric::RECONCILIATION_MISMATCHES, "kind" => report.kind.as_str()).increment(1);
        tracing::info!(
            report = %report.id, kind = report.kind.as_str(), operator = report.operator, sku = found.sku,
            location = found.location, order = found.order, figure = found.figure, expected = %found.expected,
            found = %found.found, cause = found.cause, event = found.event_id, status = found.status,
            "reconciliation found a difference"
        );
    }
}
