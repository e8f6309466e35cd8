//! Connections to Postgres that lie ready between calls: whoever waits gets one, and none is used that is not whole.

use std::time::Duration;

use flashgate::domain::id::Item;
use flashgate::ledger::adjust::Adjusted;
use flashgate::ledger::{Ledger, LedgerError};
use futures::future::join_all;
use tokio::time::{sleep, timeout};

use crate::support::ledger::{Desk, by, received};

const OURS: &str = "FROM pg_stat_activity WHERE application_name = 'flashgate' AND datname = current_database()";

async fn count(desk: &Desk) -> i64 {
    sqlx::query_scalar(&format!("SELECT count(*) {OURS}"))
        .fetch_one(&desk.pool)
        .await
        .expect("Postgres answers")
}

async fn receive(ledger: &Ledger, item: &Item, units: i64) -> Result<Adjusted, LedgerError> {
    ledger.adjust(&received(item, units), &by()).await
}

#[tokio::test]
async fn one_connection_serves_a_crowd() {
    let desk = Desk::open().await;
    let one = desk.ledger.apart(1);
    let asks = (0..32).map(|_| async {
        for _ in 0..50 {
            one.now().await.expect("a connection within its time");
        }
    });
    let before = count(&desk).await;
    join_all(asks).await;
    assert_eq!(count(&desk).await, before + 1);
}

#[tokio::test]
async fn a_call_that_is_dropped_midway_leaves_nothing_behind() {
    let desk = Desk::open().await;
    let item = desk.stock("a", 100).await;
    let one = desk.ledger.apart(1);
    one.now().await.expect("answers");

    let mut held = desk.pool.begin().await.expect("begins");
    sqlx::query("SELECT FROM inventory_balance WHERE sku_id = 'a' FOR UPDATE")
        .execute(&mut *held)
        .await
        .expect("locks");
    let waits = timeout(Duration::from_millis(300), receive(&one, &item, 7)).await;
    assert!(waits.is_err(), "it waits for the balance: {waits:?}");
    held.rollback().await.expect("lets go");

    let done = receive(&one, &item, 20).await.expect("the connection is whole");
    assert!(matches!(done, Adjusted::Done(_)), "{done:?}");
    let on_hand: i64 = sqlx::query_scalar("SELECT on_hand FROM inventory_balance WHERE sku_id = 'a'")
        .fetch_one(&desk.pool)
        .await
        .expect("Postgres answers");
    assert_eq!(on_hand, 120, "committed, and nothing else");
}

/// Then the session is in a transaction of which neither we nor the pool know.
#[tokio::test]
async fn a_call_that_is_dropped_as_it_begins_leaves_no_transaction_open() {
    let desk = Desk::open().await;
    let item = desk.stock("a", 100).await;
    let one = desk.ledger.apart(1);
    one.now().await.expect("answers");
    // Where Postgres is faster than we are, all of it may be over at once.
    for _ in 0..100 {
        let mut call = Box::pin(receive(&one, &item, 7));
        if futures::poll!(&mut call).is_pending() {
            break;
        }
    }
    one.leave(desk.owner).await.expect("the connection is whole");
    assert_eq!(desk.count("SELECT count(*) FROM gateway").await, 0, "committed");
}

#[tokio::test]
async fn a_connection_that_died_while_it_lay_ready_is_replaced() {
    let desk = Desk::open().await;
    let few = desk.ledger.apart(3);
    join_all((0..3).map(|_| few.now())).await;
    sleep(Duration::from_millis(150)).await;
    sqlx::query(&format!("SELECT pg_terminate_backend(pid) {OURS}"))
        .execute(&desk.pool)
        .await
        .expect("Postgres answers");
    for answer in join_all((0..3).map(|_| few.now())).await {
        answer.expect("over another connection");
    }
}

#[tokio::test]
async fn what_lies_ready_is_given_back_at_the_end() {
    let desk = Desk::open().await;
    let before = count(&desk).await;
    let few = desk.ledger.apart(3);
    join_all((0..3).map(|_| few.now())).await;
    assert!(count(&desk).await > before);
    timeout(Duration::from_secs(2), few.close())
        .await
        .expect("nobody keeps any");
    assert!(few.now().await.is_err());
    timeout(Duration::from_secs(5), async {
        while count(&desk).await > before {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("they are gone");
}

#[test]
fn a_ledger_may_be_dropped_after_its_runtime() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let ledger = runtime.block_on(async {
        let desk = Desk::open().await;
        desk.ledger.now().await.expect("answers");
        desk.ledger
    });
    drop(runtime);
    drop(ledger);
}
