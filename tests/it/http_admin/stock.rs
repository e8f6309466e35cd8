//! Catalogue, adjustments and stock reads.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::door::{Buy, Told};
use crate::support::gateway::Whole;

fn adjustment(delta: i64, reason: &str) -> Value {
    json!({"skuId": "hot", "locationId": "wh1", "delta": delta, "reason": reason})
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adjustment_shows_the_balance_before_and_after_and_happens_once() {
    let whole = Whole::open().await;
    let mut body = adjustment(-7, "damaged");
    body["referenceId"] = "ref-1".into();
    let path = "/api/inventory/adjustments";
    let first = whole
        .admin_with(Method::POST, path, body.clone(), &[("X-Operator", "ann")])
        .await
        .expect(201);
    assert_eq!(first["referenceId"], "ref-1");
    let image = |unavailable: i64| {
        json!({"onHand": 100, "reserved": 0, "unavailable": unavailable, "safetyStock": 0, "escrowed": 0, "sold": 0,
               "damaged": unavailable, "returned": 0, "available": 100 - unavailable})
    };
    assert_eq!((&first["before"], &first["after"]), (&image(0), &image(7)));
    let operator: String = sqlx::query_scalar("SELECT operator FROM inventory_movement WHERE event_id = $1")
        .bind(first["eventId"].as_i64())
        .fetch_one(&whole.pool)
        .await
        .expect("its event");
    assert_eq!(operator, "ann");
    let again = whole.post(path, body.clone()).await;
    assert!(again.replayed);
    assert_eq!(again.expect(201), first);
    body["delta"] = (-8).into();
    assert_eq!(whole.post(path, body).await.problem(), (422, "IDEMPOTENCY_KEY_REUSED"));
    let key = [("Idempotency-Key", "\"k\"")];
    let received = whole
        .admin_with(Method::POST, path, adjustment(5, "stock_received"), &key)
        .await;
    let again = whole
        .admin_with(Method::POST, path, adjustment(5, "stock_received"), &key)
        .await;
    assert!(!received.replayed && again.replayed);
    assert_eq!(received.expect(201), again.expect(201));
    let other = whole
        .admin_with(Method::POST, path, adjustment(6, "stock_received"), &key)
        .await;
    assert_eq!(other.problem(), (422, "IDEMPOTENCY_KEY_REUSED"));
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_adjustment_can_not_do_is_said_by_field_or_code() {
    let whole = Whole::open().await;
    for (delta, reason) in [
        (0, "manual_correction"),
        (5, "damaged"),
        (5, "lost"),
        (-5, "stock_received"),
        (-5, "return_processed"),
        (1_000_001, "stock_received"),
    ] {
        let told = whole
            .post("/api/inventory/adjustments", adjustment(delta, reason))
            .await;
        assert_eq!(told.problem(), (400, "INVALID_REQUEST"), "{delta} {reason}");
        assert_eq!(told.body["field"], "delta");
    }
    let told = whole.post("/api/inventory/adjustments", adjustment(1, "found")).await;
    assert_eq!(
        (told.problem(), &told.body["field"]),
        ((400, "INVALID_REQUEST"), &json!("reason"))
    );
    let told = whole.post("/api/inventory/adjustments", adjustment(-101, "lost")).await;
    assert_eq!(told.problem(), (409, "INSUFFICIENT_STOCK"));
    assert_eq!(
        (&told.body["onHand"], &told.body["available"]),
        (&json!(100), &json!(100))
    );
    for (field, value, code) in [
        ("skuId", "cold", "UNKNOWN_SKU"),
        ("locationId", "wh9", "UNKNOWN_LOCATION"),
    ] {
        let mut body = adjustment(1, "stock_received");
        body[field] = value.into();
        assert_eq!(
            whole.post("/api/inventory/adjustments", body).await.problem(),
            (404, code)
        );
    }
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_reads_as_the_contract_says() {
    let whole = Whole::open().await;
    let place = json!({"name": "Two", "kind": "store", "region": "eu", "latitude": 52.5, "active": true});
    whole.put("/admin/locations/wh2", place).await.expect(200);
    let kept = whole
        .put("/admin/skus/hot", json!({"display": "limited", "safetyStock": 10}))
        .await
        .expect(200);
    assert_eq!((&kept["skuId"], &kept["safetyStock"]), (&json!("hot"), &json!(10)));
    whole
        .put("/admin/skus/hot/locations/wh2", json!({"safetyStock": 3}))
        .await
        .expect(200);
    let mut one = whole
        .get("/api/inventory?skuId=hot&locationId=wh1&consistency=strong")
        .await
        .expect(200);
    let as_of = one.as_object_mut().expect("an object").remove("asOf");
    assert!(as_of.is_some_and(|at| at.is_string()));
    assert_eq!(
        one,
        json!({"skuId": "hot", "locationId": "wh1", "onHand": 100, "reserved": 0, "unavailable": 0, "safetyStock": 10,
               "available": 90, "sold": 0, "damaged": 0, "returned": 0, "source": "ledger"})
    );
    let all = whole
        .get("/api/inventory?skuId=hot&consistency=strong")
        .await
        .expect(200);
    assert_eq!(
        (&all["onHand"], &all["safetyStock"], &all["available"]),
        (&json!(100), &json!(13), &json!(90))
    );
    assert_eq!(all["locations"][1]["locationId"], "wh2");
    assert_eq!(
        (&all["locations"][0]["available"], all.get("locationId")),
        (&json!(90), None)
    );
    let short = whole.get("/api/inventory/hot?consistency=strong").await.expect(200);
    assert_eq!(
        (&short["available"], &short["reserved"], &short["sold"]),
        (&json!(90), &json!(0), &json!(0))
    );
    let changed: String = sqlx::query_scalar(
        "SELECT to_char(max(updated_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') FROM inventory_balance",
    )
    .fetch_one(&whole.pool)
    .await
    .expect("reads");
    assert_eq!(short["updatedAt"], changed);
    whole
        .put("/admin/skus/new", json!({"display": "exact"}))
        .await
        .expect(200);
    let none = whole.get("/api/inventory?skuId=new&locationId=wh1").await.expect(200);
    assert_eq!((&none["onHand"], &none["available"]), (&json!(0), &json!(0)));
    for (path, problem) in [
        ("/api/inventory?skuId=cold", (404, "UNKNOWN_SKU")),
        ("/api/inventory/cold", (404, "UNKNOWN_SKU")),
        ("/api/inventory?skuId=hot&locationId=wh9", (404, "UNKNOWN_LOCATION")),
        ("/api/inventory", (400, "INVALID_REQUEST")),
        ("/api/inventory?skuId=hot&consistency=weak", (400, "INVALID_REQUEST")),
        ("/api/inventory?skuId=hot&x=1", (400, "INVALID_REQUEST")),
        ("/api/inventory/a%20b", (400, "INVALID_REQUEST")),
    ] {
        assert_eq!(whole.get(path).await.problem(), problem, "{path}");
    }
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalogue_write_is_checked_field_by_field() {
    let whole = Whole::open().await;
    let place = |field: &str, value: Value| {
        let mut body = json!({"name": "Two", "kind": "store", "region": "eu", "active": true});
        body[field] = value;
        body
    };
    for kind in ["warehouse", "store", "fulfillment_center", "region", "seller_location"] {
        let told = whole.put("/admin/locations/wh3", place("kind", json!(kind))).await;
        assert_eq!(told.expect(200)["kind"], kind);
    }
    for (field, value) in [
        ("latitude", json!(91)),
        ("longitude", json!(-180.5)),
        ("kind", json!("shed")),
        ("name", json!("")),
        ("dailyCapacity", json!(-1)),
        ("shippingCost", json!(-0.5)),
        ("colour", json!("red")),
    ] {
        let told = whole.put("/admin/locations/wh2", place(field, value)).await;
        assert_eq!(
            (told.problem(), &told.body["field"]),
            ((400, "INVALID_REQUEST"), &json!(field))
        );
    }
    for (path, named) in [
        ("/admin/locations/w%20h", "locationId"),
        ("/admin/skus/events", "skuId"),
        ("/admin/skus/h%00t/locations/wh1", "skuId"),
        ("/admin/skus/hot/locations/w%2fh", "locationId"),
    ] {
        // The path is read first: the body does not matter.
        let told = whole.put(path, json!({})).await;
        assert_eq!(
            (told.problem(), &told.body["field"]),
            ((400, "INVALID_REQUEST"), &json!(named)),
            "{path}"
        );
    }
    let told = whole
        .put("/admin/skus/hot", json!({"display": "exact", "safetyStock": -1}))
        .await;
    assert_eq!(told.body["field"], "safetyStock");
    let told = whole
        .put("/admin/skus/cold/locations/wh1", json!({"safetyStock": 1}))
        .await;
    assert_eq!(told.problem(), (404, "UNKNOWN_SKU"));
    whole.stop().await;
}

/// Whoever needs units of it lowers it first.
#[tokio::test(flavor = "multi_thread")]
async fn safety_stock_is_neither_reserved_nor_put_on_sale_nor_sent_elsewhere() {
    let whole = Whole::open().await;
    let place = json!({"name": "Another", "kind": "store", "region": "eu", "active": true});
    whole.put("/admin/locations/wh2", place).await.expect(200);
    let keep = async |units: i64| {
        let body = json!({"display": "exact", "safetyStock": units});
        whole.put("/admin/skus/hot", body).await.expect(200);
    };
    keep(10).await;
    let refused = |told: &Told, available: i64| {
        assert_eq!(told.problem(), (409, "INSUFFICIENT_STOCK"));
        let said = (&told.body["available"], &told.body["safetyStock"]);
        assert_eq!(said, (&json!(available), &json!(10)), "{told:?}");
    };
    // Neither a line nor a cart has it.
    let told = whole.reserve(&Buy::of("o1").units(91)).await;
    assert_eq!(
        (told.problem(), &told.body["available"]),
        ((409, "INSUFFICIENT_STOCK"), &json!(90))
    );
    whole
        .put("/admin/skus/cold", json!({"display": "exact"}))
        .await
        .expect(200);
    let line = |sku: &str, units: i64| json!({"skuId": sku, "locationId": "wh1", "quantity": units});
    whole.receive("cold", 1).await;
    let cart = json!({"orderId": "o1", "lines": [line("hot", 91), line("cold", 1)]});
    let told = whole.shop("/api/inventory/reservations", cart).await;
    assert_eq!(
        (told.problem(), &told.body["lines"][0]["available"]),
        ((409, "INSUFFICIENT_STOCK"), &json!(90))
    );
    let all = whole.reserve(&Buy::of("o1").units(90)).await.expect(201);
    let id = all["reservationId"].as_str().expect("an id");
    whole.release(id).await.expect(200);
    let sale = |units: i64| json!({"saleId": "s", "skuId": "hot", "locationId": "wh1", "allocation": units});
    refused(&whole.post("/admin/sales", sale(91)).await, 90);
    whole.post("/admin/sales", sale(80)).await.expect(201);
    let resize = async |units: i64| whole.patch("/admin/sales/s", json!({"allocation": units})).await;
    refused(&resize(91).await, 10);
    resize(85).await.expect(200);
    let send = async |id: &str, units: i64| {
        let body = json!({"transferId": id, "skuId": "hot", "fromLocationId": "wh1", "toLocationId": "wh2",
                          "quantity": units});
        whole.post("/api/inventory/transfers", body).await
    };
    refused(&send("t1", 6).await, 5);
    send("t1", 5).await.expect(201);
    refused(&send("t2", 1).await, 0);
    keep(9).await;
    send("t2", 1).await.expect(201);
    whole.settled().await;
    whole.stop().await;
}
