//! Repair by hand: list, look, then fix.

use std::fs::File;

use flashgate::app::Settings;
use reqwest::Method;
use serde_json::{Value, json};

use super::orders::{push, run};
use super::{COUNTS, adjust, count, moment, on_hand};
use crate::story_rescue::{bought, expired, stock};
use crate::support::door::{Buy, Door};
use crate::support::gateway::{Whole, migrate};
use crate::support::servers::shared;
use crate::support::socket::line;

/// Exit code and output of `flashgate reconcile` with these arguments.
async fn reconcile(door: &Door, args: &[&str]) -> (i32, String) {
    let said = door.command(&[&["reconcile"], args].concat()).await;
    let code = said.status.code().expect("it ends by itself");
    (code, String::from_utf8(said.stdout).expect("text"))
}

/// 1 says that there are differences, and names them.
#[tokio::test(flavor = "multi_thread")]
async fn what_cant_be_written_counts_as_not_found_out() {
    let whole = Whole::open().await;
    whole.settled().await;
    for args in [&["verify"][..], &["verify", "--json"], &["reconcile"]] {
        let full = File::options().write(true).open("/dev/full").expect("a full disk");
        let ended = whole.command_into(args, full).await;
        assert_eq!(ended.code(), Some(2), "{args:?}");
    }
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_listed_looked_at_and_repaired() {
    let whole = Whole::empty().await;
    whole.receive("a", 500).await;
    whole.receive("b", 500).await;
    let at = moment(&whole).await;
    let told = whole
        .post(COUNTS, count("c1", &at, &[("a", 300), ("b", 300)]))
        .await
        .expect(201);
    let id = told["reportId"].as_str().expect("an id");
    let (code, said) = reconcile(&whole, &[]).await;
    assert_eq!(code, 0, "Redis has no drift: {said}");
    assert!(
        said.contains(&format!("2 differences of the warehouse report {id} wait for a person")),
        "{said}"
    );
    let (code, said) = reconcile(&whole, &["--report", id]).await;
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("manual_review: a at wh1, on_hand: expected 500, found 300; counted_less, over_threshold"),
        "{said}"
    );
    // Meanwhile the shop goes on, and b is counted anew.
    adjust(&whole, "a", -20, "lost").await;
    whole
        .post(COUNTS, count("c2", &moment(&whole).await, &[("b", 490)]))
        .await
        .expect(201);
    let (code, said) = reconcile(&whole, &["--report", id, "--repair", "--operator", "bob"]).await;
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains(
            "done: b at wh1, on_hand: a newer count is in the balance, or the order has become something else"
        ),
        "{said}"
    );
    assert_eq!((on_hand(&whole, "a").await, on_hand(&whole, "b").await), (280, 490));
    let operator: String = sqlx::query_scalar("SELECT operator FROM inventory_movement WHERE reference_id = 'c1'")
        .fetch_one(&whole.pool)
        .await
        .expect("one correction");
    assert_eq!(operator, "bob");
    let (_, said) = reconcile(&whole, &["--report", id, "--repair", "--json"]).await;
    let shown: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((&shown["done"], &shown["waiting"]), (&json!([]), &json!(0)), "once");
    assert_eq!(shown["discrepancies"][1]["status"], "superseded");
    whole.settled().await;
    whole.stop().await;
}

/// An order that was paid for what had expired, and refunded before anybody looked: its units stay where they are.
#[tokio::test(flavor = "multi_thread")]
async fn a_repair_does_what_the_order_asks_for_by_now() {
    let whole = Whole::empty().await;
    whole.receive("a", 5).await;
    for order in ["o1", "o2"] {
        expired(&whole, order, "a", json!({})).await;
        push(&whole, order, "paid").await;
    }
    let report = run(&whole).await;
    push(&whole, "o1", "refunded").await;
    assert_eq!(run(&whole).await["different"], 0, "it is as it should be");
    let id = report["reportId"].as_str().expect("an id");
    let (code, said) = reconcile(&whole, &["--report", id, "--repair", "--json"]).await;
    assert_eq!(code, 0, "{said}");
    let shown: Value = serde_json::from_str(&said).expect("JSON");
    let statuses = shown["discrepancies"].as_array().expect("a list").iter();
    let mut statuses: Vec<_> = statuses.map(|d| (&d["orderId"], &d["status"])).collect();
    statuses.sort_by_key(|(order, _)| order.to_string());
    assert_eq!(
        statuses,
        [
            (&json!("o1"), &json!("superseded")),
            (&json!("o2"), &json!("corrected"))
        ]
    );
    assert_eq!(stock(&whole, "a").await, (4, 0, 1), "one is sold");
    whole.stop().await;
}

