//! Sales: how they are made, how they live, and that every unit comes back.

use std::collections::BTreeSet;

use flashgate::domain::grant::Grant;
use flashgate::domain::key::{Fingerprint, KeyHash};
use flashgate::domain::lane::LaneNo;
use flashgate::domain::sale::SaleAction::{Freeze, Pause, Resume, Start, Stop, Unfreeze};
use flashgate::domain::sale::{SaleAction, SaleState};
use flashgate::ledger::once::Key;
use flashgate::ledger::sale::{Created, NewSale};
use flashgate::ledger::sale_figures::Refusals;
use flashgate::ledger::sale_life::ActAnswer;

use super::books::{Books, LANES, ann, item, sale_id, sale_of, sku};

fn key(name: &str, fingerprint: &str) -> Key {
    Key {
        hash: KeyHash::explicit("sale", name),
        fingerprint: Fingerprint::of(&[fingerprint]),
    }
}

async fn create(books: &Books, new: &NewSale) -> Created {
    let created = books.ledger.create_sale(new, &ann(), None).await.expect("creates");
    books.check().await;
    created
}

async fn escrowed(books: &Books) -> i64 {
    books
        .number("SELECT escrowed FROM inventory_balance WHERE location_id = 'wh1'")
        .await
}

#[tokio::test]
async fn a_sale_sets_its_units_aside_where_they_are_free() {
    let books = Books::with_stock(10).await;
    assert!(matches!(create(&books, &sale_of("s", 11)).await, Created::Insufficient(b) if b.on_hand == 10));
    assert_eq!(books.ledger.sale(&sale_id("s")).await.expect("reads"), None);
    let acted = books.create(&sale_of("s", 10)).await;
    assert_eq!(
        (acted.sale.state, acted.grants, acted.replayed),
        (SaleState::Draft, vec![], false)
    );
    assert_eq!(escrowed(&books).await, 10);
    assert_eq!(create(&books, &sale_of("s", 1)).await, Created::Exists);
    assert_eq!(create(&books, &sale_of("s2", 1)).await, Created::Exists);
    let mut unknown = sale_of("s3", 1);
    unknown.item.sku = sku("cold");
    assert_eq!(create(&books, &unknown).await, Created::UnknownSku);
    let many = NewSale {
        buckets: LANES + 1,
        item: item("wh2"),
        ..sale_of("s4", 1)
    };
    assert_eq!(create(&books, &many).await, Created::TooManyBuckets { lanes: LANES });
    let sales = books.ledger.sales().await.expect("reads");
    assert_eq!(sales, [acted.sale]);
    books.check().await;
}

#[tokio::test]
async fn of_sales_made_at_the_same_moment_one_wins() {
    let books = Books::with_stock(10).await;
    let new: Vec<_> = (0..6).map(|n| sale_of(&format!("s{n}"), 6)).collect();
    let by = ann();
    let made = futures::future::join_all(new.iter().map(|new| books.ledger.create_sale(new, &by, None))).await;
    let won = made
        .into_iter()
        .filter(|made| matches!(made, Ok(Created::Done(_))))
        .count();
    assert_eq!((won, escrowed(&books).await), (1, 6));
    books.check().await;
}

#[tokio::test]
async fn a_sale_is_made_once_under_its_key() {
    let books = Books::with_stock(10).await;
    let by = ann();
    let made = async |new: &NewSale, key: Key| books.ledger.create_sale(new, &by, Some(&key)).await.expect("creates");
    assert!(matches!(
        made(&sale_of("s", 11), key("k", "11")).await,
        Created::Insufficient(_)
    ));
    let Created::Done(first) = made(&sale_of("s", 5), key("k", "5")).await else {
        panic!("a refusal is not remembered");
    };
    let Created::Done(again) = made(&sale_of("s", 5), key("k", "5")).await else {
        panic!("a repeat is answered");
    };
    assert_eq!((again.sale, again.replayed), (first.sale, true));
    assert_eq!(made(&sale_of("s", 6), key("k", "6")).await, Created::KeyReused);
    assert_eq!(escrowed(&books).await, 5);
}

