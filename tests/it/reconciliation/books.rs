//! Balances compared with their events, and brought back to them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flashgate::domain::id::Item;
use flashgate::domain::reconciliation::ReportKind;
use flashgate::domain::time::Millis;
use flashgate::ledger::adjust::{Adjust, Adjusted, Reason};
use flashgate::ledger::once::By;
use flashgate::ledger::recon::{Compare, Count, Counted, Repaired, Report};

use crate::support::ledger::Desk;

pub(super) fn ann() -> By {
    By {
        operator: Some("ann".into()),
        trace: None,
    }
}

pub(super) async fn tamper(desk: &Desk, sql: &str) {
    desk.run(&format!(
        "BEGIN; SET LOCAL session_replication_role = replica; {sql}; COMMIT"
    ))
    .await;
}

pub(super) async fn compare(desk: &Desk) -> Report {
    let report = desk.ledger.compare_balances(Compare::All, &ann()).await;
    report.expect("it can be found out").expect("it is asked for")
}

/// Figure, expected, found, status and review of what differed.
pub(super) fn found(report: &Report) -> Vec<String> {
    let line = |d: &flashgate::ledger::recon::Discrepancy| {
        let (figure, review) = (
            d.figure.clone().unwrap_or_default(),
            d.review.clone().unwrap_or_default(),
        );
        format!("{figure} {} {} {} {review}", d.expected, d.found, d.status)
    };
    report.discrepancies.iter().map(line).collect()
}

pub(super) async fn lose(desk: &Desk, item: &Item, units: i64) {
    let lost = Adjust {
        item: item.clone(),
        delta: -units,
        reason: Reason::Lost,
        reference: None,
        note: None,
        key: None,
    };
    let adjusted = desk.ledger.adjust(&lost, &ann()).await.expect("adjusts");
    assert!(matches!(adjusted, Adjusted::Done(_)), "{adjusted:?}");
}

async fn assert_audit_agrees(desk: &Desk) {
    let audit = desk.ledger.audit().await.expect("Postgres answers");
    assert_eq!(audit.differences, []);
}

#[tokio::test]
async fn a_balance_that_changed_without_an_event_is_brought_back() {
    let desk = Desk::open().await;
    desk.stock("hot", 100).await;
    desk.stock("cold", 10).await;
    let report = compare(&desk).await;
    assert_eq!((report.compared, report.different), (2, 0));
    tamper(
        &desk,
        "UPDATE inventory_balance SET on_hand = on_hand + 7, sold = 3 WHERE sku_id = 'hot'",
    )
    .await;
    let report = compare(&desk).await;
    assert_eq!(found(&report), ["on_hand 100 107 corrected ", "sold 0 3 corrected "]);
    assert_eq!(report.operator, "ann");
    assert_eq!(
        desk.count("SELECT on_hand + sold FROM inventory_balance WHERE sku_id = 'hot'")
            .await,
        100
    );
    let event = report.discrepancies[0].event_id.expect("an event");
    let told: (String, String, i64, i64, serde_json::Value) = sqlx::query_as(
        "SELECT reason, reference_id, on_hand_delta, on_hand, metadata FROM inventory_movement WHERE event_id = $1",
    )
    .bind(event)
    .fetch_one(&desk.pool)
    .await
    .expect("the event");
    assert_eq!(
        told,
        (
            "ledger_reconciled".into(),
            report.id.to_string(),
            0,
            100,
            serde_json::json!({"corrected": {"on_hand": {"expected": 100, "found": 107},
                                             "sold": {"expected": 0, "found": 3}}})
        )
    );
    assert_audit_agrees(&desk).await;
    assert_eq!(compare(&desk).await.different, 0);
}

#[tokio::test]
async fn a_large_difference_waits_and_is_repaired_by_hand() {
    let desk = Desk::open().await;
    let item = desk.stock("hot", 1_000).await;
    tamper(&desk, "UPDATE inventory_balance SET on_hand = on_hand + 101").await;
    let report = compare(&desk).await;
    assert_eq!(found(&report), ["on_hand 1000 1101 manual_review over_threshold"]);
    assert_eq!(
        desk.count("SELECT on_hand FROM inventory_balance").await,
        1_101,
        "nothing is overwritten"
    );
    // The shop goes on: the events' images now say what was never true.
    let counted_at = Millis(
        desk.count("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::int8")
            .await,
    );
    tokio::time::sleep(Duration::from_millis(5)).await;
    lose(&desk, &item, 50).await;
    let open = desk.ledger.open_reports(10).await.expect("Postgres answers");
    assert_eq!((open.len(), open[0].report_id, open[0].waiting), (1, report.id, 1));
    let repaired = desk
        .ledger
        .repair(&report, &report.discrepancies[0], &ann())
        .await
        .expect("repairs");
    assert!(
        matches!(repaired, Repaired::Corrected { event_id: Some(_), .. }),
        "{repaired:?}"
    );
    assert_eq!(desk.count("SELECT on_hand FROM inventory_balance").await, 950);
    assert_audit_agrees(&desk).await;
    let report = desk.ledger.report(report.id).await.expect("reads").expect("is there");
    let closed = &report.discrepancies[0];
    assert_eq!(
        (closed.status.as_str(), closed.operator.as_deref(), report.waiting),
        ("corrected", Some("ann"), 0)
    );
    lose(&desk, &item, 50).await;
    assert_audit_agrees(&desk).await;
    let count = Count {
        id: "c1".into(),
        source: ReportKind::Warehouse,
        location: item.location.clone(),
        counted_at,
        lines: BTreeMap::from([(item.sku.clone(), 1_000)]),
        key: None,
    };
    let counted = desk.ledger.count(&count, &ann(), &BTreeSet::new()).await;
    let Ok(Counted::Done(report)) = counted else {
        panic!("{counted:?}")
    };
    assert_eq!(
        report.different, 0,
        "what was on the shelf is what its events say: {report:?}"
    );
}

