//! A sale freezes by itself where units were given out that are not there, or where it drifts too far; it alone; and only
//! a person unfreezes it, after a reconciliation.

use std::sync::Arc;

use flashgate::domain::grant::Grant;
use flashgate::domain::outcome::Decision;
use flashgate::domain::reconciliation::FreezeCause;
use flashgate::domain::reservation::Ending;
use flashgate::domain::sale::{Sale, SaleAction, SaleState};
use flashgate::ledger::once::By;
use flashgate::ledger::sale_life::ActAnswer;
use flashgate::worker::drift::{Round, run_once};
use flashgate::worker::reconcile::reconcile;
use flashgate::worker::sales;
use flashgate::worker::verify::Position;

use super::fair::{Fair, UNITS};
use super::halves::raise_counter;
use crate::support::door::until;

async fn compare(fair: &Fair) -> Round {
    let round = run_once(&fair.context, &Position::default()).await;
    round.expect("it can be found out").expect("nobody else compares")
}

async fn other(fair: &Fair) -> Arc<Sale> {
    let other = Arc::new(fair.desk.sale("other", 100, None, 2).await);
    fair.settle().await;
    other
}

async fn state(fair: &Fair, sale: &Sale) -> (SaleState, Option<FreezeCause>) {
    let now = fair.desk.ledger.sale(&sale.id).await.expect("reads").expect("a sale");
    let figures = fair.desk.ledger.sale_figures(sale.no).await.expect("reads");
    (now.state, figures.frozen_for)
}

async fn unfreeze(fair: &Fair) -> ActAnswer {
    let by = By::default();
    let answer = fair
        .desk
        .ledger
        .act(&fair.sale.id, SaleAction::Unfreeze, &by, None)
        .await;
    answer.expect("Postgres answers")
}

/// Repairs as the command does; nothing is left.
async fn repair(fair: &Fair) {
    let report = reconcile(&fair.context.ledger, &fair.context.flash, true, "ann").await;
    let report = report.expect("it can be found out");
    assert_eq!(report.exit_code(), 0, "{report}");
}

#[tokio::test]
async fn an_oversell_attempt_freezes_that_sale_and_no_other() {
    let fair = Fair::open().await;
    let other = other(&fair).await;
    let lane = fair.sale.lanes[0];
    raise_counter(&fair, lane, 3).await;
    let tasks = fair.serve();
    // Buyers whose home is that lane take all that it says it has: three units more than there are.
    let mut buyers = (0..2_000)
        .map(|n| format!("b{n}"))
        .filter(|user| fair.home(user) == lane);
    let first = buyers.next().expect("somebody lives there");
    let first = fair.reserve(&first, &format!("o-{first}"), 1, None).await;
    for user in buyers {
        let decision = fair.try_reserve(&user, &format!("o-{user}"), 1, None).await;
        if !matches!(decision, Decision::Reserved { .. }) {
            break;
        }
    }
    until("the sale to be frozen", async || {
        (state(&fair, &fair.sale).await.0 == SaleState::Frozen).then_some(())
    })
    .await;
    assert_eq!(
        state(&fair, &fair.sale).await,
        (SaleState::Frozen, Some(FreezeCause::OversellAttempt))
    );
    // Siblings' units came to help; what was never there did not.
    let reserved = "SELECT reserved FROM inventory_balance WHERE sku_id = 'hot'";
    assert!(fair.desk.count(reserved).await <= UNITS);
    let told = "SELECT count(*) FROM inventory_movement WHERE reason = 'sale_frozen' AND sku_id = 'hot'
        AND metadata ->> 'cause' = 'oversell_attempt' AND operator = 'AUTO_RECONCILE'";
    assert_eq!(fair.desk.count(told).await, 1);
    let waits = "SELECT count(*) FROM reconciliation_discrepancy WHERE cause = 'oversell_attempt' AND sale_id = 'hot'
        AND status = 'manual_review' AND (found)::text::int8 BETWEEN 1 AND 3";
    assert_eq!(fair.desk.count(waits).await, 1);

    assert_eq!(state(&fair, &other).await, (SaleState::Live, None));
    let sold = fair.take(&other, "u", "elsewhere", 1, None).await;
    assert!(
        matches!(sold, Decision::Reserved { .. }),
        "the others sell on: {sold:?}"
    );
    until("the lane to refuse", async || {
        let refused = fair.try_reserve("late", "late", 1, None).await;
        matches!(refused, Decision::NotLive(_)).then_some(())
    })
    .await;

    assert!(matches!(unfreeze(&fair).await, ActAnswer::Unreconciled(reports) if reports.len() == 1));
    repair(&fair).await;
    assert!(matches!(unfreeze(&fair).await, ActAnswer::Done(_)));
    assert_eq!(state(&fair, &fair.sale).await, (SaleState::Live, None));
    // Its siblings' units may all have come to help by then: one unit is there for certain, that of who lets go.
    fair.end(first, Ending::Release).await;
    let user = (0..).map(|n| format!("c{n}")).find(|user| fair.home(user) == lane);
    let user = user.expect("somebody lives there");
    until("the lane to sell again", async || {
        let taken = fair.try_reserve(&user, "again", 1, None).await;
        matches!(taken, Decision::Reserved { .. } | Decision::Replayed(_)).then_some(())
    })
    .await;
    fair.assert_agrees().await;
    fair.context.stop.cancel();
    tasks.wait().await;
}

