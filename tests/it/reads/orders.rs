//! How an order stands, from the ledger and from the read model.

use serde_json::{Value, json};

use crate::support::door::Buy;
use crate::support::gateway::{Whole, migrate};
use crate::support::servers::Private;

fn path(order: &str) -> String {
    format!("/api/orders/{order}/inventory-status")
}

fn read_model(order: &str) -> String {
    format!("/api/read-model/orders/{order}/inventory-status")
}

fn statuses(body: &Value) -> Vec<(&str, &str)> {
    let all = body["reservations"].as_array().expect("a list").iter();
    let word = |reservation: &'static str, of| -> &str { Value::as_str(&(of as &Value)[reservation]).expect("a word") };
    all.map(|of| (word("reservationId", of), word("status", of))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_told_with_all_its_reservations() {
    let servers = Private::start().await;
    migrate(&servers.postgres.url()).await;
    let whole = Whole::over(&servers.redis.url(), &servers.postgres.url()).await;
    whole.sell("s", 100, json!({})).await;
    let nothing = whole.get(&path("o1")).await.expect(200);
    assert_eq!(
        (&nothing["reservations"], &nothing["degraded"]),
        (&json!([]), &json!(false))
    );

    let first = whole.reserve(&Buy::of("o1").prefer("wait=10")).await;
    let first = (first.id(), first.expect(201)).0;
    whole.release(&first).await.expect(200);
    let second = whole.insist(&Buy::of("o1").units(2).prefer("wait=10")).await;
    let second = (second.id(), second.expect(201)).0;
    whole.insist(&Buy::of("o2").prefer("wait=10")).await.expect(201);

    let told = whole.get(&path("o1")).await.expect(200);
    assert_eq!(
        statuses(&told),
        [(first.as_str(), "RELEASED"), (second.as_str(), "RESERVED")]
    );
    assert_eq!((&told["orderId"], &told["degraded"]), (&json!("o1"), &json!(false)));
    let line = &told["reservations"][1]["lines"][0];
    assert_eq!((&line["skuId"], &line["quantity"]), (&json!("hot"), &json!(2)));
    let other = whole.get(&read_model("o2")).await.expect(200);
    assert_eq!((statuses(&other).len(), &other["degraded"]), (1, &json!(true)));
    assert_eq!(whole.get(&path("o%20")).await.problem(), (400, "INVALID_REQUEST"));

    // The ledger is away: what was seen last is still told, with its age; what never was seen is not known.
    let mut servers = servers;
    servers.postgres.kill();
    assert_eq!(whole.get(&path("o1")).await.problem(), (503, "LEDGER_UNAVAILABLE"));
    let last = whole.get(&read_model("o1")).await.expect(200);
    assert_eq!(
        (&last["reservations"], &last["asOf"], &last["degraded"]),
        (&told["reservations"], &told["asOf"], &json!(true))
    );
    assert_eq!(
        whole.get(&read_model("o3")).await.problem(),
        (503, "LEDGER_UNAVAILABLE")
    );
    servers.restart_postgres().await;
    whole.until_open().await;
    whole.stop().await;
}
