//! What is no request: each is refused for exactly what is wrong with it, and changes nothing.

use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::door::Door;
use crate::support::gateway::Whole;
use crate::support::socket::{Heard, RESERVATIONS, line, post, put_on_sale, reserve, send, with};

const JSON: (&str, &str) = ("content-type", "application/json");

/// What bad input must leave alone: the sale, the stock, the queues, the ledger.
pub(crate) async fn everything(door: &Door) -> Value {
    let lanes = door.admin(Method::GET, "/admin/lanes", None).await.expect(200);
    let seqs: Vec<&Value> = lanes["lanes"]
        .as_array()
        .expect("lanes")
        .iter()
        .map(|lane| &lane["seq"])
        .collect();
    let (events, keys): (i64, i64) =
        sqlx::query_as("SELECT (SELECT count(*) FROM inventory_movement), (SELECT count(*) FROM inventory_key)")
            .fetch_one(&door.pool)
            .await
            .expect("Postgres answers");
    let stock = door.get("/api/inventory?skuId=a&consistency=strong").await.expect(200);
    json!({"sale": door.sale("a").await, "seqs": seqs, "events": events, "keys": keys, "onHand": stock["onHand"]})
}

/// A gateway that sells ten units of `a`.
pub(crate) async fn open() -> Whole {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "a", 10, json!({})).await;
    whole
}

