//! Single lines: in order, once, and only what is there.

use flashgate::domain::id::{Item, SaleId};
use flashgate::domain::reservation::{Ending, Status};
use flashgate::domain::sale::RedisDown;
use flashgate::domain::time::Millis;
use flashgate::ledger::sale::NewSale;
use flashgate::ledger::{EndAnswer, HOLD_MAX_MS, Short, TakeAnswer, TakeAsk};
use futures::future::join_all;

use super::{assert_sound, end, expire, keyed, line, read, reserved, take, taken};
use crate::support::ledger::Desk;

#[tokio::test]
async fn a_batch_is_judged_in_its_order() {
    let desk = Desk::open().await;
    let item = desk.stock("a", 10).await;
    let asks = [6, 5, 4, 1].map(|units| line(&desk, &format!("o{units}"), &item, units));
    let answers = take(&desk, &asks).await;
    let TakeAnswer::Taken(first) = &answers[0] else {
        panic!("{answers:?}")
    };
    assert_eq!(
        (first.id, first.status, first.lines[0].quantity),
        (asks[0].id, Status::Reserved, 6)
    );
    let short = |available| {
        TakeAnswer::Insufficient(vec![Short {
            item: item.clone(),
            available,
        }])
    };
    assert_eq!(answers[1], short(4));
    assert!(matches!(answers[2], TakeAnswer::Taken(_)));
    assert_eq!(answers[3], short(0));
    assert_eq!(read(&desk, first.id).await, *first);
    assert_eq!(reserved(&desk, &item).await, 10);
    assert_sound(&desk).await;
}

#[tokio::test]
async fn a_key_counts_once_and_belongs_to_one_request() {
    let desk = Desk::open().await;
    let item = desk.stock("a", 10).await;
    let first = line(&desk, "o1", &item, 2);
    let again = line(&desk, "o1", &item, 2);
    let other = line(&desk, "o1", &item, 3);
    let chosen = keyed(line(&desk, "o1", &item, 2), "k");
    let answers = take(&desk, &[first.clone(), again, other, chosen]).await;
    assert!(matches!(answers[0], TakeAnswer::Taken(_)), "{answers:?}");
    assert_eq!(answers[1], TakeAnswer::Replayed(first.id), "in one batch");
    assert_eq!(answers[2], TakeAnswer::KeyReused);
    assert_eq!(answers[3], TakeAnswer::OrderAlreadyReserved(first.id));
    let again = take(&desk, &[line(&desk, "o1", &item, 2)]).await;
    assert_eq!(again, [TakeAnswer::Replayed(first.id)], "in another");
    assert_eq!(reserved(&desk, &item).await, 2);
    end(&desk, first.id, Ending::Release).await;
    taken(&desk, line(&desk, "o1", &item, 3)).await;
    assert_sound(&desk).await;
}

#[tokio::test]
async fn a_chosen_key_outlives_its_reservation() {
    let desk = Desk::open().await;
    let item = desk.stock("a", 10).await;
    let first = taken(&desk, keyed(line(&desk, "o1", &item, 2), "k")).await;
    end(&desk, first.id, Ending::Release).await;
    let again = take(&desk, &[keyed(line(&desk, "o1", &item, 2), "k")]).await;
    assert_eq!(again, [TakeAnswer::Replayed(first.id)]);
    assert_eq!(reserved(&desk, &item).await, 0);
    assert_sound(&desk).await;
}

#[tokio::test]
async fn of_a_crowd_as_many_get_units_as_there_are() {
    let desk = Desk::open().await;
    let item = desk.stock("a", 50).await;
    let batches = (0..8).map(|batch| {
        let asks: Vec<_> = (0..10)
            .map(|n| line(&desk, &format!("o{batch}-{n}"), &item, 1))
            .collect();
        let ledger = desk.ledger.clone();
        async move { ledger.take(&asks).await.expect("Postgres answers") }
    });
    let answers: Vec<TakeAnswer> = join_all(batches).await.into_iter().flatten().collect();
    let got = answers
        .iter()
        .filter(|answer| matches!(answer, TakeAnswer::Taken(_)))
        .count();
    assert_eq!((got, reserved(&desk, &item).await), (50, 50));
    assert_sound(&desk).await;
}

