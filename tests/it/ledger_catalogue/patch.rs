//! Changes of sales: units come and go without one being lost on the way.

use flashgate::domain::grant::Grant;
use flashgate::domain::key::{Fingerprint, KeyHash};
use flashgate::domain::sale::SaleAction::{Pause, Stop};
use flashgate::domain::sale::{Sale, SaleState, UserRate};
use flashgate::ledger::once::Key;
use flashgate::ledger::recall::TakeBack;
use flashgate::ledger::sale_patch::{Patched, SalePatch};

use super::books::{Books, ann, sale_id, sale_of};

fn to(allocation: i64) -> SalePatch {
    SalePatch {
        allocation: Some(allocation),
        ..SalePatch::default()
    }
}

async fn patch(books: &Books, patch: &SalePatch) -> Patched {
    let patched = books
        .ledger
        .patch_sale(&sale_id("s"), patch, &ann(), None)
        .await
        .expect("patches");
    books.check().await;
    patched
}

async fn take_back(books: &Books, allocation: i64, may_ask: bool) -> TakeBack {
    let taken = books
        .ledger
        .take_back(&sale_id("s"), allocation, may_ask)
        .await
        .expect("asks");
    books.check().await;
    taken
}

fn done(patched: Patched) -> Sale {
    match patched {
        Patched::Done(acted) => acted.sale,
        other => panic!("{other:?}"),
    }
}

async fn escrow_and_allocation(books: &Books) -> (i64, i64) {
    sqlx::query_as("SELECT b.escrowed, s.allocation FROM inventory_balance b JOIN sale s USING (sku_id, location_id)")
        .fetch_one(&books.pool)
        .await
        .expect("a sale")
}

#[tokio::test]
async fn more_units_are_set_aside_and_granted() {
    let books = Books::with_live_sale().await;
    let sale = done(patch(&books, &to(13)).await);
    let granted = [(sale.lanes[0], Grant::Units(2)), (sale.lanes[1], Grant::Units(1))];
    assert_eq!(books.waiting().await, granted);
    books.deliver().await;
    books.check().await;
    assert!(matches!(patch(&books, &to(21)).await, Patched::Insufficient { added: 8, found: b } if b.escrowed == 13));
    assert_eq!(escrow_and_allocation(&books).await, (13, 13));
}

#[tokio::test]
async fn a_sale_that_has_not_started_keeps_its_units_to_itself() {
    let books = Books::with_stock(20).await;
    books.create(&sale_of("s", 10)).await;
    assert_eq!(done(patch(&books, &to(15)).await).allocation, 15);
    assert_eq!(done(patch(&books, &to(3)).await).allocation, 3);
    assert_eq!(
        (books.waiting().await, escrow_and_allocation(&books).await),
        (vec![], (3, 3))
    );
    let limits = SalePatch {
        per_user_limit: Some(None),
        ..SalePatch::default()
    };
    assert_eq!(done(patch(&books, &limits).await).per_user_limit, None);
    assert_eq!(books.waiting().await, [], "no lane knows it yet");
}

#[tokio::test]
async fn fewer_units_leave_once_the_lanes_gave_them_back() {
    let books = Books::with_live_sale().await;
    let sale = books
        .ledger
        .sale(&sale_id("s"))
        .await
        .expect("reads")
        .expect("is there");
    books.reserve(sale.lanes[0], 3).await;
    assert_eq!(patch(&books, &to(4)).await, Patched::Short);
    assert!(matches!(take_back(&books, 4, true).await, TakeBack::Asked(asked) if asked.len() == 2));
    let take = |units| Grant::Take { units, target: None };
    assert_eq!(
        books.waiting().await,
        [(sale.lanes[1], take(5)), (sale.lanes[0], take(1))]
    );
    assert!(
        matches!(take_back(&books, 4, true).await, TakeBack::Waiting(_)),
        "asked once, not twice"
    );
    assert_eq!(patch(&books, &to(4)).await, Patched::Short);
    books.deliver().await;
    assert_eq!(take_back(&books, 4, true).await, TakeBack::Ready);
    assert_eq!(done(patch(&books, &to(4)).await).allocation, 4);
    assert_eq!(books.waiting().await, []);
    assert_eq!(escrow_and_allocation(&books).await, (1, 4));
}

