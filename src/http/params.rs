//! Path and query parameters, as strict as bodies: unknown, repeated and malformed ones are 400 and named.

use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path as AxumPath, RawPathParams};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use serde::de::value::{Error as Unreadable, SeqDeserializer};
use serde_path_to_error::Segment;

use super::json::wrong_field;
use super::problem::Problem;

/// Parameters of the path.
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(pub T);

/// Parameters of the query; `T` derives `Deserialize` with `deny_unknown_fields`.
#[derive(Clone, Copy, Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let rejection = match AxumPath::<T>::from_request_parts(parts, state).await {
            Ok(AxumPath(value)) => return Ok(Path(value)),
            Err(rejection) => rejection,
        };
        let PathRejection::FailedToDeserializePathParams(failed) = rejection else {
            return Err(Problem::internal(rejection));
        };
        Err(match failed.kind() {
            ErrorKind::InvalidUtf8InPathParam { key } => Problem::invalid(key, "must be UTF-8"),
            ErrorKind::DeserializeError { key, message, .. } => Problem::invalid(key, message),
            ErrorKind::ParseErrorAtKey { key, expected_type, .. } => {
                Problem::invalid(key, format!("must be a {expected_type}"))
            }
            _ if failed.status().is_server_error() => Problem::internal(failed.body_text()),
            kind => match RawPathParams::from_request_parts(parts, state).await {
                Ok(raw) => wrong_parameter::<T>(&raw, kind),
                Err(rejection) => Problem::internal(rejection),
            },
        })
    }
}

/// Names the parameter that `T` refuses. axum tells what is wrong with it, not which of several it is: a second reading
/// stops at the same one. A path with a single parameter leaves no choice.
fn wrong_parameter<T: DeserializeOwned>(raw: &RawPathParams, what: &ErrorKind) -> Problem {
    let (names, texts): (Vec<&str>, Vec<&str>) = raw.iter().unzip();
    let read: Result<T, _> = serde_path_to_error::deserialize(SeqDeserializer::<_, Unreadable>::new(texts.into_iter()));
    let at = match read.as_ref().err().and_then(|error| error.path().iter().next()) {
        Some(Segment::Seq { index }) => *index,
        _ => 0,
    };
    Problem::invalid(names.get(at).copied().unwrap_or("path"), what)
}

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parse(parts.uri.query().unwrap_or_default()).map(Query)
    }
}

fn parse<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    let pairs = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query.as_bytes()));
    serde_path_to_error::deserialize(pairs).map_err(|error| {
        let path = error.path().to_string();
        wrong_field(&path, &error.into_inner().to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::Sku;
    use crate::http::code::Code;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    struct Wanted {
        sku_id: Sku,
        limit: Option<u32>,
    }

    #[test]
    fn a_query_is_as_strict_as_a_body() {
        let wanted: Wanted = parse("skuId=a%3Ab&limit=5").expect("it is valid");
        assert_eq!((wanted.sku_id.as_str(), wanted.limit), ("a:b", Some(5)));
        for bad in [
            "",
            "skuId=",
            "skuId=a&skuId=b",
            "skuId=a&x=1",
            "skuId=a&limit=x",
            "skuId=a&limit=-1",
        ] {
            assert_eq!(
                parse::<Wanted>(bad).expect_err(bad).code(),
                Code::InvalidRequest,
                "{bad}"
            );
        }
    }
}
