//! Where a line comes from when its caller names no location.

use serde_json::{Value, json};

use crate::support::door::Door;
use crate::support::gateway::{Whole, migrate};
use crate::support::servers::Private;
use crate::support::socket::{Heard, line, resell, reserve, with};

/// Makes a location; what is not said of it is as it is of every other.
async fn place(door: &Door, id: &str, extra: Value) {
    let body = json!({"name": id, "kind": "warehouse", "region": "eu", "active": true});
    door.put(&format!("/admin/locations/{id}"), with(body, extra))
        .await
        .expect(200);
}

/// Units of a SKU at a location.
async fn receive(door: &Door, sku: &str, location: &str, units: i64) {
    door.put(&format!("/admin/skus/{sku}"), json!({"display": "exact"}))
        .await
        .expect(200);
    let received = json!({"skuId": sku, "locationId": location, "delta": units, "reason": "stock_received"});
    door.post("/api/inventory/adjustments", received).await.expect(201);
}

/// Asks without a location.
async fn anywhere(door: &Door, order: &str, sku: &str, extra: Value) -> Heard {
    reserve(door, &[], &with(line(order, sku, extra), json!({"locationId": null}))).await
}

fn at(heard: &Heard) -> (u16, String) {
    (
        heard.status,
        heard.body()["locationId"].as_str().unwrap_or("-").to_owned(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nearest_place_with_enough_serves_and_then_the_next() {
    let whole = Whole::empty().await;
    let door: &Door = &whole;
    place(door, "berlin", json!({"latitude": 52.52, "longitude": 13.405})).await;
    place(door, "paris", json!({"latitude": 48.857, "longitude": 2.352})).await;
    place(
        door,
        "closed",
        json!({"latitude": 52.4, "longitude": 13.07, "active": false}),
    )
    .await;
    for location in ["berlin", "paris", "closed"] {
        receive(door, "a", location, 5).await;
    }
    let potsdam = json!({"shipTo": {"latitude": 52.4, "longitude": 13.07}, "quantity": 3});
    let first = anywhere(door, "o1", "a", potsdam.clone()).await;
    assert_eq!(at(&first), (201, "berlin".into()), "{}", first.text);
    let again = anywhere(door, "o1", "a", potsdam.clone()).await;
    assert_eq!(
        (again.replayed(), again.id()),
        (true, first.id()),
        "wherever is best by now"
    );
    let second = anywhere(door, "o2", "a", potsdam.clone()).await;
    assert_eq!(at(&second), (201, "paris".into()), "berlin has too few");
    let third = anywhere(door, "o3", "a", potsdam).await;
    assert_eq!(
        (third.problem(), &third.body()["available"]),
        ((409, "INSUFFICIENT_STOCK".into()), &json!(2)),
        "at one place"
    );
    let explicit = reserve(door, &[], &line("o3", "a", json!({"locationId": "closed"}))).await;
    assert_eq!(explicit.status, 201, "who names it may have it");
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_measure_of_a_location_counts() {
    let whole = Whole::empty().await;
    let door: &Door = &whole;
    let table = [
        ("region", json!({"region": "us"}), json!({"region": "de"})),
        ("cost", json!({"shippingCost": 9.5}), json!({"shippingCost": 4.5})),
        ("hours", json!({"handlingHours": 72}), json!({"handlingHours": 4})),
        ("priority", json!({"priority": 1}), json!({"priority": 2})),
    ];
    for (sku, worse, better) in table {
        let (bad, good) = (format!("a-{sku}"), format!("b-{sku}"));
        place(door, &bad, worse).await;
        place(door, &good, better).await;
        receive(door, sku, &bad, 5).await;
        receive(door, sku, &good, 5).await;
        let heard = anywhere(door, "o1", sku, json!({"shipTo": {"region": "de"}})).await;
        assert_eq!(at(&heard), (201, good), "{sku}: {}", heard.text);
    }
    // A place that has shipped all it can today comes last; ties stand in order of their ids.
    place(door, "a-small", json!({"dailyCapacity": 1})).await;
    place(door, "b-large", json!({"dailyCapacity": 1000})).await;
    for sku in ["first", "second"] {
        receive(door, sku, "a-small", 5).await;
        receive(door, sku, "b-large", 5).await;
    }
    assert_eq!(
        at(&anywhere(door, "o1", "first", json!({})).await),
        (201, "a-small".into()),
        "a tie"
    );
    let full = crate::support::door::until("a new count of parcels", async || {
        let heard = anywhere(door, "o2", "second", json!({})).await;
        if at(&heard).1 == "b-large" {
            return Some(());
        }
        door.release(&heard.id()).await.expect(200);
        None
    });
    full.await;
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_for_any_place_is_refused_in_the_order_of_one_place() {
    let whole = Whole::empty().await;
    let door: &Door = &whole;
    for name in ["wh1", "wh2"] {
        place(door, name, json!({})).await;
        receive(door, "a", name, 2).await;
    }
    let long = anywhere(door, "o1", "a", json!({"quantity": 3, "ttlSeconds": 5_000})).await;
    assert_eq!(
        (long.problem(), &long.body()["field"]),
        ((400, "INVALID_REQUEST".into()), &json!("ttlSeconds"))
    );
    let many = anywhere(door, "o1", "a", json!({"quantity": 3})).await;
    assert_eq!(
        (many.problem(), &many.body()["available"]),
        ((409, "INSUFFICIENT_STOCK".into()), &json!(2))
    );
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_is_one_of_the_choices() {
    let whole = Whole::empty().await;
    let door: &Door = &whole;
    place(door, "wh1", json!({"priority": 5})).await;
    place(door, "wh2", json!({})).await;
    receive(door, "a", "wh1", 10).await;
    receive(door, "a", "wh2", 10).await;
    resell(door, "s", "a", 3, json!({})).await;
    // The choice goes by what the ledger knows of the lanes.
    whole.settled().await;
    assert_eq!(
        at(&anywhere(door, "o1", "a", json!({"quantity": 2})).await),
        (201, "wh1".into())
    );
    let next = anywhere(door, "o2", "a", json!({"quantity": 2})).await;
    assert_eq!(at(&next), (201, "wh2".into()), "the sale has one left: {}", next.text);
    door.act("s", "pause").await.expect(200);
    assert_eq!(at(&anywhere(door, "o3", "a", json!({})).await), (201, "wh2".into()));
    whole.settled().await;
    assert_eq!(whole.sale("s").await["remaining"], 1);
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_is_split_only_where_the_caller_says_so() {
    let whole = Whole::empty().await;
    let door: &Door = &whole;
    for (location, priority) in [("wh1", 3), ("wh2", 2), ("wh3", 1)] {
        place(door, location, json!({"priority": priority})).await;
        receive(door, "a", location, 4).await;
    }
    resell(door, "s", "a", 4, json!({})).await;
    let ask = json!({"quantity": 10});
    let heard = anywhere(door, "o1", "a", ask.clone()).await;
    assert_eq!(
        (heard.problem(), &heard.body()["available"]),
        ((409, "INSUFFICIENT_STOCK".into()), &json!(4))
    );
    let ask = with(ask, json!({"allowSplit": true}));
    let split = anywhere(door, "o1", "a", ask.clone()).await;
    assert_eq!(split.status, 201, "{}", split.text);
    let lines: Vec<(String, i64)> = split.body()["lines"]
        .as_array()
        .expect("lines")
        .iter()
        .map(|line| {
            let location = line["locationId"].as_str().expect("a location").to_owned();
            (location, line["quantity"].as_i64().expect("units"))
        })
        .collect();
    assert_eq!(
        lines,
        [("wh1".to_owned(), 4), ("wh2".to_owned(), 4), ("wh3".to_owned(), 2)],
        "the best first"
    );
    let again = anywhere(door, "o1", "a", ask).await;
    assert_eq!((again.replayed(), again.id()), (true, split.id()));
    let more = anywhere(door, "o2", "a", json!({"quantity": 3, "allowSplit": true})).await;
    assert_eq!(
        (more.problem(), &more.body()["available"]),
        ((409, "INSUFFICIENT_STOCK".into()), &json!(2))
    );
    whole.release(&split.id()).await.expect(200);
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_is_a_point_or_a_region() {
    let whole = Whole::empty().await;
    whole.receive("a", 5).await;
    for (ship_to, field) in [
        (json!({}), "shipTo"),
        (json!({"latitude": 1.0}), "shipTo"),
        (json!({"latitude": 1.0, "longitude": 1.0, "region": "eu"}), "shipTo"),
        (json!({"latitude": 91.0, "longitude": 1.0}), "shipTo.latitude"),
        (json!({"latitude": 1.0, "longitude": -181}), "shipTo.longitude"),
        (json!({"region": ""}), "shipTo.region"),
        (json!({"city": "x"}), "shipTo.city"),
    ] {
        let heard = anywhere(&whole, "o1", "a", json!({"shipTo": ship_to})).await;
        assert_eq!(
            (heard.problem(), &heard.body()["field"]),
            ((400, "INVALID_REQUEST".into()), &json!(field)),
            "{ship_to}"
        );
    }
    whole.stop().await;
}

/// The best place is on sale in a Redis that is away; another has what is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_can_not_answer_is_passed_over() {
    let mut servers = Private::start().await;
    migrate(&servers.postgres.url()).await;
    let whole = Whole::over(&servers.redis.url(), &servers.postgres.url()).await;
    let door: &Door = &whole;
    place(door, "wh1", json!({"priority": 5})).await;
    place(door, "wh2", json!({})).await;
    receive(door, "a", "wh1", 10).await;
    receive(door, "a", "wh2", 4).await;
    resell(door, "s", "a", 10, json!({})).await;
    whole.settled().await;
    servers.redis.kill();
    let wanted = json!({"quantity": 2});
    let refused = reserve(door, &[], &line("o0", "a", wanted.clone())).await;
    assert_eq!(refused.problem(), (503, "STOCK_UNAVAILABLE".into()), "{}", refused.text);
    let heard = anywhere(door, "o1", "a", wanted.clone()).await;
    assert_eq!(at(&heard), (201, "wh2".into()), "{}", heard.text);
    let lines = json!({"skuId": null, "quantity": null, "lines": [{"skuId": "a", "quantity": 1}, {"skuId": "b", "quantity": 1}]});
    receive(door, "b", "wh2", 1).await;
    let cart = anywhere(door, "o2", "a", lines).await;
    assert_eq!(cart.status, 201, "{}", cart.text);
    let places: Vec<Value> = cart.body()["lines"]
        .as_array()
        .expect("lines")
        .iter()
        .map(|line| line["locationId"].clone())
        .collect();
    assert_eq!(places, ["wh2", "wh2"], "{}", cart.text);
    // One is left there, and nobody knows whether the other place has more.
    for extra in [wanted.clone(), with(wanted, json!({"allowSplit": true}))] {
        let refused = anywhere(door, "o3", "a", extra).await;
        assert_eq!(refused.problem(), (503, "STOCK_UNAVAILABLE".into()), "{}", refused.text);
    }
    servers.restart_redis().await;
    whole.settled().await;
    whole.stop().await;
}

/// Also where the place that served it is closed by then, and the only other one refuses.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_found_wherever_it_was_served() {
    let whole = Whole::empty().await;
    let door: &Door = &whole;
    place(door, "wh1", json!({})).await;
    place(door, "wh2", json!({"priority": 5})).await;
    receive(door, "a", "wh1", 1).await;
    receive(door, "a", "wh2", 5).await;
    resell(door, "s", "a", 1, json!({})).await;
    whole.settled().await;
    let wanted = json!({"quantity": 3, "idemKey": "k"});
    let first = anywhere(door, "o1", "a", wanted.clone()).await;
    assert_eq!(at(&first), (201, "wh2".into()), "{}", first.text);
    place(door, "wh2", json!({"active": false})).await;
    let again = anywhere(door, "o1", "a", wanted).await;
    assert_eq!((again.replayed(), again.id()), (true, first.id()), "{}", again.text);
    let other = anywhere(door, "o1", "a", json!({"quantity": 2, "idemKey": "k"})).await;
    assert_eq!(other.problem(), (422, "IDEMPOTENCY_KEY_REUSED".into()));
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cart_takes_itself_is_not_available_to_its_other_lines() {
    let whole = Whole::empty().await;
    let door: &Door = &whole;
    for (location, units) in [("wh1", 4), ("wh2", 1)] {
        place(door, location, json!({})).await;
        receive(door, "a", location, units).await;
    }
    let lines = json!([{"skuId": "a", "locationId": "wh1", "quantity": 3}, {"skuId": "a", "quantity": 3}]);
    let heard = reserve(door, &[], &json!({"orderId": "o1", "lines": lines})).await;
    assert_eq!(heard.problem(), (409, "INSUFFICIENT_STOCK".into()));
    assert_eq!(heard.body()["lines"][0]["available"], 1, "{}", heard.text);
    whole.stop().await;
}
