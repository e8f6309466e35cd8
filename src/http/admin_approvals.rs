//! Approvals: adjustments that wait for a second person, and what that person decides.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::Gateway;
use super::author::{Author, answer, counted_since, key_reused, promised};
use super::call_back::CallsBack;
use super::code::Code;
use super::json::{Json, OptionalJson};
use super::params::{Path, Query};
use super::problem::Problem;
use super::stock::{AdjustmentBody, Image};
use crate::domain::text::Text;
use crate::ledger::adjust::Adjustment;
use crate::ledger::approval::{Approval, Decided};
use crate::metric;

/// Approvals a page, at most and by default.
const PAGE_MAX: i64 = 200;

/// The admin listener's paths.
pub(super) fn routes() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new()
        .routes(routes!(list_approvals))
        .routes(routes!(approve))
        .routes(routes!(reject_approval))
}

/// How an approval stands.
#[derive(Clone, Copy, Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum ApprovalStatus {
    Pending,
    Approved,
    Rejected,
    Expired,
}

impl ApprovalStatus {
    fn as_str(self) -> &'static str {
        match self {
            ApprovalStatus::Pending => "PENDING",
            ApprovalStatus::Approved => "APPROVED",
            ApprovalStatus::Rejected => "REJECTED",
            ApprovalStatus::Expired => "EXPIRED",
        }
    }
}

/// Which approvals to list.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ApprovalsQuery {
    /// Only those that stand like this.
    #[param(inline)]
    status: Option<ApprovalStatus>,
    /// Only those older than this one: `next` of the page before.
    after: Option<i64>,
}

/// What the second person says about it.
#[derive(Default, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct DecisionBody {
    /// Kept with the approval.
    #[schema(value_type = Option<String>, max_length = 1000)]
    note: Option<Text<1000>>,
}

/// A page of approvals.
#[derive(Serialize, utoipa::ToSchema)]
struct ApprovalsBody {
    /// Newest first.
    approvals: Vec<ApprovalBody>,
    /// `after` of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<i64>,
}

/// An adjustment that waits, or waited, for a second person.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Approval)]
pub(super) struct ApprovalBody {
    approval_id: String,
    /// `PENDING`, `APPROVED`, `REJECTED` or `EXPIRED`; to who asks for the adjustment, `PENDING_APPROVAL`.
    status: String,
    sku_id: String,
    location_id: String,
    delta: i64,
    reason: &'static str,
    reference_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    /// The event of the adjustment that it takes back, where it does that.
    #[serde(skip_serializing_if = "Option::is_none")]
    undoes: Option<i64>,
    /// The event of what was done, where it was approved.
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<i64>,
    /// The rule that wants a second person: `size` or `safety_stock`.
    why: String,
    /// Who asked.
    operator: String,
    /// When it was asked.
    before: Image,
    /// As it would have been then.
    after: Image,
    created_at: String,
    expires_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    decided_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision_note: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decided_at: Option<String>,
    /// What was done, in the answer to an approval.
    #[serde(skip_serializing_if = "Option::is_none")]
    adjustment: Option<AdjustmentBody>,
}

impl From<Approval> for ApprovalBody {
    fn from(approval: Approval) -> Self {
        ApprovalBody {
            approval_id: approval.id.to_string(),
            status: approval.status,
            sku_id: approval.item.sku.to_string(),
            location_id: approval.item.location.to_string(),
            delta: approval.delta,
            reason: approval.reason.as_str(),
            reference_id: approval.reference,
            note: approval.note,
            undoes: approval.undoes,
            event_id: approval.event_id,
            why: approval.why,
            operator: approval.operator,
            before: approval.before.into(),
            after: approval.after.into(),
            created_at: approval.created_at.to_string(),
            expires_at: approval.expires_at.to_string(),
            decided_by: approval.decided_by,
            decision_note: approval.decision_note,
            decided_at: approval.decided_at.map(|at| at.to_string()),
            adjustment: None,
        }
    }
}

impl ApprovalBody {
    /// To who asked for the adjustment.
    pub(super) fn pending(approval: Approval) -> Self {
        ApprovalBody {
            status: "PENDING_APPROVAL".to_owned(),
            ..approval.into()
        }
    }

    fn done(approval: Approval, adjustment: Adjustment) -> Self {
        ApprovalBody {
            event_id: Some(adjustment.event_id),
            adjustment: Some(adjustment.into()),
            ..approval.into()
        }
    }
}

/// Approvals, newest first.
#[utoipa::path(get, path = "/admin/approvals", tag = "Admin", params(ApprovalsQuery), responses(
    (status = 200, description = "A page of approvals", body = ApprovalsBody),
))]
async fn list_approvals(
    State(gateway): State<Arc<Gateway>>,
    Query(query): Query<ApprovalsQuery>,
) -> Result<Json<ApprovalsBody>, Problem> {
    let status = query.status.map(ApprovalStatus::as_str);
    let approvals = gateway.ledger.approvals(status, query.after, PAGE_MAX).await?;
    let is_full = i64::try_from(approvals.len()).is_ok_and(|n| n == PAGE_MAX);
    let next = approvals.last().filter(|_| is_full).map(|approval| approval.no);
    Ok(Json(ApprovalsBody {
        approvals: approvals.into_iter().map(ApprovalBody::from).collect(),
        next,
    }))
}

