//! Quarantine: reservations that the ledger could not store for what is in them, and what an operator does about each.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Gateway;
use super::admin_sales::{IN_FORCE_MAX, late};
use super::author::{Author, answer, key_reused};
use super::code::Code;
use super::json::{Json, OptionalJson};
use super::params::{Path, Query};
use super::problem::Problem;
use crate::domain::reservation::Status;
use crate::domain::text::Text;
use crate::ledger::quarantine::{Quarantined, Rejection, Replay};
use crate::recall::taken_back;

/// Cases a page, at most and by default.
const PAGE_MAX: i64 = 200;

/// The admin listener's paths.
pub(super) fn routes() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new()
        .routes(routes!(list_cases))
        .routes(routes!(replay))
        .routes(routes!(reject))
}

/// Which cases to list.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ListQuery {
    /// Only cases older than this one: `next` of the page before.
    after: Option<i64>,
}

/// What the operator says about it.
#[derive(Default, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Note {
    /// Kept with the case.
    #[schema(value_type = Option<String>, max_length = 1000)]
    note: Option<Text<1000>>,
}

/// A page of cases.
#[derive(Serialize, utoipa::ToSchema)]
struct CasesBody {
    /// Newest first.
    quarantine: Vec<CaseBody>,
    /// `after` of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<i64>,
}

/// A case.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct CaseBody {
    id: i64,
    lane: u16,
    epoch: i64,
    seq: i64,
    /// Place in its queue entry; -1: the whole entry.
    index: i16,
    #[serde(skip_serializing_if = "Option::is_none")]
    reservation_id: Option<String>,
    /// Units, where they can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    quantity: Option<i64>,
    /// What the ledger had against it.
    cause: String,
    /// As it stood in the queue, in hex.
    body: String,
    /// `waiting`, `replayed` or `rejected`.
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operator: Option<String>,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    resolved_at: Option<String>,
}

impl From<Quarantined> for CaseBody {
    fn from(case: Quarantined) -> Self {
        CaseBody {
            id: case.id,
            lane: case.lane.0,
            epoch: case.epoch,
            seq: case.seq,
            index: case.index,
            reservation_id: case.reservation_id.map(|id| id.to_string()),
            quantity: case.quantity,
            cause: case.cause,
            body: data_encoding::HEXLOWER.encode(&case.body),
            state: case.state,
            note: case.note,
            operator: case.operator,
            created_at: case.created_at.to_string(),
            resolved_at: case.resolved_at.map(|at| at.to_string()),
        }
    }
}

/// What was done to a case.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct DoneBody {
    id: i64,
    /// `replayed` or `rejected`.
    state: &'static str,
}

/// Cases, newest first.
#[utoipa::path(get, path = "/admin/quarantine", tag = "Admin", params(ListQuery), responses(
    (status = 200, description = "A page of cases", body = CasesBody),
))]
async fn list_cases(
    State(gateway): State<Arc<Gateway>>,
    Query(query): Query<ListQuery>,
) -> Result<Json<CasesBody>, Problem> {
    let cases = gateway.ledger.quarantined(query.after, PAGE_MAX).await?;
    let is_full = i64::try_from(cases.len()).is_ok_and(|n| n == PAGE_MAX);
    let next = cases.last().filter(|_| is_full).map(|case| case.id);
    Ok(Json(CasesBody {
        quarantine: cases.into_iter().map(CaseBody::from).collect(),
        next,
    }))
}

/// Takes the units anew under the old id.
#[utoipa::path(post, path = "/admin/quarantine/{id}/replay", tag = "Admin", request_body = Option<Note>,
    params(("id" = i64, Path)), responses(
        (status = 200, description = "It is reserved again, now or before", body = DoneBody),
        (status = 404, description = "`NOT_FOUND`"),
        (status = 409, description = "`INSUFFICIENT_STOCK`: nothing is free; `RESERVATION_REJECTED`: it was \
            rejected, its units are being taken, or it still can't be stored"),
))]
async fn replay(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<i64>,
    author: Author,
    OptionalJson(body): OptionalJson<Note>,
) -> Result<Response, Problem> {
    let key = author.key("quarantine replay", &id.to_string(), &body)?;
    let by = author.resolution(body.note.as_ref().map(Text::as_str), key.as_ref());
    let reservation = match gateway.ledger.quarantine_replay(id, by).await? {
        Replay::Asked { ticket, reservation } => {
            let deadline = Instant::now() + IN_FORCE_MAX;
            if !taken_back(&gateway.ledger, &gateway.flash, &[ticket], deadline).await? {
                return Err(late(
                    &gateway,
                    "the units are asked for; the case shows what comes of it",
                ));
            }
            gateway.ledger.reservation(reservation).await?
        }
        Replay::KeyReused => return Err(key_reused()),
        Replay::Before => return Ok(done(id, "replayed", true)),
        Replay::Unknown => return Err(unknown(id)),
        Replay::NotWaiting => return Err(closed(id)),
        Replay::Unreadable => return Err(stuck(id, "its bytes can't be read as a reservation")),
        Replay::Refused(cause) => return Err(stuck(id, &cause)),
    };
    tracing::info!(trace = %author.trace, operator = author.operator, case = id, "an operator replayed a case");
    match reservation {
        Some(reservation) if reservation.status == Status::Reserved => Ok(done(id, "replayed", false)),
        _ => Err(Problem::new(
            Code::InsufficientStock,
            "the reservation's lane has too few free units, or its order holds the item or its user the limit by now",
        )),
    }
}

/// Closes a case: the reservation stays rejected.
#[utoipa::path(post, path = "/admin/quarantine/{id}/reject", tag = "Admin", request_body = Option<Note>,
    params(("id" = i64, Path)), responses(
        (status = 200, description = "It is closed, now or before", body = DoneBody),
        (status = 404, description = "`NOT_FOUND`"),
        (status = 409, description = "`RESERVATION_REJECTED`: it was replayed, or its units are being taken"),
))]
async fn reject(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<i64>,
    author: Author,
    OptionalJson(body): OptionalJson<Note>,
) -> Result<Response, Problem> {
    let key = author.key("quarantine reject", &id.to_string(), &body)?;
    let by = author.resolution(body.note.as_ref().map(Text::as_str), key.as_ref());
    match gateway.ledger.quarantine_reject(id, by).await? {
        Rejection::Done => {
            tracing::info!(trace = %author.trace, operator = author.operator, case = id, "an operator rejected a case");
            Ok(done(id, "rejected", false))
        }
        Rejection::KeyReused => Err(key_reused()),
        Rejection::Before => Ok(done(id, "rejected", true)),
        Rejection::Unknown => Err(unknown(id)),
        Rejection::NotWaiting => Err(closed(id)),
    }
}

fn done(id: i64, state: &'static str, replayed: bool) -> Response {
    answer(Json(DoneBody { id, state }), replayed)
}

fn unknown(id: i64) -> Problem {
    Problem::new(Code::NotFound, format!("there is no case {id}"))
}

fn closed(id: i64) -> Problem {
    stuck(id, "it was decided otherwise, or its units are being taken")
}

fn stuck(id: i64, why: &str) -> Problem {
    Problem::new(
        Code::ReservationRejected,
        format!("case {id} can't be replayed or rejected: {why}"),
    )
}
