//! Commit and release for clients that speak in verbs: the id stands in the body, the answer is one word.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::end::{Caller, Detail, Ended, EndedBody, answer, end};
use crate::domain::reservation::{Ending, Status};
use crate::http::Gateway;
use crate::http::idempotency::SentKey;
use crate::http::json::{Json, Unchecked};
use crate::http::problem::Problem;
use crate::http::trace::Traced;

/// The public listener's paths.
pub(super) fn routes() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new()
        .routes(routes!(confirm_verb))
        .routes(routes!(release_verb))
}

/// A commit in the verb style.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ConfirmVerb {
    reservation_id: String,
    /// Kept with the reservation.
    #[schema(value_type = Option<String>, max_length = 255)]
    payment_id: Option<Detail>,
    /// In the place of the header `Idempotency-Key`.
    idem_key: Option<String>,
}

/// A release in the verb style.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ReleaseVerb {
    reservation_id: String,
    /// Kept with the reservation.
    #[schema(value_type = Option<String>, max_length = 255)]
    reason: Option<Detail>,
    /// In the place of the header `Idempotency-Key`.
    idem_key: Option<String>,
}

/// What the verb style says of an ending.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct VerbBody {
    reservation_id: String,
    /// `CONFIRMED`, `RELEASED` or `EXPIRED`.
    status: &'static str,
    /// `false`: the units are on their way and not yet usable.
    #[serde(skip_serializing_if = "Option::is_none")]
    restocked: Option<bool>,
}

/// Sells what is reserved, in the verb style.
#[utoipa::path(post, path = "/api/inventory/confirm", tag = "Checkout", request_body = ConfirmVerb, responses(
    (status = 200, description = "`CONFIRMED`, now or before", body = VerbBody),
    (status = 404, description = "`UNKNOWN_RESERVATION`"),
    (status = 409, description = "As for commit"),
    (status = 422, description = "`IDEMPOTENCY_KEY_REUSED`"),
))]
async fn confirm_verb(
    State(gateway): State<Arc<Gateway>>,
    trace: Traced,
    key: SentKey,
    body: Unchecked<Json<ConfirmVerb>>,
) -> Result<Response, Problem> {
    let (body, key) = body.check(|Json(body)| {
        let key = key.or_body(body.idem_key.as_deref())?;
        Ok((body, key))
    })?;
    let caller = Caller { trace, key };
    let ended = end(&gateway, &body.reservation_id, Ending::Commit, body.payment_id, caller).await?;
    Ok(in_verbs(ended))
}

/// Gives back what is reserved, in the verb style.
#[utoipa::path(post, path = "/api/inventory/release", tag = "Checkout", request_body = ReleaseVerb, responses(
    (status = 200, description = "`RELEASED`, or `EXPIRED` where it had lapsed", body = VerbBody),
    (status = 404, description = "`UNKNOWN_RESERVATION`"),
    (status = 409, description = "As for release"),
    (status = 422, description = "`IDEMPOTENCY_KEY_REUSED`"),
))]
async fn release_verb(
    State(gateway): State<Arc<Gateway>>,
    trace: Traced,
    key: SentKey,
    body: Unchecked<Json<ReleaseVerb>>,
) -> Result<Response, Problem> {
    let (body, key) = body.check(|Json(body)| {
        let key = key.or_body(body.idem_key.as_deref())?;
        Ok((body, key))
    })?;
    let caller = Caller { trace, key };
    let ended = end(&gateway, &body.reservation_id, Ending::Release, body.reason, caller).await?;
    Ok(in_verbs(ended))
}

fn in_verbs(ended: Ended) -> Response {
    let EndedBody {
        reservation, restocked, ..
    } = ended.body;
    let body = VerbBody {
        reservation_id: reservation.reservation_id.to_string(),
        status: match reservation.status {
            Status::Committed => "CONFIRMED",
            other => other.as_str(),
        },
        restocked,
    };
    answer(Json(body), ended.replayed)
}
