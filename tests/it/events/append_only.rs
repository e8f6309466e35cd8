//! Events can't be changed, nor taken away: not one, not all, not those of a day.

use flashgate::ledger::{Ledger, Settings};
use sqlx::PgPool;
use sqlx::migrate::Migrator;

use crate::support::ledger::Desk;
use crate::support::servers::shared;

/// The migration that keeps days from being truncated.
const EVENTS_STAY: i64 = 18;

/// Each way to change or lose what is in this table is refused.
async fn assert_stays(pool: &PgPool, table: &str) {
    for statement in [
        format!("UPDATE {table} SET on_hand = on_hand + 1"),
        format!("DELETE FROM {table}"),
        format!("TRUNCATE {table}"),
    ] {
        let Err(error) = sqlx::query(&statement).execute(pool).await else {
            panic!("{statement}");
        };
        let told = error.as_database_error().map(|e| e.message().to_owned());
        assert_eq!(told.as_deref(), Some("inventory_event is append-only"), "{statement}");
    }
}

/// The days that have events.
async fn days(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar("SELECT DISTINCT tableoid::regclass::text FROM inventory_event ORDER BY 1")
        .fetch_all(pool)
        .await
        .expect("reads")
}

/// An event for each day that has none.
async fn fill(pool: &PgPool) {
    sqlx::raw_sql(
        "INSERT INTO inventory_event (event_type, sku_id, location_id, quantity_delta, on_hand, reserved, unavailable,
             escrowed, sold, damaged, returned, created_at)
         SELECT 'inventory_adjusted', 'x', 'x', 0, 0, 0, 0, 0, 0, 0, 0,
             to_date(right(inhrelid::regclass::text, 10), 'YYYY_MM_DD') AT TIME ZONE 'UTC'
         FROM pg_inherits WHERE inhparent = 'inventory_event'::regclass",
    )
    .execute(pool)
    .await
    .expect("an event can be added");
}

#[tokio::test]
async fn events_stay_as_they_are() {
    let desk = Desk::open().await;
    desk.stock("hot", 100).await;
    assert_stays(&desk.pool, "inventory_event").await;
    desk.run("SELECT ensure_day(now() + interval '3 days')").await;
    fill(&desk.pool).await;
    let days = days(&desk.pool).await;
    assert!(days.len() >= 3, "{days:?}");
    for day in &days {
        assert_stays(&desk.pool, day).await;
    }
    assert_eq!(
        desk.count("SELECT on_hand FROM inventory_movement WHERE sku_id = 'hot'")
            .await,
        100
    );
    // A day is retired as a whole.
    let last = &days[days.len() - 1];
    desk.run(&format!("ALTER TABLE inventory_event DETACH PARTITION {last}"))
        .await;
    desk.run(&format!("DROP TABLE {last}")).await;
}

#[tokio::test]
async fn events_of_days_before_the_migration_stay_too() {
    let url = shared().await.database().await;
    let pool = PgPool::connect_lazy(&url).expect("an address");
    let all = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
    let mut before = Migrator::new(std::path::Path::new(all)).await.expect("migrations");
    before
        .migrations
        .to_mut()
        .retain(|migration| migration.version < EVENTS_STAY);
    before.run(&pool).await.expect("migrates");
    sqlx::raw_sql("SELECT ensure_day(now()), ensure_day(now() - interval '1 day')")
        .execute(&pool)
        .await
        .expect("makes days");
    fill(&pool).await;
    let ledger = Ledger::new(&Settings::new(&url)).expect("an address");
    ledger.migrate(1).await.expect("migrates");
    let days = days(&pool).await;
    assert_eq!(days.len(), 2, "{days:?}");
    for table in ["inventory_event"].into_iter().chain(days.iter().map(String::as_str)) {
        assert_stays(&pool, table).await;
    }
}
