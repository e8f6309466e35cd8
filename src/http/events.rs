//! The event ledger: its pages.

use std::sync::Arc;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Gateway;
use super::json::Json;
use super::numbers::Whole;
use super::params::Query;
use super::problem::Problem;
use crate::domain::balance::Image;
use crate::domain::id::{LocationId, OrderId, Sku};
use crate::domain::reservation_id::ReservationId;
use crate::domain::time::Millis;
use crate::domain::trace::TraceId;
use crate::ledger::events::{Event, NotACursor, Wanted};
use crate::ledger::post::EventType;

/// Events a page, where the caller does not say.
const LIMIT: u16 = 100;

/// The admin listener's paths.
pub(super) fn routes() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new().routes(routes!(list))
}

/// Which events. What is sent must all be so.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct ListQuery {
    #[param(value_type = Option<String>)]
    sku_id: Option<Sku>,
    #[param(value_type = Option<String>)]
    location_id: Option<LocationId>,
    #[param(value_type = Option<String>)]
    order_id: Option<OrderId>,
    #[param(value_type = Option<String>)]
    reservation_id: Option<ReservationId>,
    #[serde(rename = "type")]
    #[param(inline)]
    event_type: Option<EventType>,
    /// Only later ones: `next` of the page before, or an `eventId`.
    after: Option<String>,
    /// Most events of the page; 100 where it is not sent.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000)]
    limit: Option<Whole<1, 1_000>>,
}

/// A page of events.
#[derive(Serialize, utoipa::ToSchema)]
struct EventsBody {
    /// Oldest first.
    events: Vec<EventBody>,
    /// `after` of the next page; `null`: that is all for now, and the last `eventId` takes up from there.
    next: Option<String>,
}

/// An event of the ledger.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Event)]
struct EventBody {
    event_id: i64,
    event_type: String,
    sku_id: String,
    location_id: String,
    /// Units, signed.
    quantity_delta: i64,
    before: Image,
    after: Image,
    reason: Option<String>,
    reference_id: Option<String>,
    reservation_id: Option<String>,
    order_id: Option<String>,
    operator: Option<String>,
    trace_id: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Millis,
    /// Of an undo: `undoes`, the event that it takes back.
    #[schema(value_type = Option<Object>)]
    metadata: Option<serde_json::Value>,
}

impl From<Event> for EventBody {
    fn from(event: Event) -> Self {
        EventBody {
            event_id: event.id,
            event_type: event.event_type,
            sku_id: event.item.sku.to_string(),
            location_id: event.item.location.to_string(),
            quantity_delta: event.quantity_delta,
            before: event.before,
            after: event.after,
            reason: event.reason,
            reference_id: event.reference_id,
            reservation_id: event.reservation_id.map(|id| ReservationId(id).to_string()),
            order_id: event.order_id,
            operator: event.operator,
            trace_id: event.trace_id.map(|id| TraceId::from_uuid(id).to_string()),
            created_at: event.created_at,
            metadata: event.metadata,
        }
    }
}

/// Events, oldest first. Whoever follows `next` sees each once and misses none.
#[utoipa::path(get, path = "/api/inventory/events", tag = "Stock", params(ListQuery), responses(
    (status = 200, body = EventsBody),
))]
async fn list(
    State(gateway): State<Arc<Gateway>>,
    Query(query): Query<ListQuery>,
) -> Result<Json<EventsBody>, Problem> {
    let not_a_cursor = |wrong: NotACursor| Problem::invalid("after", wrong.to_string());
    let after = query.after.map(|text| text.parse()).transpose().map_err(not_a_cursor)?;
    let wanted = Wanted {
        sku: query.sku_id,
        location: query.location_id,
        order: query.order_id,
        reservation: query.reservation_id,
        event_type: query.event_type,
        after,
    };
    let limit = query.limit.and_then(|limit| u16::try_from(limit.get()).ok());
    let page = gateway.ledger.events(&wanted, limit.unwrap_or(LIMIT)).await?;
    let page = page.ok_or_else(|| Problem::invalid("after", "there is no such event".to_owned()))?;
    Ok(Json(EventsBody {
        events: page.events.into_iter().map(EventBody::from).collect(),
        next: page.next.map(|cursor| cursor.to_string()),
    }))
}
