//! Trace ids and operators: who asked, and under which id it is told in logs, rows and events.
//!
//! The frame of both routers takes the caller's W3C `traceparent` or makes one, hands the [`Traced`] id to the handlers,
//! finishes problems with it and returns it in the response's own `traceparent`.

use std::convert::Infallible;

use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use data_encoding::HEXLOWER;

use super::problem::Problem;
use crate::domain::text::Text;
use crate::domain::trace::TraceId;

/// W3C Trace Context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Names the person behind a call, where there is no authentication.
pub const X_OPERATOR: HeaderName = HeaderName::from_static("x-operator");

/// Longest operator name, in bytes.
pub const OPERATOR_BYTES_MAX: usize = 128;

/// Where ids come from: 16 random bytes. The process passes its generator in, tests a fixed one.
pub type Random = fn() -> [u8; 16];

/// The trace id of this request.
#[derive(Clone, Copy, Debug)]
pub struct Traced(pub TraceId);

/// The person behind a call of the admin listener, from `X-Operator`. The public one takes it from nobody: who calls
/// checkout is not to sign the ledger with an operator's name.
#[derive(Clone, Debug)]
pub struct Operator(pub Option<String>);

impl Operator {
    /// The name, or `admin` where nobody was named.
    #[must_use]
    pub fn or_admin(self) -> String {
        self.0.unwrap_or_else(|| "admin".to_owned())
    }
}

/// The caller's trace id, or a new one; handlers find it among the request's extensions.
pub(super) fn begin(request: &mut Request, random: Random) -> TraceId {
    let trace = of(request.headers(), random);
    request.extensions_mut().insert(Traced(trace));
    trace
}

/// Writes the problem that the answer is, if it is one, and names the trace in the answer's head.
pub(super) fn finish(response: &mut Response, trace: TraceId, random: Random) {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        problem.finish(response, trace);
    }
    response.headers_mut().insert(TRACEPARENT, parent(trace, random));
}

/// The caller's trace id, or a new one.
pub(super) fn of(headers: &HeaderMap, random: Random) -> TraceId {
    let given = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
    given
        .and_then(TraceId::from_traceparent)
        .unwrap_or_else(|| TraceId(random()))
}

/// The answer's `traceparent`: our own span below the caller's; flag 01: recorded.
pub(super) fn parent(trace: TraceId, random: Random) -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
    HEXLOWER.encode_mut(&trace.0, &mut text[3..35]);
    HEXLOWER.encode_mut(&random()[..8], &mut text[36..52]);
    HeaderValue::from_bytes(&text).expect("hex digits are a header value")
}

impl<S: Sync> FromRequestParts<S> for Traced {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let traced = parts.extensions.get::<Traced>();
        Ok(*traced.expect("every router carries the trace layer"))
    }
}

impl<S: Sync> FromRequestParts<S> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get(X_OPERATOR) else {
            return Ok(Operator(None));
        };
        let text = value
            .to_str()
            .map_err(|_| Problem::invalid("X-Operator", "must be printable ASCII"))?;
        let name: Text<OPERATOR_BYTES_MAX> = text.try_into().map_err(|error| Problem::invalid("X-Operator", error))?;
        Ok(Operator(Some(name.into_string())))
    }
}
