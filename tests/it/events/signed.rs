//! Every movement says what it moved, for which order, on whose word, why, and under which request's trace.

use reqwest::Method;
use serde_json::{Value, json};

use crate::reconciliation::{COUNTS, moment};
use crate::support::door::{Door, until};
use crate::support::gateway::Whole;
use crate::support::socket::post;

const RESERVATIONS: &str = "/api/inventory/reservations";
const ADJUSTMENTS: &str = "/api/inventory/adjustments";

/// Calls under traces of their own, from 1 on.
struct Desk<'a> {
    door: &'a Door,
    calls: u32,
}

impl Desk<'_> {
    fn parent(&mut self) -> String {
        self.calls += 1;
        format!("00-{:032x}-b7ad6b7169203331-01", self.calls)
    }

    /// Of a shop; it also says that it is an operator, which nobody believes.
    async fn shop(&mut self, path: &str, body: Value) -> Value {
        let parent = self.parent();
        let headers = [
            ("traceparent", parent.as_str()),
            ("prefer", "wait=10"),
            ("x-operator", "mallory"),
        ];
        let heard = post(self.door, path, &headers, &body).await;
        assert!(heard.status < 300, "{path}: {}", heard.text);
        heard.body()
    }

    async fn admin(&mut self, person: &str, method: Method, path: &str, body: Value) -> Value {
        let parent = self.parent();
        let headers = [("traceparent", parent.as_str()), ("x-operator", person)];
        let told = self.door.admin_with(method, path, body, &headers).await;
        assert!(told.status < 300, "{path}: {told:?}");
        told.body
    }

    async fn ann(&mut self, path: &str, body: Value) -> Value {
        self.admin("ann", Method::POST, path, body).await
    }

    async fn reserve(&mut self, order: &str, extra: Value) -> String {
        let body = json!({"orderId": order, "skuId": "hot", "locationId": "wh1", "quantity": 1});
        let told = self.shop(RESERVATIONS, crate::support::socket::with(body, extra)).await;
        told["reservationId"].as_str().expect("an id").to_owned()
    }

    async fn end(&mut self, id: &str, word: &str, body: Value) {
        self.shop(&format!("{RESERVATIONS}/{id}/{word}"), body).await;
    }

    async fn until_expired(&self, id: &str) {
        until("the expiry", async || {
            (self.door.reservation(id).await.body["status"] == "EXPIRED").then_some(())
        })
        .await;
    }

    /// All events, by trace and in order, each in a line.
    async fn told(&self) -> Vec<String> {
        sqlx::query_scalar(
            "SELECT concat_ws(' ', ltrim(replace(trace_id::text, '-', ''), '0'), replace(event_type::text, 'inventory_', ''),
                 sku_id, location_id, coalesce(order_id, '-'), coalesce(operator, '-'), coalesce(reason, '-'),
                 coalesce(reference_id, '-'))
             FROM inventory_movement ORDER BY trace_id, event_id",
        )
        .fetch_all(&self.door.pool)
        .await
        .expect("reads")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_movement_is_signed() {
    let whole = Whole::empty().await;
    let desk = &mut Desk { door: &whole, calls: 0 };
    for place in ["wh1", "wh2"] {
        let body = json!({"name": place, "kind": "warehouse", "region": "eu", "active": true});
        whole.put(&format!("/admin/locations/{place}"), body).await.expect(200);
    }
    whole
        .put("/admin/skus/hot", json!({"display": "exact"}))
        .await
        .expect(200);
    let adjust = |reference: &str, delta: i64, reason: &str| json!({"skuId": "hot", "locationId": "wh1", "delta": delta, "reason": reason, "referenceId": reference});
    // The warehouse.
    desk.ann(ADJUSTMENTS, adjust("a1", 3_000, "stock_received")).await;
    desk.ann(ADJUSTMENTS, adjust("a2", -1, "damaged")).await;
    let wrong = desk.ann(ADJUSTMENTS, adjust("a3", -2, "lost")).await;
    let undo = format!("/admin/events/{}/undo", wrong["eventId"]);
    desk.admin("bob", Method::POST, &undo, json!({})).await;
    let large = desk.ann(ADJUSTMENTS, adjust("a4", -2_000, "manual_correction")).await;
    let approve = format!(
        "/admin/approvals/{}/approve",
        large["approvalId"].as_str().expect("an id")
    );
    desk.admin("bob", Method::POST, &approve, json!({})).await;
    let transfer = json!({"transferId": "t1", "skuId": "hot", "fromLocationId": "wh1", "toLocationId": "wh2",
                          "quantity": 5});
    desk.ann("/api/inventory/transfers", transfer).await;
    let path = "/admin/skus/hot/locations/wh1";
    desk.admin("ann", Method::PUT, path, json!({"safetyStock": 7})).await;
    let at = moment(&whole).await;
    let lines = json!([{"skuId": "hot", "counted": 994}]);
    let count = json!({"countId": "c1", "source": "warehouse", "locationId": "wh1", "countedAt": at, "lines": lines});
    desk.ann(COUNTS, count).await;
    // Checkout, off sale and on sale.
    for (sale, order) in [(false, "off"), (true, "on")] {
        if sale {
            let body = json!({"saleId": "s", "skuId": "hot", "locationId": "wh1", "allocation": 10});
            desk.ann("/admin/sales", body).await;
            desk.ann("/admin/sales/s/start", json!({})).await;
        }
        let of = |what: &str| format!("{order}-{what}");
        let bought = desk.reserve(&of("bought"), json!({})).await;
        desk.end(&bought, "commit", json!({"paymentId": "p1"})).await;
        let back = json!({"returnId": of("r1"), "condition": "sellable", "reason": "too small"});
        desk.end(&bought, "returns", back).await;
        let dropped = desk.reserve(&of("dropped"), json!({})).await;
        desk.end(&dropped, "release", json!({"reason": "changed my mind"}))
            .await;
        let late = desk.reserve(&of("late"), json!({"ttlSeconds": 1})).await;
        desk.until_expired(&late).await;
        desk.end(&late, "commit", json!({"paymentId": "p2"})).await;
    }
    desk.admin("ann", Method::PATCH, "/admin/sales/s", json!({"allocation": 12}))
        .await;
    desk.ann("/admin/sales/s/stop", json!({})).await;
    whole.settled().await;
    let mut told = desk.told().await;
    // Units come home in as many steps as it takes.
    told.dedup();
    let expected = [
        "1 received hot wh1 - ann stock_received a1",
        "2 damaged hot wh1 - ann damaged a2",
        "3 adjusted hot wh1 - ann lost a3",
        "4 adjusted hot wh1 - bob manual_correction a3",
        // Who asked; that bob agreed stands in its metadata.
        "5 adjusted hot wh1 - ann manual_correction a4",
        "7 transferred hot wh1 - ann transfer t1",
        "7 transferred hot wh2 - ann transfer t1",
        "8 adjusted hot wh1 - ann safety_stock -",
        "9 adjusted hot wh1 - ann cycle_count_correction c1",
        "a reserved hot wh1 off-bought - - -",
        "b committed hot wh1 off-bought - - p1",
        "c returned hot wh1 off-bought - return_sellable off-r1",
        "d reserved hot wh1 off-dropped - - -",
        "e released hot wh1 off-dropped - changed my mind -",
        // Nobody asks for an expiry: it has the trace of what expires.
        "f reserved hot wh1 off-late - - -",
        "f expired hot wh1 off-late - - -",
        "10 reserved hot wh1 off-late - late_payment p2",
        "10 committed hot wh1 off-late - - p2",
        "11 adjusted hot wh1 - ann escrowed s",
        "13 reserved hot wh1 on-bought - - -",
        "14 committed hot wh1 on-bought - - p1",
        "15 returned hot wh1 on-bought - return_sellable on-r1",
        "16 reserved hot wh1 on-dropped - - -",
        "17 released hot wh1 on-dropped - changed my mind -",
        "18 reserved hot wh1 on-late - - -",
        "18 expired hot wh1 on-late - - -",
        // By its lane, as it was asked for at first.
        "18 reserved hot wh1 on-late - late_payment -",
        "19 committed hot wh1 on-late - - p2",
        "1a adjusted hot wh1 - ann escrowed s",
        "1b adjusted hot wh1 - ann escrow_returned s",
    ];
    assert_eq!(told, expected);
    whole.stop().await;
}