/// Carries out what another person asked for, once.
#[utoipa::path(post, path = "/admin/approvals/{id}/approve", tag = "Admin", request_body = Option<DecisionBody>,
    params(("id" = String, Path)), responses(
        (status = 200, description = "It is done, now or before", body = ApprovalBody),
        (status = 403, description = "`SAME_PERSON`: who asked can't approve"),
        (status = 404, description = "`UNKNOWN_APPROVAL`"),
        (status = 409, description = "`INSUFFICIENT_STOCK`, and it goes on waiting; `APPROVAL_CLOSED` (+`approvalStatus`)"),
))]
async fn approve(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
    author: Author,
    OptionalJson(body): OptionalJson<DecisionBody>,
) -> Result<Response, Problem> {
    let id = parse(&id)?;
    let key = author.key("approve", &id.to_string(), &body)?;
    let by = author.resolution(body.note.as_ref().map(Text::as_str), key.as_ref());
    let mut calls = CallsBack::begin();
    loop {
        return match gateway.ledger.approve(id, by).await? {
            Decided::Approved {
                approval,
                adjustment,
                replayed,
            } => {
                if !replayed {
                    log(&author, &approval);
                    metrics::counter!(metric::APPROVALS, "step" => "approved").increment(1);
                    metrics::counter!(metric::ADJUSTMENTS, "reason" => approval.reason.as_str()).increment(1);
                }
                Ok(answer(Json(ApprovalBody::done(approval, adjustment)), replayed))
            }
            Decided::Short(approval, short) => {
                calls.call_back(&gateway, &short, -approval.delta).await?;
                continue;
            }
            Decided::SetAside => {
                calls.wait_for_stop().await?;
                continue;
            }
            Decided::Counted(_, counted_at) => Err(counted_since(counted_at)),
            Decided::Insufficient(approval, found) => Err(promised(-approval.delta, &found)),
            Decided::KeyReused => Err(key_reused()),
            Decided::SamePerson => Err(same_person(&author)),
            Decided::Unknown => Err(unknown(&id.to_string())),
            Decided::Closed(approval) => Err(closed(&approval)),
            Decided::Rejected { .. } => Err(Problem::internal("an approval was rejected by approving it")),
        };
    }
}

/// Rejects what was asked; who asked may do so too.
#[utoipa::path(post, path = "/admin/approvals/{id}/reject", tag = "Admin", request_body = Option<DecisionBody>,
    params(("id" = String, Path)), responses(
        (status = 200, description = "It is rejected, now or before", body = ApprovalBody),
        (status = 404, description = "`UNKNOWN_APPROVAL`"),
        (status = 409, description = "`APPROVAL_CLOSED` (+`approvalStatus`)"),
))]
async fn reject_approval(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
    author: Author,
    OptionalJson(body): OptionalJson<DecisionBody>,
) -> Result<Response, Problem> {
    let id = parse(&id)?;
    let key = author.key("reject", &id.to_string(), &body)?;
    let by = author.resolution(body.note.as_ref().map(Text::as_str), key.as_ref());
    match gateway.ledger.reject(id, by).await? {
        Decided::Rejected { approval, replayed } => {
            if !replayed {
                log(&author, &approval);
                metrics::counter!(metric::APPROVALS, "step" => "rejected").increment(1);
            }
            Ok(answer(Json(ApprovalBody::from(approval)), replayed))
        }
        Decided::KeyReused => Err(key_reused()),
        Decided::Closed(approval) => Err(closed(&approval)),
        _ => Err(unknown(&id.to_string())),
    }
}

fn log(author: &Author, approval: &Approval) {
    tracing::info!(
        trace = %author.trace, operator = author.operator, approval = %approval.id, asked_by = approval.operator,
        status = approval.status, sku = %approval.item.sku, location = %approval.item.location,
        delta = approval.delta, "a second person decided"
    );
}

fn parse(id: &str) -> Result<Uuid, Problem> {
    id.parse().map_err(|_| unknown(id))
}

fn unknown(id: &str) -> Problem {
    Problem::new(Code::UnknownApproval, format!("there is no approval {id}")).with("approvalId", id)
}

fn same_person(author: &Author) -> Problem {
    Problem::new(
        Code::SamePerson,
        format!("{} asked for it; another person has to approve", author.operator),
    )
}

fn closed(approval: &Approval) -> Problem {
    Problem::new(
        Code::ApprovalClosed,
        format!("it is {} already", approval.status.to_ascii_lowercase()),
    )
    .with("approvalStatus", approval.status.as_str())
    .with("approvalId", approval.id.to_string())
}
