//! Batches that get everything they ask for, in one statement.

use flashgate::ledger::TakeAnswer;

use super::races::{hold, until_waiting};
use super::{assert_sound, cart, keyed, line, reserved, take};
use crate::support::ledger::Desk;

/// Whether the last statement of any connection of ours begins so.
async fn last_was(desk: &Desk, begin: &str) -> bool {
    desk.count(&format!(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND state = 'idle' AND query LIKE '{begin}%'"
    ))
    .await
        > 0
}

#[tokio::test]
async fn what_can_be_had_is_taken_at_once_and_all_else_by_itself() {
    let desk = Desk::open().await;
    let (a, b) = (desk.stock("a", 10).await, desk.stock("b", 10).await);
    let plain = [
        keyed(line(&desk, "o1", &a, 2), "k1"),
        line(&desk, "o2", &a, 3),
        line(&desk, "o3", &a, 1),
    ];
    let answers = desk.ledger.take(&plain).await.expect("Postgres answers");
    assert!(last_was(&desk, "-- take.at_once").await);
    assert!(
        answers.iter().all(|answer| matches!(answer, TakeAnswer::Taken(_))),
        "{answers:?}"
    );
    assert_eq!((reserved(&desk, &a).await, reserved(&desk, &b).await), (6, 0));
    let mixed = [
        keyed(line(&desk, "o1", &a, 2), "k1"),
        line(&desk, "o4", &b, 1),
        line(&desk, "o5", &b, 10),
    ];
    let answers = take(&desk, &mixed).await;
    let TakeAnswer::Replayed(_) = answers[0] else {
        panic!("{answers:?}");
    };
    assert!(matches!(answers[1], TakeAnswer::Taken(_)), "{answers:?}");
    assert!(
        matches!(&answers[2], TakeAnswer::Insufficient(short) if short[0].available == 9),
        "{answers:?}"
    );
    assert_eq!((reserved(&desk, &a).await, reserved(&desk, &b).await), (6, 1));
    assert_sound(&desk).await;
}

/// The look found the key free, and the writing finds it gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_went_after_the_look_is_not_taken() {
    let desk = Desk::open().await;
    let (a, b) = (desk.stock("a", 10).await, desk.stock("b", 10).await);
    // Whoever holds b holds the key of o1, which it claimed before.
    let held = hold(&desk.pool, "b").await;
    let both = cart(&desk, "o1", &[(&a, 1), (&b, 1)], vec![]);
    let spawn = |ask| {
        let ledger = desk.ledger.clone();
        tokio::spawn(async move { ledger.take(&[ask]).await.expect("Postgres answers").remove(0) })
    };
    let first = spawn(both);
    until_waiting(&desk.pool, 1).await;
    let second = spawn(line(&desk, "o1", &a, 2));
    until_waiting(&desk.pool, 2).await;
    held.rollback().await.expect("lets go");
    let (first, second) = (first.await.expect("no panic"), second.await.expect("no panic"));
    assert!(matches!(first, TakeAnswer::Taken(_)), "{first:?}");
    assert!(matches!(second, TakeAnswer::OrderAlreadyReserved(_)), "{second:?}");
    assert_eq!((reserved(&desk, &a).await, reserved(&desk, &b).await), (1, 1));
    assert_sound(&desk).await;
}
