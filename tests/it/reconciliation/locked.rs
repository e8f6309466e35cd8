//! Balances looked at closely, which everybody else waits for.

use flashgate::ledger::recon::{Compare, Repaired, SIDES};

use super::books::{ann, compare, found, lose, tamper};
use crate::support::ledger::{Desk, slip};

/// Reservations of 500 other items, half of them on sale, in both tiers; returns the partitions that they are in.
async fn plant(desk: &Desk) -> Vec<String> {
    desk.run(
        "INSERT INTO sku (sku_id) SELECT 's' || n FROM generate_series(0, 499) AS n;
         INSERT INTO inventory_balance (sku_id, location_id) SELECT 's' || n, 'wh1' FROM generate_series(0, 499) AS n;
         INSERT INTO sale (sale_id, sku_id, location_id, state, allocation, hold_ms, hold_max_ms, lanes, ack_wait_ms, drained)
             SELECT 's' || n, 's' || n, 'wh1', 'ended', 0, 1, 1, '{0}', 1, true FROM generate_series(0, 499) AS n;
         CREATE TABLE inventory_reservation_cold_2020_01_01 PARTITION OF inventory_reservation_cold
             FOR VALUES FROM ('2020-01-01') TO ('2020-01-02');",
    )
    .await;
    for (tier, at) in [("", "now()"), ("_cold", "'2020-01-01 12:00'")] {
        desk.run(&format!(
            "INSERT INTO inventory_reservation{tier} (reservation_id, order_id, sku_id, location_id, quantity, status, sale_no,
                 lane, key_hash, fingerprint, explicit_key, trace_id, expires_at, created_at, updated_at)
             SELECT gen_random_uuid(), 'o' || n, 's' || n % 500, 'wh1', 1, 'COMMITTED', sale_no, 0, gen_random_uuid(), 0,
                 false, gen_random_uuid(), {at}, {at}, {at}
             FROM generate_series(1, 100000) AS n LEFT JOIN sale ON sale_id = 's' || n % 500 AND n % 1000 < 500"
        ))
        .await;
    }
    desk.run("ANALYZE inventory_reservation; ANALYZE inventory_reservation_cold; ANALYZE sale")
        .await;
    sqlx::query_scalar(
        "SELECT DISTINCT tableoid::regclass::text FROM inventory_reservation
         UNION SELECT DISTINCT tableoid::regclass::text FROM inventory_reservation_cold",
    )
    .fetch_all(&desk.pool)
    .await
    .expect("reads")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balance_is_not_locked_while_all_reservations_are_read() {
    let desk = Desk::open().await;
    let partitions = plant(&desk).await;
    assert_eq!(partitions.len(), 2, "{partitions:?}");
    let (sale, mut lane) = desk.selling("hot", 20, None).await;
    for (order, units) in [("o1", 1), ("o2", 2), ("o3", 4)] {
        desk.reserve(&mut lane, &sale, vec![slip(&sale, order, units)]).await;
    }
    let plan: Vec<String> = sqlx::query_scalar(&format!("EXPLAIN {SIDES}"))
        .bind("hot")
        .bind("wh1")
        .fetch_all(&desk.pool)
        .await
        .expect("explains");
    let scans = |line: &String| {
        partitions
            .iter()
            .any(|name| line.contains(&format!("Seq Scan on {name} ")))
    };
    assert!(!plan.iter().any(scans), "{}", plan.join("\n"));

    // On sale or not, hot or cold: each is counted, once. Else the events would seem to lack some.
    desk.run(
        "UPDATE inventory_reservation SET sale_no = NULL WHERE order_id = 'o2' AND sku_id = 'hot';
         WITH gone AS (DELETE FROM inventory_reservation WHERE order_id = 'o3' AND sku_id = 'hot' RETURNING *)
         INSERT INTO inventory_reservation_cold SELECT (jsonb_populate_record(NULL::inventory_reservation_cold,
             to_jsonb(gone) || '{\"created_at\": \"2020-01-01T12:00:00Z\"}')).* FROM gone",
    )
    .await;
    tamper(&desk, "UPDATE inventory_balance SET reserved = 6 WHERE sku_id = 'hot'").await;
    assert_eq!(found(&compare(&desk).await), ["reserved 7 6 corrected "]);
    desk.run("UPDATE inventory_reservation_cold SET sale_no = NULL WHERE sku_id = 'hot'")
        .await;
    tamper(&desk, "UPDATE inventory_balance SET reserved = 6 WHERE sku_id = 'hot'").await;
    assert_eq!(found(&compare(&desk).await), ["reserved 7 6 corrected "]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balance_that_takes_too_long_is_left_for_a_person() {
    let desk = Desk::open().await;
    desk.stock("hot", 100).await;
    tamper(&desk, "UPDATE inventory_balance SET on_hand = 101").await;
    let mut tx = desk.pool.begin().await.expect("begins");
    sqlx::query("LOCK TABLE sale IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *tx)
        .await
        .expect("locks");
    let report = desk.ledger.compare_balances(Compare::All, &ann()).await;
    let report = report.expect("it can be found out").expect("it is asked for");
    assert_eq!(
        found(&report),
        [" the sum of its events something else manual_review took_too_long"]
    );
    assert!(report.ended_at.is_some());
    tx.rollback().await.expect("unlocks");
    let repaired = desk.ledger.repair(&report, &report.discrepancies[0], &ann()).await;
    assert!(
        matches!(repaired, Ok(Repaired::Corrected { event_id: Some(_), .. })),
        "{repaired:?}"
    );
    assert_eq!(desk.count("SELECT on_hand FROM inventory_balance").await, 100);
}

#[tokio::test]
async fn a_balance_that_would_not_cover_its_promises_is_left() {
    let desk = Desk::open().await;
    let sale = desk.sale("hot", 100, None, 1).await;
    tamper(&desk, "UPDATE inventory_balance SET on_hand = on_hand + 5").await;
    lose(&desk, &sale.item, 5).await;
    let report = compare(&desk).await;
    assert_eq!(found(&report), ["on_hand 95 100 manual_review events_incomplete"]);
    let repaired = desk.ledger.repair(&report, &report.discrepancies[0], &ann()).await;
    assert!(
        matches!(&repaired, Ok(Repaired::Left(why)) if why.starts_with("promised")),
        "{repaired:?}"
    );
    assert_eq!(desk.count("SELECT on_hand FROM inventory_balance").await, 100);
}
