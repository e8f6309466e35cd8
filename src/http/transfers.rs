//! Transfers: units that go from one location to another.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Gateway;
use super::author::{Author, answer, key_reused, not_free, unknown_location, unknown_sku};
use super::code::Code;
use super::json::Json;
use super::numbers::Whole;
use super::problem::Problem;
use super::stock::Image;
use crate::domain::id::{LocationId, Sku, TransferId};
use crate::ledger::transfer::{Side, Transfer, TransferAsk, Transferred};
use crate::metric;

/// The admin listener's paths.
pub(super) fn routes() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new().routes(routes!(transfer))
}

/// Units that go from one location to another.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct TransferRequest {
    /// Names the transfer for ever: repeated, it answers as at first.
    #[schema(value_type = String)]
    transfer_id: TransferId,
    #[schema(value_type = String)]
    sku_id: Sku,
    #[schema(value_type = String)]
    from_location_id: LocationId,
    /// Has to be active.
    #[schema(value_type = String)]
    to_location_id: LocationId,
    #[schema(value_type = i64, minimum = 1, maximum = 1_000_000)]
    quantity: Whole<1, 1_000_000>,
}

/// A transfer.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Transfer)]
struct TransferBody {
    transfer_id: String,
    /// `COMPLETED`: a transfer that could not be completed has moved nothing and is a problem.
    status: &'static str,
    sku_id: String,
    from_location_id: String,
    to_location_id: String,
    quantity: i64,
    from: SideBody,
    to: SideBody,
    created_at: String,
}

/// One side of a transfer.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TransferSide)]
struct SideBody {
    event_id: i64,
    before: Image,
    after: Image,
}

impl SideBody {
    fn new(event_id: i64, side: Side) -> Self {
        SideBody {
            event_id,
            before: side.before.into(),
            after: side.after.into(),
        }
    }
}

impl TransferBody {
    fn new(ask: &TransferAsk, transfer: &Transfer) -> Self {
        TransferBody {
            transfer_id: ask.id.to_string(),
            status: "COMPLETED",
            sku_id: ask.sku.to_string(),
            from_location_id: ask.from.to_string(),
            to_location_id: ask.to.to_string(),
            quantity: ask.quantity,
            from: SideBody::new(transfer.from_event, transfer.sides.from),
            to: SideBody::new(transfer.to_event, transfer.sides.to),
            created_at: transfer.created_at.to_string(),
        }
    }
}

/// Moves units from one location to another: both sides or neither, once under its id.
#[utoipa::path(post, path = "/api/inventory/transfers", tag = "Stock", request_body = TransferRequest, responses(
    (status = 201, body = TransferBody),
    (status = 404, description = "`UNKNOWN_SKU`, `UNKNOWN_LOCATION`"),
    (status = 409, description = "`INSUFFICIENT_STOCK`, with what stands in the way; `LOCATION_INACTIVE`: the receiving \
        side is closed, and nothing moved"),
    (status = 422, description = "`IDEMPOTENCY_KEY_REUSED`: the `transferId` names another transfer"),
))]
async fn transfer(
    State(gateway): State<Arc<Gateway>>,
    author: Author,
    Json(body): Json<TransferRequest>,
) -> Result<Response, Problem> {
    if body.from_location_id == body.to_location_id {
        return Err(Problem::invalid("toLocationId", "must be another than fromLocationId"));
    }
    let ask = TransferAsk {
        id: body.transfer_id,
        sku: body.sku_id,
        from: body.from_location_id,
        to: body.to_location_id,
        quantity: body.quantity.get(),
        key: author.key_hash("transfer"),
    };
    let done = try_transfer(&gateway, &ask, &author).await;
    let code = match &done {
        Ok((_, true)) => "REPLAYED",
        Ok((_, false)) => "OK",
        Err(problem) => problem.code().as_str(),
    };
    metrics::counter!(metric::TRANSFERS, "code" => code).increment(1);
    let (transfer, replayed) = done?;
    if !replayed {
        tracing::info!(
            trace = %author.trace, operator = author.operator, transfer = %ask.id, sku = %ask.sku, from = %ask.from,
            to = %ask.to, quantity = ask.quantity, sides = ?transfer.sides, "units were transferred"
        );
    }
    let body = (StatusCode::CREATED, Json(TransferBody::new(&ask, &transfer)));
    Ok(answer(body, replayed))
}

/// The transfer, and whether it was done before.
async fn try_transfer(gateway: &Gateway, ask: &TransferAsk, author: &Author) -> Result<(Transfer, bool), Problem> {
    match gateway.ledger.transfer(ask, &author.by()).await? {
        Transferred::Done(transfer) => Ok((transfer, false)),
        Transferred::Replayed(transfer) => Ok((transfer, true)),
        Transferred::Reused => Err(key_reused()),
        Transferred::UnknownSku => Err(unknown_sku(ask.sku.as_str())),
        Transferred::UnknownLocation(location) => Err(unknown_location(location.as_str())),
        Transferred::Closed => Err(Problem::new(
            Code::LocationInactive,
            format!("location {} is closed; nothing moved", ask.to),
        )
        .with("locationId", ask.to.as_str())),
        Transferred::Insufficient(found) => Err(not_free(ask.quantity, &found)),
    }
}
