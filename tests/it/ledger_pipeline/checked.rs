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

/// What each CHECK is for: its table, its name, and a row that it alone forbids, all else in it being unknown.
const CHECKS: [(&str, &str, &str); 49] = [
    ("alarm", "alarm_cause_is_known", "cause = 'boredom'"),
    ("approval", "approval_status_is_known", "status = 'MAYBE'"),
    (
        "approval",
        "approval_takes_two",
        "status = 'APPROVED', operator = 'a', decided_by = 'a'",
    ),
    ("approval", "approval_why_is_known", "why = 'boredom'"),
    ("deployment", "deployment_is_one_row", "\"only\" = false"),
    ("deployment", "deployment_lanes_in_range", "lanes = 513"),
    ("deployment", "deployment_secret_is_32_bytes", "id_secret = '\\x00'"),
    ("inventory_balance", "balance_escrowed_not_negative", "escrowed = -1"),
    ("inventory_balance", "balance_on_hand_not_negative", "on_hand = -1"),
    (
        "inventory_balance",
        "balance_promises_are_covered",
        "on_hand = 5, reserved = 2, unavailable = 2, escrowed = 2",
    ),
    ("inventory_balance", "balance_reserved_not_negative", "reserved = -1"),
    (
        "inventory_balance",
        "balance_safety_stock_not_negative",
        "safety_stock = -1",
    ),
    (
        "inventory_balance",
        "balance_unavailable_not_negative",
        "unavailable = -1",
    ),
    ("inventory_reservation", "reservation_cart_is_whole", "cart_parts = 1"),
    (
        "inventory_reservation",
        "reservation_quantity_is_positive",
        "quantity = 0",
    ),
    (
        "inventory_reservation_cold",
        "reservation_cart_is_whole",
        "cart_parts = 1",
    ),
    (
        "inventory_reservation_cold",
        "reservation_quantity_is_positive",
        "quantity = 0",
    ),
    ("inventory_return_line", "return_quantity_is_positive", "quantity = 0"),
    ("inventory_return", "return_condition_is_known", "condition = 'mint'"),
    ("inventory_return", "return_returnable_not_negative", "returnable = -1"),
    ("lane", "lane_cursor_not_ahead", "epoch = 1, cursor_epoch = 2"),
    ("lane", "lane_epoch_in_range", "epoch = 16777216"),
    ("live_comparison", "live_comparison_is_one_row", "\"only\" = false"),
    ("location", "location_kind_is_known", "kind = 'moon'"),
    ("location", "location_latitude_in_range", "latitude = 91"),
    ("location", "location_longitude_in_range", "longitude = -181"),
    ("order_state", "order_state_is_known", "state = 'dreamt'"),
    ("pulse", "pulse_is_one_row", "\"only\" = false"),
    ("quarantine", "quarantine_state_is_known", "state = 'mislaid'"),
    (
        "reconciliation_discrepancy",
        "discrepancy_status_is_known",
        "status = 'ignored'",
    ),
    ("reconciliation_report", "report_count_is_whole", "kind = 'warehouse'"),
    ("reconciliation_report", "report_kind_is_known", "kind = 'rumour'"),
    ("sale", "sale_allocation_not_negative", "allocation = -1"),
    ("sale", "sale_frozen_for_is_known", "frozen_for = 'fun'"),
    ("sale", "sale_has_buckets", "lanes = '{}'"),
    ("sale", "sale_hold_in_range", "hold_ms = 2, hold_max_ms = 1"),
    ("sale", "sale_limit_is_positive", "per_user_limit = 0"),
    ("sale", "sale_recalled_not_negative", "recalled = -1"),
    ("sale", "sale_redis_down_is_known", "redis_down = 'hope'"),
    ("sale", "sale_redis_down_rate_is_positive", "redis_down_rate = 0"),
    ("sale", "sale_undurable_max_is_positive", "undurable_max = 0"),
    ("sale_bucket", "bucket_counter_not_negative", "counter = -1"),
    ("sku", "sku_display_is_known", "display = 'guess'"),
    ("sku", "sku_safety_stock_not_negative", "safety_stock = -1"),
    ("snapshot_feed", "snapshot_feed_is_one_row", "\"only\" = false"),
    (
        "snapshot_feed",
        "snapshot_feed_settles_what_was_seen",
        "seen_id = 1, settled_id = 2",
    ),
    (
        "stall",
        "stall_is_an_interval",
        "from_at = now(), until_at = now() - interval '1 s'",
    ),
    (
        "transfer",
        "transfer_goes_somewhere",
        "from_location = 'a', to_location = 'a'",
    ),
    ("transfer", "transfer_quantity_is_positive", "quantity = 0"),
];

/// Each rule on a copy of its table that has no other: so it is this one that refuses, and without it nothing would.
#[tokio::test]
async fn every_check_refuses_what_it_is_for_and_nothing_else_does() {
    let desk = Desk::open().await;
    let checks: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT c.conrelid::regclass::text, c.conname::text, pg_get_expr(c.conbin, c.conrelid)
         FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid
         WHERE c.contype = 'c' AND t.relnamespace = 'public'::regnamespace AND NOT t.relispartition
         ORDER BY 1, 2",
    )
    .fetch_all(&desk.pool)
    .await
    .expect("the catalogue");
    let known = |(table, name, _): &(String, String, String)| {
        CHECKS
            .iter()
            .any(|check| (check.0, check.1) == (table.as_str(), name.as_str()))
    };
    let untried: Vec<_> = checks.iter().filter(|check| !known(check)).collect();
    assert!(untried.is_empty(), "nothing here tries {untried:#?}");
    for (table, name, row) in CHECKS {
        let check = checks
            .iter()
            .find(|check| (check.0.as_str(), check.1.as_str()) == (table, name));
        let rule = &check
            .unwrap_or_else(|| panic!("{name} is no CHECK of {table} any more"))
            .2;
        let mut tx = desk.pool.begin().await.expect("Postgres answers");
        let copy = format!("CREATE TEMP TABLE copy AS TABLE {table} WITH NO DATA; INSERT INTO copy DEFAULT VALUES");
        sqlx::raw_sql(&copy).execute(&mut *tx).await.expect("a copy");
        let write = format!("UPDATE copy SET {row}");
        let written = sqlx::raw_sql(&write).execute(&mut *tx).await;
        written.unwrap_or_else(|e| panic!("without {name}: {e}"));
        let refused = format!("ALTER TABLE copy ADD CONSTRAINT {name} CHECK ({rule})");
        let refused = sqlx::raw_sql(&refused).execute(&mut *tx).await.expect_err(name);
        let refused = refused.as_database_error().expect("Postgres refuses it");
        assert_eq!(refused.constraint(), Some(name));
        tx.rollback().await.expect("nothing stays");
    }
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
