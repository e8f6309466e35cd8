//! Whoever races: a cart has one end, crossing carts wait for one another, a key makes one reservation, and a hot
//! balance is met once a batch.

use std::time::Duration;

use flashgate::domain::id::Item;
use flashgate::domain::reservation::{Ending, Status};
use flashgate::domain::reservation_id::ReservationId;
use flashgate::domain::trace::TraceId;
use flashgate::ledger::once::By;
use flashgate::ledger::{EndAnswer, EndAsk, LedgerError, TakeAnswer};
use futures::future::join_all;
use sqlx::PgPool;

use super::{assert_sound, cart, expire, keyed, line, read, reserved, take, taken};
use crate::support::door::until;
use crate::support::ledger::Desk;

fn ask(id: ReservationId, ending: Ending) -> EndAsk {
    EndAsk {
        id,
        ending,
        detail: None,
        key: None,
        trace: TraceId([9; 16]),
        operator: None,
        unless_in_cart: false,
        from_newer_sales: false,
    }
}

/// A transaction of ours that holds the balance of a SKU.
pub(super) async fn hold(pool: &PgPool, sku: &str) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut held = pool.begin().await.expect("Postgres answers");
    sqlx::query("SELECT 1 FROM inventory_balance WHERE sku_id = $1 FOR NO KEY UPDATE")
        .bind(sku)
        .execute(&mut *held)
        .await
        .expect("locks");
    held
}

/// Waits until so many others wait for a lock.
pub(super) async fn until_waiting(pool: &PgPool, count: i64) {
    until("somebody who waits", async || {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .fetch_one(pool)
        .await
        .ok()?;
        (waiting >= count).then_some(())
    })
    .await;
}

