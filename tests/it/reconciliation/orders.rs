//! What became of orders, compared with their reservations.

use reqwest::Method;
use serde_json::{Value, json};

use super::moment;
use crate::story_rescue::{bought, expired, stock};
use crate::support::door::{Buy, Door};
use crate::support::gateway::Whole;
use crate::support::socket::{RESERVATIONS, line, put_on_sale};

const STATES: &str = "/api/inventory/order-states";
const RUN: &str = "/admin/reconciliation/run";

pub(super) async fn push(door: &Door, order: &str, state: &str) {
    let body = json!({"orderId": order, "state": state, "at": moment(door).await});
    let told = door.post(STATES, body.clone()).await.expect(202);
    assert_eq!(told, body);
}

/// The report of a run over order states.
pub(super) async fn run(door: &Door) -> Value {
    let told = door.post(RUN, json!({"kind": "order_state"})).await.expect(200);
    let reports = told["reports"].as_array().expect("a list");
    assert_eq!(reports.len(), 1, "{told}");
    reports[0].clone()
}

/// Order, cause and status of what a report found, by order.
fn found(report: &Value) -> Vec<(String, String, String)> {
    let word = |d: &Value, name: &str| d[name].as_str().unwrap_or_default().to_owned();
    let mut found: Vec<_> = report["discrepancies"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|d| (word(d, "orderId"), word(d, "cause"), word(d, "status")))
        .collect();
    found.sort_unstable();
    found
}

fn told(order: &str, cause: &str, status: &str) -> (String, String, String) {
    (order.to_owned(), cause.to_owned(), status.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_for_certain_is_done_and_the_rest_waits() {
    let whole = Whole::empty().await;
    whole.sell("s1", 50, json!({})).await;
    let mut ids = Vec::new();
    for n in 0..9 {
        ids.push(whole.reserve(&Buy::of(&format!("o{n}")).units(2)).await.id());
    }
    for n in [3, 4, 8] {
        whole.commit(&ids[n]).await.expect(200);
    }
    whole.release(&ids[6]).await.expect(200);
    whole.settled().await;
    let states = [
        ("o0", "cancelled"),
        ("o1", "paid"),
        ("o2", "shipped"),
        ("o3", "cancelled"),
        ("o4", "refunded"),
        ("o5", "refunded"),
        ("o6", "paid"),
        ("o7", "paid"),
        ("o8", "shipped"),
        ("never", "paid"),
    ];
    for (order, state) in states {
        push(&whole, order, state).await;
    }
    // A buyer who pays and then cancels: only the last word counts.
    push(&whole, "o7", "cancelled").await;
    let report = run(&whole).await;
    assert_eq!(
        (&report["kind"], &report["compared"]),
        (&json!("order_state"), &json!(10))
    );
    assert_eq!(
        found(&report),
        [
            told("never", "paid_without_reservation", "manual_review"),
            told("o0", "cancelled_but_reserved", "corrected"),
            told("o1", "paid_but_reserved", "corrected"),
            told("o2", "shipped_but_reserved", "corrected"),
            told("o3", "cancelled_but_committed", "manual_review"),
            told("o4", "refunded_without_return", "manual_review"),
            told("o5", "refunded_but_reserved", "corrected"),
            told("o6", "paid_but_released", "manual_review"),
            told("o7", "cancelled_but_reserved", "corrected"),
        ]
    );
    for (n, status) in [
        (0, "RELEASED"),
        (1, "COMMITTED"),
        (2, "COMMITTED"),
        (3, "COMMITTED"),
        (5, "RELEASED"),
    ] {
        let told = whole.reservation(&ids[n]).await.expect(200);
        assert_eq!(told["status"], status, "o{n}");
    }
    let corrected = report["discrepancies"].as_array().expect("a list").iter();
    for d in corrected.filter(|d| d["status"] == "corrected") {
        let event: (String, String) =
            sqlx::query_as("SELECT event_type::text, operator FROM inventory_movement WHERE event_id = $1")
                .bind(d["eventId"].as_i64())
                .fetch_one(&whole.pool)
                .await
                .expect("its event");
        let ended = if d["expected"] == "COMMITTED" {
            "committed"
        } else {
            "released"
        };
        assert_eq!(event, (format!("inventory_{ended}"), "admin".to_owned()), "{d}");
    }
    assert_eq!(run(&whole).await["compared"], 0, "each state is judged once");
    whole.settled().await;
    assert_eq!(
        whole.sale("s1").await["remaining"],
        50 - 5 * 2,
        "released units are for sale"
    );
    whole.stop().await;
}

/// The money came, the hold was over: nobody is left to wait for good, and who bought again is not among them.
#[tokio::test(flavor = "multi_thread")]
async fn who_paid_for_what_had_expired_is_looked_at() {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "a", 5, json!({})).await;
    for order in ["o1", "o2"] {
        expired(&whole, order, "a", json!({})).await;
    }
    let anew = bought(&whole, &line("o2", "a", json!({}))).await;
    whole.commit(&anew.id()).await.expect(200);
    for order in ["o1", "o2"] {
        push(&whole, order, "paid").await;
    }
    let report = run(&whole).await;
    assert_eq!(found(&report), [told("o1", "paid_but_expired", "manual_review")]);
    whole.settled().await;
    whole.stop().await;
}

/// An order that is cancelled and then paid after all: its units may be another's by now, so a person looks.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_that_is_taken_back_moves_no_units() {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "a", 5, json!({})).await;
    let id = bought(&whole, &line("o1", "a", json!({}))).await.id();
    push(&whole, "o1", "cancelled").await;
    assert_eq!(
        found(&run(&whole).await),
        [told("o1", "cancelled_but_reserved", "corrected")]
    );
    assert_eq!(whole.reservation(&id).await.body["status"], "RELEASED");
    push(&whole, "o1", "paid").await;
    assert_eq!(
        found(&run(&whole).await),
        [told("o1", "paid_but_released", "manual_review")]
    );
    assert_eq!(stock(&whole, "a").await, (5, 0, 0));
    whole.settled().await;
    assert_eq!(whole.sale("a").await["remaining"], 5);
    whole.stop().await;
}

