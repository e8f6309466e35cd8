//! Strict JSON bodies: what a handler gets is exactly what its type says, or the caller learns which field is wrong.
//!
//! Body types derive `Deserialize` with `deny_unknown_fields`; domain types check ranges and characters while they are
//! parsed. Duplicate fields, trailing text, arrays in the place of objects and bodies over [`BODY_BYTES_MAX`] are
//! refused, with and without `Content-Length`.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{Extensions, HeaderMap};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::admission::admit;
use super::code::Code;
use super::problem::Problem;

/// Longest body, in bytes: a cart of 100 lines with the longest ids fits twice.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// As long as problems and reservations of one line are, and a little more.
const ANSWER_BYTES: usize = 512;

/// Longest time a body may take to arrive: a sender that trickles must not hold a request's place.
pub const BODY_TIME_MAX: Duration = Duration::from_secs(10);

/// A JSON object as the body of a request (which must have one), or a JSON answer.
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

/// The same where the body may be left out: then `T` is its default.
#[derive(Clone, Copy, Debug)]
pub struct OptionalJson<T>(pub T);

/// A field that holds an object. As with bodies, serde by itself would take an array for it.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(transparent)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(fields)).map(Object)
    }
}

/// A body of which more is to be checked than its type says. It is let in when that is done.
#[derive(Debug)]
pub(super) struct Unchecked<B> {
    body: B,
    extensions: Extensions,
}

impl<B> Unchecked<B> {
    /// What the body is, once nothing is wrong with it and the request was let in.
    ///
    /// # Errors
    /// What is wrong with it; else 503 `OVERLOADED`, 429 `RATE_LIMITED`.
    pub(super) fn check<T>(self, check: impl FnOnce(B) -> Result<T, Problem>) -> Result<T, Problem> {
        let checked = check(self.body)?;
        admit(&self.extensions)?;
        Ok(checked)
    }
}

/// What is read from a body.
trait Parsed: Sized {
    fn parsed(headers: &HeaderMap, body: Body) -> impl Future<Output = Result<Self, Problem>> + Send;
}

impl<T: DeserializeOwned> Parsed for Json<T> {
    async fn parsed(headers: &HeaderMap, body: Body) -> Result<Self, Problem> {
        check_media_type(headers)?;
        parse(&read(headers, body).await?).map(Json)
    }
}

impl<T: DeserializeOwned + Default> Parsed for OptionalJson<T> {
    async fn parsed(headers: &HeaderMap, body: Body) -> Result<Self, Problem> {
        let bytes = read(headers, body).await?;
        if bytes.is_empty() {
            return Ok(OptionalJson(T::default()));
        }
        check_media_type(headers)?;
        parse(&bytes).map(OptionalJson)
    }
}

impl<B: Parsed, S: Sync> FromRequest<S> for Unchecked<B> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let body = B::parsed(&parts.headers, body).await?;
        let extensions = parts.extensions;
        Ok(Unchecked { body, extensions })
    }
}

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        Unchecked::from_request(request, state).await?.check(Ok)
    }
}

impl<T: DeserializeOwned + Default, S: Sync> FromRequest<S> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        Unchecked::from_request(request, state).await?.check(Ok)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match write(&self.0) {
            Ok(body) => ([(CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => Problem::internal(error).into_response(),
        }
    }
}

/// The text of an answer.
///
/// # Errors
/// The value can't be JSON: a map with keys that are no text.
pub(super) fn write(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    // Most answers fit at once.
    let mut text = Vec::with_capacity(ANSWER_BYTES);
    serde_json::to_writer(&mut text, value)?;
    Ok(text)
}

fn check_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    let sent = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let mut parts = sent.split(';').map(str::trim);
    let is_json = parts
        .next()
        .is_some_and(|media| media.eq_ignore_ascii_case("application/json"));
    let is_utf8 = parts.all(|parameter| {
        parameter.is_empty()
            || parameter.split_once('=').is_some_and(|(name, value)| {
                name.eq_ignore_ascii_case("charset") && value.trim_matches('"').eq_ignore_ascii_case("utf-8")
            })
    });
    if is_json && is_utf8 {
        return Ok(());
    }
    Err(Problem::new(
        Code::UnsupportedMediaType,
        "Content-Type must be application/json in UTF-8",
    ))
}

async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let too_large = || {
        Problem::new(
            Code::BodyTooLarge,
            format!("a body may have up to {BODY_BYTES_MAX} bytes"),
        )
        .with("maxBytes", BODY_BYTES_MAX)
    };
    let declared = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| usize::try_from(length).map_or(true, |length| length > BODY_BYTES_MAX)) {
        return Err(too_large());
    }
    let collected = tokio::time::timeout(BODY_TIME_MAX, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    match collected {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Problem::new(
            Code::InvalidRequest,
            "the body ended early or is not framed as HTTP says",
        )),
        Err(_) => Err(Problem::new(
            Code::InvalidRequest,
            format!("the body did not arrive within {} s", BODY_TIME_MAX.as_secs()),
        )),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // serde reads an array as a struct, field by field in order; the contract does not.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::new(Code::InvalidRequest, "the body must be a JSON object"));
    }
    // Keeping track of the path costs as much as the parsing: what is refused is read again, to tell which field it was.
    serde_json::from_slice(bytes).or_else(|_| parse_by_path(bytes))
}

