//! The ledger's own reconciliation, as a process does it that nobody asks.

use flashgate::domain::id::OrderId;
use flashgate::domain::reconciliation::{OrderState, ReportKind};
use flashgate::ledger::once::By;
use flashgate::ledger::recon::{NewsAnswer, OrderNews};
use flashgate::worker::books::run_once;

use super::fair::Fair;

#[tokio::test]
async fn what_is_due_is_reconciled_once() {
    let fair = Fair::busy().await;
    fair.settle().await;
    let news = OrderNews {
        order: OrderId::try_from("o8").expect("an order"),
        state: OrderState::Cancelled,
        at: fair.desk.ledger.now().await.expect("a time"),
    };
    let kept = fair.desk.ledger.order_state(&news, &By::default(), None).await;
    assert_eq!(kept.expect("keeps"), NewsAnswer::Kept);
    fair.tamper("UPDATE inventory_balance SET damaged = damaged + 2").await;
    let first = run_once(&fair.context, 60_000).await.expect("Postgres answers");
    assert_eq!(first.len(), 1, "the shop's own release may still come: {first:?}");
    assert_eq!(
        (first[0].kind, first[0].compared, first[0].waiting),
        (ReportKind::Ledger, 1, 0)
    );
    assert_eq!(first[0].discrepancies[0].figure.as_deref(), Some("damaged"));
    let second = run_once(&fair.context, 0).await.expect("Postgres answers");
    assert_eq!(second.len(), 1, "{second:?}");
    let found = &second[0].discrepancies[0];
    assert_eq!(
        (second[0].operator.as_str(), found.cause.as_str(), found.status.as_str()),
        ("AUTO_RECONCILE", "cancelled_but_reserved", "corrected")
    );
    assert_eq!(run_once(&fair.context, 0).await.expect("Postgres answers"), []);
    fair.settle().await;
    fair.assert_agrees().await;
}