#[tokio::test]
async fn what_is_kept_back_is_not_taken() {
    let desk = Desk::open().await;
    let (sale, _lane) = desk.selling("a", 10, None).await;
    assert_eq!(
        take(&desk, &[line(&desk, "o1", &sale.item, 1)]).await,
        [TakeAnswer::OnSale(sale.item.clone())]
    );
    let item = desk.stock("b", 10).await;
    let draft = sale_of(&item, None);
    desk.ledger
        .create_sale(&draft, &flashgate::ledger::once::By::default(), None)
        .await
        .expect("creates");
    taken(&desk, line(&desk, "o1", &item, 2)).await;
    let answers = take(&desk, &[line(&desk, "o2", &item, 1)]).await;
    assert!(
        matches!(&answers[0], TakeAnswer::Insufficient(short) if short[0].available == 0),
        "what a sale to come has set aside is not for sale: {answers:?}"
    );
}

/// What comes first by the contract: whoever retries must not be told of the order while nothing could be sold anyway.
#[tokio::test]
async fn a_sale_that_waits_is_told_before_what_the_order_holds() {
    let desk = Desk::open().await;
    let item = desk.stock("a", 10).await;
    taken(&desk, keyed(line(&desk, "o1", &item, 2), "k1")).await;
    let other = keyed(line(&desk, "o1", &item, 2), "k2");
    let long = TakeAsk {
        ttl_ms: Some(HOLD_MAX_MS + 1),
        ..other.clone()
    };
    let answers = take(&desk, &[other.clone(), long]).await;
    assert!(matches!(answers[0], TakeAnswer::OrderAlreadyReserved(_)), "{answers:?}");
    assert_eq!(
        answers[1],
        TakeAnswer::TtlTooLong {
            hold_max_ms: HOLD_MAX_MS
        }
    );
    let scheduled = sale_of(&item, Some(Millis(32_503_680_000_000)));
    desk.ledger
        .create_sale(&scheduled, &flashgate::ledger::once::By::default(), None)
        .await
        .expect("creates");
    let again = keyed(line(&desk, "o1", &item, 2), "k1");
    let answers = take(&desk, &[other, again]).await;
    assert_eq!(answers[0], TakeAnswer::OnSale(item));
    assert!(matches!(answers[1], TakeAnswer::Replayed(_)), "{answers:?}");
}

fn sale_of(item: &Item, starts_at: Option<Millis>) -> NewSale {
    NewSale {
        id: SaleId::try_from("b").expect("an id"),
        item: item.clone(),
        allocation: 8,
        per_user_limit: None,
        user_rate: None,
        hold_ms: 900_000,
        hold_max_ms: 3_600_000,
        buckets: 1,
        starts_at,
        ends_at: None,
        ack_wait_ms: 1_000,
        redis_down: RedisDown::Refuse,
        redis_down_rate: 1_000,
        undurable_max: None,
    }
}

#[tokio::test]
async fn a_line_expires_commits_and_is_short_of_no_unit() {
    let desk = Desk::open().await;
    let item = desk.stock("a", 10).await;
    let paid = taken(&desk, line(&desk, "o1", &item, 2)).await;
    let lapsed = taken(&desk, line(&desk, "o2", &item, 3)).await;
    assert!(matches!(
        end(&desk, paid.id, Ending::Commit).await,
        EndAnswer::Done { rescued: false, .. }
    ));
    assert_eq!(expire(&desk).await, 1);
    assert_eq!(read(&desk, lapsed.id).await.status, Status::Expired);
    assert_eq!(read(&desk, paid.id).await.status, Status::Committed);
    let answers = take(&desk, &[line(&desk, "o3", &item, 9), line(&desk, "o4", &item, 8)]).await;
    assert!(matches!(&answers[0], TakeAnswer::Insufficient(short) if short[0].available == 8));
    assert!(matches!(answers[1], TakeAnswer::Taken(_)));
    assert_sound(&desk).await;
}