#[tokio::test]
async fn a_buyer_who_is_quicker_keeps_the_unit_and_the_rest_is_granted_again() {
    let books = Books::with_live_sale().await;
    let sale = books
        .ledger
        .sale(&sale_id("s"))
        .await
        .expect("reads")
        .expect("is there");
    assert_eq!(patch(&books, &to(2)).await, Patched::Short);
    assert!(matches!(take_back(&books, 2, true).await, TakeBack::Asked(_)));
    books.reserve(sale.lanes[1], 4).await;
    books.deliver().await;
    assert_eq!(patch(&books, &to(2)).await, Patched::Short);
    assert_eq!(take_back(&books, 2, true).await, TakeBack::Refused { held: 4 });
    assert_eq!(books.waiting().await, [(sale.lanes[0], Grant::Units(6))]);
    assert_eq!(escrow_and_allocation(&books).await, (6, 10));
    // Four are held, so five can be had.
    books.deliver().await;
    assert_eq!(patch(&books, &to(5)).await, Patched::Short);
    assert!(matches!(take_back(&books, 5, true).await, TakeBack::Asked(_)));
    books.deliver().await;
    assert_eq!(done(patch(&books, &to(5)).await).allocation, 5);
    assert_eq!(escrow_and_allocation(&books).await, (1, 5));
}

/// Of 7 units asked for, a buyer is quicker with one.
async fn one_short() -> (Books, Sale) {
    let books = Books::with_live_sale().await;
    let sale = books
        .ledger
        .sale(&sale_id("s"))
        .await
        .expect("reads")
        .expect("is there");
    assert!(matches!(take_back(&books, 3, true).await, TakeBack::Asked(_)));
    books.reserve(sale.lanes[0], 1).await;
    books.deliver().await;
    (books, sale)
}

#[tokio::test]
async fn lanes_that_gave_less_are_asked_again() {
    let (books, sale) = one_short().await;
    assert!(matches!(take_back(&books, 3, true).await, TakeBack::Asked(_)));
    let rest = Grant::Take { units: 1, target: None };
    assert_eq!(books.waiting().await, [(sale.lanes[1], rest)]);
    books.deliver().await;
    assert_eq!(done(patch(&books, &to(3)).await).allocation, 3);
    assert_eq!(escrow_and_allocation(&books).await, (2, 3));
}

#[tokio::test]
async fn who_may_not_ask_again_is_refused_and_nothing_stays_taken() {
    let (books, sale) = one_short().await;
    assert_eq!(take_back(&books, 3, false).await, TakeBack::Refused { held: 1 });
    assert_eq!(books.waiting().await, [(sale.lanes[0], Grant::Units(6))]);
    books.deliver().await;
    books.check().await;
    let counters: i64 = books.number("SELECT sum(counter)::int8 FROM sale_bucket").await;
    assert_eq!((counters, escrow_and_allocation(&books).await), (9, (9, 10)));
}

#[tokio::test]
async fn a_patch_under_a_key_is_made_once_and_only_when_it_is_done() {
    let books = Books::with_live_sale().await;
    let key = Key {
        hash: KeyHash::explicit("sale", "k"),
        fingerprint: Fingerprint::of(&["4"]),
    };
    let keyed = async |patch: &SalePatch, key: &Key| {
        let by = ann();
        books
            .ledger
            .patch_sale(&sale_id("s"), patch, &by, Some(key))
            .await
            .expect("patches")
    };
    assert_eq!(keyed(&to(4), &key).await, Patched::Short);
    take_back(&books, 4, true).await;
    books.deliver().await;
    assert_eq!(done(keyed(&to(4), &key).await).allocation, 4);
    done(patch(&books, &to(12)).await);
    assert!(matches!(keyed(&to(4), &key).await, Patched::Done(a) if a.replayed && a.sale.allocation == 12));
    let other = Key {
        fingerprint: Fingerprint::of(&["5"]),
        ..key
    };
    assert_eq!(keyed(&to(5), &other).await, Patched::KeyReused);
    books.check().await;
}

