//! The consumer of the usual gateway's queue: batches into Postgres, each with its place in the queue in the same
//! transaction, so that a batch counts once; then it trims what is written.

use std::error::Error;
use std::io::{self, Write};
use std::time::Duration;

use fred::clients::Pool;
use fred::interfaces::ClientLike;
use fred::types::{ClusterHash, CustomCommand, Value};
use sqlx::PgPool;

/// Entries a batch: where larger ones stop paying.
const BATCH: i64 = 1_000;
/// How long it waits for entries.
const BLOCK_MS: i64 = 100;
/// Pause after a failure.
const PAUSE: Duration = Duration::from_millis(200);

const SCHEMA: &str = "
    CREATE SCHEMA IF NOT EXISTS usual;
    DROP TABLE IF EXISTS usual.place, usual.balance, usual.reservation;
    CREATE TABLE usual.place (only_one boolean PRIMARY KEY DEFAULT true, entry text NOT NULL);
    CREATE TABLE usual.balance (sku_id text PRIMARY KEY, reserved bigint NOT NULL);
    CREATE TABLE usual.reservation (
        reservation_id text PRIMARY KEY, order_id text NOT NULL UNIQUE, user_id text NOT NULL, sku_id text NOT NULL,
        quantity bigint NOT NULL, status text NOT NULL DEFAULT 'RESERVED', created_at timestamptz NOT NULL DEFAULT now());
    INSERT INTO usual.place (entry) VALUES ('0-0')";

/// Id, and fields with their values.
type Entry = (String, Vec<String>);

/// Columns of a batch.
#[derive(Default)]
struct Batch {
    last: String,
    ids: Vec<String>,
    orders: Vec<String>,
    buyers: Vec<String>,
    units: Vec<i64>,
    items: Vec<String>,
}

/// Starts it over empty tables.
///
/// # Errors
/// The tables could not be made.
pub(super) async fn start(redis: Pool, pool: PgPool, queue: &'static str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(SCHEMA).execute(&pool).await?;
    tokio::spawn(async move {
        let mut place = "0-0".to_owned();
        loop {
            if let Err(error) = run_once(&redis, &pool, queue, &mut place).await {
                writeln!(io::stderr(), "writer: {error}").ok();
                tokio::time::sleep(PAUSE).await;
            }
        }
    });
    Ok(())
}

async fn run_once(
    redis: &Pool,
    pool: &PgPool,
    queue: &str,
    place: &mut String,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let read = CustomCommand::new_static("XREAD", ClusterHash::Random, true);
    let args: Vec<Value> = vec![
        "COUNT".into(),
        BATCH.into(),
        "BLOCK".into(),
        BLOCK_MS.into(),
        "STREAMS".into(),
        queue.into(),
        place.as_str().into(),
    ];
    let reply: Value = redis.custom(read, args).await?;
    let Some(batch) = decode(reply) else {
        return Ok(());
    };
    store(pool, &batch, place).await?;
    *place = batch.last;
    let trim = CustomCommand::new_static("XTRIM", ClusterHash::Random, false);
    let args: Vec<Value> = vec![queue.into(), "MINID".into(), "~".into(), place.as_str().into()];
    let _: Value = redis.custom(trim, args).await?;
    Ok(())
}

/// The reply's only stream, in columns; none where nothing came.
fn decode(reply: Value) -> Option<Batch> {
    let streams: Vec<(String, Vec<Entry>)> = reply.convert().ok()?;
    let (_, entries) = streams.into_iter().next()?;
    let mut batch = Batch::default();
    for (entry, fields) in entries {
        batch.last = entry;
        for pair in fields.chunks_exact(2) {
            let value = pair[1].clone();
            match pair[0].as_str() {
                "id" => batch.ids.push(value),
                "order" => batch.orders.push(value),
                "buyer" => batch.buyers.push(value),
                "units" => batch.units.push(value.parse().ok()?),
                "item" => batch.items.push(value),
                _ => return None,
            }
        }
    }
    (!batch.ids.is_empty()).then_some(batch)
}

async fn store(pool: &PgPool, batch: &Batch, before: &str) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin().await?;
    let moved = sqlx::query("-- usual.move\n UPDATE usual.place SET entry = $1 WHERE entry = $2")
        .bind(&batch.last)
        .bind(before)
        .execute(&mut *tx)
        .await?;
    if moved.rows_affected() == 0 {
        // Written before, and the answer was lost.
        return Ok(());
    }
    sqlx::query(
        "-- usual.write
         WITH written AS (
             INSERT INTO usual.reservation (reservation_id, order_id, user_id, sku_id, quantity)
             SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[])
             RETURNING sku_id, quantity)
         INSERT INTO usual.balance (sku_id, reserved) SELECT sku_id, sum(quantity) FROM written GROUP BY sku_id
         ON CONFLICT (sku_id) DO UPDATE SET reserved = usual.balance.reserved + excluded.reserved",
    )
    .bind(&batch.ids)
    .bind(&batch.orders)
    .bind(&batch.buyers)
    .bind(&batch.items)
    .bind(&batch.units)
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}
