//! Problems (RFC 9457): the one shape of every error answer.
//!
//! A handler returns a [`Problem`]; it becomes a response without a body, and [`super::trace`], the outermost layer,
//! writes the body once it can add the trace id. What went wrong inside is logged there under that id and never shown.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Response};
use axum::response::IntoResponse;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::code::Code;
use super::json;
use crate::domain::trace::TraceId;
use crate::ledger::LedgerError;

/// `Retry-After` where nobody knows better.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

/// The fields of every problem.
const STANDARD: [&str; 7] = ["type", "title", "status", "detail", "code", "retryable", "traceId"];

/// An error answer.
#[derive(Clone, Debug)]
pub struct Problem {
    code: Code,
    detail: String,
    retry_after: Option<Duration>,
    extra: Extra,
    cause: Option<String>,
}

/// The body of a problem; `extra` fields stand beside these.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Problem)]
pub struct ProblemBody<'a> {
    /// Names the code as a URN.
    #[serde(rename = "type")]
    type_uri: &'a str,
    /// The code, in words.
    title: &'a str,
    /// The HTTP status.
    status: u16,
    /// What is the matter this time.
    detail: &'a str,
    /// What clients switch on.
    code: &'a str,
    /// Whether the same request may succeed later, as it is.
    retryable: bool,
    /// Names this request in the logs.
    trace_id: String,
    /// Fields that help, by code.
    #[serde(flatten)]
    #[schema(value_type = Object, additional_properties)]
    extra: &'a Extra,
}

/// Fields beside the standard ones, in the order they came; a handful at most.
#[derive(Clone, Debug, Default)]
struct Extra(Vec<(&'static str, Value)>);

impl Serialize for Extra {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl Problem {
    /// A problem of this code; `detail` is for people and says what is the matter this time.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Problem {
            code,
            detail: detail.into(),
            retry_after: None,
            extra: Extra::default(),
            cause: None,
        }
    }

    /// `INVALID_REQUEST`, naming the field by its path (`lines[0].quantity`).
    #[must_use]
    pub fn invalid(field: &str, what: impl std::fmt::Display) -> Self {
        Problem::new(Code::InvalidRequest, format!("{field}: {what}")).with("field", field)
    }

    /// `INTERNAL`; the cause goes to the log only.
    #[must_use]
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        Problem::new(Code::Internal, "the cause is in the log, under this trace id").because(cause)
    }

    /// Adds a field beside the standard ones, which keep their names for themselves.
    #[must_use]
    pub fn with(mut self, field: &'static str, value: impl Into<Value>) -> Self {
        debug_assert!(!STANDARD.contains(&field), "{field} would stand there twice");
        let Extra(fields) = &mut self.extra;
        fields.retain(|(name, _)| *name != field);
        fields.push((field, value.into()));
        self
    }

    /// A field beside the standard ones.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Value> {
        let mut fields = self.extra.0.iter();
        fields.find_map(|(known, value)| (*known == name).then_some(value))
    }

    /// Says when to come back; rounded up to whole seconds, at least one.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Keeps what went wrong inside, for the log only.
    #[must_use]
    pub fn because(mut self, cause: impl std::fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// Writes the body into a response that this problem became, and the cause into the log.
    pub(super) fn finish(&self, response: &mut Response<Body>, trace: TraceId) {
        if let Some(cause) = &self.cause {
            tracing::error!(trace = %trace, code = self.code.as_str(), cause, "a request failed");
        }
        response.headers_mut().remove(CONTENT_LENGTH);
        *response.body_mut() = Body::from(self.body(trace));
    }

    /// The body that tells it.
    pub(super) fn body(&self, trace: TraceId) -> Vec<u8> {
        json::write(&ProblemBody {
            type_uri: self.code.type_uri(),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            detail: &self.detail,
            code: self.code.as_str(),
            retryable: self.code.is_retryable(),
            trace_id: trace.to_string(),
            extra: &self.extra,
        })
        .expect("a map with text keys is JSON")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        let status = self.code.status().as_u16();
        let after = self
            .retry_after
            .or((status == 429 || status == 503).then_some(RETRY_AFTER_DEFAULT));
        if let Some(after) = after {
            let seconds = after.as_millis().div_ceil(1000).max(1);
            let value = HeaderValue::from_str(&seconds.to_string()).expect("digits are a header value");
            headers.insert(RETRY_AFTER, value);
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Unavailable(_) | LedgerError::Retry(_) => Problem::new(
                Code::LedgerUnavailable,
                "the ledger could not answer; nothing is known about this request",
            )
            .because(error),
            LedgerError::Data { .. } | LedgerError::Broken(_) => Problem::internal(error),
        }
    }
}
