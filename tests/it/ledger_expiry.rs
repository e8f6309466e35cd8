//! Expiry, stalls and extensions: a deadline is kept to, and never held against who could not meet it.

use chrono::{DateTime, TimeDelta, Utc};
use flashgate::domain::reservation::Status;
use flashgate::domain::reservation_id::ReservationId;
use flashgate::domain::time::Millis;
use flashgate::ledger::{EndAnswer, ExpireRun, ExtendAnswer, ExtendAsk, Ledger, Pace};
use futures::future::join_all;
use uuid::Uuid;

use crate::support::door::until;
use crate::support::shop::{LANE, Shop, Stock, Wish, commit, extension};

fn wish(created_ms: i64, expires_ms: i64) -> Wish {
    Wish {
        created_ms,
        expires_ms,
        ..Wish::default()
    }
}

async fn expire(shop: &Shop) -> ExpireRun {
    shop.ledger.expire_due(1000).await.expect("Postgres answers")
}

async fn deadline(shop: &Shop, id: ReservationId) -> Millis {
    let reservation = shop.ledger.reservation(id).await.expect("Postgres answers");
    reservation.expect("the reservation is there").expires_at
}

/// No gateway has been alive for this long.
async fn silence(shop: &Shop, seconds: i64) -> DateTime<Utc> {
    let query = format!("UPDATE pulse SET beat_at = clock_timestamp() - interval '{seconds} s' RETURNING beat_at");
    shop.instant(&query).await
}

#[tokio::test]
async fn what_is_over_expires_and_nothing_else() {
    let shop = Shop::open().await;
    let (over, open) = (
        shop.reserve(wish(-900_000, -1)).await,
        shop.reserve(wish(0, 60_000)).await,
    );
    let run = expire(&shop).await;
    let expected = ExpireRun {
        expired: 1,
        shifted: 0,
        backlog: false,
        grants_for: vec![LANE],
    };
    assert_eq!(run, expected);
    assert_eq!(shop.status(over).await, Status::Expired);
    assert_eq!(shop.status(open).await, Status::Reserved);
    let stock = Stock {
        on_hand: 1000,
        reserved: 2,
        escrowed: 98,
        sold: 0,
    };
    assert_eq!(shop.stock().await, stock);
    assert_eq!(shop.tally().await, (0, 0, 2));
    let event = "SELECT count(*) FROM inventory_movement WHERE event_type = 'inventory_expired' AND quantity_delta = 2
        AND trace_id = reservation_id";
    assert_eq!(shop.number(event).await, 1, "it belongs to the trace that reserved");
    assert_eq!(
        shop.number("SELECT count(*) FROM inventory_key").await,
        1,
        "its line is free again"
    );
    assert_eq!(expire(&shop).await, ExpireRun::default());
}

#[tokio::test]
async fn a_run_takes_no_more_than_its_batch() {
    let shop = Shop::open().await;
    for _ in 0..3 {
        shop.reserve(wish(-900_000, -1)).await;
    }
    let run = shop.ledger.expire_due(2).await.expect("Postgres answers");
    assert_eq!((run.expired, run.backlog), (2, true));
    let run = shop.ledger.expire_due(2).await.expect("Postgres answers");
    assert_eq!((run.expired, run.backlog), (1, false));
}

/// Open reservations of which the planner knows nothing yet.
async fn fill(shop: &Shop) {
    let open = shop.reserve(wish(0, 900_000)).await;
    sqlx::query(
        "INSERT INTO inventory_reservation (reservation_id, order_id, sku_id, location_id, quantity, status, key_hash,
             fingerprint, explicit_key, trace_id, expires_at, created_at, updated_at)
         SELECT gen_random_uuid(), order_id, sku_id, location_id, quantity, status, key_hash, fingerprint, explicit_key,
             trace_id, expires_at, created_at, updated_at
         FROM inventory_reservation, generate_series(1, 2000) WHERE reservation_id = $1",
    )
    .bind(open.0)
    .execute(&shop.pool)
    .await
    .expect("rows like this one");
}

/// Ends 40 that are due, and holds what was read for it to that.
async fn reads_what_is_due(shop: &Shop, worker: Ledger) {
    for _ in 0..40 {
        shop.reserve(wish(-900_000, -1)).await;
    }
    let run = worker.expire_due(1000).await.expect("Postgres answers");
    assert_eq!(run.expired, 40);
    // A session tells what it has read at its end.
    worker.close().await;
    let read = "SELECT coalesce(sum(idx_tup_read), 0)::int8 FROM pg_stat_user_indexes
        WHERE indexrelname LIKE 'inventory_reservation_2%expires_at_idx'";
    let read = until("the session has told", async || {
        Some(shop.number(read).await).filter(|read| *read >= 40)
    })
    .await;
    assert!(
        read < 2000,
        "{read} entries of the index were read for 40 that were due"
    );
}

