//! Commit and release in the ledger: once each, whatever races.

use flashgate::domain::grant::Grant;
use flashgate::domain::key::KeyHash;
use flashgate::domain::lane::Nonce;
use flashgate::domain::reservation::Status;
use flashgate::domain::reservation_id::Place;
use flashgate::ledger::{EndAnswer, EndAsk, ExtendAnswer};
use futures::future::join_all;

use crate::support::shop::{ID_KEY, LANE, Shop, Stock, Wish, commit, release, with_key};

fn done(answer: &EndAnswer) -> (Status, Option<&str>, bool) {
    let EndAnswer::Done {
        reservation,
        payment_id,
        replayed,
        ..
    } = answer
    else {
        panic!("{answer:?}")
    };
    (reservation.status, payment_id.as_deref(), *replayed)
}

fn refused(answer: &EndAnswer) -> Status {
    let EndAnswer::Refused(reservation) = answer else {
        panic!("{answer:?}")
    };
    reservation.status
}

#[tokio::test]
async fn a_commit_counts_once_and_keeps_its_payment() {
    let shop = Shop::open().await;
    let id = shop.reserve(Wish::default()).await;
    let first = shop.end(commit(id, "p1")).await;
    assert_eq!(done(&first), (Status::Committed, Some("p1"), false));
    let second = shop.end(commit(id, "p2")).await;
    assert_eq!(done(&second), (Status::Committed, Some("p1"), true));
    let stock = Stock {
        on_hand: 998,
        reserved: 0,
        escrowed: 98,
        sold: 2,
    };
    assert_eq!(shop.stock().await, stock);
    assert_eq!(shop.tally().await, (2, 0, 0));
    let event =
        "SELECT count(*) FROM inventory_movement WHERE event_type = 'inventory_committed' AND quantity_delta = -2
        AND reference_id = 'p1' AND order_id = 'o1' AND sold = 2 AND on_hand = 998";
    assert_eq!(shop.number(event).await, 1);
    assert_eq!(shop.number("SELECT count(*) FROM inventory_movement").await, 1);
    assert_eq!(shop.number("SELECT count(*) FROM lane_grant").await, 0);
    assert_eq!(
        shop.number("SELECT count(*) FROM inventory_key").await,
        1,
        "a sold line stays taken"
    );
}

#[tokio::test]
async fn a_release_sends_the_units_back_and_frees_the_line() {
    let shop = Shop::open().await;
    let key = KeyHash::explicit("reserve", "k1");
    let wish = Wish {
        explicit_key: Some(key),
        ..Wish::default()
    };
    let id = shop.reserve(wish).await;
    let answer = shop.end(release(id)).await;
    let EndAnswer::Done { tickets, .. } = &answer else {
        panic!("{answer:?}")
    };
    let [ticket] = tickets[..] else { panic!("{answer:?}") };
    assert_eq!(done(&answer), (Status::Released, None, false));
    let stock = Stock {
        on_hand: 1000,
        reserved: 0,
        escrowed: 100,
        sold: 0,
    };
    assert_eq!(shop.stock().await, stock);
    assert_eq!(shop.tally().await, (0, 2, 0));
    let (grant_id, lane, units, body): (i64, i16, i64, Vec<u8>) =
        sqlx::query_as("SELECT grant_id, lane, units, body FROM lane_grant WHERE kind = 'end' AND grant_no IS NULL")
            .fetch_one(&shop.pool)
            .await
            .expect("one grant");
    assert_eq!((grant_id, lane, units), (ticket.grant_id, LANE.to_i16(), 2));
    let end = Grant::End {
        place: id.place(),
        quantity: 2,
        status: Status::Released,
        buyer: "u:u9".into(),
    };
    assert_eq!(Grant::unpack(&body), Ok(end));
    let line = KeyHash::order_line("o1", "sku1", "wh1");
    let keys = [key, line];
    let left = shop.ledger.find_keys(&keys).await.expect("Postgres answers");
    assert_eq!(left.iter().map(|found| found.key).collect::<Vec<_>>(), [key]);
    assert_eq!((left[0].reservation, left[0].derived), (id, false));

    let again = shop.end(release(id)).await;
    assert!(
        matches!(&again, EndAnswer::Done { tickets, replayed: true, .. } if *tickets == [ticket]),
        "a repeated release waits for the same grant: {again:?}"
    );
    shop.sql("DELETE FROM lane_grant").await;
    let later = shop.end(release(id)).await;
    assert!(
        matches!(&later, EndAnswer::Done { tickets, .. } if tickets.is_empty()),
        "{later:?}"
    );
}

