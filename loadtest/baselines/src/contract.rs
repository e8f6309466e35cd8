//! The part of the HTTP contract that every baseline speaks: the request of one line, and answers of the gateway's
//! shape.

use std::borrow::Cow;

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};

/// The path.
pub(crate) const PATH: &str = "/api/inventory/reservations";
/// Time to pay.
const HOLD: TimeDelta = TimeDelta::minutes(15);
/// Longest id.
const ID_BYTES_MAX: usize = 128;
/// Most units.
const UNITS_MAX: i64 = 1_000_000;

/// A request for one line. Its strings are borrowed from the body wherever that has no escapes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Reserve<'a> {
    #[serde(borrow)]
    pub(crate) order_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) sku_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) location_id: Cow<'a, str>,
    pub(crate) quantity: i64,
    #[serde(borrow)]
    pub(crate) user_id: Option<Cow<'a, str>>,
}

impl Reserve<'_> {
    /// Parses and validates a body.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn parse(body: &[u8]) -> Result<Reserve<'_>, Invalid> {
        let ask: Reserve<'_> = serde_json::from_slice(body).map_err(|error| Invalid(error.to_string()))?;
        let user = ask.user_id.as_deref().unwrap_or("none");
        let ids = [&*ask.order_id, &*ask.sku_id, &*ask.location_id, user];
        if ids.into_iter().all(is_id) && (1..=UNITS_MAX).contains(&ask.quantity) {
            return Ok(ask);
        }
        Err(Invalid("an id or the quantity is out of bounds".to_owned()))
    }

    /// Who pays: the user, else the order.
    pub(crate) fn buyer(&self) -> &str {
        self.user_id.as_deref().unwrap_or(&self.order_id)
    }

    /// The answer that this was reserved under `id`.
    pub(crate) fn reserved(&self, id: &str, level: Level) -> Response {
        let now = Utc::now();
        let line = Line {
            sku_id: &self.sku_id,
            location_id: &self.location_id,
            quantity: self.quantity,
        };
        let created_at = time(now);
        let body = Reservation {
            reservation_id: id,
            order_id: &self.order_id,
            user_id: self.user_id.as_deref(),
            status: "RESERVED",
            ack: level.as_str(),
            lines: [line],
            sku_id: &self.sku_id,
            location_id: &self.location_id,
            quantity: self.quantity,
            expires_at: time(now + HOLD),
            updated_at: created_at.clone(),
            created_at,
        };
        json(level.status(), &body)
    }
}

/// What is wrong with a body.
pub(crate) struct Invalid(String);

impl IntoResponse for Invalid {
    fn into_response(self) -> Response {
        problem(StatusCode::BAD_REQUEST, &self.0)
    }
}

/// How far a reservation has got.
#[derive(Clone, Copy)]
pub(crate) enum Level {
    /// In Redis.
    Accepted,
    /// In Postgres.
    Durable,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Level::Accepted => "accepted",
            Level::Durable => "durable",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Level::Accepted => StatusCode::ACCEPTED,
            Level::Durable => StatusCode::CREATED,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reservation<'a> {
    reservation_id: &'a str,
    order_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    status: &'a str,
    ack: &'a str,
    lines: [Line<'a>; 1],
    sku_id: &'a str,
    location_id: &'a str,
    quantity: i64,
    expires_at: String,
    created_at: String,
    updated_at: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    sku_id: &'a str,
    location_id: &'a str,
    quantity: i64,
}

/// What a refused line is told.
pub(crate) fn sold_out() -> Response {
    problem(StatusCode::CONFLICT, "INSUFFICIENT_STOCK")
}

/// What is told where the store behind did not answer.
pub(crate) fn unavailable(error: &dyn std::error::Error) -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())
}

/// A refusal.
pub(crate) fn problem(status: StatusCode, code: &str) -> Response {
    json(status, &serde_json::json!({ "status": status.as_u16(), "code": code }))
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).expect("strings and numbers can be written");
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

/// A time as answers show it.
pub(crate) fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// A new id: 26 characters, as long as the gateway's.
pub(crate) fn new_id() -> String {
    BASE32_NOPAD.encode(&rand::random::<[u8; 16]>())
}

fn is_id(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    (1..=ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(known)
}

#[cfg(test)]
mod tests {
    use super::Reserve;

    #[test]
    fn a_request_is_checked_as_the_gateway_checks_it() {
        let is_taken = |body: &str| Reserve::parse(body.as_bytes()).is_ok();
        assert!(is_taken(
            r#"{"orderId":"o1","skuId":"hot","locationId":"wh1","quantity":1,"userId":"u1"}"#
        ));
        assert!(is_taken(
            r#"{"orderId":"o\u0031","skuId":"hot","locationId":"wh1","quantity":1}"#
        ));
        for wrong in [
            r#"{"orderId":"o 1","skuId":"hot","locationId":"wh1","quantity":1}"#,
            r#"{"orderId":"o1","skuId":"hot","locationId":"wh1","quantity":0}"#,
            r#"{"orderId":"o1","skuId":"hot","locationId":"wh1","quantity":1,"colour":"red"}"#,
            r#"{"orderId":"o1","skuId":"","locationId":"wh1","quantity":1}"#,
        ] {
            assert!(!is_taken(wrong), "{wrong}");
        }
    }
}