#[tokio::test]
async fn drift_beyond_the_threshold_freezes_and_is_left_for_a_person() {
    let fair = Fair::busy().await;
    fair.settle().await;
    let other = other(&fair).await;
    // Six up and five down are eleven units of drift, not one.
    raise_counter(&fair, fair.sale.lanes[0], 6).await;
    raise_counter(&fair, fair.sale.lanes[1], -5).await;
    let round = compare(&fair).await;
    assert!(round.report.is_none(), "{round:?}");
    assert_eq!(round.frozen.len(), 1);
    assert!(round.frozen[0].is_new && round.frozen[0].sale.id == fair.sale.id);
    assert_eq!(
        state(&fair, &fair.sale).await,
        (SaleState::Frozen, Some(FreezeCause::Drift))
    );
    assert_eq!(state(&fair, &other).await, (SaleState::Live, None));
    let report = fair.desk.ledger.report(round.frozen[0].report).await.expect("reads");
    let report = report.expect("a report");
    let mut lanes: Vec<_> = report.discrepancies.iter().filter_map(|found| found.lane).collect();
    lanes.sort_unstable();
    let mut expected: Vec<_> = fair.sale.lanes.iter().map(|lane| lane.to_i16()).collect();
    expected.sort_unstable();
    assert_eq!((lanes, report.waiting), (expected, 2));
    assert!(
        report
            .discrepancies
            .iter()
            .all(|found| found.review.as_deref() == Some("over_threshold"))
    );

    let corrections = "SELECT count(*) FROM lane_grant WHERE kind = 'correct'";
    assert_eq!(fair.desk.count(corrections).await, 0, "nobody guesses");
    let again = compare(&fair).await;
    assert!(
        again.report.is_none() && again.frozen.is_empty(),
        "it is told once: {again:?}"
    );
    assert!(matches!(unfreeze(&fair).await, ActAnswer::Unreconciled(_)));
    let tasks = fair.serve();
    repair(&fair).await;
    assert!(matches!(unfreeze(&fair).await, ActAnswer::Done(_)));
    fair.assert_agrees().await;
    fair.context.stop.cancel();
    tasks.wait().await;
}

#[tokio::test]
async fn small_drift_is_corrected_while_the_sale_sells() {
    let fair = Fair::busy().await;
    fair.settle().await;
    raise_counter(&fair, fair.sale.lanes[0], 10).await;
    let round = compare(&fair).await;
    assert!(round.frozen.is_empty(), "{round:?}");
    let report = round.report.expect("a report");
    let [found] = &report.discrepancies[..] else {
        panic!("{report:?}")
    };
    assert_eq!((found.cause.as_str(), found.status.as_str()), ("counter", "corrected"));
    let sent = fair
        .desk
        .ledger
        .undelivered(fair.sale.lanes[0], 0, 10)
        .await
        .expect("reads");
    assert!(sent.is_empty(), "its grant waits for a number");
    let body: Vec<u8> = sqlx::query_scalar("SELECT body FROM lane_grant WHERE grant_id = $1")
        .bind(found.grant_id)
        .fetch_one(&fair.desk.pool)
        .await
        .expect("the grant that the report names");
    assert!(matches!(Grant::unpack(&body), Ok(Grant::Correct(-10))));
    assert!(
        compare(&fair).await.report.is_none(),
        "a correction on its way is not sent again"
    );
    assert_eq!(state(&fair, &fair.sale).await, (SaleState::Live, None));
    fair.settle().await;
    fair.assert_agrees().await;
}

#[tokio::test]
async fn what_the_writer_sees_is_not_left_until_the_next_minute() {
    let fair = Fair::open().await;
    assert!(fair.desk.ledger.begin_live().await.expect("Postgres answers"));
    assert!(
        !fair.desk.ledger.begin_live().await.expect("Postgres answers"),
        "not again so soon"
    );
    let user = (0..)
        .map(|n| format!("u{n}"))
        .find(|user| fair.home(user) == fair.sale.lanes[0]);
    let user = user.expect("somebody lives there");
    raise_counter(&fair, fair.sale.lanes[0], 2).await;
    fair.reserve(&user, "o1", 1, None).await;
    fair.settle().await;
    sales::run_once(&fair.context).await.expect("Postgres answers");
    assert_eq!(state(&fair, &fair.sale).await, (SaleState::Live, None));
    assert!(
        fair.desk.ledger.begin_live().await.expect("Postgres answers"),
        "it is time to compare"
    );

    raise_counter(&fair, fair.sale.lanes[0], 20).await;
    let id = fair.reserve(&user, "o2", 1, None).await;
    fair.settle().await;
    sales::run_once(&fair.context).await.expect("Postgres answers");
    assert_eq!(
        state(&fair, &fair.sale).await,
        (SaleState::Frozen, Some(FreezeCause::Drift))
    );
    assert_eq!(fair.desk.count("SELECT count(*) FROM alarm").await, 0);
    fair.end(id, Ending::Release).await;
    fair.desk.act("hot", SaleAction::Stop).await;
    assert_eq!(state(&fair, &fair.sale).await, (SaleState::Ended, None));
}

#[tokio::test]
async fn one_compares_at_a_time() {
    let fair = Fair::open().await;
    let lock = fair.desk.ledger.live_lock().await.expect("Postgres answers");
    let lock = lock.expect("nobody has it");
    let second = run_once(&fair.context, &Position::default()).await;
    assert!(second.expect("it can be found out").is_none());
    lock.release().await;
    compare(&fair).await;
}
