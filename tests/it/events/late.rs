//! Events whose transactions commit late, below ids that were there before them.

use std::time::Duration;

use flashgate::ledger::Ledger;
use flashgate::ledger::events::{After, Wanted};
use flashgate::ledger::post::EventType;
use sqlx::PgPool;

use crate::support::ledger::{Desk, place};

pub(super) const APPEND: &str =
    "INSERT INTO inventory_event (event_type, sku_id, location_id, quantity_delta, on_hand, reserved,
        unavailable, escrowed, sold, damaged, returned)
    VALUES ('inventory_received', 'late', 'wh1', 0, 0, 0, 0, 0, 0, 0, 0) RETURNING event_id";

/// Every event after `after`, page by page.
pub(super) async fn walk(ledger: &Ledger, mut after: Option<After>, limit: u16) -> Vec<i64> {
    let mut ids = Vec::new();
    loop {
        let wanted = Wanted {
            after,
            ..Wanted::default()
        };
        let page = ledger.events(&wanted, limit).await.expect("reads").expect("is there");
        ids.extend(page.events.iter().map(|event| event.id));
        let Some(next) = page.next else { return ids };
        after = Some(After::Page(next));
    }
}

pub(super) async fn all(pool: &PgPool) -> Vec<i64> {
    sqlx::query_scalar("SELECT event_id FROM inventory_movement ORDER BY event_id")
        .fetch_all(pool)
        .await
        .expect("reads")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_ends_where_an_event_may_still_show_up() {
    let desk = Desk::open().await;
    desk.stock("first", 1).await;
    let mut slow = desk.pool.begin().await.expect("begins");
    let late: i64 = sqlx::query_scalar(APPEND).fetch_one(&mut *slow).await.expect("appends");
    desk.stock("second", 1).await;
    assert_not_passed(&desk, slow, late).await;
}

/// Who commits first had begun first: the slow one's number is greater than any that has ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_ends_before_a_slow_writer_that_began_last() {
    let desk = Desk::open().await;
    desk.stock("first", 1).await;
    let mut fast = desk.pool.begin().await.expect("begins");
    sqlx::query("SELECT pg_current_xact_id()")
        .execute(&mut *fast)
        .await
        .expect("has a number");
    let mut slow = desk.pool.begin().await.expect("begins");
    let late: i64 = sqlx::query_scalar(APPEND).fetch_one(&mut *slow).await.expect("appends");
    sqlx::query(APPEND).execute(&mut *fast).await.expect("appends");
    fast.commit().await.expect("commits");
    assert_not_passed(&desk, slow, late).await;
}

/// A reader does not pass the event that the slow writer has yet to commit, and sees it in the end.
async fn assert_not_passed(desk: &Desk, slow: sqlx::Transaction<'static, sqlx::Postgres>, late: i64) {
    let reader = desk.ledger.clone();
    let reading = tokio::spawn(async move { walk(&reader, None, 100).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    slow.commit().await.expect("commits");
    let mut seen = reading.await.expect("reads");
    assert!(
        seen.last().is_none_or(|last| *last < late) || seen.contains(&late),
        "{seen:?} without {late}"
    );
    while seen != all(&desk.pool).await {
        let rest = walk(&desk.ledger, seen.last().map(|id| After::Event(*id)), 100).await;
        seen.extend(rest);
        assert!(seen.is_sorted());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_behind_many_writers_sees_each_event_once() {
    let desk = Desk::open().await;
    for name in ["a", "b", "c", "d"] {
        desk.stock(name, 1).await;
    }
    let writers: Vec<_> = (0..4)
        .map(|n| {
            let pool = desk.pool.clone();
            tokio::spawn(async move {
                for round in 0..40 {
                    let mut tx = pool.begin().await.expect("begins");
                    sqlx::query(APPEND).execute(&mut *tx).await.expect("appends");
                    tokio::time::sleep(Duration::from_millis((n * 7 + round * 3) % 11)).await;
                    tx.commit().await.expect("commits");
                }
            })
        })
        .collect();
    let mut seen = Vec::new();
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) || seen != all(&desk.pool).await {
        seen.extend(walk(&desk.ledger, seen.last().map(|id| After::Event(*id)), 3).await);
        assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
    }
    for writer in writers {
        writer.await.expect("writes");
    }
    let wanted = Wanted {
        location: Some(place()),
        event_type: Some(EventType::Received),
        ..Wanted::default()
    };
    let page = desk
        .ledger
        .events(&wanted, 1_000)
        .await
        .expect("reads")
        .expect("is there");
    assert_eq!(page.events.len(), 164);
}