#[tokio::test]
async fn units_that_a_dead_patch_left_behind_are_granted_again() {
    let books = Books::with_live_sale().await;
    assert!(matches!(take_back(&books, 4, true).await, TakeBack::Asked(_)));
    books.deliver().await;
    books.ledger.regrant_recalled().await.expect("runs");
    assert_eq!(books.waiting().await, [], "it may still come");
    books.run("UPDATE sale SET recalled_at = now() - interval '11 s'").await;
    let sale = books
        .ledger
        .sale(&sale_id("s"))
        .await
        .expect("reads")
        .expect("is there");
    let lanes = books.ledger.regrant_recalled().await.expect("runs");
    assert_eq!(lanes, [sale.lanes[0]]);
    books.check().await;
    assert_eq!(books.waiting().await, [(sale.lanes[0], Grant::Units(6))]);
    books.ledger.regrant_recalled().await.expect("runs");
    assert_eq!(books.waiting().await.len(), 1);
}

#[tokio::test]
async fn the_units_of_a_sale_that_has_not_started_are_not_forgotten_ones() {
    let books = Books::with_stock(20).await;
    books.create(&sale_of("s", 10)).await;
    books.run("UPDATE sale SET recalled_at = now() - interval '11 s'").await;
    books.ledger.regrant_recalled().await.expect("runs");
    assert_eq!(books.waiting().await, []);
}

#[tokio::test]
async fn settings_travel_to_the_lanes_and_null_clears() {
    let books = Books::with_live_sale().await;
    books.act("s", Pause).await;
    books.deliver().await;
    let rate = UserRate {
        per_second: 0.5,
        burst: 3,
    };
    let set = SalePatch {
        per_user_limit: Some(Some(5)),
        user_rate: Some(Some(rate)),
        hold_ms: Some(60_000),
        ..SalePatch::default()
    };
    let sale = done(patch(&books, &set).await);
    assert_eq!(
        (sale.per_user_limit, sale.user_rate, sale.hold_ms),
        (Some(5), Some(rate), 60_000)
    );
    assert_eq!(sale.settings().state, SaleState::Paused);
    let told = |sale: &Sale| -> Vec<_> {
        sale.lanes
            .iter()
            .map(|lane| (*lane, Grant::Settings(sale.settings())))
            .collect()
    };
    assert_eq!(books.waiting().await, told(&sale));
    assert_eq!(books.ledger.sale(&sale.id).await.expect("reads"), Some(sale));
    books.deliver().await;
    done(patch(&books, &set).await);
    assert_eq!(books.waiting().await, [], "nothing changed");
    let cleared = SalePatch {
        per_user_limit: Some(None),
        user_rate: Some(None),
        ack_wait_ms: Some(50),
        ..SalePatch::default()
    };
    let sale = done(patch(&books, &cleared).await);
    assert_eq!(
        (sale.per_user_limit, sale.user_rate, sale.ack_wait_ms),
        (None, None, 50)
    );
    assert_eq!(books.waiting().await, told(&sale));
}

#[tokio::test]
async fn a_patch_that_does_not_fit_the_sale_changes_nothing() {
    let books = Books::with_live_sale().await;
    let long = SalePatch {
        hold_ms: Some(3_600_001),
        ..to(12)
    };
    assert_eq!(patch(&books, &long).await, Patched::HoldTooLong(3_600_000));
    let now = books.ledger.now().await.expect("a clock");
    let past = SalePatch {
        ends_at: Some(Some(now.plus_ms(-1))),
        ..to(12)
    };
    assert_eq!(patch(&books, &past).await, Patched::EndsTooEarly);
    assert_eq!(escrow_and_allocation(&books).await, (10, 10));
    let nobody = books
        .ledger
        .patch_sale(&sale_id("none"), &to(1), &ann(), None)
        .await
        .expect("patches");
    assert_eq!(nobody, Patched::Unknown);
    books.act("s", Stop).await;
    assert_eq!(patch(&books, &to(12)).await, Patched::Invalid(SaleState::Ended));
}