async fn deadlocks(desk: &Desk) -> i64 {
    desk.count("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cart_ends_once_whoever_races() {
    let desk = Desk::open().await;
    let items = [desk.stock("a", 40).await, desk.stock("b", 40).await];
    let mut sold = 0;
    for n in 0..12 {
        let made = taken(
            &desk,
            cart(&desk, &format!("o{n}"), &[(&items[0], 1), (&items[1], 2)], vec![]),
        )
        .await;
        desk.run("UPDATE inventory_reservation SET expires_at = clock_timestamp() - interval '1 s' WHERE status = 'RESERVED'")
            .await;
        let commit = [ask(made.id, Ending::Commit)];
        let release = [ask(made.id, Ending::Release)];
        // Each may come first.
        let late = |turn: u64| tokio::time::sleep(Duration::from_millis((n + turn) % 3));
        let commit = async {
            late(0).await;
            desk.ledger.end(&commit).await.expect("Postgres answers").remove(0)
        };
        let release = async {
            late(1).await;
            desk.ledger.end(&release).await.expect("Postgres answers").remove(0)
        };
        let expire = async {
            late(2).await;
            desk.ledger.expire_due(100).await.expect("Postgres answers").expired
        };
        let (commit, release, expired) = tokio::join!(commit, release, expire);
        let status = read(&desk, made.id).await.status;
        let EndAnswer::Done { rescued, .. } = commit else {
            assert!(matches!(commit, EndAnswer::Refused(_)), "{commit:?}");
            assert_eq!((status, expired), (Status::Released, 0));
            continue;
        };
        // Paid for in time, or just after it had expired: then its units were taken again.
        assert_eq!((status, expired), (Status::Committed, if rescued { 2 } else { 0 }));
        let let_go = match &release {
            EndAnswer::Done { reservation, .. } => reservation.status == Status::Expired && rescued,
            EndAnswer::Refused(found) => found.status == Status::Committed,
            _ => false,
        };
        assert!(let_go, "nobody let go of what was sold: {release:?}");
        sold += 1;
    }
    assert_eq!(
        desk.count("SELECT sum(sold)::int8 FROM inventory_balance").await,
        sold * 3,
        "each counted once"
    );
    assert_eq!(desk.count("SELECT sum(reserved)::int8 FROM inventory_balance").await, 0);
    assert_sound(&desk).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn crossing_carts_wait_for_one_another() {
    let desk = Desk::open().await;
    let (a, b) = (desk.stock("a", 60).await, desk.stock("b", 60).await);
    let buyers = (0..8).map(async |buyer: usize| {
        let lines: [(&Item, i64); 2] = if buyer.is_multiple_of(2) {
            [(&a, 1), (&b, 2)]
        } else {
            [(&b, 1), (&a, 2)]
        };
        let mut held = 0;
        for n in 0..12 {
            let wanted = cart(&desk, &format!("o{buyer}-{n}"), &lines, vec![]);
            let answer = desk.ledger.take(&[wanted]).await.expect("Postgres answers").remove(0);
            let TakeAnswer::Taken(made) = answer else {
                assert!(matches!(answer, TakeAnswer::Insufficient(_)), "{answer:?}");
                continue;
            };
            if n % 3 == 0 {
                held += 1;
                continue;
            }
            let ending = if n % 3 == 1 { Ending::Release } else { Ending::Commit };
            let ended = desk.ledger.end(&[ask(made.id, ending)]).await;
            assert!(matches!(ended.expect("Postgres answers")[0], EndAnswer::Done { .. }));
        }
        held
    });
    let held: i64 = join_all(buyers).await.into_iter().sum();
    let (on_shelf, sold) = (
        desk.count("SELECT sum(on_hand)::int8 FROM inventory_balance").await,
        desk.count("SELECT sum(sold)::int8 FROM inventory_balance").await,
    );
    assert_eq!(on_shelf + sold, 120, "nothing came and nothing went");
    assert_eq!(reserved(&desk, &a).await + reserved(&desk, &b).await, held * 3);
    assert_eq!(deadlocks(&desk).await, 0);
    assert_sound(&desk).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_with_one_key_one_makes_the_reservation_and_all_hear_of_it() {
    let desk = Desk::open().await;
    let (a, b) = (desk.stock("a", 60).await, desk.stock("b", 60).await);
    for (n, lines) in [vec![(&a, 2)], vec![(&a, 1), (&b, 1)]].into_iter().enumerate() {
        let order = format!("o{n}");
        let callers = (0..16).map(async |_| {
            // Each gateway gives it an id of its own.
            let ask = match &lines[..] {
                [(item, units)] => line(&desk, &order, item, *units),
                lines => cart(&desk, &order, lines, vec![]),
            };
            desk.ledger
                .take(&[keyed(ask, &format!("k{n}"))])
                .await
                .expect("Postgres answers")
                .remove(0)
        });
        let answers = join_all(callers).await;
        let made: Vec<ReservationId> = answers
            .iter()
            .filter_map(|answer| match answer {
                TakeAnswer::Taken(made) => Some(made.id),
                _ => None,
            })
            .collect();
        assert_eq!(made.len(), 1, "{answers:?}");
        for answer in &answers {
            let id = match answer {
                TakeAnswer::Taken(made) => made.id,
                TakeAnswer::Replayed(first) => *first,
                other => panic!("{other:?}"),
            };
            assert_eq!(id, made[0]);
        }
    }
    assert_eq!((reserved(&desk, &a).await, reserved(&desk, &b).await), (3, 1));
    assert_sound(&desk).await;
}

#[tokio::test]
async fn a_hot_balance_is_updated_once_a_batch() {
    let desk = Desk::open().await;
    let (a, b) = (desk.stock("a", 100).await, desk.stock("b", 100).await);
    let version = async |item: &Item| {
        desk.count(&format!(
            "SELECT version FROM inventory_balance WHERE sku_id = '{}'",
            item.sku
        ))
        .await
    };
    let before = (version(&a).await, version(&b).await);
    let mut asks: Vec<_> = (0..50).map(|n| line(&desk, &format!("o{n}"), &a, 1)).collect();
    asks.extend((0..10).map(|n| cart(&desk, &format!("c{n}"), &[(&a, 1), (&b, 1)], vec![])));
    let answers = take(&desk, &asks).await;
    assert!(answers.iter().all(|answer| matches!(answer, TakeAnswer::Taken(_))));
    assert_eq!((version(&a).await, version(&b).await), (before.0 + 1, before.1 + 1));
    assert_eq!((reserved(&desk, &a).await, reserved(&desk, &b).await), (60, 10));
    let ends: Vec<EndAsk> = answers
        .iter()
        .filter_map(|answer| match answer {
            TakeAnswer::Taken(made) => Some(ask(made.id, Ending::Commit)),
            _ => None,
        })
        .collect();
    desk.ledger.end(&ends).await.expect("Postgres answers");
    assert_eq!(
        (version(&a).await, version(&b).await),
        (before.0 + 2, before.1 + 2),
        "and once for all that end together"
    );
    assert_sound(&desk).await;
}

/// A late payment and an ending that share a batch take all their balances together, in one order.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_payment_takes_no_balance_before_its_turn() {
    let desk = Desk::open().await;
    let (a, b) = (desk.stock("a", 10).await, desk.stock("b", 10).await);
    let late = taken(&desk, line(&desk, "o1", &b, 1)).await;
    expire(&desk).await;
    let open = taken(&desk, line(&desk, "o2", &a, 1)).await;
    let first = hold(&desk.pool, "a").await;
    let ledger = desk.ledger.clone();
    let asks = [ask(late.id, Ending::Commit), ask(open.id, Ending::Release)];
    let ended = tokio::spawn(async move { ledger.end(&asks).await });
    until_waiting(&desk.pool, 1).await;
    let mut second = desk.pool.begin().await.expect("Postgres answers");
    let free = sqlx::query("SELECT 1 FROM inventory_balance WHERE sku_id = 'b' FOR NO KEY UPDATE NOWAIT")
        .execute(&mut *second)
        .await;
    assert!(free.is_ok(), "who waits for a holds b: {free:?}");
    second.rollback().await.expect("lets go");
    first.rollback().await.expect("lets go");
    let answers: Result<Vec<EndAnswer>, LedgerError> = ended.await.expect("it does not panic");
    let answers = answers.expect("Postgres answers");
    assert!(
        matches!(answers[0], EndAnswer::Done { rescued: true, .. }),
        "{answers:?}"
    );
    assert!(matches!(answers[1], EndAnswer::Done { .. }), "{answers:?}");
    assert_sound(&desk).await;
}

/// Both have seen the same few units when one of them gets the balance; the other is decided anew. Units that are kept
/// back are no more to be had than units that are not there.
#[tokio::test(flavor = "multi_thread")]
async fn units_that_went_after_the_look_are_not_taken() {
    let desk = Desk::open().await;
    for (sku, kept_back) in [("bare", 0), ("kept", 10)] {
        let item = desk.stock(sku, 5 + kept_back).await;
        let set = desk
            .ledger
            .put_safety_stock(&item, Some(kept_back), &By::default(), None)
            .await;
        set.expect("Postgres answers");
        let held = hold(&desk.pool, sku).await;
        let takes = [(4, "many"), (3, "few")].map(|(units, who)| {
            let (ledger, ask) = (desk.ledger.clone(), line(&desk, &format!("{who}-{sku}"), &item, units));
            tokio::spawn(async move { ledger.take(&[ask]).await.expect("Postgres answers").remove(0) })
        });
        until_waiting(&desk.pool, 2).await;
        held.rollback().await.expect("lets go");
        let [many, few] = takes;
        let answers = [many.await.expect("no panic"), few.await.expect("no panic")];
        let left = |answer: &TakeAnswer| match answer {
            TakeAnswer::Insufficient(short) => Some(short[0].available),
            TakeAnswer::Taken(_) => None,
            other => panic!("{other:?}"),
        };
        let told = answers.each_ref().map(left);
        assert!(told == [None, Some(1)] || told == [Some(2), None], "{answers:?}");
        assert_eq!(reserved(&desk, &item).await, if told[0].is_none() { 4 } else { 3 });
    }
    assert_sound(&desk).await;
}
