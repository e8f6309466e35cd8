//! The OpenAPI 3.1 document of everything that both routers serve.
//!
//! Paths come from the routers themselves: a handler is registered together with its description. Added here: what is
//! true of every operation, the shape of its problems.

use std::sync::{Arc, LazyLock};

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use utoipa::OpenApi;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{ContentBuilder, PathItem, Ref, ResponseBuilder};
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
    for item in document.paths.paths.values_mut() {
        for operation in operations(item) {
            let problem = ContentBuilder::new()
                .schema(Some(Ref::from_schema_name("Problem")))
                .build();
            let response = ResponseBuilder::new()
                .description("A problem; `code` says which")
                .content("application/problem+json", problem)
                .build();
            let responses = &mut operation.responses.responses;
            responses.entry("default".to_owned()).or_insert_with(|| response.into());
        }
    }
    document
}

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

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "Operations", responses((status = 200, body = Object)))]
async fn openapi_json() -> Response {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT.clone()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

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
