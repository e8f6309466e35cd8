//! Many events: a page costs the same wherever it lies.
//!
//! Of an item's events those of one kind are seldom, or of a kind that comes with every reservation and yet seldom there:
//! `s7` at `w3` has both, and half of all events.
//!
//! Costs are buffers and rows as Postgres counts them, so a busy machine changes nothing. How many events there are says
//! `FLASHGATE_TEST_EVENTS` (`scripts/many-events.sh` asks for five million).

use flashgate::domain::id::{LocationId, OrderId};
use flashgate::ledger::events::{After, Page, Wanted};
use flashgate::ledger::post::EventType;
use sqlx::PgPool;

use crate::support::ledger::{Desk, sku};

const EVENTS: i64 = 200_000;
const LIMIT: u16 = 100;
const EVENT_TABLES: &str = "inventory_event%";

/// Events of 500 SKUs at 20 locations over five days, the kinds as a shop has them; every second one is of `s7` at `w3`,
/// one in 1,000 of these a release and one an adjustment.
async fn plant(pool: &PgPool, events: i64) {
    let mut connection = pool.acquire().await.expect("connects");
    for statement in [
        "SET statement_timeout = 0",
        "SELECT ensure_day(now() - n * interval '1 day') FROM generate_series(0, 5) AS n",
        "INSERT INTO location (location_id, name, kind, region)
         SELECT 'w' || n, 'x', 'warehouse', 'eu' FROM generate_series(0, 19) AS n",
        "INSERT INTO sku (sku_id) SELECT 's' || n FROM generate_series(0, 499) AS n",
        "INSERT INTO inventory_balance (sku_id, location_id)
         SELECT 's' || s, 'w' || l FROM generate_series(0, 499) AS s, generate_series(0, 19) AS l",
    ] {
        sqlx::query(statement).execute(&mut *connection).await.expect(statement);
    }
    sqlx::query(
        "INSERT INTO inventory_event (event_id, event_type, sku_id, location_id, quantity_delta, on_hand, reserved,
             unavailable, escrowed, sold, damaged, returned, reservation_id, order_id, created_at)
         SELECT n, (CASE WHEN n % 2000 = 1001 THEN 'inventory_released' WHEN n % 2000 = 1 THEN 'inventory_adjusted'
                    WHEN n % 1000 = 0 THEN 'inventory_damaged' WHEN n % 4 < 2 THEN 'inventory_reserved'
                    ELSE 'inventory_committed' END)::inventory_event_type,
             's' || CASE WHEN n % 2 = 1 THEN 7 ELSE n * 7919 % 500 END,
             'w' || CASE WHEN n % 2 = 1 THEN 3 ELSE n * 104729 % 19 END, 1, 0, 0, 0, 0, 0, 0, 0, md5('o' || n / 4)::uuid, 'o' || n / 4,
             now() - interval '4 days' + n * interval '4 days' / $1
         FROM generate_series(1, $1) AS n",
    )
    .bind(events)
    .execute(&mut *connection)
    .await
    .expect("plants");
    sqlx::query(
        "INSERT INTO inventory_reservation (reservation_id, order_id, sku_id, location_id, quantity, status, key_hash,
             fingerprint, explicit_key, trace_id, expires_at, created_at, updated_at)
         SELECT DISTINCT ON (order_id) reservation_id, order_id, sku_id, location_id, 1,
             'COMMITTED'::reservation_status, reservation_id, 0, false, reservation_id, created_at, created_at, created_at
         FROM inventory_movement ORDER BY order_id, event_id",
    )
    .execute(&mut *connection)
    .await
    .expect("plants");
    sqlx::query("SELECT setval('inventory_event_id', $1)")
        .bind(events + 1)
        .execute(&mut *connection)
        .await
        .expect("moves on");
    sqlx::query("VACUUM ANALYZE inventory_event, inventory_reservation")
        .execute(&mut *connection)
        .await
        .expect("analyzes");
}