#[tokio::test]
async fn lanes_of_a_sale_are_distinct_and_spread_by_its_number() {
    let books = Books::with_stock(10).await;
    let mut firsts = BTreeSet::new();
    for n in 0..LANES {
        let all = NewSale {
            buckets: LANES,
            ..sale_of(&format!("s{n}"), 1)
        };
        let lanes = books.create(&all).await.sale.lanes;
        firsts.insert(lanes[0]);
        assert_eq!(lanes.into_iter().collect::<BTreeSet<_>>().len(), usize::from(LANES));
        books.act(&format!("s{n}"), Stop).await;
    }
    assert_eq!(firsts.len(), usize::from(LANES));
}

#[tokio::test]
async fn a_start_tells_the_lanes_and_grants_every_unit() {
    let books = Books::with_stock(10).await;
    let sale = books.create(&sale_of("s", 7)).await.sale;
    let started = books.act("s", Start).await;
    assert_eq!(started.sale.state, SaleState::Live);
    books.check().await;
    let settings = started.sale.settings();
    let (a, b) = (sale.lanes[0], sale.lanes[1]);
    let expected = [
        (a, Grant::Open(settings)),
        (b, Grant::Open(settings)),
        (a, Grant::Units(4)),
        (b, Grant::Units(3)),
    ];
    assert_eq!(books.waiting().await, expected);
    assert_eq!(started.grants.len(), 4);
    let repeated = books.act("s", Start).await;
    assert_eq!(
        repeated.grants, started.grants,
        "a repeat waits for the same deliveries"
    );
    books.deliver().await;
    books.check().await;
    assert_eq!(books.act("s", Start).await.grants, []);
}

#[tokio::test]
async fn a_start_in_the_past_is_live_at_once_and_one_in_the_future_is_scheduled() {
    let books = Books::with_stock(10).await;
    let now = books.ledger.now().await.expect("a clock");
    let past = NewSale {
        starts_at: Some(now.plus_ms(-1)),
        ..sale_of("past", 3)
    };
    let made = books.create(&past).await;
    assert_eq!((made.sale.state, made.grants.len()), (SaleState::Live, 4));
    books.receive("wh2", 5).await;
    let future = NewSale {
        item: item("wh2"),
        starts_at: Some(now.plus_ms(3_600_000)),
        ..sale_of("future", 3)
    };
    assert_eq!(books.create(&future).await.sale.state, SaleState::Scheduled);
    books.check().await;
}

#[tokio::test]
async fn a_sale_that_would_end_before_it_starts_or_before_now_is_not_made() {
    let books = Books::with_stock(10).await;
    let now = books.ledger.now().await.expect("a clock");
    for (starts_ms, ends_ms) in [(None, -1), (Some(2_000), 2_000), (Some(-2_000), -1_000)] {
        let over = NewSale {
            starts_at: starts_ms.map(|ms| now.plus_ms(ms)),
            ends_at: Some(now.plus_ms(ends_ms)),
            ..sale_of("over", 1)
        };
        assert_eq!(create(&books, &over).await, Created::EndsTooEarly);
    }
    assert_eq!(books.ledger.sales().await.expect("reads"), []);
}

