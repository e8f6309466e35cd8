//! What follows the ledger from its end: a reader that comes back later.

use serde_json::{Value, json};

use super::pages::{of, page};
use crate::support::door::until;
use crate::support::gateway::Whole;

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_goes_on_where_the_ledger_ended() {
    let whole = Whole::empty().await;
    let empty = page(&whole, "", 0).await;
    assert_eq!(empty, json!({"events": [], "next": null, "resume": null}));
    whole.receive("hot", 1).await;
    let all = page(&whole, "", 1).await;
    assert!(all["next"].is_null());
    // A filter that finds nothing has looked through as much.
    let none = until("the event to be settled", async || {
        let none = page(&whole, "skuId=cold", 0).await;
        (none["resume"] == all["resume"]).then_some(none)
    })
    .await;
    assert_eq!(none["events"], json!([]));
    let mut after = all["resume"].as_str().expect("a cursor").to_owned();
    assert_eq!(
        page(&whole, &format!("after={after}"), 0).await["resume"],
        all["resume"]
    );
    let mut seen: Vec<Value> = Vec::new();
    for units in 2..6 {
        whole.receive("hot", units).await;
        whole.receive("cold", 1).await;
        let told = page(&whole, &format!("skuId=hot&after={after}"), 1).await;
        seen.extend(of(&told, "quantityDelta"));
        after = told["resume"].as_str().expect("a cursor").to_owned();
    }
    assert_eq!(seen, [2, 3, 4, 5]);
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_carts_id_finds_the_events_of_all_its_parts() {
    let whole = Whole::empty().await;
    whole.sell("s1", 10, json!({})).await;
    whole.receive("plain", 10).await;
    let line = |sku: &str| json!({"skuId": sku, "locationId": "wh1", "quantity": 1});
    let cart = json!({"orderId": "o1", "lines": [line("hot"), line("plain")]});
    let made = whole.shop("/api/inventory/reservations", cart).await.expect(201);
    let id = made["reservationId"].as_str().expect("an id");
    whole.commit(id).await.expect(200);
    let told = page(&whole, &format!("reservationId={id}"), 4).await;
    let mut found: Vec<(Value, Value)> = of(&told, "skuId").into_iter().zip(of(&told, "eventType")).collect();
    found.sort_by_key(|(sku, kind)| (sku.to_string(), kind.to_string()));
    let expected = ["hot", "plain"]
        .iter()
        .flat_map(|sku| ["inventory_committed", "inventory_reserved"].map(|kind| (json!(sku), json!(kind))));
    assert_eq!(found, expected.collect::<Vec<_>>());
    // Of a part, its own.
    let part = of(&told, "reservationId")[0].as_str().expect("an id").to_owned();
    let of_part = page(&whole, &format!("reservationId={part}"), 2).await;
    assert_eq!(of(&of_part, "reservationId"), [json!(part), json!(part)]);
    let other = page(&whole, &format!("reservationId={id}&orderId=o2"), 0).await;
    assert_eq!(other["events"], json!([]));
    whole.settled().await;
    whole.stop().await;
}
