//! Idempotency keys as clients send them: `Idempotency-Key` (IETF draft), `X-Idempotency-Key` or the body's `idemKey`.
//!
//! However often a key is sent, it must be one key. What it means, and what stands in for a missing one, is decided
//! where the request is.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;

use super::problem::Problem;

/// Longest key, in characters.
pub const KEY_LENGTH_MAX: usize = 255;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const X_IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("x-idempotency-key");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The key in the headers; [`SentKey::or_body`] adds the body's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentKey(Option<String>);

impl SentKey {
    /// The one key of the request, if it has any.
    ///
    /// # Errors
    /// 400 where the body's key is not one, or is another one.
    pub fn or_body(self, idem_key: Option<&str>) -> Result<Option<String>, Problem> {
        let Some(text) = idem_key else { return Ok(self.0) };
        one(self.0, "idemKey", text).map(Some)
    }
}

impl<S: Sync> FromRequestParts<S> for SentKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut key = None;
        for (header, name) in [
            (IDEMPOTENCY_KEY, "Idempotency-Key"),
            (X_IDEMPOTENCY_KEY, "X-Idempotency-Key"),
        ] {
            for value in parts.headers.get_all(header) {
                let text = value.to_str().map_err(|_| not_a_key(name))?.trim();
                let text = text
                    .strip_prefix('"')
                    .and_then(|rest| rest.strip_suffix('"'))
                    .unwrap_or(text);
                key = Some(one(key, name, text)?);
            }
        }
        Ok(SentKey(key))
    }
}

fn one(known: Option<String>, field: &str, text: &str) -> Result<String, Problem> {
    let is_key = (1..=KEY_LENGTH_MAX).contains(&text.len()) && text.bytes().all(|b| (0x20..=0x7e).contains(&b));
    if !is_key {
        return Err(not_a_key(field));
    }
    match known {
        Some(known) if known != text => Err(Problem::invalid(field, "differs from the other idempotency key")),
        _ => Ok(text.to_owned()),
    }
}

fn not_a_key(field: &str) -> Problem {
    Problem::invalid(
        field,
        format!("must be 1 to {KEY_LENGTH_MAX} printable ASCII characters"),
    )
}

/// Marks an answer as one that was given before.
pub fn mark_replayed(response: &mut Response) {
    let value = HeaderValue::from_static("true");
    response.headers_mut().insert(IDEMPOTENT_REPLAYED, value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;
    use futures::executor::block_on;

    fn sent(headers: &[(&str, &str)], body: Option<&str>) -> Result<Option<String>, Problem> {
        let mut request = Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).expect("a request").into_parts();
        block_on(SentKey::from_request_parts(&mut parts, &()))?.or_body(body)
    }

    #[test]
    fn a_request_has_one_key_wherever_it_stands() {
        let is = |headers: &[(&str, &str)], body, key: Option<&str>| {
            assert_eq!(sent(headers, body).expect("a key").as_deref(), key);
        };
        is(&[], None, None);
        is(&[("Idempotency-Key", "\"k 1\"")], None, Some("k 1"));
        is(&[("X-Idempotency-Key", "k1")], None, Some("k1"));
        is(&[], Some("k1"), Some("k1"));
        is(
            &[("Idempotency-Key", "\"k1\""), ("X-Idempotency-Key", "k1")],
            Some("k1"),
            Some("k1"),
        );
        let long = "x".repeat(256);
        for (headers, body) in [
            (&[("Idempotency-Key", "a"), ("X-Idempotency-Key", "b")][..], None),
            (&[("Idempotency-Key", "a"), ("Idempotency-Key", "b")][..], None),
            (&[("Idempotency-Key", "a")][..], Some("b")),
            (&[("Idempotency-Key", "")][..], None),
            (&[("Idempotency-Key", "\"\"")][..], None),
            (&[("Idempotency-Key", long.as_str())][..], None),
            (&[][..], Some("ä")),
            (&[][..], Some("a\nb")),
        ] {
            assert!(sent(headers, body).is_err(), "{headers:?} {body:?}");
        }
    }
}
