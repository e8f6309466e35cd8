//! A reservation after it was made: read, commit, release, extend; and the same calls in the verb style.

mod end;
mod verb;

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) use self::end::restocked;

use self::end::{Caller, Detail, EndedBody, answer, end, frozen, refused, wait_for};
use super::Gateway;
use super::admission::Admitted;
use super::body::{LostBody, ReservationBody};
use super::idempotency::SentKey;
use super::json::{Json, OptionalJson, Unchecked};
use super::params::Path;
use super::problem::Problem;
use super::standing::{DURABLE_WITHIN, Standing, accepted, find, parse_id, unknown};
use super::trace::Traced;
use crate::domain::reservation::Ending;
use crate::domain::text::Text;
use crate::ledger::{ExtendAnswer, ExtendAsk};
use crate::metric;

/// Most seconds that an extension can ask for: as long as any sale's longest hold can be, in 32 bits of ms.
const TTL_SECONDS_MAX: u32 = u32::MAX / 1000;

/// The public listener's paths.
pub(super) fn routes() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new()
        .routes(routes!(get_reservation))
        .routes(routes!(commit))
        .routes(routes!(release))
        .routes(routes!(extend))
        .merge(verb::routes())
}

/// A commit.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Commit {
    /// Kept with the reservation.
    #[schema(value_type = Option<String>, max_length = 255)]
    payment_id: Option<Detail>,
    /// In the place of the header `Idempotency-Key`.
    idem_key: Option<String>,
}

/// A release.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Release {
    /// Kept with the reservation.
    #[schema(value_type = Option<String>, max_length = 255)]
    reason: Option<Detail>,
    /// In the place of the header `Idempotency-Key`.
    idem_key: Option<String>,
}

/// A wish for more time.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Extend {
    /// From now on; what exceeds the longest hold is not given.
    #[schema(minimum = 1, maximum = 4_294_967)]
    ttl_seconds: u32,
    /// Goes to the log.
    #[schema(value_type = Option<String>, max_length = 255)]
    reason: Option<Detail>,
}

/// A reservation.
#[utoipa::path(get, path = "/api/inventory/reservations/{reservationId}", tag = "Checkout",
    params(("reservationId" = String, Path)), responses(
        (status = 200, description = "As it stands; one that was lost shows only `reservationId`, `status`, `cause` and `ack`",
            body = ReservationBody),
        (status = 404, description = "`UNKNOWN_RESERVATION`"),
))]
async fn get_reservation(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
    _: Admitted,
) -> Result<Response, Problem> {
    let id = parse_id(&id)?;
    loop {
        if let Some(reservation) = gateway.calls.read.ask(id).await? {
            return Ok(Json(ReservationBody::from(reservation)).into_response());
        }
        match find(&gateway, id, DURABLE_WITHIN).await? {
            Standing::Durable => {}
            Standing::Lost => return Ok(Json(LostBody::new(id)).into_response()),
            Standing::Never => return Err(unknown(&id.to_string())),
            Standing::Ahead => {
                return Ok(Json(ReservationBody::from(accepted(&gateway, id).await?)).into_response());
            }
        }
    }
}

/// Sells what is reserved.
#[utoipa::path(post, path = "/api/inventory/reservations/{reservationId}/commit", tag = "Checkout",
    params(("reservationId" = String, Path)), request_body = Option<Commit>, responses(
        (status = 200, description = "`COMMITTED`, now or before; `rescued` where it had expired and its units were taken \
            again", body = EndedBody),
        (status = 404, description = "`UNKNOWN_RESERVATION`"),
        (status = 409, description = "`RESERVATION_EXPIRED` (+`refundRequired`), `RESERVATION_RELEASED`, \
            `RESERVATION_REJECTED` (+`cause`), `SALE_FROZEN`"),
        (status = 422, description = "`IDEMPOTENCY_KEY_REUSED`"),
))]
async fn commit(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
    trace: Traced,
    key: SentKey,
    body: Unchecked<OptionalJson<Commit>>,
) -> Result<Response, Problem> {
    let (body, key) = body.check(|OptionalJson(body)| {
        let key = key.or_body(body.idem_key.as_deref())?;
        Ok((body, key))
    })?;
    let caller = Caller { trace, key };
    let ended = end(&gateway, &id, Ending::Commit, body.payment_id, caller).await?;
    Ok(answer(Json(ended.body), ended.replayed))
}

