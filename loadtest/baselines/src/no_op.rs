//! The ceiling of HTTP on a machine: handlers that parse the same request, validate it and answer JSON of the same
//! shape, and do nothing in between.

use axum::Router;
use axum::body::Bytes;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use chrono::Utc;
use serde::{Deserialize, Serialize};

use crate::contract::{Level, PATH, Reserve, json, new_id, time};

pub(crate) fn router() -> Router {
    Router::new()
        .route(PATH, post(reserve))
        .route("/api/inventory", get(inventory))
}

async fn reserve(body: Bytes) -> Response {
    match Reserve::parse(&body) {
        Ok(ask) => ask.reserved(&new_id(), Level::Accepted),
        Err(invalid) => invalid.into_response(),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ask {
    sku_id: String,
    location_id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Inventory {
    sku_id: String,
    location_id: String,
    on_hand: i64,
    reserved: i64,
    unavailable: i64,
    safety_stock: i64,
    available: i64,
    sold: i64,
    damaged: i64,
    returned: i64,
    as_of: String,
    source: &'static str,
}

async fn inventory(Query(ask): Query<Ask>) -> Response {
    let body = Inventory {
        sku_id: ask.sku_id,
        location_id: ask.location_id,
        on_hand: 1_000_000,
        reserved: 0,
        unavailable: 0,
        safety_stock: 0,
        available: 1_000_000,
        sold: 0,
        damaged: 0,
        returned: 0,
        as_of: time(Utc::now()),
        source: "snapshot",
    };
    json(StatusCode::OK, &body)
}
