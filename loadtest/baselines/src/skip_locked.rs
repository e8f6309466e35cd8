//! A row for each unit: who wants some locks rows that nobody else has locked (`SKIP LOCKED`), so buyers don't wait for
//! one another. Durable when it answers; an order that comes again gets its first reservation.
//!
//! One statement a request. Each looks from a random unit on, since all who begin at the first one step over the same
//! locked and taken rows; who finds too few looks once more from the beginning.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use sqlx::PgPool;
use uuid::Uuid;

use crate::contract::{Level, PATH, Reserve, sold_out, unavailable};
use crate::textbook::is_repeat;

/// Units of `hot` at `wh1`, a row each. More than can be sold in the seconds of a measurement.
const UNITS: i32 = 300_000;

const SCHEMA: &str = "
    CREATE SCHEMA IF NOT EXISTS skip_locked;
    CREATE TABLE IF NOT EXISTS skip_locked.unit (
        sku_id text, location_id text, unit_no int, reservation_id uuid,
        PRIMARY KEY (sku_id, location_id, unit_no)) WITH (fillfactor = 50);
    CREATE INDEX IF NOT EXISTS unit_free ON skip_locked.unit (sku_id, location_id, unit_no) WHERE reservation_id IS NULL;
    CREATE TABLE IF NOT EXISTS skip_locked.reservation (
        reservation_id uuid PRIMARY KEY, order_id text NOT NULL, sku_id text NOT NULL, location_id text NOT NULL,
        quantity bigint NOT NULL, status text NOT NULL DEFAULT 'RESERVED', created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL DEFAULT now() + interval '15 minutes',
        CONSTRAINT order_holds_an_item_once UNIQUE (order_id, sku_id, location_id));
    INSERT INTO skip_locked.unit (sku_id, location_id, unit_no)
        SELECT 'hot', 'wh1', no FROM generate_series(1, 300000) no
        WHERE NOT EXISTS (SELECT FROM skip_locked.unit);
    ANALYZE skip_locked.unit";

const TAKE: &str = "-- skip_locked.take
    WITH picked AS (
        SELECT unit_no FROM skip_locked.unit
        WHERE sku_id = $3 AND location_id = $4 AND reservation_id IS NULL AND unit_no >= $6
        ORDER BY unit_no LIMIT $5 FOR UPDATE SKIP LOCKED),
    taken AS (
        -- All or none.
        UPDATE skip_locked.unit SET reservation_id = $1
        WHERE sku_id = $3 AND location_id = $4 AND unit_no = ANY (ARRAY (SELECT unit_no FROM picked))
          AND (SELECT count(*) FROM picked) = $5
        RETURNING 1)
    INSERT INTO skip_locked.reservation (reservation_id, order_id, sku_id, location_id, quantity)
    SELECT $1, $2, $3, $4, $5 WHERE (SELECT count(*) FROM taken) = $5";

const FIND: &str = "-- skip_locked.find
    SELECT reservation_id FROM skip_locked.reservation WHERE order_id = $1 AND sku_id = $2 AND location_id = $3";

pub(crate) async fn router(pool: PgPool) -> Result<Router, sqlx::Error> {
    sqlx::raw_sql(SCHEMA).execute(&pool).await?;
    Ok(Router::new().route(PATH, post(reserve)).with_state(pool))
}

async fn reserve(State(pool): State<PgPool>, body: Bytes) -> Response {
    let ask = match Reserve::parse(&body) {
        Ok(ask) => ask,
        Err(invalid) => return invalid.into_response(),
    };
    let found = match take(&pool, &ask).await {
        Err(error) if is_repeat(&error) => find(&pool, &ask).await.map(Some),
        other => other,
    };
    match found {
        Ok(Some(id)) => ask.reserved(&id.to_string(), Level::Durable),
        Ok(None) => sold_out(),
        Err(error) => unavailable(&error),
    }
}

async fn take(pool: &PgPool, ask: &Reserve<'_>) -> Result<Option<Uuid>, sqlx::Error> {
    let id = Uuid::from_bytes(rand::random());
    for first in [rand::random_range(1..=UNITS), 1] {
        let done = sqlx::query(TAKE)
            .bind(id)
            .bind(&*ask.order_id)
            .bind(&*ask.sku_id)
            .bind(&*ask.location_id)
            .bind(ask.quantity)
            .bind(first)
            .execute(pool)
            .await?;
        if done.rows_affected() == 1 {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

async fn find(pool: &PgPool, ask: &Reserve<'_>) -> Result<Uuid, sqlx::Error> {
    sqlx::query_scalar(FIND)
        .bind(&*ask.order_id)
        .bind(&*ask.sku_id)
        .bind(&*ask.location_id)
        .fetch_one(pool)
        .await
}