#[tokio::test]
async fn an_expiry_planned_on_an_empty_day_reads_what_is_due() {
    let shop = Shop::open().await;
    // As the worker does it.
    let worker = shop.ledger.apart(1, Pace::Usual);
    worker.expire_due(1000).await.expect("Postgres answers");
    fill(&shop).await;
    reads_what_is_due(&shop, worker).await;
}

#[tokio::test]
async fn an_expiry_planned_before_a_day_was_counted_reads_what_is_due() {
    let shop = Shop::open().await;
    fill(&shop).await;
    reads_what_is_due(&shop, shop.ledger.apart(1, Pace::Usual)).await;
}

#[tokio::test]
async fn what_is_being_ended_is_passed_over() {
    let shop = Shop::open().await;
    let (held, free) = (
        shop.reserve(wish(-900_000, -1)).await,
        shop.reserve(wish(-900_000, -1)).await,
    );
    let mut other = shop.pool.begin().await.expect("Postgres answers");
    sqlx::query("SELECT 1 FROM inventory_reservation WHERE reservation_id = $1 FOR UPDATE")
        .bind(held.0)
        .execute(&mut *other)
        .await
        .expect("the row can be locked");
    assert_eq!(expire(&shop).await.expired, 1);
    assert_eq!(shop.status(free).await, Status::Expired);
    other.rollback().await.expect("Postgres answers");
    assert_eq!(expire(&shop).await.expired, 1);
}

#[tokio::test]
async fn a_silence_moves_the_deadlines_of_what_it_overlaps() {
    let shop = Shop::open().await;
    let over_before = shop.reserve(wish(-900_000, -61_000)).await;
    let in_the_gap = shop.reserve(wish(-900_000, -30_000)).await;
    let begun_in_it = shop.reserve(wish(-20_000, -1000)).await;
    let later = shop.reserve(wish(-900_000, 100_000)).await;
    let before = [
        deadline(&shop, in_the_gap).await,
        deadline(&shop, begun_in_it).await,
        deadline(&shop, later).await,
    ];
    silence(&shop, 60).await;
    let run = expire(&shop).await;
    assert_eq!((run.expired, run.shifted), (1, 2));
    assert_eq!(
        shop.status(over_before).await,
        Status::Expired,
        "its time was over before"
    );
    let stall = shop
        .number("SELECT (extract(epoch FROM until_at - from_at) * 1000)::int8 FROM stall")
        .await;
    assert!((60_000..65_000).contains(&stall), "{stall}");
    let moved = |id, n: usize| {
        let (shop, before) = (&shop, &before);
        async move { deadline(shop, id).await.0 - before[n].0 }
    };
    let gap = moved(in_the_gap, 0).await;
    assert!(
        (stall + 30_000 - gap).abs() <= 1,
        "{gap}: by the whole silence and 30 s"
    );
    let part = moved(begun_in_it, 1).await;
    assert!(
        (50_000..55_000).contains(&part),
        "{part}: by its overlap with the hold and 30 s"
    );
    let shown = moved(later, 2).await;
    assert!((shown - gap).abs() <= 1, "{shown}: shown before it is written");
    assert_eq!(expire(&shop).await, ExpireRun::default());
    assert_eq!(moved(in_the_gap, 0).await, gap, "given once");
    let answer = shop.end(commit(later, "p")).await;
    let EndAnswer::Done { reservation, .. } = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(reservation.expires_at.0, before[2].0 + shown);
    shop.sql("DELETE FROM stall").await;
    assert_eq!(
        moved(later, 2).await,
        shown,
        "what has ended keeps its deadline without the stall's row"
    );
}

#[tokio::test]
async fn a_silence_is_written_down_once() {
    let shop = Shop::open().await;
    let from = silence(&shop, 60).await;
    let beats = (0..6).map(|n| {
        let shop = &shop;
        async move {
            shop.ledger
                .beat(Uuid::from_u128(n), "g")
                .await
                .expect("Postgres answers")
                .stalled
        }
    });
    let found = join_all(beats).await;
    assert_eq!(found.iter().filter(|stalled| **stalled).count(), 1);
    assert_eq!(shop.number("SELECT count(*) FROM stall").await, 1);
    assert_eq!(shop.number("SELECT count(*) FROM gateway").await, 6);
    assert_eq!(shop.instant("SELECT from_at FROM stall").await, from);
    assert!(
        !shop
            .ledger
            .beat(Uuid::nil(), "g")
            .await
            .expect("Postgres answers")
            .stalled
    );
    silence(&shop, 4).await;
    assert!(
        !shop
            .ledger
            .beat(Uuid::nil(), "g")
            .await
            .expect("Postgres answers")
            .stalled,
        "4 s are no stall"
    );
}