/// A page, the events that were read for it, and the buffers of them and their indexes that were touched.
async fn page(desk: &Desk, wanted: &Wanted) -> (Page, i64, i64) {
    let read = async || {
        let rows = desk.counted("coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)", EVENT_TABLES);
        let rows = rows.await;
        let buffers = "heap_blks_read + heap_blks_hit + coalesce(idx_blks_read, 0) + coalesce(idx_blks_hit, 0)";
        (rows, desk.counted(buffers, EVENT_TABLES).await)
    };
    let before = read().await;
    let own = desk.own();
    let page = own.events(wanted, LIMIT).await.expect("reads").expect("is there");
    own.close().await;
    own.close_reads().await;
    let after = read().await;
    (page, after.0 - before.0, after.1 - before.1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deep_page_costs_what_the_first_one_does() {
    let events = std::env::var("FLASHGATE_TEST_EVENTS").map_or(EVENTS, |n| n.parse().expect("a number"));
    let desk = Desk::open().await;
    desk.ledger.close().await;
    plant(&desk.pool, events).await;
    let any = Wanted::default;
    let at = |text: &str| LocationId::try_from(text).ok();
    let cases = [
        ("all", any()),
        (
            "sku",
            Wanted {
                sku: Some(sku("s7")),
                ..any()
            },
        ),
        (
            "item",
            Wanted {
                sku: Some(sku("s7")),
                location: at("w3"),
                ..any()
            },
        ),
        (
            "rare kind of an item",
            Wanted {
                sku: Some(sku("s7")),
                location: at("w3"),
                event_type: Some(EventType::Adjusted),
                ..any()
            },
        ),
        (
            "rare kind of a SKU",
            Wanted {
                sku: Some(sku("s7")),
                event_type: Some(EventType::Adjusted),
                ..any()
            },
        ),
        (
            "frequent kind, seldom in an item",
            Wanted {
                sku: Some(sku("s7")),
                location: at("w3"),
                event_type: Some(EventType::Released),
                ..any()
            },
        ),
        (
            "frequent kind, seldom in a SKU",
            Wanted {
                sku: Some(sku("s7")),
                event_type: Some(EventType::Released),
                ..any()
            },
        ),
        (
            "location",
            Wanted {
                location: at("w3"),
                ..any()
            },
        ),
        (
            "kind",
            Wanted {
                event_type: Some(EventType::Reserved),
                ..any()
            },
        ),
        (
            "rare kind",
            Wanted {
                event_type: Some(EventType::Damaged),
                ..any()
            },
        ),
        (
            "kind at location",
            Wanted {
                location: at("w3"),
                event_type: Some(EventType::Reserved),
                ..any()
            },
        ),
        (
            "order",
            Wanted {
                order: OrderId::try_from("o17").ok(),
                ..any()
            },
        ),
    ];
    for (name, wanted) in cases {
        let (first, first_rows, first_buffers) = page(&desk, &wanted).await;
        assert!(
            !first.events.is_empty() && first.events.is_sorted_by_key(|event| event.id),
            "{name}"
        );
        let is_whole = first.next.is_none() || first.events.len() == usize::from(LIMIT);
        assert!(is_whole || name.starts_with("frequent"), "{name}: a short page");
        for tenths in [3_i64, 6, 8] {
            let after = events / 10 * tenths;
            let deep = Wanted {
                after: Some(After::Event(after)),
                ..wanted.clone()
            };
            let (page, rows, buffers) = page(&desk, &deep).await;
            assert!(page.events.iter().all(|event| event.id > after), "{name}");
            eprintln!(
                "{name} at {tenths}/10 of {events}: {buffers} buffers, {rows} rows; first {first_buffers}, {first_rows}"
            );
            // A page length for each of 20 locations or 9 kinds, or as many as an item's events of a kind are looked for
            // among, at one of its locations and a page of each other; and the descents of the days.
            assert!(
                rows <= first_rows * 2 + 200 && rows <= 4_200,
                "{name}: {rows} rows, {first_rows} at first"
            );
            assert!(
                buffers <= first_buffers * 2 + 200,
                "{name}: {buffers} buffers, {first_buffers} at first"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_over_all_days_meets_each_event_once() {
    let desk = Desk::open().await;
    plant(&desk.pool, 5_000).await;
    let mut wanted = Wanted {
        location: LocationId::try_from("w3").ok(),
        ..Wanted::default()
    };
    let mut ids = Vec::new();
    loop {
        let page = desk.ledger.events(&wanted, 37).await.expect("reads").expect("is there");
        ids.extend(page.events.iter().map(|event| event.id));
        let Some(next) = page.next else { break };
        wanted.after = next.to_string().parse().ok();
    }
    let all: Vec<i64> =
        sqlx::query_scalar("SELECT event_id FROM inventory_movement WHERE location_id = 'w3' ORDER BY event_id")
            .fetch_all(&desk.pool)
            .await
            .expect("reads");
    assert_eq!(ids, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_that_stops_for_long_misses_nothing() {
    let desk = Desk::open().await;
    plant(&desk.pool, 20_000).await;
    for location in [None, LocationId::try_from("w3").ok()] {
        let mut wanted = Wanted {
            sku: Some(sku("s7")),
            location,
            event_type: Some(EventType::Released),
            ..Wanted::default()
        };
        let (mut ids, mut pages) = (Vec::new(), 0);
        loop {
            let page = desk
                .ledger
                .events(&wanted, 100)
                .await
                .expect("reads")
                .expect("is there");
            ids.extend(page.events.iter().map(|event| event.id));
            pages += 1;
            let Some(next) = page.next else { break };
            wanted.after = next.to_string().parse().ok();
        }
        let all: Vec<i64> = (0..10).map(|n| n * 2_000 + 1_001).collect();
        assert_eq!(ids, all);
        assert!(pages > 4, "10,000 events in {pages} pages");
    }
}
