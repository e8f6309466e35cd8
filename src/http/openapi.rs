//! The OpenAPI 3.1 document of everything that both routers serve.
//!
//! Paths come from the routers themselves: a handler is registered together with its description. Added here: what is
//! true of every operation, or of every write: the shape of its problems, and headers.

use std::sync::{Arc, LazyLock};

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use utoipa::OpenApi;
use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::Type;
use utoipa::openapi::{ContentBuilder, Object, Ref, RefOr, Required, ResponseBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Gateway;
use super::problem::ProblemBody;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "flashgate",
        description = "Reservations for flash sales: Redis decides, Postgres confirms. Errors are RFC 9457 problems; \
                       switch on their `code`. Checkout and Reading are on the public listener; Stock and Admin on \
                       the admin one."
    ),
    tags(
        (name = "Checkout", description = "Reserve, then commit, release or extend."),
        (name = "Reading", description = "Stock and orders, as they are shown to customers."),
        (name = "Stock", description = "What comes in and goes out of the warehouses."),
        (name = "Admin", description = "The catalogue, sales, lanes, quarantine and reconciliation."),
        (name = "Operations", description = "Health, metrics, this document."),
    ),
    components(schemas(ProblemBody))
)]
struct Frame;

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document_json().into());

/// Both listeners: `/openapi.json`.
pub(super) fn routes() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new().routes(routes!(openapi_json))
}

/// The document, as JSON for people and programs.
///
/// # Panics
/// Never: the document is plain data with text keys.
#[must_use]
pub fn document_json() -> String {
    document().to_pretty_json().expect("plain data is JSON")
}

fn document() -> utoipa::openapi::OpenApi {
    let mut document = Frame::openapi();
    document.merge(super::public_routes().into_openapi());
    document.merge(super::admin_routes().into_openapi());
    for (path, item) in &mut document.paths.paths {
        item.get.iter_mut().for_each(add_problem);
        let writes = [&mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
        for write in writes.into_iter().flatten() {
            add_problem(write);
            add_headers(path, write);
        }
    }
    document
}

fn add_problem(operation: &mut Operation) {
    let problem = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .build();
    let after = "Seconds after which the request may fare better";
    let response = ResponseBuilder::new()
        .description("A problem; `code` says which")
        .content("application/problem+json", problem)
        .header("Retry-After", told(Type::Integer, after))
        .build();
    let responses = &mut operation.responses.responses;
    responses.entry("default".to_owned()).or_insert_with(|| response.into());
}

/// The headers that a write takes, and that its answers have.
fn add_headers(path: &str, write: &mut Operation) {
    let is_of = |tag: &str| write.tags.iter().flatten().any(|its| its == tag);
    let by_operator = is_of("Stock") || is_of("Admin");
    let mut taken = vec![(
        "traceparent",
        "W3C trace context: its trace id is told in the answer, in the log and in the ledger",
    )];
    if by_operator {
        taken.push((
            "X-Operator",
            "Who does this, until there is authentication; `admin` without it",
        ));
    }
    if is_of("Checkout") && path.contains("/reserv") && !path.contains('{') {
        taken.push((
            "Prefer",
            "`respond-async`: answer as soon as it is accepted; `wait=N`: within so many seconds, up to 30, as durable",
        ));
    }
    // A hold that was prolonged twice is prolonged.
    if !path.ends_with("/extend") {
        taken.push((
            "Idempotency-Key",
            "The same key with the same request: the first answer again; with another request: 422",
        ));
        taken.push(("X-Idempotency-Key", "The same under another name; both must agree"));
        for (status, response) in &mut write.responses.responses {
            if let RefOr::T(response) = response
                && status.starts_with('2')
            {
                let replayed = told(Type::Boolean, "`true`: the first answer again");
                response.headers.insert("Idempotent-Replayed".to_owned(), replayed);
            }
        }
    }
    let parameters = taken.into_iter().map(|(name, description)| {
        ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(description))
            .schema(Some(Object::with_type(Type::String)))
            .build()
    });
    write.parameters.get_or_insert_default().extend(parameters);
}

fn told(kind: Type, description: &str) -> Header {
    HeaderBuilder::new()
        .schema(Object::with_type(kind))
        .description(Some(description))
        .build()
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "Operations", responses((status = 200, body = Object)))]
async fn openapi_json() -> Response {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT.clone()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use utoipa::openapi::PathItem;

    fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
        let all = [
            &mut item.get,
            &mut item.put,
            &mut item.post,
            &mut item.patch,
            &mut item.delete,
        ];
        all.into_iter().filter_map(Option::as_mut)
    }

    #[test]
    fn every_operation_is_documented_in_full() {
        let mut document = document();
        assert_eq!(serde_json::to_value(&document.openapi).expect("JSON"), "3.1.0");
        let tags: BTreeSet<String> = document.tags.iter().flatten().map(|tag| tag.name.clone()).collect();
        let mut ids = BTreeSet::new();
        for (path, item) in &mut document.paths.paths {
            for operation in operations(item) {
                assert!(operation.summary.is_some(), "{path} has a summary");
                let its = operation.tags.clone().unwrap_or_default();
                assert!(
                    its.len() == 1 && its.iter().all(|tag| tags.contains(tag)),
                    "{path} has one known tag"
                );
                let id = operation.operation_id.clone().expect("an id");
                assert!(ids.insert(id.clone()), "{id} names one operation");
            }
        }
        assert!(ids.contains("readyz"));
    }

    #[test]
    fn writes_tell_their_headers() {
        let document = serde_json::to_value(document()).expect("JSON");
        let headers = |path: &str, method: &str| -> BTreeSet<String> {
            let parameters = document["paths"][path][method]["parameters"].as_array().cloned();
            let of_header = |parameter: &serde_json::Value| {
                let name = parameter["name"].as_str().expect("a name").to_owned();
                (parameter["in"] == "header").then_some(name)
            };
            parameters.unwrap_or_default().iter().filter_map(of_header).collect()
        };
        let key = ["Idempotency-Key", "X-Idempotency-Key", "traceparent"];
        let with = |more: &[&str]| key.iter().chain(more).map(ToString::to_string).collect::<BTreeSet<_>>();
        let by_id = "/api/inventory/reservations/{reservationId}";
        assert_eq!(headers("/api/inventory/reservations", "post"), with(&["Prefer"]));
        assert_eq!(headers("/api/inventory/reserve", "post"), with(&["Prefer"]));
        assert_eq!(headers(&format!("{by_id}/commit"), "post"), with(&[]));
        assert_eq!(
            headers(&format!("{by_id}/extend"), "post"),
            BTreeSet::from(["traceparent".to_owned()])
        );
        assert_eq!(headers("/api/inventory/adjustments", "post"), with(&["X-Operator"]));
        assert_eq!(headers("/admin/sales/{saleId}", "patch"), with(&["X-Operator"]));
        assert_eq!(headers("/api/inventory", "get"), BTreeSet::new());
        let answer = &document["paths"]["/api/inventory/reservations"]["post"]["responses"];
        assert_eq!(
            answer["201"]["headers"]["Idempotent-Replayed"]["schema"]["type"],
            "boolean"
        );
        assert_eq!(answer["default"]["headers"]["Retry-After"]["schema"]["type"], "integer");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = serde_json::to_value(document()).expect("JSON");
        let text = document.to_string();
        for part in text.split("\"#/components/schemas/").skip(1) {
            let name = part.split('"').next().expect("a name");
            assert!(
                document["components"]["schemas"].get(name).is_some(),
                "{name} is described"
            );
        }
    }
}