#[tokio::test]
async fn a_balance_is_not_fitted_to_events_that_are_incomplete() {
    let desk = Desk::open().await;
    let item = desk.stock("hot", 100).await;
    lose(&desk, &item, 5).await;
    lose(&desk, &item, 5).await;
    // The last event goes: what is left of them agrees with itself, but an adjustment is without its event.
    tamper(
        &desk,
        "DELETE FROM inventory_event WHERE event_id = (SELECT max(event_id) FROM inventory_movement)",
    )
    .await;
    let report = compare(&desk).await;
    assert_eq!(found(&report), ["on_hand 95 90 manual_review events_incomplete"]);
    assert_eq!(desk.count("SELECT on_hand FROM inventory_balance").await, 90);

    let (sale, mut lane) = desk.selling("flash", 20, None).await;
    let slip = crate::support::ledger::slip(&sale, "o1", 2);
    desk.reserve(&mut lane, &sale, vec![slip]).await;
    tamper(&desk, "DELETE FROM inventory_event WHERE reservation_id IS NOT NULL").await;
    let report = compare(&desk).await;
    let flash: Vec<_> = report
        .discrepancies
        .iter()
        .filter(|d| d.sku.as_deref() == Some("flash"))
        .collect();
    assert_eq!(flash.len(), 2, "reserved and escrowed: {report:?}");
    for found in flash {
        assert_eq!(found.review.as_deref(), Some("events_incomplete"));
        let repaired = desk.ledger.repair(&report, found, &ann()).await.expect("repairs");
        assert!(
            matches!(repaired, Repaired::Left(_)),
            "a person can't make it worse: {repaired:?}"
        );
    }
    assert_eq!(
        desk.count("SELECT reserved FROM inventory_balance WHERE sku_id = 'flash'")
            .await,
        2
    );
}

#[tokio::test]
async fn once_a_day_what_changed_is_compared() {
    let desk = Desk::open().await;
    desk.stock("old", 100).await;
    let daily = async || {
        let report = desk.ledger.compare_balances(Compare::Daily, &By::default()).await;
        report.expect("it can be found out")
    };
    let first = daily().await.expect("there was none");
    assert_eq!((first.compared, first.operator.as_str()), (1, "AUTO_RECONCILE"));
    assert_eq!(daily().await, None, "not again today");
    let yesterday = "UPDATE reconciliation_report SET started_at = started_at - interval '25 hours'";
    desk.run(yesterday).await;
    desk.run("SELECT ensure_day(now() - interval '3 days')").await;
    tamper(
        &desk,
        "UPDATE inventory_balance SET updated_at = updated_at - interval '3 days';
         UPDATE inventory_event SET created_at = created_at - interval '3 days'",
    )
    .await;
    desk.stock("new", 5).await;
    tamper(&desk, "UPDATE inventory_balance SET on_hand = 6 WHERE sku_id = 'new'").await;
    let second = daily().await.expect("a day is over");
    assert_eq!(
        (second.compared, found(&second)),
        (1, vec!["on_hand 5 6 corrected ".to_owned()])
    );
    // A run that broke off is made up for after an hour.
    desk.run("UPDATE reconciliation_report SET ended_at = NULL, started_at = now() - interval '50 minutes'")
        .await;
    assert_eq!(daily().await, None);
    desk.run("UPDATE reconciliation_report SET started_at = now() - interval '70 minutes'")
        .await;
    assert!(daily().await.is_some());
}

#[tokio::test]
async fn a_run_handles_more_differing_balances_than_it_reads_at_once() {
    let desk = Desk::open().await;
    for sku in ["Z", "a", "b", "c", "sound"] {
        desk.stock(sku, 10).await;
    }
    tamper(
        &desk,
        "UPDATE inventory_balance SET on_hand = 11 WHERE sku_id IN ('Z', 'b', 'c');
         UPDATE inventory_balance SET on_hand = 1000 WHERE sku_id = 'a'",
    )
    .await;
    let report = desk.ledger.compare_in_pages(Compare::All, &ann(), 2).await;
    let report = report.expect("it can be found out").expect("it is asked for");
    assert_eq!(
        found(&report),
        [
            "on_hand 10 11 corrected ",
            "on_hand 10 1000 manual_review over_threshold",
            "on_hand 10 11 corrected ",
            "on_hand 10 11 corrected "
        ]
    );
    assert_eq!((report.compared, report.different, report.waiting), (5, 4, 1));
    assert!(report.ended_at.is_some());
    let wrong = "SELECT count(*) FROM inventory_balance WHERE on_hand <> 10";
    assert_eq!(
        desk.count(wrong).await,
        1,
        "what is left is met once, and is no page's start for ever"
    );
}
