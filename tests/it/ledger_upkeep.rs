//! Upkeep: days become cold and stay readable, keys and stalls go when nobody needs them.

use chrono::{Days, Utc};
use flashgate::domain::key::KeyHash;
use flashgate::domain::reservation::Status;
use flashgate::domain::time::Millis;
use flashgate::ledger::{EndAnswer, Upkeep};

use crate::support::shop::{Shop, Wish, commit, release};

const HOUR_MS: i64 = 3_600_000;

/// A reservation made some days ago; its day is the hot tier's again, or for the first time.
async fn old(shop: &Shop, days: i64) -> flashgate::domain::reservation_id::ReservationId {
    shop.sql(&format!("SELECT ensure_day(now() - interval '{days} days')"))
        .await;
    shop.reserve(Wish {
        created_ms: -days * 24 * HOUR_MS,
        ..Wish::default()
    })
    .await
}

async fn upkeep(shop: &Shop) -> Upkeep {
    shop.ledger
        .upkeep(Millis::from(Utc::now()))
        .await
        .expect("Postgres answers")
}

#[tokio::test]
async fn partitions_are_ready_before_their_day() {
    let shop = Shop::open().await;
    upkeep(&shop).await;
    let ready = "SELECT count(*) FROM pg_class WHERE relname = 'inventory_event' || to_char(now() + interval '3 days',
        '_YYYY_MM_DD')";
    assert_eq!(shop.number(ready).await, 1);
    assert_eq!(upkeep(&shop).await, Upkeep::default());
}

#[tokio::test]
async fn a_day_goes_cold_when_its_last_reservation_has_ended_long_ago() {
    let shop = Shop::open().await;
    let (sold, open) = (old(&shop, 5).await, old(&shop, 5).await);
    shop.end(commit(sold, "p1")).await;
    shop.sql("UPDATE inventory_reservation SET updated_at = now() - interval '49 hours'")
        .await;
    assert_eq!(upkeep(&shop).await.archived, [], "one is still open");
    shop.end(release(open)).await;
    shop.sql("UPDATE inventory_reservation SET updated_at = now() - interval '47 hours'")
        .await;
    assert_eq!(upkeep(&shop).await.archived, [], "48 hours have not passed");
    shop.sql("UPDATE inventory_reservation SET updated_at = now() - interval '49 hours'")
        .await;
    let day = Utc::now().date_naive() - Days::new(5);
    assert_eq!(upkeep(&shop).await.archived, [day]);
    assert_eq!(shop.number("SELECT count(*) FROM inventory_reservation").await, 0);

    let late = old(&shop, 5).await;
    assert_eq!(shop.status(sold).await, Status::Committed, "readable");
    let asks = [commit(sold, "p2"), release(sold), release(open), commit(late, "p3")];
    let answers = shop.ledger.end(&asks).await.expect("Postgres answers");
    assert!(matches!(&answers[0], EndAnswer::Done { payment_id: Some(p), replayed: true, .. } if p == "p1"));
    assert!(matches!(&answers[1], EndAnswer::Refused(r) if r.status == Status::Committed));
    assert!(matches!(&answers[2], EndAnswer::Done { replayed: true, .. }));
    assert!(matches!(&answers[3], EndAnswer::Done { replayed: false, .. }));

    shop.sql("UPDATE inventory_reservation SET updated_at = now() - interval '49 hours'")
        .await;
    assert_eq!(upkeep(&shop).await.archived, [day], "it joins its day");
    assert_eq!(shop.number("SELECT count(*) FROM inventory_reservation_cold").await, 3);
    assert_eq!(shop.status(late).await, Status::Committed);
}

/// As `verify` does, for minutes.
#[tokio::test]
async fn a_day_that_somebody_reads_stays_hot_and_keeps_nothing_else_from_being_done() {
    let shop = Shop::open().await;
    let days = [5, 6];
    for day in days {
        let sold = old(&shop, day).await;
        shop.end(commit(sold, "p")).await;
    }
    shop.sql(
        "UPDATE inventory_key SET created_at = now() - interval '97 hours';
         UPDATE inventory_reservation SET updated_at = now() - interval '97 hours'",
    )
    .await;
    let mut reads = shop.pool.begin().await.expect("begins");
    sqlx::query("LOCK TABLE inventory_reservation IN ACCESS SHARE MODE")
        .execute(&mut *reads)
        .await
        .expect("locks");
    let done = upkeep(&shop).await;
    assert_eq!((done.archived.len(), done.keys > 0), (0, true), "{done:?}");
    reads.rollback().await.expect("lets go");
    assert_eq!(upkeep(&shop).await.archived.len(), days.len());
}

#[tokio::test]
async fn keys_outlive_their_use_and_go() {
    let shop = Shop::open().await;
    let (open, fresh, gone) = (old(&shop, 4).await, old(&shop, 4).await, old(&shop, 4).await);
    shop.end(commit(fresh, "p")).await;
    shop.end(commit(gone, "p")).await;
    shop.sql(
        "UPDATE inventory_key SET created_at = now() - interval '71 hours';
         UPDATE inventory_reservation SET updated_at = now() - interval '71 hours'",
    )
    .await;
    assert_eq!(upkeep(&shop).await.keys, 0, "72 hours have not passed");
    shop.sql(&format!(
        "UPDATE inventory_key SET created_at = now() - interval '73 hours';
         UPDATE inventory_reservation SET updated_at = now() - interval '73 hours' WHERE reservation_id <> '{}';
         UPDATE inventory_reservation SET updated_at = now() WHERE reservation_id = '{}';
         INSERT INTO inventory_key (key_hash, subject_id, fingerprint, derived)
             SELECT gen_random_uuid(), '{}', 1, false",
        fresh.0, fresh.0, gone.0
    ))
    .await;
    assert_eq!(
        upkeep(&shop).await.keys,
        1,
        "only the old key of what ended long ago goes"
    );
    let kept = "SELECT count(DISTINCT subject_id) FROM inventory_key";
    assert_eq!(shop.number(kept).await, 3);
    assert_eq!(shop.status(open).await, Status::Reserved);
}

/// A hold may last for 30 days, and as long its key counts before that of a newer sale.
#[tokio::test]
async fn who_holds_for_weeks_is_among_those_from_before_a_sale() {
    let shop = Shop::open().await;
    shop.sql("SELECT ensure_day(now() - interval '29 days')").await;
    shop.reserve(Wish {
        created_ms: -29 * 24 * HOUR_MS,
        on_sale: false,
        ..Wish::default()
    })
    .await;
    let sale = shop.ledger.sales().await.expect("Postgres answers").remove(0);
    let keys = shop.ledger.earlier_keys(&sale, 10).await.expect("Postgres answers");
    let line = KeyHash::order_line("o1", "sku1", "wh1");
    assert_eq!(keys, Some(vec![line]));
}

#[tokio::test]
async fn a_stall_stays_while_a_reservation_may_need_it() {
    let shop = Shop::open().await;
    let id = old(&shop, 5).await;
    shop.sql("INSERT INTO stall (from_at, until_at) VALUES (now() - interval '100 h', now() - interval '99 h')")
        .await;
    assert_eq!(upkeep(&shop).await.stalls, 0);
    shop.end(release(id)).await;
    assert_eq!(upkeep(&shop).await.stalls, 1);
}
