//! Returns: sold units that come back, by reservation.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Gateway;
use super::author::{answer, key_reused};
use super::body::LineBody;
use super::code::Code;
use super::idempotency::SentKey;
use super::json::{Json, Object, Unchecked};
use super::numbers::Whole;
use super::params::Path;
use super::problem::Problem;
use super::standing::{DURABLE_WITHIN, Standing, find, parse_id, unknown};
use super::trace::Traced;
use crate::domain::id::{Item, LocationId, ReturnId, Sku};
use crate::domain::key::KeyHash;
use crate::domain::reservation::{Line, Status};
use crate::domain::reservation_id::ReservationId;
use crate::domain::text::Text;
use crate::ledger::once::By;
use crate::ledger::returns::{Condition, Excess, ReturnAnswer, ReturnAsk, ReturnUnits, Returned};
use crate::metric;

/// As many as a cart has.
const LINES_MAX: usize = 100;

/// Units in a body.
type Quantity = Whole<1, 1_000_000>;

/// The public listener's paths.
pub(super) fn routes() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new().routes(routes!(give_back))
}

/// Units that came back. Neither `lines` nor `quantity`: all that are still out.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Return {
    /// Names the return for ever: repeated, it answers as at first.
    #[schema(value_type = String)]
    return_id: ReturnId,
    /// At most 100; lines of the same item count together.
    #[schema(value_type = Option<Vec<ReturnLine>>)]
    lines: Option<Vec<Object<ReturnLine>>>,
    /// Of a reservation of one line.
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 1_000_000)]
    quantity: Option<Quantity>,
    condition: Condition,
    /// Kept with the return.
    #[schema(value_type = Option<String>, max_length = 255)]
    reason: Option<Text<255>>,
}

/// Units of one line.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ReturnLine {
    #[schema(value_type = String)]
    sku_id: Sku,
    /// Where it was sold from, and where it comes back to.
    #[schema(value_type = String)]
    location_id: LocationId,
    #[schema(value_type = i64, minimum = 1, maximum = 1_000_000)]
    quantity: Quantity,
}

/// A return.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Return)]
struct ReturnedBody {
    return_id: String,
    reservation_id: String,
    lines: Vec<LineBody>,
    condition: Condition,
    /// Units of the reservation that can still come back.
    returnable: i64,
    created_at: String,
}

impl From<Returned> for ReturnedBody {
    fn from(returned: Returned) -> Self {
        ReturnedBody {
            return_id: returned.id.to_string(),
            reservation_id: returned.reservation.to_string(),
            lines: returned.lines.iter().map(LineBody::from).collect(),
            condition: returned.condition,
            returnable: returned.returnable,
            created_at: returned.created_at.to_string(),
        }
    }
}

impl Return {
    fn units(&self) -> Result<ReturnUnits, Problem> {
        let Some(lines) = &self.lines else {
            return Ok(self
                .quantity
                .map_or(ReturnUnits::All, |units| ReturnUnits::Of(units.get())));
        };
        if self.quantity.is_some() {
            return Err(Problem::invalid("quantity", "goes without lines only"));
        }
        if !(1..=LINES_MAX).contains(&lines.len()) {
            return Err(Problem::invalid("lines", format!("must be 1 to {LINES_MAX}")));
        }
        let mut sums: BTreeMap<Item, i64> = BTreeMap::new();
        for Object(line) in lines {
            let item = Item {
                sku: line.sku_id.clone(),
                location: line.location_id.clone(),
            };
            *sums.entry(item).or_default() += line.quantity.get();
        }
        let line = |(item, quantity)| Line { item, quantity };
        Ok(ReturnUnits::Lines(sums.into_iter().map(line).collect()))
    }
}

