//! What becomes of a reservation that Redis accepted.

use flashgate::domain::key::{Fingerprint, KeyHash};
use flashgate::domain::outcome::Durability;
use flashgate::domain::reservation::Cause;
use flashgate::domain::reservation_id::ReservationId;
use flashgate::ledger::apply::{Done, Drift};

use crate::support::ledger::{Desk, of_user, slip, with_key};
use crate::support::shop::release;

/// (index, cause, first) of each refused one.
fn refused(done: &Done) -> Vec<(u8, Cause, Option<ReservationId>)> {
    let read = |refused: &flashgate::ledger::apply::Refused| match refused.durability {
        Durability::Rejected { cause, first } => (refused.index, cause, first),
        Durability::Durable => panic!("a refused one is not durable"),
    };
    done.refused.iter().map(read).collect()
}

#[tokio::test]
async fn units_that_were_never_there_are_refused_as_surplus() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 3, None).await;
    *lane.road.free.get_mut(&sale.no).expect("it sells") += 2; // Redis went wrong
    let slips = vec![slip(&sale, "a", 2), slip(&sale, "b", 2), slip(&sale, "c", 1)];
    let done = desk.reserve(&mut lane, &sale, slips).await;
    assert_eq!(done.reserved, 2);
    assert_eq!(refused(&done), [(1, Cause::Surplus, None)]);
    // The two units that b took were not ours: Redis is empty now, and so are we.
    assert_eq!((desk.counter(&sale, &lane).await, lane.road.free[&sale.no]), (0, 0));
    assert_eq!(
        done.drift,
        [Drift {
            sale_no: sale.no,
            seq: lane.road.at.seq,
            expected: -2,
            found: 0
        }]
    );
    assert_eq!(done.grants_for, [lane.road.lane]);
    assert_eq!(desk.status(desk.id(&lane, 1)).await, "REJECTED surplus");
    desk.assert_books_balance().await;
    // The end of its record gives nothing back.
    let done = desk.deliver(&mut lane).await.expect("an end");
    assert_eq!(done.drift, []);
    assert_eq!((desk.counter(&sale, &lane).await, lane.road.free[&sale.no]), (0, 0));
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn a_key_belongs_to_the_first() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 100, None).await;
    let own = with_key(slip(&sale, "a", 1), "k");
    desk.reserve(&mut lane, &sale, vec![own.clone(), slip(&sale, "b", 1)])
        .await;
    let (a, b) = (desk.id(&lane, 0), desk.id(&lane, 1));
    let mut other_request = with_key(slip(&sale, "c", 1), "k");
    other_request.fingerprint = Fingerprint([1; 8]);
    let mut other_derived = slip(&sale, "b", 1);
    other_derived.fingerprint = Fingerprint([2; 8]);
    let slips = vec![
        own,                                   // the same request
        other_request,                         // another one with the key
        slip(&sale, "b", 1),                   // the same, derived key
        other_derived,                         // another, derived key
        slip(&sale, "a", 1),                   // without the key: the order has it
        with_key(slip(&sale, "b", 1), "new"),  // another key: the order has it
        with_key(slip(&sale, "d", 1), "fine"), // nothing against it
    ];
    let done = desk.reserve(&mut lane, &sale, slips).await;
    let expected = [
        (0, Cause::Replay, Some(a)),
        (1, Cause::KeyReused, Some(a)),
        (2, Cause::Replay, Some(b)),
        (3, Cause::KeyReused, Some(b)),
        (4, Cause::OrderAlreadyReserved, Some(a)),
        (5, Cause::OrderAlreadyReserved, Some(b)),
    ];
    assert_eq!(refused(&done), expected);
    assert_eq!((done.reserved, done.drift.len()), (1, 0));
    desk.assert_books_balance().await;
    // What Redis gave out for them comes back.
    desk.deliver(&mut lane).await;
    assert_eq!((desk.counter(&sale, &lane).await, lane.road.free[&sale.no]), (97, 97));
    desk.assert_books_balance().await;
    let first: Option<uuid::Uuid> =
        sqlx::query_scalar("SELECT first_id FROM inventory_reservation WHERE cause = 'key_reused' LIMIT 1")
            .fetch_one(&desk.pool)
            .await
            .expect("reads");
    assert!(first == Some(a.0) || first == Some(b.0));
    // A refused one holds nothing: the order that it was for is free.
    let done = desk
        .reserve(
            &mut lane,
            &sale,
            vec![slip(&sale, "c", 1), with_key(slip(&sale, "e", 1), "new")],
        )
        .await;
    assert_eq!(refused(&done), []);
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn an_order_that_gave_back_may_reserve_again() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 10, None).await;
    let slips = vec![slip(&sale, "a", 1), with_key(slip(&sale, "b", 1), "k")];
    desk.reserve(&mut lane, &sale, slips.clone()).await;
    let b = desk.id(&lane, 1);
    for index in 0..2 {
        desk.end(release(desk.id(&lane, index))).await;
    }
    desk.deliver(&mut lane).await;
    let done = desk.reserve(&mut lane, &sale, slips).await;
    // The client's own key is remembered for longer.
    assert_eq!(refused(&done), [(1, Cause::Replay, Some(b))]);
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn a_request_without_a_location_meets_the_one_with_it_in_its_order() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 10, None).await;
    let mut vague = slip(&sale, "a", 1);
    vague.key = KeyHash::order_line("a", sale.item.sku.as_str(), "");
    desk.reserve(&mut lane, &sale, vec![vague.clone()]).await;
    let first = desk.id(&lane, 0);
    let done = desk.reserve(&mut lane, &sale, vec![slip(&sale, "a", 1), vague]).await;
    let expected = [
        (0, Cause::OrderAlreadyReserved, Some(first)),
        (1, Cause::Replay, Some(first)),
    ];
    assert_eq!(refused(&done), expected);
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn in_one_batch_the_order_of_the_lane_decides() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 100, Some(2)).await;
    let greedy = of_user(with_key(slip(&sale, "a", 3), "k"), "ann"); // over the limit, so its key stays free
    let taker = of_user(with_key(slip(&sale, "b", 1), "k"), "bob");
    let again = of_user(with_key(slip(&sale, "b", 1), "k"), "cid");
    let line = of_user(slip(&sale, "a", 1), "dan"); // the order of the refused one
    let done = desk.reserve(&mut lane, &sale, vec![greedy, taker, again, line]).await;
    let bob = desk.id(&lane, 1);
    assert_eq!(
        refused(&done),
        [(0, Cause::UserLimit, None), (2, Cause::Replay, Some(bob))]
    );
    let keys = "SELECT count(*) FROM inventory_key k JOIN inventory_reservation r ON r.reservation_id = k.subject_id
                WHERE r.status = 'RESERVED'";
    assert_eq!(desk.count(keys).await, 3); // bob's key and line, dan's line
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn a_user_holds_and_buys_no_more_than_the_limit() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 100, Some(3)).await;
    let ask = |order: &str, units, user: &str| of_user(slip(&sale, order, units), user);
    let slips = vec![
        ask("a", 2, "ann"),
        ask("b", 2, "ann"),
        ask("c", 1, "ann"),
        ask("d", 3, "bob"),
    ];
    let done = desk.reserve(&mut lane, &sale, slips).await;
    assert_eq!(refused(&done), [(1, Cause::UserLimit, None)]);
    let ids = [desk.id(&lane, 0), desk.id(&lane, 3)];
    // Bought counts, given back does not.
    desk.end(crate::support::shop::commit(ids[0], "p")).await;
    desk.end(release(ids[1])).await;
    desk.deliver(&mut lane).await;
    let done = desk
        .reserve(&mut lane, &sale, vec![ask("e", 1, "ann"), ask("f", 3, "bob")])
        .await;
    assert_eq!(refused(&done), [(0, Cause::UserLimit, None)]);
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn drift_is_told_once_and_corrected_by_a_grant() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 10, None).await;
    *lane.road.free.get_mut(&sale.no).expect("it sells") -= 4;
    let done = desk.reserve(&mut lane, &sale, vec![slip(&sale, "a", 1)]).await;
    assert_eq!(
        done.drift,
        [Drift {
            sale_no: sale.no,
            seq: lane.road.at.seq,
            expected: 9,
            found: 5
        }]
    );
    let done = desk.reserve(&mut lane, &sale, vec![slip(&sale, "b", 1)]).await;
    assert_eq!(done.drift, []);
    assert_eq!(desk.count("SELECT drift FROM sale_bucket").await, -4);
    desk.run(
        "INSERT INTO lane_grant (lane, kind, sale_no, units, body)
              SELECT lane, 'correct', sale_no, 4, '\\x000800000800000004' FROM sale_bucket",
    )
    .await;
    let body = flashgate::domain::grant::Grant::Correct(4).pack();
    sqlx::query("UPDATE lane_grant SET body = $1")
        .bind(body)
        .execute(&desk.pool)
        .await
        .expect("updates");
    let done = desk.deliver(&mut lane).await.expect("a correction");
    assert_eq!(done.drift, []);
    assert_eq!(desk.count("SELECT drift FROM sale_bucket").await, 0);
    assert_eq!((desk.counter(&sale, &lane).await, lane.road.free[&sale.no]), (8, 8));
    desk.assert_books_balance().await;
}