#[tokio::test]
async fn every_change_of_state_travels_to_every_lane() {
    let books = Books::with_live_sale().await;
    for (action, state) in [
        (Pause, SaleState::Paused),
        (Freeze, SaleState::Frozen),
        (Unfreeze, SaleState::Paused),
        (Resume, SaleState::Live),
    ] {
        let acted = books.act("s", action).await;
        assert_eq!(acted.sale.state, state);
        let told = acted
            .sale
            .lanes
            .iter()
            .map(|lane| (*lane, Grant::Settings(acted.sale.settings())));
        assert_eq!(books.waiting().await, told.collect::<Vec<_>>(), "{action:?}");
        assert_eq!(acted.grants.len(), 2);
        books.deliver().await;
        books.check().await;
    }
    let refused = books
        .ledger
        .act(&sale_id("none"), Pause, &ann(), None)
        .await
        .expect("acts");
    assert_eq!(refused, ActAnswer::Unknown);
    books.act("s", Pause).await;
    let refused = books
        .ledger
        .act(&sale_id("s"), Start, &ann(), None)
        .await
        .expect("acts");
    assert_eq!(refused, ActAnswer::Invalid(SaleState::Paused));
}

#[tokio::test]
async fn an_action_under_a_key_does_not_undo_a_later_one() {
    let books = Books::with_live_sale().await;
    let act = async |action: SaleAction, key: Key| {
        let by = ann();
        books
            .ledger
            .act(&sale_id("s"), action, &by, Some(&key))
            .await
            .expect("acts")
    };
    assert!(matches!(act(Pause, key("k", "pause")).await, ActAnswer::Done(a) if !a.replayed));
    books.act("s", Resume).await;
    let ActAnswer::Done(again) = act(Pause, key("k", "pause")).await else {
        panic!("a repeat is answered");
    };
    assert_eq!((again.sale.state, again.replayed), (SaleState::Live, true));
    assert_eq!(act(Freeze, key("k", "freeze")).await, ActAnswer::KeyReused);
}

async fn stalls(books: &Books) -> i64 {
    books
        .number("SELECT count(*) FROM stall JOIN sale USING (sale_no) WHERE until_at >= from_at")
        .await
}

#[tokio::test]
async fn the_time_of_a_freeze_is_given_back_however_it_ends() {
    let books = Books::with_live_sale().await;
    books.act("s", Freeze).await;
    books.act("s", Freeze).await;
    assert_eq!(stalls(&books).await, 0);
    books.act("s", Unfreeze).await;
    assert_eq!(stalls(&books).await, 1);
    books.act("s", Pause).await;
    assert_eq!(stalls(&books).await, 1);
    books.act("s", Freeze).await;
    books.act("s", Stop).await;
    assert_eq!(stalls(&books).await, 2);
}

#[tokio::test]
async fn a_stop_brings_every_unsold_unit_back() {
    let books = Books::with_live_sale().await;
    let sale = books
        .ledger
        .sale(&sale_id("s"))
        .await
        .expect("reads")
        .expect("is there");
    books.reserve(sale.lanes[0], 2).await;
    let stopped = books.act("s", Stop).await;
    assert_eq!((stopped.sale.state, stopped.sale.drained), (SaleState::Ended, false));
    books.check().await;
    assert!(
        !books.ledger.finish_drain(sale.no).await.expect("asks"),
        "the lanes have not answered"
    );
    assert_eq!(books.ledger.draining().await.expect("asks"), [sale.no]);
    assert_eq!(
        create(&books, &sale_of("s2", 1)).await,
        Created::Exists,
        "it is not over yet"
    );
    books.deliver().await;
    books.check().await;
    // Units that come late must not stay behind.
    books.leave_behind(sale.lanes[0]).await;
    assert!(!books.ledger.finish_drain(sale.no).await.expect("asks"));
    books.deliver().await;
    assert!(books.ledger.finish_drain(sale.no).await.expect("asks"));
    books.check().await;
    assert_eq!(escrowed(&books).await, 0);
    assert!(books.waiting().await.iter().all(|(_, grant)| *grant == Grant::Drop));
    assert_eq!(books.waiting().await.len(), 2);
    assert!(
        books.ledger.finish_drain(sale.no).await.expect("asks"),
        "a repeat agrees"
    );
    assert_eq!(books.waiting().await.len(), 2);
    assert_eq!(books.ledger.draining().await.expect("asks"), [] as [i32; 0]);
    let drained = books.act("s", Stop).await;
    assert!(drained.sale.drained);
    books.create(&sale_of("s2", 18)).await;
    books.check().await;
}

