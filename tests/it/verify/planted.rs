//! Many faults at once, each of another kind, each found by its name at its place.
//!
//! The list, in the order of [`plant`]: a balance changed without an event; an event gone; an event that moves what its
//! kind does not; an adjustment that was answered otherwise than it happened; a transfer that never arrived; more
//! returned than sold, of nothing and of what was sold; a correction that never was; promises that are not covered; a reservation whose status is not what
//! its events say; an order that holds an item twice; an idempotency key gone; units set aside for nobody; a return
//! whose answer tells that more may come back; one whose event tells other units; one that nobody remembers; a transfer
//! that was answered otherwise than it happened; one that nobody remembers; a copy for the pages that is not the balance;
//! and one of nothing.

use std::collections::{BTreeMap, BTreeSet};

use flashgate::domain::difference::{Difference, Kind};
use flashgate::domain::id::{Item, LocationId, ReturnId, Sku, TransferId};
use flashgate::domain::reconciliation::ReportKind;
use flashgate::domain::reservation_id::ReservationId;
use flashgate::ledger::adjust::{Adjust, Adjusted, Reason};
use flashgate::ledger::once::By;
use flashgate::ledger::read_model::follow::Followed;
use flashgate::ledger::recon::{Count, Counted};
use flashgate::ledger::returns::{Condition, ReturnAnswer, ReturnAsk, ReturnUnits};
use flashgate::ledger::transfer::{TransferAsk, Transferred};

use super::fair::Fair;
use crate::support::door::until;
use crate::support::ledger::{place, sku};

/// What is planted: the kind it must be found as, the item that names it, and how.
const PLANTED: [(Kind, &str, &str); 20] = [
    (
        Kind::BalanceSum,
        "changed",
        "UPDATE inventory_balance SET damaged = damaged + 1 WHERE sku_id = 'changed'",
    ),
    (
        Kind::EventGap,
        "gone",
        "DELETE FROM inventory_event WHERE event_id = (SELECT min(event_id) FROM inventory_movement WHERE sku_id = 'gone')",
    ),
    (
        Kind::EventShape,
        "misshapen",
        "UPDATE inventory_event SET event_type = 'inventory_damaged' WHERE sku_id = 'misshapen' AND on_hand_delta < 0",
    ),
    (
        Kind::AdjustmentEvent,
        "answered",
        "UPDATE adjustment SET delta = delta + 1 WHERE sku_id = 'answered' AND delta > 0",
    ),
    (
        Kind::Transfer,
        "sent",
        "UPDATE inventory_event SET event_type = 'inventory_transferred', reference_id = 't1'
         WHERE sku_id = 'sent' AND on_hand_delta < 0",
    ),
    (
        Kind::Returns,
        "returned",
        "UPDATE inventory_event SET event_type = 'inventory_returned', returned_delta = 100,
             reservation_id = gen_random_uuid() WHERE sku_id = 'returned' AND on_hand_delta > 0",
    ),
    (
        Kind::Returns,
        "hot",
        "UPDATE inventory_event SET returned_delta = 2 WHERE event_type = 'inventory_returned' AND sku_id = 'hot'",
    ),
    (
        Kind::CorrectionEvent,
        "counted",
        "DELETE FROM inventory_event WHERE sku_id = 'counted' AND reason = 'cycle_count_correction'",
    ),
    (
        Kind::Promises,
        "promised",
        "ALTER TABLE inventory_balance DROP CONSTRAINT balance_promises_are_covered;
         UPDATE inventory_balance SET unavailable = on_hand + 1 WHERE sku_id = 'promised'",
    ),
    (
        Kind::ReservationEvents,
        "hot",
        "UPDATE inventory_reservation SET status = 'RELEASED' WHERE order_id = 'o7'",
    ),
    (
        Kind::OrderTwice,
        "hot",
        "UPDATE inventory_reservation SET order_id = 'o8' WHERE order_id = 'o9'",
    ),
    (
        Kind::KeyMissing,
        "hot",
        "DELETE FROM inventory_key WHERE subject_id =
             (SELECT reservation_id FROM inventory_reservation WHERE order_id = 'o10')",
    ),
    (
        Kind::Escrow,
        "nobody",
        "UPDATE inventory_balance SET escrowed = escrowed + 1 WHERE sku_id = 'nobody'",
    ),
    (
        Kind::Returnable,
        "hot",
        "UPDATE inventory_return SET returnable = returnable + 1",
    ),
    (
        Kind::ReturnEvent,
        "hot",
        "UPDATE inventory_return_line SET quantity = quantity + 1 WHERE sku_id = 'hot'",
    ),
    (
        Kind::ReturnEvent,
        "back",
        "UPDATE inventory_event SET event_type = 'inventory_returned', reservation_id = gen_random_uuid(),
             reference_id = 'r9' WHERE sku_id = 'back' AND on_hand_delta > 0",
    ),
    (
        Kind::TransferEvent,
        "moved",
        "UPDATE transfer SET quantity = quantity + 1 WHERE sku_id = 'moved'",
    ),
    (
        Kind::TransferEvent,
        "strayed",
        "DELETE FROM transfer WHERE sku_id = 'strayed';
         UPDATE inventory_event SET reference_id = NULL WHERE sku_id = 'strayed' AND on_hand_delta > 0
             AND event_type = 'inventory_transferred'",
    ),
    (
        Kind::Snapshot,
        "copied",
        "UPDATE inventory_snapshot SET on_hand = on_hand + 1 WHERE sku_id = 'copied'",
    ),
    (
        Kind::Snapshot,
        "unseen",
        "DELETE FROM inventory_snapshot WHERE sku_id = 'unseen'",
    ),
];