fn parse_by_path<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        wrong_field(&path, &error.into_inner().to_string())
    })?;
    json.end()
        .map_err(|error| Problem::new(Code::InvalidRequest, format!("after the object: {error}")))?;
    Ok(value)
}

/// `INVALID_REQUEST` for what serde says at `path`. A missing or repeated field is told of the object that should hold
/// it; its name then stands in the message.
pub(super) fn wrong_field(path: &str, message: &str) -> Problem {
    // "." is the whole, "?" a place that was never named, because the text broke off or is no JSON there.
    let parent = path.trim_end_matches(['.', '?']);
    let named = ["missing field `", "duplicate field `", "unknown field `"]
        .iter()
        .find_map(|start| message.strip_prefix(start)?.split('`').next());
    let field = match named {
        Some(name) if parent.is_empty() => name.to_owned(),
        Some(name) if parent == name || parent.ends_with(&format!(".{name}")) => parent.to_owned(),
        Some(name) => format!("{parent}.{name}"),
        None if parent.is_empty() => {
            return Problem::new(Code::InvalidRequest, format!("the body is not valid: {message}"));
        }
        None => parent.to_owned(),
    };
    Problem::invalid(&field, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::quantity::Quantity;
    use serde::Deserialize;

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    struct Order {
        #[serde(rename = "orderId")]
        _order_id: String,
        #[serde(default, rename = "lines")]
        _lines: Vec<Line>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Line {
        #[serde(rename = "quantity")]
        _quantity: Quantity,
    }

    fn field_of<T: DeserializeOwned + fmt::Debug>(body: &[u8]) -> Option<String> {
        let problem = parse::<T>(body).expect_err("it is refused");
        assert_eq!(problem.code(), Code::InvalidRequest);
        let mut response = problem.clone().into_response();
        problem.finish(&mut response, crate::domain::trace::TraceId([1; 16]));
        let bytes = futures::executor::block_on(response.into_body().collect())
            .expect("a body")
            .to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        body["field"].as_str().map(str::to_owned)
    }

    #[test]
    fn the_wrong_field_is_named_by_its_path() {
        let table: &[(&str, Option<&str>)] = &[
            (r#"{"lines":[]}"#, Some("orderId")),
            (r#"{"orderId":1}"#, Some("orderId")),
            (r#"{"orderId":"a","orderId":"b"}"#, Some("orderId")),
            (r#"{"orderId":"a","colour":"red"}"#, Some("colour")),
            (
                r#"{"orderId":"a","lines":[{"quantity":1},{"quantity":0}]}"#,
                Some("lines[1].quantity"),
            ),
            (
                r#"{"orderId":"a","lines":[{"quantity":1.5}]}"#,
                Some("lines[0].quantity"),
            ),
            (r#"{"orderId":"a","lines":[{}]}"#, Some("lines[0].quantity")),
            (r#"{"orderId":"a","lines":[{"quantity":1,"x":2}]}"#, Some("lines[0].x")),
            (r#"{"orderId":"a"} x"#, None),
            (r#"{"orderId":"a"}{}"#, None),
            (r#"["a"]"#, None),
            ("{", None),
            ("", None),
        ];
        for (body, field) in table {
            assert_eq!(field_of::<Order>(body.as_bytes()).as_deref(), *field, "{body}");
        }
        assert_eq!(field_of::<Order>(b"{\"orderId\":\"\xff\"}").as_deref(), Some("orderId"));
    }

    #[test]
    fn a_field_that_is_an_object_is_no_array() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Holder {
            #[serde(rename = "line")]
            _line: Option<Object<Line>>,
        }
        assert!(parse::<Holder>(br#"{"line":{"quantity":1}}"#).is_ok());
        assert!(parse::<Holder>(br#"{"line":null}"#).is_ok());
        for (body, field) in [
            (r#"{"line":[1]}"#, "line"),
            (r#"{"line":{}}"#, "line.quantity"),
            (r#"{"line":{"quantity":0}}"#, "line.quantity"),
            (r#"{"line":{"quantity":1,"x":2}}"#, "line.x"),
        ] {
            assert_eq!(field_of::<Holder>(body.as_bytes()).as_deref(), Some(field), "{body}");
        }
    }

    #[test]
    fn only_json_in_utf_8_is_a_media_type() {
        let check = |text: &'static str| {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, text.parse().expect("a header value"))]);
            check_media_type(&headers).is_ok()
        };
        for good in [
            "application/json",
            "Application/JSON; charset=UTF-8",
            "application/json;charset=\"utf-8\"",
        ] {
            assert!(check(good), "{good}");
        }
        for bad in [
            "",
            "text/plain",
            "application/json; charset=latin1",
            "application/jsonx",
            "application/json; v=1",
        ] {
            assert!(!check(bad), "{bad}");
        }
        assert!(check_media_type(&HeaderMap::new()).is_err());
    }
}