/// An order that was paid for what had expired, and holds the item again: whether that is paid for, a person knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_repair_leaves_an_order_that_has_something_else_by_now() {
    let whole = Whole::empty().await;
    whole.receive("a", 5).await;
    expired(&whole, "o1", "a", json!({})).await;
    for order in ["o1", "o2"] {
        push(&whole, order, "paid").await;
    }
    let report = run(&whole).await;
    assert_eq!(report["different"], 2, "one has nothing at all: {report}");
    let anew = [
        bought(&whole, &line("o1", "a", json!({}))).await.id(),
        bought(&whole, &line("o2", "a", json!({}))).await.id(),
    ];
    let id = report["reportId"].as_str().expect("an id");
    let (code, said) = reconcile(&whole, &["--report", id, "--repair"]).await;
    assert_eq!(
        (
            code,
            said.matches("left: the order has another reservation by now").count()
        ),
        (1, 2),
        "{said}"
    );
    for id in anew {
        assert_eq!(whole.reservation(&id).await.body["status"], "RESERVED");
        whole.commit(&id).await.expect(200);
    }
    let (code, said) = reconcile(&whole, &["--report", id, "--repair"]).await;
    assert_eq!(code, 0, "they have it by now: {said}");
    assert_eq!(stock(&whole, "a").await, (3, 0, 2));
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_repair_is_closed_with_a_word() {
    let whole = Whole::empty().await;
    whole.sell("s1", 10, json!({})).await;
    let sold = whole.reserve(&Buy::of("o1")).await.id();
    whole.commit(&sold).await.expect(200);
    let body = json!({"orderId": "o1", "state": "cancelled", "at": moment(&whole).await});
    whole.post("/api/inventory/order-states", body).await.expect(202);
    let told = whole
        .post("/admin/reconciliation/run", json!({"kind": "order_state"}))
        .await
        .expect(200);
    let id = told["reports"][0]["reportId"].as_str().expect("an id");
    let (code, said) = reconcile(&whole, &["--report", id, "--repair"]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("left: the units have to come back"), "{said}");
    let (code, said) = reconcile(&whole, &["--report", id, "--close", "sent back by post", "--json"]).await;
    assert_eq!(code, 0, "{said}");
    let shown: Value = serde_json::from_str(&said).expect("JSON");
    let closed = &shown["discrepancies"][0];
    assert_eq!(
        (&closed["status"], &closed["note"], &closed["operator"]),
        (&json!("closed"), &json!("sent back by post"), &json!("cli"))
    );
    let (code, _) = reconcile(&whole, &["--report", "00000000-0000-0000-0000-000000000000"]).await;
    assert_eq!(code, 2);
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_large_a_correction_takes_another_person_than_who_counted() {
    let url = shared().await.database().await;
    migrate(&url).await;
    let generous = |settings: &mut Settings| settings.ledger.recon.correct_units_max = 10_000;
    let whole = Whole::changed(&shared().await.redis(), &url, generous).await;
    whole.until_open().await;
    whole.receive("a", 5_000).await;
    let body = count("c1", &moment(&whole).await, &[("a", 3_000)]);
    let told = whole
        .admin_with(Method::POST, COUNTS, body, &[("X-Operator", "ann")])
        .await
        .expect(201);
    assert_eq!(
        told["discrepancies"][0]["status"], "manual_review",
        "however much reconciliation may correct: {told}"
    );
    let id = told["reportId"].as_str().expect("an id");
    let (code, said) = reconcile(&whole, &["--report", id, "--repair", "--operator", "ann"]).await;
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("left: ann counted it; so many units take another person"),
        "{said}"
    );
    assert_eq!(on_hand(&whole, "a").await, 5_000);
    let (code, said) = reconcile(&whole, &["--report", id, "--repair", "--operator", "bob"]).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(on_hand(&whole, "a").await, 3_000);
    // Where one person may change that much, the one who counted may repair it.
    let body = count("c2", &moment(&whole).await, &[("a", 1_000)]);
    let told = whole
        .admin_with(Method::POST, COUNTS, body, &[("X-Operator", "ann")])
        .await
        .expect(201);
    let id = told["reportId"].as_str().expect("an id");
    let alone = [
        "--report",
        id,
        "--repair",
        "--operator",
        "ann",
        "--approval-units-max",
        "2000",
    ];
    let (code, said) = reconcile(&whole, &alone).await;
    assert_eq!((code, on_hand(&whole, "a").await), (0, 1_000), "{said}");
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sale_has_set_aside_is_called_back_for_a_repair() {
    let whole = Whole::empty().await;
    whole.sell("s1", 60, json!({})).await;
    let held = whole.reserve(&Buy::of("o1").units(30).prefer("wait=30")).await.id();
    let gone = whole.reserve(&Buy::of("o2").units(20).prefer("wait=30")).await.id();
    let body = count("c1", &moment(&whole).await, &[("hot", 45)]);
    let told = whole.post(COUNTS, body).await.expect(201);
    assert_eq!(told["discrepancies"][0]["review"], "promised", "{told}");
    let id = told["reportId"].as_str().expect("an id");
    let (code, said) = reconcile(&whole, &["--report", id, "--repair", "--operator", "bob"]).await;
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("left: 15 units are missing, and 10 are neither reserved nor unavailable"),
        "{said}"
    );
    whole.release(&gone).await.expect(200);
    let (code, said) = reconcile(&whole, &["--report", id, "--repair", "--operator", "bob"]).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("done: hot at wh1, on_hand: corrected by event"), "{said}");
    let sale = whole.admin(Method::GET, "/admin/sales/s1", None).await.expect(200);
    assert_eq!(
        (&sale["allocation"], on_hand(&whole, "hot").await),
        (&json!(45), 45),
        "{sale}"
    );
    whole
        .reserve(&Buy::of("o3").units(15).prefer("wait=30"))
        .await
        .expect(201);
    whole.commit(&held).await.expect(200);
    whole.settled().await;
    whole.stop().await;
}