/// What was sold comes back by a return, once, and by nothing that only says that the order is cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_cancelled_order_bought_comes_back_by_a_return_alone() {
    let whole = Whole::empty().await;
    whole.receive("a", 20).await;
    let id = bought(&whole, &line("o1", "a", json!({"quantity": 5}))).await.id();
    whole.commit(&id).await.expect(200);
    push(&whole, "o1", "cancelled").await;
    for _ in 0..2 {
        run(&whole).await;
        assert_eq!(stock(&whole, "a").await.0, 15, "neither given back nor taken twice");
    }
    let back = json!({"returnId": "r1", "quantity": 5, "reason": "cancelled", "condition": "sellable"});
    let path = format!("{RESERVATIONS}/{id}/returns");
    whole.shop(&path, back.clone()).await.expect(201);
    whole.shop(&path, back).await;
    assert_eq!(stock(&whole, "a").await.0, 20);
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_reserved_again_is_judged_by_what_it_has() {
    let whole = Whole::empty().await;
    whole.sell("s1", 50, json!({})).await;
    whole.receive("cold", 10).await;
    let first = whole.reserve(&Buy::of("o1")).await.id();
    whole.release(&first).await.expect(200);
    let second = whole.reserve(&Buy::of("o1")).await.id();
    whole.commit(&second).await.expect(200);
    push(&whole, "o1", "paid").await;
    let report = run(&whole).await;
    assert_eq!((found(&report), &report["compared"]), (vec![], &json!(1)));
    whole.settled().await;
    whole.stop().await;
}

