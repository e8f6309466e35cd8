//! Carts: all or nothing, and one fate.

use flashgate::domain::difference::Kind as Fault;
use flashgate::domain::id::Item;
use flashgate::domain::reservation::{Ending, Status};
use flashgate::domain::trace::TraceId;
use flashgate::ledger::{EndAnswer, ExtendAnswer, ExtendAsk, TakeAnswer, TakeAsk};

use super::{assert_sound, cart, end, expire, keyed, line, read, reserved, take, taken};
use crate::support::ledger::{Desk, of_user, slip};

async fn two(desk: &Desk) -> [Item; 2] {
    [desk.stock("a", 10).await, desk.stock("b", 5).await]
}

#[tokio::test]
async fn a_cart_is_all_or_nothing() {
    let desk = Desk::open().await;
    let [a, b] = two(&desk).await;
    let answers = take(&desk, &[cart(&desk, "o1", &[(&b, 6), (&a, 1)], vec![])]).await;
    let TakeAnswer::Insufficient(short) = &answers[0] else {
        panic!("{answers:?}")
    };
    assert_eq!((short.len(), &short[0].item, short[0].available), (1, &b, 5));
    assert_eq!((reserved(&desk, &a).await, reserved(&desk, &b).await), (0, 0));
    assert_eq!(desk.count("SELECT count(*) FROM inventory_key WHERE derived").await, 0);
    let made = taken(&desk, cart(&desk, "o1", &[(&b, 5), (&a, 1)], vec![])).await;
    assert_eq!(made.lines.iter().map(|line| line.quantity).collect::<Vec<_>>(), [1, 5]);
    assert_eq!(read(&desk, made.id).await, made);
    assert_eq!((reserved(&desk, &a).await, reserved(&desk, &b).await), (1, 5));
    assert_sound(&desk).await;
}

#[tokio::test]
async fn a_cart_has_one_key_and_holds_each_line_of_its_order() {
    let desk = Desk::open().await;
    let [a, b] = two(&desk).await;
    let items = [(&a, 1), (&b, 1)];
    let made = taken(&desk, cart(&desk, "o1", &items, vec![])).await;
    let asks = [
        cart(&desk, "o1", &items, vec![]),
        cart(&desk, "o1", &[(&a, 2)], vec![]),
        keyed(cart(&desk, "o1", &[(&a, 1)], vec![]), "k"),
        line(&desk, "o1", &b, 1),
    ];
    let answers = take(&desk, &asks).await;
    assert_eq!(answers[0], TakeAnswer::Replayed(made.id));
    assert_eq!(answers[1], TakeAnswer::KeyReused, "an order has one cart without a key");
    let [
        TakeAnswer::OrderAlreadyReserved(first),
        TakeAnswer::OrderAlreadyReserved(second),
    ] = answers[2..]
    else {
        panic!("{answers:?}")
    };
    assert_eq!(
        (read(&desk, first).await.id, read(&desk, second).await.id),
        (made.id, made.id),
        "a part's id is the cart's"
    );
    end(&desk, made.id, Ending::Release).await;
    taken(&desk, cart(&desk, "o1", &[(&a, 2)], vec![])).await;
    assert_sound(&desk).await;
}

#[tokio::test]
async fn a_cart_ends_as_one_by_whatever_id() {
    let desk = Desk::open().await;
    let [a, b] = two(&desk).await;
    for (ending, status) in [(Ending::Commit, Status::Committed), (Ending::Release, Status::Released)] {
        let made = taken(&desk, cart(&desk, status.as_str(), &[(&a, 1), (&b, 1)], vec![])).await;
        let TakeAnswer::OrderAlreadyReserved(part) =
            take(&desk, &[keyed(line(&desk, status.as_str(), &a, 1), status.as_str())]).await[0]
        else {
            panic!("the order holds it")
        };
        for (id, again) in [(part, false), (made.id, true)] {
            let EndAnswer::Done {
                reservation, replayed, ..
            } = end(&desk, id, ending).await
            else {
                panic!("{ending:?}")
            };
            assert_eq!((reservation.id, reservation.status, replayed), (made.id, status, again));
            assert_eq!(reservation.lines.len(), 2);
        }
    }
    assert_eq!((reserved(&desk, &a).await, reserved(&desk, &b).await), (0, 0));
    assert_sound(&desk).await;
}

#[tokio::test]
async fn a_cart_expires_as_one_or_not_at_all() {
    let desk = Desk::open().await;
    let [a, b] = two(&desk).await;
    let made = taken(&desk, cart(&desk, "o1", &[(&a, 1), (&b, 1)], vec![])).await;
    // Somebody is ending a part: the cart is theirs.
    let mut held = desk.pool.begin().await.expect("Postgres answers");
    sqlx::query("SELECT 1 FROM inventory_reservation WHERE sku_id = 'b' FOR NO KEY UPDATE")
        .execute(&mut *held)
        .await
        .expect("locks");
    assert_eq!(expire_now(&desk, "sku_id = 'a'").await, 0, "of two parts one is held");
    held.rollback().await.expect("lets go");
    assert_eq!(
        expire_now(&desk, "sku_id = 'a'").await,
        0,
        "of two parts one has time left"
    );
    assert_eq!(read(&desk, made.id).await.status, Status::Reserved);
    assert_eq!(expire(&desk).await, 2);
    assert_eq!(read(&desk, made.id).await.status, Status::Expired);
    assert_sound(&desk).await;
}