/// Takes sold units back: sellable ones can be sold again, damaged ones lie there and can't.
#[utoipa::path(post, path = "/api/inventory/reservations/{reservationId}/returns", tag = "Checkout",
    params(("reservationId" = String, Path)), request_body = Return, responses(
        (status = 201, description = "They are back", body = ReturnedBody),
        (status = 404, description = "`UNKNOWN_RESERVATION`"),
        (status = 409, description = "`RETURN_EXCEEDS_COMMITTED` (+`returnable`, `lines`), `NOT_COMMITTED` (+`reservationStatus`)"),
        (status = 422, description = "`IDEMPOTENCY_KEY_REUSED`: the `returnId` names another return"),
))]
async fn give_back(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
    Traced(trace): Traced,
    key: SentKey,
    body: Unchecked<Json<Return>>,
) -> Result<Response, Problem> {
    // What is wrong with the request comes before what its path names.
    let (body, units, key) = body.check(|Json(body)| {
        let units = body.units()?;
        Ok((body, units, key.or_body(None)?))
    })?;
    let ask = ReturnAsk {
        reservation: parse_id(&id)?,
        units,
        id: body.return_id,
        condition: body.condition,
        reason: body.reason.map(Text::into_string),
        key: key.map(|key| KeyHash::explicit("return", &key)),
    };
    let by = By {
        operator: None,
        trace: Some(trace),
    };
    let given = try_give_back(&gateway, &ask, &by).await;
    let code = match &given {
        Ok((_, true)) => "REPLAYED",
        Ok((_, false)) => "OK",
        Err(problem) => problem.code().as_str(),
    };
    metrics::counter!(metric::RETURNS, "code" => code).increment(1);
    let (returned, replayed) = given?;
    if !replayed {
        tracing::info!(
            %trace, reservation = %returned.reservation, r#return = %returned.id,
            condition = returned.condition.as_str(), lines = ?returned.lines, "units came back"
        );
    }
    let body = (StatusCode::CREATED, Json(ReturnedBody::from(returned)));
    Ok(answer(body, replayed))
}

/// The return, and whether it was done before.
async fn try_give_back(gateway: &Gateway, ask: &ReturnAsk, by: &By) -> Result<(Returned, bool), Problem> {
    loop {
        match gateway.ledger.give_back(ask, by).await? {
            ReturnAnswer::Done(returned) => return Ok((returned, false)),
            ReturnAnswer::Replayed(returned) => return Ok((returned, true)),
            ReturnAnswer::Reused => return Err(key_reused()),
            ReturnAnswer::NotCommitted(status) => return Err(not_committed(ask.reservation, status)),
            ReturnAnswer::ManyLines => {
                return Err(Problem::invalid(
                    "quantity",
                    "says nothing of a reservation of several lines: send lines",
                ));
            }
            ReturnAnswer::Exceeds { returnable, lines } => return Err(exceeds(returnable, &lines)),
            ReturnAnswer::Unknown => match find(gateway, ask.reservation, DURABLE_WITHIN).await? {
                Standing::Durable => {}
                Standing::Never => return Err(unknown(&ask.reservation.to_string())),
                Standing::Lost => return Err(not_committed(ask.reservation, Status::Rejected)),
                // Nobody can have committed what is not durable.
                Standing::Ahead => return Err(not_committed(ask.reservation, Status::Reserved)),
            },
        }
    }
}

fn not_committed(id: ReservationId, status: Status) -> Problem {
    Problem::new(Code::NotCommitted, "only what was sold can come back")
        .with("reservationId", id.to_string())
        .with("reservationStatus", status.as_str())
}

fn exceeds(returnable: i64, lines: &[Excess]) -> Problem {
    let line = |excess: &Excess| {
        json!({"skuId": excess.line.item.sku, "locationId": excess.line.item.location,
               "quantity": excess.line.quantity, "returnable": excess.returnable})
    };
    let lines: Vec<_> = lines.iter().map(line).collect();
    let problem = Problem::new(
        Code::ReturnExceedsCommitted,
        format!("{returnable} units of the reservation can still come back"),
    );
    problem.with("returnable", returnable).with("lines", lines)
}