/// What an order does after it got its state is not what the state is about, however late the news is judged.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_says_nothing_of_what_the_order_reserves_after_it() {
    let whole = Whole::empty().await;
    put_on_sale(&whole, "a", 10, json!({})).await;
    whole.receive("cold", 10).await;
    let reserved = async |order: &str, sku: &str| bought(&whole, &line(order, sku, json!({}))).await.id();
    let cancelled = reserved("o1", "a").await;
    whole.release(&cancelled).await.expect(200);
    whole.commit(&reserved("o2", "a").await).await.expect(200);
    push(&whole, "o1", "cancelled").await;
    push(&whole, "o2", "paid").await;
    // It may have been paid for what it has by now; or that is a second try, which nobody has paid for.
    push(&whole, "o3", "paid").await;
    // It was paid for what it had given back; what else it reserves does not make up for that.
    whole.release(&reserved("o4", "a").await).await.expect(200);
    push(&whole, "o4", "paid").await;
    let later = [
        reserved("o1", "a").await,
        reserved("o2", "cold").await,
        reserved("o3", "a").await,
        reserved("o4", "cold").await,
    ];
    assert_eq!(
        found(&run(&whole).await),
        [
            told("o3", "paid_but_reserved", "manual_review"),
            told("o4", "paid_but_released", "manual_review"),
        ]
    );
    for id in later {
        assert_eq!(whole.reservation(&id).await.body["status"], "RESERVED", "{id}");
    }
    whole.settled().await;
    whole.stop().await;
}

/// A cancellation that is taken back when the units have come back already: somebody else may have them.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_owed_what_came_back_is_looked_at() {
    let whole = Whole::empty().await;
    whole.receive("a", 5).await;
    for (order, pays_first) in [("o1", false), ("o2", true)] {
        let id = bought(&whole, &line(order, "a", json!({}))).await.id();
        whole.commit(&id).await.expect(200);
        if pays_first {
            push(&whole, order, "paid").await;
        }
        let back = json!({"returnId": order, "condition": "sellable"});
        whole
            .shop(&format!("{RESERVATIONS}/{id}/returns"), back)
            .await
            .expect(201);
        if !pays_first {
            push(&whole, order, "paid").await;
        }
    }
    assert_eq!(
        found(&run(&whole).await),
        [told("o1", "paid_but_returned", "manual_review")]
    );
    whole.stop().await;
}

/// Two states of one order are one comparison and two of the states that a step takes: the run goes on to the last.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_judges_all_that_wait() {
    let whole = Whole::empty().await;
    sqlx::query(
        "INSERT INTO order_state (order_id, state, at, operator, received_at)
         SELECT 'o' || n, 'cancelled', now() - interval '2 hours', 'shop', now() - interval '1 hour' + n * interval '1 ms'
         FROM generate_series(1, 600) AS n
         UNION ALL SELECT 'o1', 'refunded', now() - interval '1 hour', 'shop', now() - interval '1 hour'",
    )
    .execute(&whole.pool)
    .await
    .expect("states");
    assert_eq!(run(&whole).await["compared"], 600);
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn news_of_an_order_is_kept_once() {
    let whole = Whole::empty().await;
    let body = json!({"orderId": "o1", "state": "cancelled", "at": moment(&whole).await});
    assert!(!whole.post(STATES, body.clone()).await.replayed);
    let again = whole.post(STATES, body).await;
    assert!(again.replayed);
    again.expect(202);
    for (field, value) in [
        ("state", json!("lost")),
        ("at", json!("2999-01-01T00:00:00Z")),
        ("at", json!("-5000-01-01T00:00:00Z")),
        ("orderId", json!("a b")),
    ] {
        let mut body = json!({"orderId": "o1", "state": "paid", "at": moment(&whole).await});
        body[field] = value;
        let told = whole.post(STATES, body).await;
        assert_eq!(
            (told.problem(), &told.body["field"]),
            ((400, "INVALID_REQUEST"), &json!(field))
        );
    }
    let at = moment(&whole).await;
    let keyed = async |order: &str| {
        let body = json!({"orderId": order, "state": "cancelled", "at": at});
        whole
            .admin_with(Method::POST, STATES, body, &[("Idempotency-Key", "k1")])
            .await
    };
    for replayed in [false, true] {
        let told = keyed("o2").await;
        assert_eq!((told.status, told.replayed), (202, replayed));
    }
    assert_eq!(keyed("o3").await.problem(), (422, "IDEMPOTENCY_KEY_REUSED"));
    let told = whole.admin(Method::POST, RUN, None).await.expect(200);
    let kinds: Vec<_> = told["reports"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|r| &r["kind"])
        .collect();
    assert_eq!(kinds, ["ledger", "order_state"]);
    assert_eq!(
        told["reports"][1]["compared"], 2,
        "o1 and o2: what was refused is not kept"
    );
    whole.stop().await;
}
