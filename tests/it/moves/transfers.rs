//! Units that go from one location to another.

use serde_json::{Value, json};

use super::{open, post_as, stock};
use crate::support::door::Told;
use crate::support::gateway::Whole;

async fn transfer(whole: &Whole, body: Value) -> Told {
    post_as(whole, "ann", "/api/inventory/transfers", body).await
}

fn of(id: &str, quantity: i64) -> Value {
    json!({"transferId": id, "skuId": "hot", "fromLocationId": "wh1", "toLocationId": "wh2", "quantity": quantity})
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_move_once_and_say_so() {
    let whole = Whole::open().await;
    open(&whole, "wh2", true).await;
    let first = transfer(&whole, of("t1", 30)).await.expect(201);
    assert_eq!(
        (&first["status"], &first["quantity"]),
        (&json!("COMPLETED"), &json!(30))
    );
    assert_eq!(
        (&first["from"]["before"]["onHand"], &first["from"]["after"]["onHand"]),
        (&json!(100), &json!(70))
    );
    assert_eq!(
        (&first["to"]["before"]["onHand"], &first["to"]["after"]["onHand"]),
        (&json!(0), &json!(30))
    );
    let again = transfer(&whole, of("t1", 30)).await;
    assert_eq!((again.replayed, again.body), (true, first));
    assert_eq!(
        transfer(&whole, of("t1", 31)).await.problem(),
        (422, "IDEMPOTENCY_KEY_REUSED")
    );
    let events: Vec<(String, i64, i64, String, String)> = sqlx::query_as(
        "SELECT location_id, quantity_delta, on_hand, reference_id, operator FROM inventory_movement
         WHERE event_type = 'inventory_transferred' ORDER BY event_id",
    )
    .fetch_all(&whole.pool)
    .await
    .expect("reads");
    let event = |place: &str, delta, on_hand| (place.to_owned(), delta, on_hand, "t1".to_owned(), "ann".to_owned());
    assert_eq!(events, [event("wh1", -30, 70), event("wh2", 30, 30)]);
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_receiving_side_fails_nothing_has_left() {
    let whole = Whole::open().await;
    open(&whole, "wh2", false).await;
    let before = stock(&whole, "wh1").await;
    let told = transfer(&whole, of("t1", 30)).await;
    assert_eq!(
        (told.problem(), &told.body["locationId"]),
        ((409, "LOCATION_INACTIVE"), &json!("wh2"))
    );
    assert_eq!(stock(&whole, "wh1").await, before);
    // The same one is judged anew.
    open(&whole, "wh2", true).await;
    transfer(&whole, of("t1", 30)).await.expect(201);

    whole
        .post(
            "/admin/sales",
            json!({"saleId": "s", "skuId": "hot", "locationId": "wh1", "allocation": 60}),
        )
        .await
        .expect(201);
    let told = transfer(&whole, of("t2", 11)).await;
    assert_eq!(told.problem(), (409, "INSUFFICIENT_STOCK"));
    assert_eq!(
        (&told.body["available"], &told.body["escrowed"]),
        (&json!(10), &json!(60))
    );
    for (field, value, problem) in [
        ("skuId", "cold", (404, "UNKNOWN_SKU")),
        ("fromLocationId", "wh9", (404, "UNKNOWN_LOCATION")),
        ("toLocationId", "wh9", (404, "UNKNOWN_LOCATION")),
        ("toLocationId", "wh1", (400, "INVALID_REQUEST")),
    ] {
        let mut body = of("t3", 1);
        body[field] = value.into();
        assert_eq!(transfer(&whole, body).await.problem(), problem, "{field} {value}");
    }
    let mut none = of("t3", 1);
    none["quantity"] = json!(0);
    assert_eq!(transfer(&whole, none).await.problem(), (400, "INVALID_REQUEST"));
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_to_and_fro_lose_nothing() {
    let whole = Whole::open().await;
    open(&whole, "wh2", true).await;
    transfer(&whole, of("half", 50)).await.expect(201);
    let moves = (0..40).map(|n| {
        // Each is sent twice, and they cross.
        let n = n / 2;
        let mut body = of(&format!("t{n}"), 1 + n % 7);
        if n % 2 == 0 {
            (body["fromLocationId"], body["toLocationId"]) = (json!("wh2"), json!("wh1"));
        }
        transfer(&whole, body)
    });
    for told in futures::future::join_all(moves).await {
        assert!(matches!(told.status, 201 | 409), "{told:?}");
    }
    let all: i64 = sqlx::query_scalar("SELECT sum(on_hand)::int8 FROM inventory_balance")
        .fetch_one(&whole.pool)
        .await
        .expect("reads");
    assert_eq!(all, 100);
    whole.settled().await;
    whole.stop().await;
}