async fn expire_now(desk: &Desk, which: &str) -> usize {
    let past = "UPDATE inventory_reservation SET expires_at = clock_timestamp() - interval '1 s' WHERE";
    desk.run(&format!("{past} {which}")).await;
    desk.ledger.expire_due(100).await.expect("Postgres answers").expired
}

/// A reservation in a lane, for a few seconds, as a cart's line is held.
async fn part(desk: &Desk, order: &str) -> (flashgate::domain::sale::Sale, crate::support::ledger::Lane, TakeAsk) {
    let (sale, mut lane) = desk.selling("hot", 10, None).await;
    let held = flashgate::domain::entry::Slip {
        ttl_ms: 5_000,
        ..of_user(slip(&sale, order, 2), "ann")
    };
    desk.reserve(&mut lane, &sale, vec![held]).await;
    let id = desk.id(&lane, 0);
    let other = desk.stock("b", 5).await;
    let ask = cart(desk, order, &[(&other, 1)], vec![id]);
    (sale, lane, ask)
}

#[tokio::test]
async fn what_a_lane_holds_becomes_part_of_a_cart_once() {
    let desk = Desk::open().await;
    let (sale, mut lane, ask) = part(&desk, "o1").await;
    let held = ask.parts[0];
    let before = read(&desk, held).await;
    let made = taken(&desk, ask.clone()).await;
    assert_eq!(made.lines.iter().map(|line| line.quantity).collect::<Vec<_>>(), [1, 2]);
    assert!(made.expires_at > before.expires_at, "it has the cart's time to pay");
    assert_eq!(read(&desk, held).await, read(&desk, made.id).await);
    let mut other = cart(&desk, "o2", &[], vec![held]);
    other.explicit = false;
    assert_eq!(
        take(&desk, &[other]).await,
        [TakeAnswer::PartEnded(held)],
        "it is taken"
    );
    let EndAnswer::Done { tickets, .. } = end(&desk, made.id, Ending::Release).await else {
        panic!("it is open")
    };
    assert_eq!(tickets.len(), 1, "the lane's units go back to it");
    desk.deliver(&mut lane).await;
    assert_eq!(desk.counter(&sale, &lane).await, 10);
    assert_sound(&desk).await;
}

#[tokio::test]
async fn a_part_that_has_lapsed_makes_no_cart() {
    let desk = Desk::open().await;
    let (sale, mut lane, ask) = part(&desk, "o1").await;
    let b = ask.lines[0].item.clone();
    assert_eq!(expire(&desk).await, 1);
    assert_eq!(
        take(&desk, std::slice::from_ref(&ask)).await,
        [TakeAnswer::PartEnded(ask.parts[0])]
    );
    assert_eq!(reserved(&desk, &b).await, 0, "nothing stays held");
    desk.deliver(&mut lane).await;
    assert_eq!(desk.counter(&sale, &lane).await, 10);
    assert_sound(&desk).await;
}

#[tokio::test]
async fn whoever_gives_back_a_part_leaves_a_cart_alone() {
    let desk = Desk::open().await;
    let (_sale, _lane, ask) = part(&desk, "o1").await;
    let held = ask.parts[0];
    taken(&desk, ask).await;
    let give_back = flashgate::ledger::EndAsk {
        unless_in_cart: true,
        ..crate::support::shop::release(held)
    };
    assert!(matches!(desk.end(give_back).await, EndAnswer::Refused(_)));
    assert_eq!(read(&desk, held).await.status, Status::Reserved);
}

#[tokio::test]
async fn a_cart_is_extended_as_one_and_a_payment_gets_a_grace() {
    let desk = Desk::open().await;
    let [a, b] = two(&desk).await;
    let made = taken(&desk, cart(&desk, "o1", &[(&a, 1), (&b, 1)], vec![])).await;
    let extend = async |reason: Option<&str>| {
        let ask = ExtendAsk {
            id: made.id,
            ttl_ms: 5_000_000,
            reason: reason.map(str::to_owned),
            trace: TraceId([1; 16]),
        };
        match desk.ledger.extend(&[ask]).await.expect("Postgres answers").remove(0) {
            ExtendAnswer::Done(reservation) => reservation.expires_at.0 - made.created_at.0,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(extend(None).await, 3_600_000, "the longest hold");
    assert_eq!(extend(Some("payment_started")).await, 3_900_000, "and a grace");
    assert_eq!(extend(Some("payment_started")).await, 3_900_000, "once");
    assert_sound(&desk).await;
}

#[tokio::test]
async fn a_torn_cart_is_found() {
    let desk = Desk::open().await;
    let [a, b] = two(&desk).await;
    taken(&desk, cart(&desk, "o1", &[(&a, 1), (&b, 1)], vec![])).await;
    desk.run("UPDATE inventory_reservation SET cart_id = NULL, cart_parts = NULL WHERE sku_id = 'a'")
        .await;
    let audit = desk.ledger.audit().await.expect("Postgres answers");
    assert!(
        audit.differences.iter().any(|found| found.kind == Fault::Cart),
        "{:?}",
        audit.differences
    );
}
