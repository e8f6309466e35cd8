//! What is right is called right: at rest, in flight, while selling, after the end.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use flashgate::domain::outcome::Decision;
use flashgate::domain::reservation::Ending;
use flashgate::domain::sale::SaleAction;
use flashgate::ledger::once::By;
use flashgate::ledger::sale_patch::{Patched, SalePatch};
use flashgate::worker::reconcile::reconcile;
use flashgate::worker::verify::{VerifyError, verify};

use super::fair::{Fair, LIMIT};
use crate::support::servers::Private;

/// What is sold while it is compared.
const RESERVATIONS: usize = 200;

#[tokio::test]
async fn a_sale_agrees_at_rest_and_in_flight() {
    let fair = Fair::busy().await;
    let report = fair.assert_agrees().await;
    assert_eq!(
        (
            report.compared.balances,
            report.compared.reservations,
            report.compared.sales
        ),
        (1, 12, 1)
    );
    assert_eq!((report.compared.lanes, report.compared.counters), (4, 2), "{report}");
    assert!(report.compared.buyers >= 7, "{report}");
    let json = serde_json::to_value(&report).expect("serialises");
    assert_eq!(json["compared"]["reservations"], 12);
    fair.settle().await;
    let report = fair.assert_agrees().await;
    assert_eq!(report.compared.reservations, 14);
}

#[tokio::test]
async fn a_sale_that_has_ended_agrees() {
    let fair = Fair::busy().await;
    let open = fair.reserve("rest", "rest", 3, Some("rest")).await;
    let late = fair.reserve("rest2", "rest2", 1, None).await;
    fair.settle().await;
    fair.desk.act("hot", SaleAction::Stop).await;
    fair.assert_agrees().await;
    fair.end(open, Ending::Release).await;
    fair.assert_agrees().await;
    fair.settle().await;
    fair.assert_agrees().await;
    let drained = fair.desk.ledger.finish_drain(fair.sale.no).await.expect("drains");
    assert!(drained);
    fair.end(late, Ending::Release).await;
    fair.assert_agrees().await;
    fair.settle().await;
    fair.assert_agrees().await;
}

#[tokio::test]
async fn a_limit_that_was_lowered_accuses_nobody() {
    let fair = Fair::open().await;
    fair.reserve("greedy", "o1", LIMIT, None).await;
    fair.settle().await;
    let patch = SalePatch {
        per_user_limit: Some(Some(1)),
        ..SalePatch::default()
    };
    let patched = fair
        .desk
        .ledger
        .patch_sale(&fair.sale.id, &patch, &By::default(), None)
        .await;
    assert!(matches!(patched, Ok(Patched::Done(_))), "{patched:?}");
    fair.settle().await;
    let report = fair.assert_agrees().await;
    assert!(report.notes.iter().any(|note| note.contains("greedy")), "{report}");
}

#[tokio::test]
async fn a_sale_agrees_while_it_sells() {
    let fair = Fair::open().await;
    let tasks = fair.serve();
    let (over, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    let shoppers = (0..6).map(|n| shop(&fair, n, &over, &made));
    let shopping = futures::future::join_all(shoppers);
    let verifying = async {
        while made.load(Ordering::Relaxed) < RESERVATIONS {
            fair.assert_agrees().await;
            let drift = reconcile(&fair.context.ledger, &fair.context.flash, true, "ann").await;
            assert_eq!(drift.expect("it can be found out").drift, []);
        }
        over.store(true, Ordering::Relaxed);
    };
    futures::join!(shopping, verifying);
    fair.assert_agrees().await;
    fair.context.stop.cancel();
    tasks.wait().await;
}

/// Reserves, and buys or gives back, until it is over; counts what it reserved.
async fn shop(fair: &Fair, n: usize, over: &AtomicBool, made: &AtomicUsize) {
    for round in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let (user, order) = (format!("shopper{}", (n + round) % 9), format!("{n}-{round}"));
        let key = (round % 3 == 0).then(|| format!("key-{order}"));
        let Decision::Reserved { id, .. } = fair.try_reserve(&user, &order, 1, key.as_deref()).await else {
            // Every user may have bought all that is allowed; the workers go on meanwhile.
            tokio::task::yield_now().await;
            continue;
        };
        made.fetch_add(1, Ordering::Relaxed);
        while fair
            .desk
            .ledger
            .reservation(id)
            .await
            .expect("Postgres answers")
            .is_none()
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let ending = if round % 40 == 39 {
            Ending::Commit
        } else {
            Ending::Release
        };
        fair.end(id, ending).await;
    }
}

#[tokio::test]
async fn a_redis_that_restarted_can_not_be_found_out() {
    let private = Private::start().await;
    let fair = Fair::at(&private.redis.url()).await;
    fair.redis("SCRIPT", vec!["FLUSH".into()]).await;
    let verified = verify(&fair.context.ledger, &fair.context.flash).await;
    assert!(matches!(verified, Err(VerifyError::NotRecovered)), "{verified:?}");
}