async fn adjust(fair: &Fair, item: &Item, delta: i64, reason: Reason) {
    let ask = Adjust {
        item: item.clone(),
        delta,
        reason,
        reference: None,
        note: None,
        key: None,
    };
    let adjusted = fair.desk.ledger.adjust(&ask, &By::default()).await.expect("adjusts");
    assert!(matches!(adjusted, Adjusted::Done(_)), "{adjusted:?}");
}

async fn count(fair: &Fair, of: Sku, counted: i64) {
    let count = Count {
        id: "c1".into(),
        source: ReportKind::Warehouse,
        location: place(),
        counted_at: fair.desk.ledger.now().await.expect("a time"),
        lines: BTreeMap::from([(of, counted)]),
        key: None,
    };
    let done = fair
        .desk
        .ledger
        .count(&count, &By::default(), &BTreeSet::new())
        .await
        .expect("counts");
    assert!(
        matches!(&done, Counted::Done(report) if report.discrepancies.len() == 1),
        "{done:?}"
    );
}

/// The order's unit comes back.
async fn give_back(fair: &Fair, order: &str) {
    let id: uuid::Uuid = sqlx::query_scalar("SELECT reservation_id FROM inventory_reservation WHERE order_id = $1")
        .bind(order)
        .fetch_one(&fair.desk.pool)
        .await
        .expect("a reservation");
    let ask = ReturnAsk {
        id: ReturnId::try_from("r1").expect("an id"),
        reservation: ReservationId(id),
        units: ReturnUnits::All,
        condition: Condition::Sellable,
        reason: None,
        key: None,
    };
    let back = fair.desk.ledger.give_back(&ask, &By::default()).await.expect("takes");
    assert!(matches!(back, ReturnAnswer::Done(_)), "{back:?}");
}

async fn transfer(fair: &Fair, of: Sku) {
    let ask = TransferAsk {
        id: TransferId::try_from(format!("t-{of}").as_str()).expect("an id"),
        sku: of,
        from: place(),
        to: LocationId::try_from("wh2").expect("a location"),
        quantity: 5,
        key: None,
    };
    let done = fair.desk.ledger.transfer(&ask, &By::default()).await.expect("moves");
    assert!(matches!(done, Transferred::Done(_)), "{done:?}");
}

#[tokio::test]
async fn every_kind_of_fault_is_found_by_name() {
    let fair = Fair::busy().await;
    for (_, name, _) in PLANTED.iter().filter(|(_, name, _)| *name != "hot") {
        let item = fair.desk.stock(name, 100).await;
        adjust(&fair, &item, -10, Reason::Lost).await;
        adjust(&fair, &item, -1, Reason::Damaged).await;
    }
    // Later than the millisecond of the last adjustment, so that it is in what the count is compared with.
    let last = fair.desk.ledger.now().await.expect("a time");
    while fair.desk.ledger.now().await.expect("a time") <= last {}
    count(&fair, sku("counted"), 95).await;
    give_back(&fair, "o0").await;
    fair.desk
        .run("INSERT INTO location (location_id, name, kind, region) VALUES ('wh2', 'Two', 'store', 'eu')")
        .await;
    for name in ["moved", "strayed"] {
        transfer(&fair, sku(name)).await;
    }
    fair.settle().await;
    let copied = fair.desk.ledger.follow().await.expect("follows");
    assert!(matches!(copied, Followed::Rebuilt { .. }), "{copied:?}");
    // A run settles what the one before has seen.
    until("the copy to have settled", async || {
        fair.desk.ledger.follow().await.expect("follows");
        let settled =
            "SELECT count(*) FROM snapshot_feed WHERE settled_id >= (SELECT max(event_id) FROM inventory_movement)";
        let settled: i64 = sqlx::query_scalar(settled).fetch_one(&fair.desk.pool).await.ok()?;
        (settled > 0).then_some(())
    })
    .await;
    fair.assert_agrees().await;
    for (kind, name, sql) in PLANTED {
        fair.tamper(sql).await;
        let report = fair.verify().await;
        let is_it = |found: &&Difference| found.kind == kind && found.site.sku_id.as_deref() == Some(name);
        assert!(
            report.differences.iter().any(|found| is_it(&found)),
            "{name} is not found as {}: {report}",
            kind.as_str()
        );
    }
    let report = fair.verify().await;
    for (kind, name, _) in PLANTED {
        let found = report.differences.iter().filter(|d| d.kind == kind);
        assert!(
            found.clone().any(|d| d.site.sku_id.as_deref() == Some(name)),
            "{name} is hidden by others: {report}"
        );
        assert!(found.clone().all(|d| !d.message.is_empty()));
    }
}