#[tokio::test]
async fn a_stop_right_after_the_start_waits_for_what_is_on_the_way() {
    let books = Books::with_stock(10).await;
    books.create(&sale_of("s", 4)).await;
    books.act("s", Start).await;
    let sale = books.act("s", Stop).await.sale;
    assert!(!books.ledger.finish_drain(sale.no).await.expect("asks"));
    books.check().await;
    books.deliver().await;
    books.check().await;
    assert!(books.ledger.finish_drain(sale.no).await.expect("asks"));
    assert_eq!(escrowed(&books).await, 0);
    books.check().await;
}

#[tokio::test]
async fn a_sale_that_never_started_ends_at_once() {
    let books = Books::with_stock(10).await;
    books.create(&sale_of("s", 4)).await;
    books.act("s", Freeze).await;
    books.act("s", Unfreeze).await;
    books.act("s", Freeze).await;
    assert_eq!((books.waiting().await, stalls(&books).await), (vec![], 0));
    let stopped = books.act("s", Stop).await;
    assert!(stopped.sale.drained);
    assert_eq!((books.waiting().await, escrowed(&books).await), (vec![], 0));
    books.check().await;
}

#[tokio::test]
async fn the_clock_starts_and_stops_sales_but_leaves_frozen_ones() {
    let books = Books::with_stock(10).await;
    let now = books.ledger.now().await.expect("a clock");
    let timed = NewSale {
        starts_at: Some(now.plus_ms(3_600_000)),
        ends_at: Some(now.plus_ms(7_200_000)),
        ..sale_of("s", 4)
    };
    books.create(&timed).await;
    let due = async || books.ledger.due_sales().await.expect("runs").acted;
    let run = books.ledger.due_sales().await.expect("runs");
    assert_eq!((run.acted, run.next), (vec![], timed.starts_at));
    books.act("s", Freeze).await;
    books.run("UPDATE sale SET starts_at = now() - interval '1 s'").await;
    assert_eq!(due().await, []);
    books.act("s", Unfreeze).await;
    let started = due().await;
    assert_eq!(started.len(), 1);
    assert_eq!(started[0].sale.state, SaleState::Live);
    let run = books.ledger.due_sales().await.expect("runs");
    assert_eq!((run.acted, run.next), (vec![], timed.ends_at));
    books.deliver().await;
    books.check().await;
    books.act("s", Freeze).await;
    books.run("UPDATE sale SET ends_at = now() - interval '0.5 s'").await;
    assert_eq!(due().await, []);
    books.act("s", Unfreeze).await;
    let stopped = due().await;
    assert_eq!(stopped[0].sale.state, SaleState::Ended);
    books.deliver().await;
    assert!(books.ledger.finish_drain(stopped[0].sale.no).await.expect("drains"));
    books.check().await;
}

#[tokio::test]
async fn figures_are_told_by_bucket_and_refusals_add_up() {
    let books = Books::with_live_sale().await;
    let sale = books
        .ledger
        .sale(&sale_id("s"))
        .await
        .expect("reads")
        .expect("is there");
    books.reserve(sale.lanes[1], 3).await;
    let more = Refusals {
        stock: 1,
        limit: 2,
        rate: 3,
    };
    books.ledger.count_refusals(sale.no, more).await.expect("counts");
    books.ledger.count_refusals(sale.no, more).await.expect("counts");
    let figures = books.ledger.sale_figures(sale.no).await.expect("reads");
    let buckets: Vec<(LaneNo, i64)> = figures.buckets.iter().map(|b| (b.lane, b.counter)).collect();
    assert_eq!(buckets, [(sale.lanes[0], 5), (sale.lanes[1], 2)]);
    assert_eq!(
        (figures.durable, figures.refused.limit, figures.refused.rate),
        (3, 4, 6)
    );
}
