//! How an order stands: its reservations, from the ledger; or from the read model, for pages that got no answer there.

use std::sync::Arc;

use axum::extract::State;
use serde::Serialize;

use super::LetIn;
use crate::domain::id::OrderId;
use crate::domain::time::Millis;
use crate::http::Gateway;
use crate::http::body::ReservationBody;
use crate::http::json::Json;
use crate::http::params::Path;
use crate::http::problem::Problem;
use crate::ledger::read_model::orders::OrderRead;

/// How an order stands.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = OrderStatus)]
pub(super) struct OrderBody {
    order_id: String,
    /// Those that are durable, oldest first; the newest 1,000.
    reservations: Vec<ReservationBody>,
    /// Whether it may be older than the ledger.
    degraded: bool,
    /// When it was so.
    #[schema(value_type = String, format = DateTime)]
    as_of: Millis,
}

impl OrderBody {
    fn new(order: &OrderId, read: &OrderRead, degraded: bool) -> Self {
        OrderBody {
            order_id: order.to_string(),
            reservations: read.reservations.iter().cloned().map(ReservationBody::from).collect(),
            degraded,
            as_of: read.as_of,
        }
    }
}

/// The reservations of an order, from the ledger; none where it has none.
#[utoipa::path(get, path = "/api/orders/{orderId}/inventory-status", tag = "Reading",
    params(("orderId" = String, Path)), responses(
        (status = 200, body = OrderBody),
        (status = 503, description = "`READS_LIMITED` while live stock is away, `LEDGER_UNAVAILABLE`"),
))]
pub(super) async fn get_order(
    State(gateway): State<Arc<Gateway>>,
    Path(order): Path<OrderId>,
    _: LetIn,
) -> Result<Json<OrderBody>, Problem> {
    let read = Arc::new(gateway.ledger.order(&order).await?);
    gateway.reads.orders.put(&order, Arc::clone(&read));
    Ok(Json(OrderBody::new(&order, &read, false)))
}

/// The same from the read model, for when the ledger does not answer: from a replica, or as this gateway saw it last.
#[utoipa::path(get, path = "/api/read-model/orders/{orderId}/inventory-status", tag = "Reading",
    params(("orderId" = String, Path)), responses(
        (status = 200, description = "With `\"degraded\": true`", body = OrderBody),
        (status = 503, description = "`READS_LIMITED` while live stock is away, `LEDGER_UNAVAILABLE` where nothing is known"),
))]
pub(super) async fn get_order_read_model(
    State(gateway): State<Arc<Gateway>>,
    Path(order): Path<OrderId>,
    _: LetIn,
) -> Result<Json<OrderBody>, Problem> {
    let (read, _) = gateway.reads.orders.get(&order).await?;
    Ok(Json(OrderBody::new(&order, &read, true)))
}
