//! The tables' own rules, which stand behind all code: what they refuse is not written, whoever says it.

use crate::support::ledger::{Desk, slip};

/// What nobody may write, by the rule that forbids it.
const FORBIDDEN: [(&str, &str); 10] = [
    (
        "balance_promises_are_covered",
        "UPDATE inventory_balance SET on_hand = on_hand - 1",
    ),
    (
        "balance_on_hand_not_negative",
        "UPDATE inventory_balance SET on_hand = -1",
    ),
    (
        "balance_reserved_not_negative",
        "UPDATE inventory_balance SET reserved = -1",
    ),
    (
        "balance_unavailable_not_negative",
        "UPDATE inventory_balance SET unavailable = -1",
    ),
    (
        "balance_escrowed_not_negative",
        "UPDATE inventory_balance SET escrowed = -1",
    ),
    (
        "balance_safety_stock_not_negative",
        "UPDATE inventory_balance SET safety_stock = -1",
    ),
    ("bucket_counter_not_negative", "UPDATE sale_bucket SET counter = -1"),
    ("sale_recalled_not_negative", "UPDATE sale SET recalled = -1"),
    (
        "reservation_quantity_is_positive",
        "UPDATE inventory_reservation SET quantity = 0",
    ),
    ("lane_cursor_not_ahead", "UPDATE lane SET cursor_epoch = epoch + 1"),
];

#[tokio::test]
async fn what_can_not_be_is_refused_whoever_says_it() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 3, None).await;
    desk.reserve(&mut lane, &sale, vec![slip(&sale, "a", 1)]).await;
    for (rule, sql) in FORBIDDEN {
        let refused = sqlx::raw_sql(sql).execute(&desk.pool).await.expect_err(rule);
        let refused = refused.as_database_error().expect("Postgres refuses it");
        assert_eq!(refused.constraint(), Some(rule));
    }
    desk.assert_books_balance().await;
}

/// Redis and the ledger's own count of the lane both say that there is more than there is: nothing else is asked before
/// a reservation becomes durable, but that units which become reserved were escrowed.
#[tokio::test]
async fn two_counters_that_are_too_high_sell_nothing_that_is_not_there() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 3, None).await;
    desk.run("UPDATE sale_bucket SET counter = counter + 2").await;
    *lane.road.free.get_mut(&sale.no).expect("it sells") += 2;
    let slips = ["a", "b", "c", "d", "e"].map(|order| slip(&sale, order, 1));
    let entry = lane.road.reserve(sale.no, slips.into());
    // What becomes of the batch is no matter here, as long as it does not become durable as it is.
    desk.try_apply(&lane, &[entry]).await.ok();
    let promised = "SELECT coalesce(sum(quantity), 0)::bigint FROM inventory_reservation WHERE status = 'RESERVED'";
    assert!(desk.count(promised).await <= 3);
    assert!(desk.count("SELECT min(escrowed) FROM inventory_balance").await >= 0);
}