#[tokio::test]
async fn nothing_expires_within_a_silence_that_is_not_written_down() {
    let shop = Shop::open().await;
    let id = shop.reserve(wish(-900_000, 60_000)).await;
    // The expiry has beaten and hangs at its next statement; meanwhile the deadline passes.
    let mut other = shop.pool.begin().await.expect("Postgres answers");
    sqlx::query("LOCK TABLE sale IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *other)
        .await
        .expect("the table can be locked");
    let run = async { expire(&shop).await };
    let pass = async {
        while shop
            .number(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND database =
            (SELECT oid FROM pg_database WHERE datname = current_database())",
            )
            .await
            == 0
        {
            tokio::task::yield_now().await;
        }
        sqlx::query("UPDATE inventory_reservation SET expires_at = clock_timestamp() - interval '1 microsecond'")
            .execute(&mut *other)
            .await
            .expect("the row is free");
        other.commit().await.expect("Postgres answers");
    };
    let (run, ()) = futures::join!(run, pass);
    assert_eq!(run, ExpireRun::default(), "its deadline lies after the last beat");
    assert_eq!(expire(&shop).await.expired, 1);
    assert_eq!(shop.status(id).await, Status::Expired);
}

#[tokio::test]
async fn deadlines_of_a_frozen_sale_stand_still() {
    let shop = Shop::open().await;
    let id = shop.reserve(wish(-900_000, -1000)).await;
    let plain = shop
        .reserve(Wish {
            on_sale: false,
            ..wish(-900_000, -1000)
        })
        .await;
    let before = deadline(&shop, id).await;
    shop.sql("UPDATE sale SET state = 'frozen', thaws_to = 'live', frozen_at = clock_timestamp() - interval '60 s'")
        .await;
    assert_eq!(expire(&shop).await.expired, 1);
    assert_eq!(shop.status(plain).await, Status::Expired, "others are not frozen");
    assert_eq!(shop.status(id).await, Status::Reserved);
    shop.sql(
        "INSERT INTO stall (sale_no, from_at, until_at) SELECT 1, frozen_at, frozen_at + interval '60 s' FROM sale;
         UPDATE sale SET state = 'live', thaws_to = NULL, frozen_at = NULL",
    )
    .await;
    let run = expire(&shop).await;
    assert_eq!((run.expired, run.shifted), (0, 1));
    let after = deadline(&shop, id).await;
    assert_eq!(
        after.to_utc() - before.to_utc(),
        TimeDelta::seconds(90),
        "the freeze and 30 s"
    );
}

#[tokio::test]
async fn an_extension_gives_time_and_never_takes_it() {
    let shop = Shop::open().await;
    let wish = Wish {
        created_ms: -3_000_000,
        expires_ms: 60_000,
        ..Wish::default()
    };
    let id = shop.reserve(wish).await;
    let before = shop
        .ledger
        .reservation(id)
        .await
        .expect("Postgres answers")
        .expect("there");
    let ExtendAnswer::Done(shorter) = shop.extend(id, 10_000).await else {
        panic!("it is reserved")
    };
    assert_eq!(shorter.expires_at, before.expires_at, "never earlier than before");
    let now = shop.ledger.now().await.expect("Postgres answers");
    let ExtendAnswer::Done(longer) = shop.extend(id, 120_000).await else {
        panic!("it is reserved")
    };
    let given = longer.expires_at.0 - now.0;
    assert!((120_000..125_000).contains(&given), "now + ttl: {given}");
    let ExtendAnswer::Done(longest) = shop.extend(id, 3_600_000).await else {
        panic!("it is reserved")
    };
    assert_eq!(
        longest.expires_at,
        before.created_at.plus_ms(3_600_000),
        "never past the longest hold"
    );
    let stored = shop.ledger.reservation(id).await.expect("Postgres answers");
    assert_eq!(stored, Some(longest));
    let ask = |ttl_ms| ExtendAsk {
        ttl_ms,
        ..extension(id, 0)
    };
    let answers = shop
        .ledger
        .extend(&[ask(1000), ask(2000)])
        .await
        .expect("Postgres answers");
    assert_eq!(answers[0], answers[1], "asks for one reservation count together");
}
