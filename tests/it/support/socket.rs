//! Requests word by word: any method, header and bytes, and everything that came back. For what [`super::door`] takes
//! for granted: media types, headers, bodies that are not JSON.

use std::net::SocketAddr;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::door::Door;

pub(crate) const RESERVATIONS: &str = "/api/inventory/reservations";

/// An answer, whole.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Heard {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body, where it is JSON; else null.
    pub(crate) fn body(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    pub(crate) fn replayed(&self) -> bool {
        self.header("idempotent-replayed") == Some("true")
    }

    /// Status and code of a problem that is told as RFC 9457 and the contract have it; of a success, no code.
    pub(crate) fn problem(&self) -> (u16, String) {
        let body = self.body();
        let Some(code) = body["code"].as_str() else {
            return (self.status, String::new());
        };
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        for member in ["type", "title", "detail", "traceId"] {
            assert!(
                body[member].as_str().is_some_and(|text| !text.is_empty()),
                "{member}: {body}"
            );
        }
        assert_eq!(body["status"], self.status, "{body}");
        assert!(body["retryable"].is_boolean(), "{body}");
        let trace = self.header("traceparent").unwrap_or_default();
        assert!(trace.contains(body["traceId"].as_str().unwrap_or("-")), "{self:?}");
        let come_back = self.header("retry-after").and_then(|seconds| seconds.parse().ok());
        let patience = matches!(self.status, 429 | 503);
        assert_eq!(come_back.is_some_and(|seconds: u64| seconds > 0), patience, "{self:?}");
        (self.status, code.to_owned())
    }

    /// Its reservation.
    pub(crate) fn id(&self) -> String {
        let body = self.body();
        let id = body["reservationId"].as_str();
        id.unwrap_or_else(|| panic!("no reservation in {self:?}")).to_owned()
    }
}

/// Sends these bytes with these headers, and nothing that is not named but what HTTP itself needs.
pub(crate) async fn send(
    at: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<reqwest::Body>,
) -> Heard {
    let mut all = HeaderMap::new();
    for (name, value) in headers {
        let name: HeaderName = name.parse().expect("a header name");
        all.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a header value"));
    }
    let client = Client::builder().pool_max_idle_per_host(0).build().expect("a client");
    let request = client
        .request(method, format!("http://{at}{path}"))
        .headers(all)
        .body(body);
    let response = request.send().await.expect("the gateway answers");
    Heard {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        text: response.text().await.expect("a whole answer"),
    }
}

/// Posts JSON to the public listener.
pub(crate) async fn post(door: &Door, path: &str, headers: &[(&str, &str)], body: &Value) -> Heard {
    let json = ("content-type", "application/json");
    let headers: Vec<(&str, &str)> = headers.iter().copied().chain([json]).collect();
    send(door.public, Method::POST, path, &headers, body.to_string()).await
}

/// Asks for units.
pub(crate) async fn reserve(door: &Door, headers: &[(&str, &str)], body: &Value) -> Heard {
    post(door, RESERVATIONS, headers, body).await
}

/// A reservation's body: one unit of this SKU at `wh1`, with what `extra` says of it; null takes a field away.
pub(crate) fn line(order: &str, sku: &str, extra: Value) -> Value {
    let body = json!({"orderId": order, "skuId": sku, "locationId": "wh1", "quantity": 1});
    with(body, extra)
}

/// A body with these fields too; null takes one away.
pub(crate) fn with(mut body: Value, extra: Value) -> Value {
    let fields = body.as_object_mut().expect("an object");
    for (name, value) in extra.as_object().expect("an object") {
        if value.is_null() {
            fields.remove(name);
        } else {
            fields.insert(name.clone(), value.clone());
        }
    }
    body
}

/// A sale of all `units` of a new SKU, both of this name; started unless it has a start of its own.
pub(crate) async fn put_on_sale(door: &Door, sku: &str, units: i64, extra: Value) {
    door.receive(sku, units).await;
    resell(door, sku, sku, units, extra).await;
}

/// A further sale of a SKU.
pub(crate) async fn resell(door: &Door, sale: &str, sku: &str, units: i64, extra: Value) {
    let body = json!({"saleId": sale, "skuId": sku, "locationId": "wh1", "allocation": units});
    let waits = extra.get("startsAt").is_some() || extra.get("draft").is_some();
    let body = with(with(body, extra), json!({"draft": null}));
    door.post("/admin/sales", body).await.expect(201);
    if !waits {
        door.act(sale, "start").await.expect(200);
    }
}
