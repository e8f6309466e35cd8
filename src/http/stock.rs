//! Stock, written: adjustments.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Gateway;
use super::admin_approvals::ApprovalBody;
use super::author::{Author, answer, key_reused, promised, unknown_location, unknown_sku};
use super::call_back::CallsBack;
use super::json::Json;
use super::numbers::Whole;
use super::problem::Problem;
use crate::domain::balance::Balance;
use crate::domain::id::{Item, LocationId, Sku};
use crate::domain::text::Text;
use crate::ledger::adjust::{Adjust, Adjusted, Adjustment, Reason, Sign};
use crate::ledger::approval::Approval;
use crate::metric;

/// The admin listener's paths.
pub(super) fn routes() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new().routes(routes!(adjust))
}

/// Units that came in, broke, got lost or were counted wrong.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct AdjustBody {
    #[schema(value_type = String)]
    sku_id: Sku,
    #[schema(value_type = String)]
    location_id: LocationId,
    /// Units. Above 0 for `stock_received` and `return_processed`, below 0 for `damaged` and `lost`, never 0.
    #[schema(value_type = i64, minimum = -1_000_000, maximum = 1_000_000)]
    delta: Whole<-1_000_000, 1_000_000>,
    reason: Reason,
    /// What it refers to; made where it is not sent.
    #[schema(value_type = Option<String>, max_length = 255)]
    reference_id: Option<Text<255>>,
    #[schema(value_type = Option<String>, max_length = 1000)]
    note: Option<Text<1000>>,
}

/// An adjustment.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Adjustment)]
pub(super) struct AdjustmentBody {
    adjustment_id: String,
    event_id: i64,
    reference_id: String,
    before: Image,
    after: Image,
}

/// A balance at one moment.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Image {
    #[serde(flatten)]
    balance: Balance,
    /// `onHand - reserved - unavailable - safetyStock`, never below 0.
    available: i64,
}

impl From<Balance> for Image {
    fn from(balance: Balance) -> Self {
        Image {
            available: balance.available(),
            balance,
        }
    }
}

impl From<Adjustment> for AdjustmentBody {
    fn from(adjustment: Adjustment) -> Self {
        AdjustmentBody {
            adjustment_id: adjustment.id.to_string(),
            event_id: adjustment.event_id,
            reference_id: adjustment.reference,
            before: adjustment.before.into(),
            after: adjustment.after.into(),
        }
    }
}

/// Adjusts a balance, once under its key: else reference, reason, SKU and location are the key. What a sale has set
/// aside and nobody holds is called back where nothing else is left.
#[utoipa::path(post, path = "/api/inventory/adjustments", tag = "Stock", request_body = AdjustBody, responses(
    (status = 201, body = AdjustmentBody),
    (status = 202, description = "`PENDING_APPROVAL`: a second person has to agree", body = ApprovalBody),
    (status = 404, description = "`UNKNOWN_SKU`, `UNKNOWN_LOCATION`"),
    (status = 409, description = "`INSUFFICIENT_STOCK`, with what stands in the way"),
    (status = 422, description = "`IDEMPOTENCY_KEY_REUSED`"),
    (status = 503, description = "`STOCK_UNAVAILABLE`: a sale is giving units up, and not in a moment"),
))]
async fn adjust(
    State(gateway): State<Arc<Gateway>>,
    author: Author,
    Json(body): Json<AdjustBody>,
) -> Result<Response, Problem> {
    let delta = body.delta.get();
    check_sign(body.reason, delta)?;
    let ask = Adjust {
        item: Item {
            sku: body.sku_id,
            location: body.location_id,
        },
        delta,
        reason: body.reason,
        reference: body.reference_id.map(Text::into_string),
        note: body.note.map(Text::into_string),
        key: author.key_hash("adjustment"),
    };
    let created = |adjustment: Adjustment| (StatusCode::CREATED, Json(AdjustmentBody::from(adjustment)));
    let mut calls = CallsBack::begin();
    loop {
        return match gateway.ledger.adjust(&ask, &author.by()).await? {
            Adjusted::Done(adjustment) => {
                done(&author, &ask, &adjustment);
                Ok(answer(created(adjustment), false))
            }
            Adjusted::Replayed(adjustment) => Ok(answer(created(adjustment), true)),
            Adjusted::Pending { approval, replayed } => {
                if !replayed {
                    asked(&author, &approval);
                }
                let body = (StatusCode::ACCEPTED, Json(ApprovalBody::pending(*approval)));
                Ok(answer(body, replayed))
            }
            Adjusted::Short(short) => {
                calls.call_back(&gateway, &short, -delta).await?;
                continue;
            }
            Adjusted::SetAside => {
                calls.wait_for_stop().await?;
                continue;
            }
            Adjusted::KeyReused => Err(key_reused()),
            Adjusted::UnknownSku => Err(unknown_sku(ask.item.sku.as_str())),
            Adjusted::UnknownLocation => Err(unknown_location(ask.item.location.as_str())),
            Adjusted::Insufficient(found) => Err(promised(-delta, &found)),
        };
    }
}

/// Tells of a change that waits.
pub(super) fn asked(author: &Author, approval: &Approval) {
    tracing::info!(
        trace = %author.trace, operator = author.operator, approval = %approval.id, sku = %approval.item.sku,
        location = %approval.item.location, delta = approval.delta, reason = approval.reason.as_str(),
        why = approval.why, before = ?approval.before, after = ?approval.after, "an adjustment waits for a second person"
    );
    metrics::counter!(metric::APPROVALS, "step" => "asked").increment(1);
}

fn done(author: &Author, ask: &Adjust, adjustment: &Adjustment) {
    tracing::info!(
        trace = %author.trace, operator = author.operator, sku = %ask.item.sku, location = %ask.item.location,
        delta = ask.delta, reason = ask.reason.as_str(), reference = adjustment.reference, event = adjustment.event_id,
        before = ?adjustment.before, after = ?adjustment.after, "stock was adjusted"
    );
    metrics::counter!(metric::ADJUSTMENTS, "reason" => ask.reason.as_str()).increment(1);
}

fn check_sign(reason: Reason, delta: i64) -> Result<(), Problem> {
    let must = match reason.sign() {
        Sign::Positive if delta <= 0 => "above 0",
        Sign::Negative if delta >= 0 => "below 0",
        Sign::Either if delta == 0 => "other than 0",
        _ => return Ok(()),
    };
    Err(Problem::invalid(
        "delta",
        format!("must be {must} for {}", reason.as_str()),
    ))
}