/// `INVALID_REQUEST` that names this field, or none.
fn invalid(heard: &Heard, field: Option<&str>, sent: &str) {
    assert_eq!(heard.problem(), (400, "INVALID_REQUEST".into()), "{sent}");
    assert_eq!(heard.body()["field"].as_str(), field, "{sent}: {}", heard.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_is_checked_field_by_field() {
    let whole = open().await;
    let before = everything(&whole).await;
    let long = "x".repeat(129);
    let table = [
        ("orderId", json!("")),
        ("orderId", json!(long)),
        ("orderId", json!("a b")),
        ("orderId", json!("a/b")),
        ("orderId", json!("\u{e4}")),
        ("orderId", json!("a\u{0}")),
        ("orderId", json!("a\nb")),
        ("orderId", json!(7)),
        ("orderId", json!(["o"])),
        ("skuId", json!("")),
        ("skuId", json!("events")),
        ("skuId", json!("..")),
        ("skuId", json!({"a": 1})),
        ("locationId", json!("")),
        ("locationId", json!("w h")),
        ("locationId", json!(false)),
        ("userId", json!("")),
        ("userId", json!(long)),
        ("userId", json!("u\u{7f}")),
        ("quantity", json!(0)),
        ("quantity", json!(-1)),
        ("quantity", json!(1_000_001)),
        ("quantity", json!(1.5)),
        ("quantity", json!(4_294_967_297_u64)),
        ("quantity", json!(u64::MAX)),
        ("quantity", json!(i64::MIN)),
        ("quantity", json!(1e300)),
        ("quantity", json!("1")),
        ("quantity", json!(true)),
        ("quantity", json!([1])),
        ("ttlSeconds", json!(0)),
        ("ttlSeconds", json!(-5)),
        ("ttlSeconds", json!(0.5)),
        ("ttlSeconds", json!(4_294_968)),
        ("ttlSeconds", json!(u64::MAX)),
        ("ttlSeconds", json!("60")),
        ("idemKey", json!("")),
        ("idemKey", json!("x".repeat(256))),
        ("idemKey", json!("k\u{1}")),
        ("idemKey", json!("\u{fc}")),
        ("idemKey", json!(5)),
        ("colour", json!("red")),
        ("orderID", json!("o2")),
        ("__proto__", json!({})),
    ];
    for (field, value) in table {
        // A fresh table of one line: null takes nothing away here.
        let mut body = line("o1", "a", json!({}));
        body[field] = value;
        invalid(&reserve(&whole, &[], &body).await, Some(field), &body.to_string());
    }
    for field in ["orderId", "skuId", "quantity"] {
        let mut body = line("o1", "a", json!({}));
        invalid(
            &reserve(&whole, &[], &with(body.clone(), json!({field: null}))).await,
            Some(field),
            "missing",
        );
        body[field] = Value::Null;
        invalid(&reserve(&whole, &[], &body).await, Some(field), "null");
    }
    assert_eq!(everything(&whole).await, before);
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_one_json_object_of_a_bounded_size() {
    let whole = open().await;
    let before = everything(&whole).await;
    let good = line("o1", "a", json!({})).to_string();
    let deep = format!("{}1{}", "{\"orderId\":".repeat(200), "}".repeat(200));
    let table: Vec<(Vec<u8>, Option<&str>)> = vec![
        (Vec::new(), None),
        (b" \r\n\t".to_vec(), None),
        (b"{".to_vec(), None),
        (b"null".to_vec(), None),
        (b"\"o1\"".to_vec(), None),
        (format!("[{good}]").into_bytes(), None),
        (b"[\"o1\",\"a\",\"wh1\",1]".to_vec(), None),
        (format!("{good}{good}").into_bytes(), None),
        (format!("{good} x").into_bytes(), None),
        (format!("\u{feff}{good}").into_bytes(), None),
        (good.replace('"', "'").into_bytes(), None),
        (good.replace('}', ",}").into_bytes(), None),
        (good.replace('}', ",\"quantity\":2}").into_bytes(), Some("quantity")),
        (good.replace(":1", ":1e400").into_bytes(), Some("quantity")),
        (good.replace(":1", ":NaN").into_bytes(), Some("quantity")),
        (good.replace(":1", ":01").into_bytes(), None),
        (
            good.replace(":1", ":99999999999999999999999999999999999999")
                .into_bytes(),
            Some("quantity"),
        ),
        (good.replace("o1", "\\ud800").into_bytes(), Some("orderId")),
        (good.replace("o1", "\t").into_bytes(), Some("orderId")),
        (good.replace("o1", "\\u0000").into_bytes(), Some("orderId")),
        (deep.into_bytes(), Some("orderId")),
        ([&b"{\"orderId\":\"\xff\""[..], b"}"].concat(), Some("orderId")),
        ("[".repeat(60_000).into_bytes(), None),
    ];
    for (body, field) in table {
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let heard = send(whole.public, Method::POST, RESERVATIONS, &[JSON], body).await;
        assert_eq!(
            heard.problem(),
            (400, "INVALID_REQUEST".into()),
            "{shown}: {}",
            heard.text
        );
        // Where the text is no JSON, how far it was understood is the parser's affair.
        if field.is_some() {
            assert_eq!(heard.body()["field"].as_str(), field, "{shown}: {}", heard.text);
        }
    }
    let padded = |bytes: usize| format!("{}{}", " ".repeat(bytes - good.len()), good);
    let large = send(whole.public, Method::POST, RESERVATIONS, &[JSON], padded(65_537)).await;
    assert_eq!(large.problem(), (413, "BODY_TOO_LARGE".into()));
    let chunk = || Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(&[b' '; 1000])));
    let chunks = reqwest::Body::wrap(StreamBody::new(futures::stream::iter((0..70).map(move |_| chunk()))));
    let streamed = send(whole.public, Method::POST, RESERVATIONS, &[JSON], chunks).await;
    assert_eq!(
        streamed.problem(),
        (413, "BODY_TOO_LARGE".into()),
        "without Content-Length too"
    );
    for media in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=latin1",
        "application/xml",
    ] {
        let heard = send(
            whole.public,
            Method::POST,
            RESERVATIONS,
            &[("content-type", media)],
            good.clone(),
        )
        .await;
        assert_eq!(heard.problem(), (415, "UNSUPPORTED_MEDIA_TYPE".into()), "{media}");
    }
    let bare = send(whole.public, Method::POST, RESERVATIONS, &[], good.clone()).await;
    assert_eq!(bare.problem(), (415, "UNSUPPORTED_MEDIA_TYPE".into()));
    assert_eq!(everything(&whole).await, before);
    let just = send(whole.public, Method::POST, RESERVATIONS, &[JSON], padded(65_536)).await;
    assert_eq!(just.status, 201, "64 KiB are within: {}", just.text);
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_paths_and_methods_are_checked() {
    let whole = open().await;
    let before = everything(&whole).await;
    let long = "k".repeat(256);
    for headers in [
        &[("idempotency-key", "a"), ("x-idempotency-key", "b")][..],
        &[("idempotency-key", "a"), ("idempotency-key", "b")],
        &[("idempotency-key", "")],
        &[("idempotency-key", "\"\"")],
        &[("idempotency-key", &long)],
        &[("x-idempotency-key", "\u{fc}")],
    ] {
        let heard = reserve(&whole, headers, &line("o1", "a", json!({}))).await;
        assert_eq!(heard.problem(), (400, "INVALID_REQUEST".into()), "{headers:?}");
        let path = format!("{RESERVATIONS}/x/extend");
        let heard = post(&whole, &path, headers, &json!({"ttlSeconds": 1})).await;
        assert_eq!(heard.problem(), (400, "INVALID_REQUEST".into()), "{headers:?}");
    }
    let both = reserve(
        &whole,
        &[("idempotency-key", "a")],
        &line("o1", "a", json!({"idemKey": "b"})),
    )
    .await;
    invalid(&both, Some("idemKey"), "two keys");
    for (method, path) in [
        (Method::DELETE, RESERVATIONS),
        (Method::GET, RESERVATIONS),
        (Method::PUT, RESERVATIONS),
        (Method::POST, "/api/inventory"),
        (Method::GET, "/api/inventory/reservations/x/commit"),
        (Method::PATCH, "/healthz"),
    ] {
        let heard = send(whole.public, method.clone(), path, &[JSON], "{}").await;
        assert_eq!(heard.problem(), (405, "METHOD_NOT_ALLOWED".into()), "{method} {path}");
        assert!(
            heard
                .header("allow")
                .is_some_and(|allow| !allow.contains(method.as_str())),
            "{method} {path}: {heard:?}"
        );
    }
    for path in [
        "/",
        "/api",
        "/api/inventory/a/b/c",
        "/admin/sales",
        "/metrics",
        "/api/inventory/reservations/x/buy",
        "//",
    ] {
        let heard = send(whole.public, Method::GET, path, &[], "").await;
        assert_eq!(heard.problem(), (404, "NOT_FOUND".into()), "{path}");
    }
    for (path, field) in [
        ("/api/inventory", "skuId"),
        ("/api/inventory?skuId=", "skuId"),
        ("/api/inventory?skuId=a%00", "skuId"),
        ("/api/inventory?skuId=%ff", "skuId"),
        ("/api/inventory?skuId=a&skuId=b", "skuId"),
        ("/api/inventory?skuId=a&locationId=w%20h", "locationId"),
        ("/api/inventory?skuId=a&colour=red", "colour"),
        ("/api/inventory?skuId=a&consistency=weak", "consistency"),
        ("/api/inventory/a?locationId=wh1", "locationId"),
        ("/api/inventory/a?consistency=weak", "consistency"),
        ("/api/inventory/%ff", "skuId"),
        ("/api/inventory/a%20b", "skuId"),
        ("/api/inventory/events", "skuId"),
    ] {
        invalid(&send(whole.public, Method::GET, path, &[], "").await, Some(field), path);
    }
    for id in [
        "x",
        "%00",
        "..%2f..",
        "%f0%9f%92%a9",
        &"z".repeat(5000),
        "'; DROP TABLE sale; --".replace(' ', "%20").as_str(),
    ] {
        let path = format!("{RESERVATIONS}/{id}");
        assert_eq!(
            send(whole.public, Method::GET, &path, &[], "").await.problem().0,
            404,
            "{id}"
        );
        assert_eq!(
            post(&whole, &format!("{path}/commit"), &[], &json!({}))
                .await
                .problem()
                .0,
            404,
            "{id}"
        );
        let extend = post(&whole, &format!("{path}/extend"), &[], &json!({"ttlSeconds": 1})).await;
        assert_eq!(extend.problem(), (404, "UNKNOWN_RESERVATION".into()), "{id}");
    }
    for (path, body, field) in [
        ("commit", json!({"paymentId": "p\u{0}"}), "paymentId"),
        ("commit", json!({"paymentId": "p".repeat(256)}), "paymentId"),
        ("commit", json!({"paymentId": 1}), "paymentId"),
        ("commit", json!({"amount": 1}), "amount"),
        ("release", json!({"reason": ["x"]}), "reason"),
        ("release", json!({"paymentId": "p"}), "paymentId"),
        ("extend", json!({}), "ttlSeconds"),
    ] {
        invalid(
            &post(&whole, &format!("{RESERVATIONS}/x/{path}"), &[], &body).await,
            Some(field),
            &body.to_string(),
        );
    }
    for (path, body, field) in [
        ("reserve", json!({"orderId": "o1", "skuId": "a"}), "qty"),
        (
            "reserve",
            json!({"orderId": "o1", "skuId": "a", "quantity": 1}),
            "quantity",
        ),
        ("reserve", json!({"orderId": "o1", "skuId": "a", "qty": 0}), "qty"),
        ("confirm", json!({}), "reservationId"),
        ("confirm", json!({"reservationId": 1}), "reservationId"),
        ("release", json!({"reason": "x"}), "reservationId"),
    ] {
        invalid(
            &post(&whole, &format!("/api/inventory/{path}"), &[], &body).await,
            Some(field),
            &body.to_string(),
        );
    }
    assert_eq!(everything(&whole).await, before);
    whole.settled().await;
    whole.stop().await;
}
