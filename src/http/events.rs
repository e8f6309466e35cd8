//! The event ledger: its pages, and the undoing of a wrong adjustment.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Gateway;
use super::admin_approvals::ApprovalBody;
use super::author::{Author, answer, counted_since, key_reused, promised};
use super::call_back::CallsBack;
use super::code::Code;
use super::json::{Json, OptionalJson};
use super::numbers::Whole;
use super::params::{Path, Query};
use super::problem::Problem;
use super::stock::{AdjustmentBody, asked};
use crate::domain::balance::Image;
use crate::domain::id::{LocationId, OrderId, Sku};
use crate::domain::reservation_id::ReservationId;
use crate::domain::text::Text;
use crate::domain::time::Millis;
use crate::domain::trace::TraceId;
use crate::ledger::events::{Event, NotACursor, Wanted};
use crate::ledger::post::EventType;
use crate::ledger::undo::Undone;

/// Events a page, where the caller does not say.
const LIMIT: u16 = 100;

/// The admin listener's paths.
pub(super) fn routes() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new().routes(routes!(list_events)).routes(routes!(undo))
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
    /// Of a cart: those of all its parts, which have ids of their own.
    #[param(value_type = Option<String>)]
    reservation_id: Option<ReservationId>,
    #[serde(rename = "type")]
    #[param(inline)]
    event_type: Option<EventType>,
    /// Only later ones: `next` or `resume` of a page, or an `eventId`.
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
    /// `after` of the next page, which may hold fewer events than were asked for, or none; `null`: that is all so far.
    next: Option<String>,
    /// `after` for later, when there may be more: what came since the end of this page and no other. `null`: the ledger
    /// is empty, so ask as before. The last `eventId` does as well, but has all that was looked through looked through
    /// again.
    resume: Option<String>,
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
    /// Of an undo: `undoes`, the event that it takes back. Of what a second person agreed to: `approvalId`, `approvedBy`
    /// and, where that person said something, `decisionNote`. Of a change of safety stock: `safetyStock`, `before` and
    /// `after`.
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

/// Events, oldest first. Whoever follows `next`, and from the end takes up from `resume`, sees each once and misses none.
#[utoipa::path(get, path = "/api/inventory/events", tag = "Stock", params(ListQuery), responses(
    (status = 200, body = EventsBody),
))]
async fn list_events(
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
        resume: page.resume.map(|cursor| cursor.to_string()),
    }))
}

/// What the operator says about it.
#[derive(Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct UndoBody {
    /// Kept in the event's `metadata`.
    #[schema(value_type = Option<String>, max_length = 1000)]
    note: Option<Text<1000>>,
}

/// Takes back the adjustment of an event, once, by an event of its own that names it; where so large a change takes two
/// people, once the second agrees. Asking again gives the first answer. What a sale has set aside and nobody holds is
/// called back where nothing else is left.
#[utoipa::path(post, path = "/admin/events/{eventId}/undo", tag = "Admin", request_body = Option<UndoBody>,
    params(("eventId" = i64, Path)), responses(
        (status = 201, body = AdjustmentBody),
        (status = 202, description = "`PENDING_APPROVAL`: a second person has to agree", body = ApprovalBody),
        (status = 404, description = "`UNKNOWN_EVENT`"),
        (status = 409, description = "`NOT_UNDOABLE`: no adjustment, an undo, or put right by a count since \
                                      (+`countedAt`); `INSUFFICIENT_STOCK`, with what stands in the way"),
        (status = 422, description = "`IDEMPOTENCY_KEY_REUSED`"),
        (status = 503, description = "`STOCK_UNAVAILABLE`: a sale is giving units up, and not in a moment"),
))]
async fn undo(
    State(gateway): State<Arc<Gateway>>,
    Path(event_id): Path<i64>,
    author: Author,
    OptionalJson(body): OptionalJson<UndoBody>,
) -> Result<Response, Problem> {
    let key = author.key("undo", &event_id.to_string(), &body)?;
    let note = body.note.map(Text::into_string);
    let mut calls = CallsBack::begin();
    loop {
        return match gateway
            .ledger
            .undo(event_id, note.as_deref(), &author.by(), key.as_ref())
            .await?
        {
            Undone::Done(undo) => {
                tracing::info!(
                    trace = %author.trace, operator = author.operator, undoes = event_id, event = undo.event_id,
                    before = ?undo.before, after = ?undo.after, "an adjustment was undone"
                );
                Ok(answer((StatusCode::CREATED, Json(AdjustmentBody::from(undo))), false))
            }
            Undone::Replayed(undo) => Ok(answer((StatusCode::CREATED, Json(AdjustmentBody::from(undo))), true)),
            Undone::Pending { approval, replayed } => {
                if !replayed {
                    asked(&author, &approval);
                }
                let body = (StatusCode::ACCEPTED, Json(ApprovalBody::pending(*approval)));
                Ok(answer(body, replayed))
            }
            Undone::Short { wanted, short } => {
                calls.call_back(&gateway, &short, wanted).await?;
                continue;
            }
            Undone::SetAside(_) => {
                calls.wait_for_stop().await?;
                continue;
            }
            Undone::UnknownEvent => {
                Err(Problem::new(Code::UnknownEvent, format!("there is no event {event_id}")).with("eventId", event_id))
            }
            Undone::NotUndoable => Err(Problem::new(
                Code::NotUndoable,
                format!("event {event_id} is no adjustment, or takes one back itself"),
            )
            .with("eventId", event_id)),
            Undone::Counted(counted_at) => Err(counted_since(counted_at).with("eventId", event_id)),
            Undone::Insufficient { wanted, found } => Err(promised(wanted, &found)),
            Undone::KeyReused => Err(key_reused()),
        };
    }
}
