//! What was, told from the events by the command `replay`.

use std::time::Duration;

use flashgate::ledger::once::By;
use flashgate::ledger::recon::Compare;
use flashgate::ledger::{Ledger, Settings};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::process::Command;

use super::late::APPEND;
use super::pages::page;
use crate::support::door::Buy;
use crate::support::gateway::{Whole, migrate};
use crate::support::servers::shared;

/// The exit code and what was printed.
async fn replay(url: &str, args: &[&str]) -> (i32, String) {
    let said = Command::new(env!("CARGO_BIN_EXE_flashgate"))
        .args(["replay", "--log-filter", "error", "--database-url", url])
        .args(args)
        .output()
        .await
        .expect("it runs");
    let out = String::from_utf8_lossy(&said.stdout).into_owned();
    (said.status.code().expect("it was not killed"), out)
}

async fn told(url: &str, args: &[&str]) -> Value {
    let (code, out) = replay(url, &[args, &["--json"]].concat()).await;
    assert_eq!(code, 0, "{out}");
    serde_json::from_str(&out).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sku_and_an_order_are_told_as_they_were_at_any_instant() {
    let url = shared().await.database().await;
    migrate(&url).await;
    let whole = Whole::over(&shared().await.redis(), &url).await;
    whole.sell("s1", 10, json!({})).await;
    let id = whole.reserve(&Buy::of("o1").units(2)).await.id();
    whole.commit(&id).await.expect(200);
    let lost = json!({"skuId": "hot", "locationId": "wh1", "delta": 5, "reason": "stock_received"});
    whole.post("/api/inventory/adjustments", lost).await.expect(201);
    for units in [3, 1] {
        let kept = json!({"display": "exact", "safetyStock": units});
        whole.put("/admin/skus/hot", kept).await.expect(200);
    }
    let events = page(&whole, "skuId=hot", 7).await;
    let events = events["events"].as_array().expect("a list");
    let none = json!(0);
    // At the instant of each event the SKU was as that event left it; of several in a millisecond, as the last did.
    for event in events {
        let at = event["createdAt"].as_str().expect("an instant");
        let last = events.iter().rfind(|other| other["createdAt"] == event["createdAt"]);
        let kept = events
            .iter()
            .rfind(|other| other["reason"] == "safety_stock" && other["createdAt"].as_str() <= Some(at));
        let then = told(&url, &["--sku", "hot", "--at", at]).await;
        let kept_then = &then["stock"][0]["safetyStock"];
        assert_eq!(
            kept_then,
            kept.map_or(&none, |kept| &kept["metadata"]["safetyStock"]["after"])
        );
        assert_eq!(
            (
                &then["stock"][0]["balance"],
                &then["stock"][0]["locationId"],
                &then["breaks"]
            ),
            (&last.expect("itself")["after"], &json!("wh1"), &json!([]))
        );
    }
    let balance = whole
        .get("/api/inventory?skuId=hot&locationId=wh1&consistency=strong")
        .await
        .expect(200);
    let now = told(&url, &["--sku", "hot", "--location", "wh1"]).await;
    for field in ["onHand", "reserved", "unavailable", "sold", "damaged", "returned"] {
        assert_eq!(now["stock"][0]["balance"][field], balance[field], "{field}");
    }
    assert_eq!(
        (&now["stock"][0]["safetyStock"], &balance["safetyStock"]),
        (&json!(1), &json!(1))
    );
    let of_order: Vec<&Value> = events.iter().filter(|event| event["orderId"] == "o1").collect();
    let order = told(&url, &["--order", "o1"]).await;
    assert_eq!(
        order["reservations"][0],
        json!({"reservationId": id, "skuId": "hot", "locationId": "wh1", "reserved": 0, "sold": 2, "returned": 0,
               "last": "inventory_committed", "eventId": of_order[1]["eventId"], "since": of_order[1]["createdAt"]})
    );
    let before = events[0]["createdAt"].as_str().expect("an instant");
    assert_eq!(told(&url, &["--order", "o1", "--at", before]).await["events"], 0);
    let (code, table) = replay(&url, &["--sku", "hot"]).await;
    assert!(code == 0 && table.contains("wh1"), "{table}");
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_buyer_writes_is_not_taken_for_a_change_of_safety_stock() {
    let url = shared().await.database().await;
    migrate(&url).await;
    let whole = Whole::over(&shared().await.redis(), &url).await;
    whole.receive("hot", 5).await;
    let id = whole.reserve(&Buy::of("o1").units(2)).await.id();
    let path = format!("/api/inventory/reservations/{id}/release");
    whole.shop(&path, json!({"reason": "safety_stock"})).await.expect(200);
    assert_eq!(told(&url, &["--sku", "hot"]).await["stock"][0]["safetyStock"], 0);
    let ledger = Ledger::new(&Settings::new(&url)).expect("an address");
    let report = ledger.compare_balances(Compare::All, &By::default()).await;
    let report = report.expect("it can be found out").expect("it is asked for");
    assert!(report.discrepancies.is_empty(), "{report:?}");
    // The comparison with Redis sums the events up as well.
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_contradicts_itself_is_told() {
    let url = shared().await.database().await;
    migrate(&url).await;
    let whole = Whole::over(&shared().await.redis(), &url).await;
    whole.receive("hot", 10).await;
    sqlx::query("UPDATE inventory_balance SET on_hand = on_hand + 1")
        .execute(&whole.pool)
        .await
        .expect("cheats");
    whole.receive("hot", 5).await;
    let (code, out) = replay(&url, &["--sku", "hot", "--json"]).await;
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(code, 1);
    assert_eq!(
        (
            &report["breaks"][0]["sum"]["onHand"],
            &report["breaks"][0]["before"]["onHand"]
        ),
        (&json!(10), &json!(11))
    );
    for (args, expected) in [
        (&["--sku", "hot", "--order", "o1"][..], 2),
        (&["--location", "wh1"], 2),
        (&["--sku", "hot", "--at", "yesterday"], 2),
        (&["--sku", "hot", "--at", "2999-01-01T00:00:00Z"], 2),
        (&[], 2),
        (&["--sku", "none"], 0),
    ] {
        assert_eq!(replay(&url, args).await.0, expected, "{args:?}");
    }
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_a_moment_ago_waits_for_who_may_add_to_it() {
    let url = shared().await.database().await;
    migrate(&url).await;
    let pool = PgPool::connect_lazy(&url).expect("an address");
    let ledger = Ledger::new(&Settings::new(&url)).expect("an address");
    let mut slow = pool.begin().await.expect("begins");
    sqlx::query(APPEND).execute(&mut *slow).await.expect("appends");
    let now = ledger.now().await.expect("a time").to_string();
    let replaying = tokio::spawn(async move { told(&url, &["--sku", "late", "--at", &now]).await });
    // Long enough for a command that does not wait to end.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    slow.commit().await.expect("commits");
    let then = replaying.await.expect("replays");
    assert_eq!(then["events"], 1, "{then}");
}