#[tokio::test]
async fn a_batch_is_answered_in_the_order_of_its_asks() {
    let shop = Shop::open().await;
    let (a, b) = (shop.reserve(Wish::default()).await, shop.reserve(Wish::default()).await);
    let unknown = ID_KEY.seal(LANE, Place::new(1, 999, 0, Nonce([1; 8])));
    let asks = [
        commit(b, "p1"),
        release(a),
        commit(a, "p2"),
        release(b),
        commit(b, "p3"),
        release(unknown),
        release(a),
    ];
    let answers = shop.ledger.end(&asks).await.expect("Postgres answers");
    assert_eq!(done(&answers[0]), (Status::Committed, Some("p1"), false));
    assert_eq!(done(&answers[1]), (Status::Released, None, false));
    assert_eq!(refused(&answers[2]), Status::Released);
    assert_eq!(refused(&answers[3]), Status::Committed);
    assert_eq!(done(&answers[4]), (Status::Committed, Some("p1"), true));
    assert_eq!(answers[5], EndAnswer::Unknown);
    assert_eq!(done(&answers[6]), (Status::Released, None, true));
    assert_eq!(shop.tally().await, (2, 2, 0));
    assert_eq!(shop.number("SELECT count(*) FROM inventory_movement").await, 2);
}

#[tokio::test]
async fn a_key_belongs_to_its_first_success() {
    let shop = Shop::open().await;
    let (a, b) = (shop.reserve(Wish::default()).await, shop.reserve(Wish::default()).await);
    let first = with_key(commit(a, "p1"), "k");
    assert_eq!(
        done(&shop.end(first.clone()).await),
        (Status::Committed, Some("p1"), false)
    );
    assert_eq!(done(&shop.end(first).await), (Status::Committed, Some("p1"), true));
    assert_eq!(shop.end(with_key(commit(a, "p2"), "k")).await, EndAnswer::KeyReused);
    assert_eq!(shop.end(with_key(commit(b, "p1"), "k")).await, EndAnswer::KeyReused);
    assert_eq!(shop.status(b).await, Status::Reserved);
    assert_eq!(
        done(&shop.end(with_key(release(b), "k")).await).0,
        Status::Released,
        "its scope is the operation"
    );
    assert_eq!(refused(&shop.end(with_key(release(a), "r")).await), Status::Committed);
    let c = shop.reserve(Wish::default()).await;
    assert_eq!(
        done(&shop.end(with_key(release(c), "r")).await).0,
        Status::Released,
        "a refusal keeps no key"
    );
}

#[tokio::test]
async fn a_key_used_twice_in_a_batch_goes_to_the_first_success() {
    let shop = Shop::open().await;
    let (a, b, c) = (
        shop.reserve(Wish::default()).await,
        shop.reserve(Wish::default()).await,
        shop.reserve(Wish::default()).await,
    );
    shop.end(release(a)).await;
    let asks = [
        with_key(commit(a, "p"), "k"),
        with_key(commit(b, "p"), "k"),
        with_key(commit(c, "p"), "k"),
        with_key(commit(b, "p"), "k"),
    ];
    let answers = shop.ledger.end(&asks).await.expect("Postgres answers");
    assert_eq!(refused(&answers[0]), Status::Released);
    assert_eq!(done(&answers[1]), (Status::Committed, Some("p"), false));
    assert_eq!(answers[2], EndAnswer::KeyReused);
    assert_eq!(done(&answers[3]), (Status::Committed, Some("p"), true));
    assert_eq!(
        shop.end(asks[2].clone()).await,
        EndAnswer::KeyReused,
        "the row says who has it"
    );
    assert_eq!(
        done(&shop.end(asks[1].clone()).await),
        (Status::Committed, Some("p"), true)
    );
}

#[tokio::test]
async fn of_many_commits_with_one_key_one_succeeds() {
    let shop = Shop::open().await;
    let mut asks = Vec::new();
    for _ in 0..12 {
        asks.push(with_key(commit(shop.reserve(Wish::default()).await, "p"), "k"));
    }
    let answers = join_all(asks.into_iter().map(|ask| shop.end(ask))).await;
    let won = answers
        .iter()
        .filter(|a| matches!(a, EndAnswer::Done { replayed: false, .. }));
    assert_eq!(won.count(), 1);
    let lost = answers.iter().filter(|a| **a == EndAnswer::KeyReused);
    assert_eq!(lost.count(), 11);
    assert_eq!(shop.tally().await, (2, 0, 0));
}

#[tokio::test]
async fn a_frozen_sale_takes_releases_only() {
    let shop = Shop::open().await;
    let (a, b, sold) = (
        shop.reserve(Wish::default()).await,
        shop.reserve(Wish::default()).await,
        shop.reserve(Wish::default()).await,
    );
    shop.end(commit(sold, "p1")).await;
    shop.sql("UPDATE sale SET state = 'frozen', thaws_to = 'live', frozen_at = now()")
        .await;
    assert_eq!(shop.end(commit(a, "p1")).await, EndAnswer::Frozen);
    assert_eq!(shop.extend(a, 900_000).await, ExtendAnswer::Frozen);
    assert_eq!(done(&shop.end(release(b)).await), (Status::Released, None, false));
    assert_eq!(
        done(&shop.end(commit(sold, "p1")).await),
        (Status::Committed, Some("p1"), true),
        "a replay is served"
    );
    assert_eq!(shop.status(a).await, Status::Reserved);
    shop.sql("UPDATE sale SET state = 'live', thaws_to = NULL, frozen_at = NULL")
        .await;
    assert_eq!(done(&shop.end(commit(a, "p1")).await).0, Status::Committed);
}

