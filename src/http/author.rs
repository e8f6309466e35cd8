//! Who writes through the admin listener, and under which idempotency key.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::code::Code;
use super::idempotency::{SentKey, mark_replayed};
use super::problem::Problem;
use super::trace::{Operator, Traced};
use crate::domain::balance::Balance;
use crate::domain::key::{Fingerprint, KeyHash};
use crate::domain::time::Millis;
use crate::domain::trace::TraceId;
use crate::ledger::once::{By, Key, Resolution};

/// The person behind a write, its trace, and its key.
#[derive(Clone, Debug)]
pub(super) struct Author {
    /// `admin` where nobody was named.
    pub(super) operator: String,
    /// Of the request.
    pub(super) trace: TraceId,
    key: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Author {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let operator = Operator::from_request_parts(parts, state).await?.or_admin();
        let key = SentKey::from_request_parts(parts, state).await?.or_body(None)?;
        let Ok(Traced(trace)) = Traced::from_request_parts(parts, state).await;
        Ok(Author { operator, trace, key })
    }
}

impl Author {
    /// As events tell it.
    pub(super) fn by(&self) -> By {
        By {
            operator: Some(self.operator.clone()),
            trace: Some(self.trace),
        }
    }

    /// What the person decides, with a note, under a key.
    pub(super) fn resolution<'a>(&'a self, note: Option<&'a str>, key: Option<&'a Key>) -> Resolution<'a> {
        Resolution {
            person: &self.operator,
            note,
            key,
        }
    }

    /// The client's key in the scope of `operation`.
    pub(super) fn key_hash(&self, operation: &str) -> Option<KeyHash> {
        self.key.as_deref().map(|key| KeyHash::explicit(operation, key))
    }

    /// The client's key for this request: what it does, to what, and its body as it was understood.
    ///
    /// # Errors
    /// The body can't be written as JSON, which is a defect.
    pub(super) fn key(&self, operation: &str, subject: &str, body: &impl Serialize) -> Result<Option<Key>, Problem> {
        let Some(hash) = self.key_hash(operation) else {
            return Ok(None);
        };
        let body = serde_json::to_string(body).map_err(Problem::internal)?;
        let fingerprint = Fingerprint::of(&[subject, &body]);
        Ok(Some(Key { hash, fingerprint }))
    }
}

/// The answer to a write, marked where it was given before.
pub(super) fn answer(body: impl IntoResponse, replayed: bool) -> Response {
    let mut response = body.into_response();
    if replayed {
        mark_replayed(&mut response);
    }
    response
}

/// 422.
pub(super) fn key_reused() -> Problem {
    Problem::new(Code::IdempotencyKeyReused, "the key was sent with another request")
}

/// 404.
pub(super) fn unknown_sku(sku: &str) -> Problem {
    Problem::new(Code::UnknownSku, format!("there is no SKU {sku}")).with("skuId", sku)
}

/// 404.
pub(super) fn unknown_location(location: &str) -> Problem {
    Problem::new(Code::UnknownLocation, format!("there is no location {location}")).with("locationId", location)
}

/// 409 for a correction that takes what is promised, with what stands in the way.
pub(super) fn promised(wanted: i64, found: &Balance) -> Problem {
    let free = found.unpromised();
    insufficient(
        format!("{wanted} units are needed, {free} are free of promises"),
        free,
        found,
    )
}

/// 409 for units to be set aside or moved that are not free, with what stands in the way: safety stock does.
pub(super) fn not_free(wanted: i64, found: &Balance) -> Problem {
    let free = found.free().max(0);
    insufficient(format!("{wanted} units are needed, {free} are free"), free, found)
        .with("safetyStock", found.safety_stock)
}

/// 409 for an undo of what a count has put right.
pub(super) fn counted_since(counted_at: Millis) -> Problem {
    Problem::new(
        Code::NotUndoable,
        "a count that was made since has put the balance right; undoing it as well would make it wrong",
    )
    .with("countedAt", counted_at.to_string())
}

fn insufficient(detail: String, available: i64, found: &Balance) -> Problem {
    Problem::new(Code::InsufficientStock, detail)
        .with("available", available)
        .with("onHand", found.on_hand)
        .with("reserved", found.reserved)
        .with("escrowed", found.escrowed)
        .with("unavailable", found.unavailable)
}