/// Gives back what is reserved.
#[utoipa::path(post, path = "/api/inventory/reservations/{reservationId}/release", tag = "Checkout",
    params(("reservationId" = String, Path)), request_body = Option<Release>, responses(
        (status = 200, description = "`RELEASED`, or `EXPIRED` where it had lapsed", body = EndedBody),
        (status = 404, description = "`UNKNOWN_RESERVATION`"),
        (status = 409, description = "`RESERVATION_COMMITTED`, `RESERVATION_REJECTED` (+`cause`)"),
        (status = 422, description = "`IDEMPOTENCY_KEY_REUSED`"),
))]
async fn release(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
    trace: Traced,
    key: SentKey,
    body: Unchecked<OptionalJson<Release>>,
) -> Result<Response, Problem> {
    let (body, key) = body.check(|OptionalJson(body)| {
        let key = key.or_body(body.idem_key.as_deref())?;
        Ok((body, key))
    })?;
    let caller = Caller { trace, key };
    let ended = end(&gateway, &id, Ending::Release, body.reason, caller).await?;
    Ok(answer(Json(ended.body), ended.replayed))
}

/// Gives more time to pay.
#[utoipa::path(post, path = "/api/inventory/reservations/{reservationId}/extend", tag = "Checkout",
    params(("reservationId" = String, Path)), request_body = Extend, responses(
        (status = 200, description = "With its deadline", body = ReservationBody),
        (status = 404, description = "`UNKNOWN_RESERVATION`"),
        (status = 409, description = "`RESERVATION_COMMITTED`, `RESERVATION_EXPIRED`, `RESERVATION_RELEASED`, \
            `RESERVATION_REJECTED` (+`cause`), `SALE_FROZEN`"),
))]
async fn extend(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
    Traced(trace): Traced,
    // It has no replay: each call asks anew. A key that is none is refused all the same.
    _: SentKey,
    body: Unchecked<Json<Extend>>,
) -> Result<Json<ReservationBody>, Problem> {
    let body = body.check(|Json(body)| match (1..=TTL_SECONDS_MAX).contains(&body.ttl_seconds) {
        true => Ok(body),
        false => Err(Problem::invalid(
            "ttlSeconds",
            format!("must be 1 to {TTL_SECONDS_MAX}"),
        )),
    })?;
    let id = parse_id(&id)?;
    let ask = ExtendAsk {
        id,
        ttl_ms: i64::from(body.ttl_seconds) * 1000,
        reason: body.reason.map(Text::into_string),
        trace,
    };
    let extended = extended(&gateway, &ask).await;
    let code = extended
        .as_ref()
        .map_or_else(|problem| problem.code().as_str(), |_| "OK");
    metrics::counter!(metric::EXTENSIONS, "code" => code).increment(1);
    extended.map(Json)
}

/// Extends, waiting for the reservation to become durable where it is not.
async fn extended(gateway: &Gateway, ask: &ExtendAsk) -> Result<ReservationBody, Problem> {
    loop {
        match gateway.calls.extend.ask(ask.clone()).await? {
            ExtendAnswer::Done(reservation) => return Ok(reservation.into()),
            ExtendAnswer::Refused(reservation) => return Err(refused(&reservation)),
            ExtendAnswer::Frozen => return Err(frozen()),
            ExtendAnswer::Unknown => wait_for(gateway, ask.id).await?,
        }
    }
}
