//! What others know of the stock: counts of shelves, sellers' feeds, and what became of orders.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Gateway;
use super::admin_reconciliation::tell;
use super::author::{Author, answer, key_reused, unknown_location, unknown_sku};
use super::call_back::CallsBack;
use super::code::Code;
use super::json::{Json, Object};
use super::numbers::Whole;
use super::problem::Problem;
use crate::domain::id::{LocationId, OrderId, Sku};
use crate::domain::reconciliation::{OrderState, ReportKind};
use crate::domain::text::Text;
use crate::domain::time::Millis;
use crate::ledger::recon::{Count, Counted, NewsAnswer, OrderNews, Report};

/// Most lines of a count.
const LINES_MAX: usize = 1_000;
/// How far another clock may be ahead of Postgres'.
const AHEAD_MAX_MS: i64 = 60_000;

/// The admin listener's paths.
pub(super) fn routes() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new().routes(routes!(count)).routes(routes!(order_state))
}

/// What was found on the shelves of a location.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CountBody {
    /// Names the count; sent again with the same content it answers as before.
    #[schema(value_type = String, max_length = 255)]
    count_id: Text<255>,
    source: Source,
    #[schema(value_type = String)]
    location_id: LocationId,
    /// When it was counted.
    #[schema(value_type = String)]
    counted_at: Millis,
    /// 1 to 1,000, each SKU once.
    #[schema(value_type = Vec<LineBody>)]
    lines: Vec<Object<LineBody>>,
}

/// Who counted.
#[derive(Clone, Copy, Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
enum Source {
    /// People in the warehouse.
    Warehouse,
    /// The seller's system.
    SellerFeed,
}

/// A line of a count.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct LineBody {
    #[schema(value_type = String)]
    sku_id: Sku,
    /// Units, damaged ones included.
    #[schema(value_type = i64, minimum = 0, maximum = 1_000_000_000)]
    counted: Whole<0, 1_000_000_000>,
}

/// What became of an order.
#[derive(Debug, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct OrderStateBody {
    #[schema(value_type = String)]
    order_id: OrderId,
    state: OrderState,
    /// When it became so.
    #[schema(value_type = String)]
    at: Millis,
}

/// Compares a count with what was on hand when it was made, and corrects small differences. Units that are missing and
/// that a sale has set aside are called back from it, and its allocation shrinks by them; where buyers hold them, or the
/// sale is frozen, a person must look.
#[utoipa::path(post, path = "/api/inventory/counts", tag = "Stock", request_body = CountBody, responses(
    (status = 201, description = "The report", body = Report),
    (status = 404, description = "`UNKNOWN_SKU`, `UNKNOWN_LOCATION`"),
    (status = 409, description = "`STALE_COUNT`: as new a count of a SKU is in its balance"),
    (status = 422, description = "`IDEMPOTENCY_KEY_REUSED`: the id belongs to another count"),
    (status = 503, description = "`STOCK_UNAVAILABLE`: a sale is giving units up, and not in a moment"),
))]
async fn count(
    State(gateway): State<Arc<Gateway>>,
    author: Author,
    Json(body): Json<CountBody>,
) -> Result<Response, Problem> {
    not_ahead(&gateway, "countedAt", body.counted_at).await?;
    let count = Count {
        id: body.count_id.into_string(),
        source: match body.source {
            Source::Warehouse => ReportKind::Warehouse,
            Source::SellerFeed => ReportKind::SellerFeed,
        },
        location: body.location_id,
        counted_at: body.counted_at,
        lines: lines(body.lines)?,
        key: author.key_hash("count"),
    };
    let created = |report: Report| (StatusCode::CREATED, Json(report));
    let mut calls = CallsBack::begin();
    let mut keep = BTreeSet::new();
    loop {
        return match gateway.ledger.count(&count, &author.by(), &keep).await? {
            Counted::Short(short) => {
                // What buyers hold a person settles.
                keep.extend(calls.call_back_all(&gateway, &short).await?);
                continue;
            }
            Counted::SetAside(_) => {
                calls.wait_for_stop().await?;
                continue;
            }
            Counted::Done(report) => {
                tell(&report);
                Ok(answer(created(report), false))
            }
            Counted::Replayed(report) => Ok(answer(created(report), true)),
            Counted::KeyReused => Err(key_reused()),
            Counted::UnknownSku(sku) => Err(unknown_sku(sku.as_str())),
            Counted::UnknownLocation => Err(unknown_location(count.location.as_str())),
            Counted::Stale { sku, counted_at } => Err(Problem::new(
                Code::StaleCount,
                format!("{sku} was counted at {counted_at}, and that is in its balance"),
            )
            .with("skuId", sku.as_str())
            .with("countedAt", counted_at.to_string())),
        };
    }
}

/// Keeps what became of an order; reconciliation compares its reservations with it.
#[utoipa::path(post, path = "/api/inventory/order-states", tag = "Stock", request_body = OrderStateBody, responses(
    (status = 202, description = "It is kept, now or before", body = OrderStateBody),
    (status = 422, description = "`IDEMPOTENCY_KEY_REUSED`"),
))]
async fn order_state(
    State(gateway): State<Arc<Gateway>>,
    author: Author,
    Json(body): Json<OrderStateBody>,
) -> Result<Response, Problem> {
    not_ahead(&gateway, "at", body.at).await?;
    let news = OrderNews {
        order: body.order_id.clone(),
        state: body.state,
        at: body.at,
    };
    let key = author.key("order-state", "", &body)?;
    let replayed = match gateway.ledger.order_state(&news, &author.by(), key.as_ref()).await? {
        NewsAnswer::Kept => false,
        NewsAnswer::Known => true,
        NewsAnswer::KeyReused => return Err(key_reused()),
    };
    Ok(answer((StatusCode::ACCEPTED, Json(body)), replayed))
}

async fn not_ahead(gateway: &Gateway, field: &str, at: Millis) -> Result<(), Problem> {
    if at > gateway.ledger.now().await?.plus_ms(AHEAD_MAX_MS) {
        return Err(Problem::invalid(field, "must not lie in the future"));
    }
    Ok(())
}

fn lines(sent: Vec<Object<LineBody>>) -> Result<BTreeMap<Sku, i64>, Problem> {
    if sent.is_empty() || sent.len() > LINES_MAX {
        return Err(Problem::invalid("lines", format!("must have 1 to {LINES_MAX} lines")));
    }
    let mut lines = BTreeMap::new();
    for (n, Object(line)) in sent.into_iter().enumerate() {
        if lines.insert(line.sku_id, line.counted.get()).is_some() {
            return Err(Problem::invalid(
                &format!("lines[{n}].skuId"),
                "stands in an earlier line",
            ));
        }
    }
    Ok(lines)
}