#[tokio::test]
async fn units_of_an_ended_sale_stay_in_the_balance() {
    let shop = Shop::open().await;
    let id = shop.reserve(Wish::default()).await;
    let plain = shop
        .reserve(Wish {
            on_sale: false,
            ..Wish::default()
        })
        .await;
    shop.sql("UPDATE sale SET state = 'ended'; UPDATE inventory_balance SET escrowed = 0")
        .await;
    for id in [id, plain] {
        let answer = shop.end(release(id)).await;
        assert!(
            matches!(&answer, EndAnswer::Done { tickets, .. } if tickets.is_empty()),
            "{answer:?}"
        );
    }
    let stock = Stock {
        on_hand: 1000,
        reserved: 0,
        escrowed: 0,
        sold: 0,
    };
    assert_eq!(shop.stock().await, stock);
    assert_eq!(shop.number("SELECT count(*) FROM lane_grant").await, 0);
    assert_eq!(shop.tally().await, (0, 2, 0), "the tally is the sale's");
}

#[tokio::test]
async fn what_has_ended_otherwise_says_so() {
    let shop = Shop::open().await;
    let lapsed = Wish {
        expires_ms: -1,
        created_ms: -900_000,
        ..Wish::default()
    };
    let expired = shop.reserve(lapsed).await;
    let rejected = shop.reserve(Wish::default()).await;
    shop.sql(&format!(
        "UPDATE inventory_reservation SET status = 'REJECTED', cause = 'surplus' WHERE reservation_id = '{}'",
        rejected.0
    ))
    .await;
    assert_eq!(shop.ledger.expire_due(100).await.expect("Postgres answers").expired, 1);
    assert_eq!(refused(&shop.end(commit(expired, "p")).await), Status::Expired);
    let gone = shop.end(release(expired)).await;
    assert_eq!(done(&gone), (Status::Expired, None, false));
    assert!(
        matches!(&gone, EndAnswer::Done { tickets, .. } if tickets.len() == 1),
        "its units are still on their way"
    );
    assert_eq!(refused(&shop.end(commit(rejected, "p")).await), Status::Rejected);
    assert_eq!(refused(&shop.end(release(rejected)).await), Status::Rejected);
    for id in [expired, rejected] {
        assert!(matches!(shop.extend(id, 1000).await, ExtendAnswer::Refused(_)));
    }
}

#[tokio::test]
async fn a_reservation_ends_once_whoever_races() {
    let shop = Shop::open().await;
    let mut ids = Vec::new();
    for _ in 0..30 {
        ids.push(
            shop.reserve(Wish {
                created_ms: -900_000,
                expires_ms: -1,
                ..Wish::default()
            })
            .await,
        );
    }
    // Everybody asks for everything, in opposite orders, while the expiry runs.
    let forwards: Vec<EndAsk> = ids.iter().map(|id| commit(*id, "p")).collect();
    let backwards: Vec<EndAsk> = ids.iter().rev().map(|id| release(*id)).collect();
    let batches = (0..8).map(|n| {
        let asks = if n % 2 == 0 { &forwards } else { &backwards };
        let (shop, asks) = (&shop, &asks[..if n < 4 { 10 } else { 20 }]);
        async move { shop.ledger.end(asks).await.expect("Postgres answers") }
    });
    let expiries = (0..8).map(|_| async { shop.ledger.expire_due(3).await.expect("Postgres answers").expired });
    let (answers, expired) = futures::join!(join_all(batches), join_all(expiries));
    let counted = answers.iter().flatten().filter(|a| {
        matches!(a, EndAnswer::Done { replayed: false, reservation, .. }
        if reservation.status != Status::Expired)
    });
    let expired: usize = expired.into_iter().sum();
    let ended = i64::try_from(counted.count() + expired).expect("30");
    let (committed, released, lapsed) = shop.tally().await;
    assert_eq!(lapsed, 2 * i64::try_from(expired).expect("30"));
    assert_eq!(
        committed + released + lapsed,
        2 * ended,
        "each success was counted, and counted once"
    );
    let mismatched = "SELECT count(*) FROM inventory_reservation r WHERE (status <> 'RESERVED') <>
        (SELECT count(*) = 1 FROM inventory_movement e WHERE e.reservation_id = r.reservation_id
         AND e.event_type::text = 'inventory_' || lower(r.status::text))";
    assert_eq!(shop.number(mismatched).await, 0, "one event each");
    let stock = Stock {
        on_hand: 1000 - committed,
        reserved: 60 - 2 * ended,
        escrowed: 40 + released + lapsed,
        sold: committed,
    };
    assert_eq!(shop.stock().await, stock);
    assert_eq!(
        shop.number("SELECT sum(units)::int8 FROM lane_grant").await,
        released + lapsed
    );
}
