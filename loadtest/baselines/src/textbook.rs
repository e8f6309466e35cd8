//! The gateway as a textbook has it: a conditional `UPDATE` of the balance and an `INSERT` of the reservation, durable
//! when it answers; an order that comes again gets its first reservation.
//!
//! In two styles, since which is faster depends on the way to the database: a transaction of two statements, and both
//! in one statement, whose row lock lasts two round trips less. No limit per user, no expiry, no events, no carts.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use sqlx::PgPool;
use uuid::Uuid;

use crate::contract::{Level, PATH, Reserve, sold_out, unavailable};

const SCHEMA: &str = "
    CREATE SCHEMA IF NOT EXISTS textbook;
    CREATE TABLE IF NOT EXISTS textbook.balance (
        sku_id text, location_id text, available bigint NOT NULL CHECK (available >= 0),
        reserved bigint NOT NULL DEFAULT 0, PRIMARY KEY (sku_id, location_id)) WITH (fillfactor = 50);
    CREATE TABLE IF NOT EXISTS textbook.reservation (
        reservation_id uuid PRIMARY KEY, order_id text NOT NULL, sku_id text NOT NULL, location_id text NOT NULL,
        quantity bigint NOT NULL, status text NOT NULL DEFAULT 'RESERVED', created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL DEFAULT now() + interval '15 minutes',
        CONSTRAINT order_holds_an_item_once UNIQUE (order_id, sku_id, location_id));
    INSERT INTO textbook.balance (sku_id, location_id, available) VALUES ('hot', 'wh1', 1000000)
        ON CONFLICT (sku_id, location_id) DO NOTHING";

const TAKE: &str = "-- textbook.take
    UPDATE textbook.balance SET available = available - $3, reserved = reserved + $3
    WHERE sku_id = $1 AND location_id = $2 AND available >= $3";

const INSERT: &str = "-- textbook.insert
    INSERT INTO textbook.reservation (reservation_id, order_id, sku_id, location_id, quantity)
    VALUES ($1, $2, $3, $4, $5)";

const BOTH: &str = "-- textbook.both
    WITH taken AS (
        UPDATE textbook.balance SET available = available - $5, reserved = reserved + $5
        WHERE sku_id = $3 AND location_id = $4 AND available >= $5 RETURNING 1)
    INSERT INTO textbook.reservation (reservation_id, order_id, sku_id, location_id, quantity)
    SELECT $1, $2, $3, $4, $5 FROM taken";

const FIND: &str = "-- textbook.find
    SELECT reservation_id FROM textbook.reservation WHERE order_id = $1 AND sku_id = $2 AND location_id = $3";

/// How it is written.
#[derive(Clone, Copy)]
pub(crate) enum Style {
    /// `BEGIN`, `UPDATE`, `INSERT`, `COMMIT`.
    Transaction,
    /// One statement that does both.
    Statement,
}

#[derive(Clone)]
struct Book {
    pool: PgPool,
    style: Style,
}

pub(crate) async fn router(pool: PgPool, style: Style) -> Result<Router, sqlx::Error> {
    sqlx::raw_sql(SCHEMA).execute(&pool).await?;
    Ok(Router::new()
        .route(PATH, post(reserve))
        .with_state(Book { pool, style }))
}

async fn reserve(State(book): State<Book>, body: Bytes) -> Response {
    let ask = match Reserve::parse(&body) {
        Ok(ask) => ask,
        Err(invalid) => return invalid.into_response(),
    };
    let taken = match book.style {
        Style::Transaction => in_transaction(&book.pool, &ask).await,
        Style::Statement => in_statement(&book.pool, &ask).await,
    };
    let found = match taken {
        // The order was here before, and its units are with it: this transaction took none.
        Err(error) if is_repeat(&error) => find(&book.pool, &ask).await.map(Some),
        other => other,
    };
    match found {
        Ok(Some(id)) => ask.reserved(&id.to_string(), Level::Durable),
        Ok(None) => sold_out(),
        Err(error) => unavailable(&error),
    }
}

async fn in_transaction(pool: &PgPool, ask: &Reserve<'_>) -> Result<Option<Uuid>, sqlx::Error> {
    let mut tx = pool.begin().await?;
    let taken = sqlx::query(TAKE)
        .bind(&*ask.sku_id)
        .bind(&*ask.location_id)
        .bind(ask.quantity)
        .execute(&mut *tx)
        .await?;
    if taken.rows_affected() == 0 {
        return Ok(None);
    }
    let id = Uuid::from_bytes(rand::random());
    insert(INSERT, id, ask).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(Some(id))
}

async fn in_statement(pool: &PgPool, ask: &Reserve<'_>) -> Result<Option<Uuid>, sqlx::Error> {
    let id = Uuid::from_bytes(rand::random());
    let done = insert(BOTH, id, ask).execute(pool).await?;
    Ok((done.rows_affected() == 1).then_some(id))
}

type Query<'a> = sqlx::query::Query<'a, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn insert<'a>(sql: &'a str, id: Uuid, ask: &'a Reserve<'_>) -> Query<'a> {
    sqlx::query(sql)
        .bind(id)
        .bind(&*ask.order_id)
        .bind(&*ask.sku_id)
        .bind(&*ask.location_id)
        .bind(ask.quantity)
}

async fn find(pool: &PgPool, ask: &Reserve<'_>) -> Result<Uuid, sqlx::Error> {
    sqlx::query_scalar(FIND)
        .bind(&*ask.order_id)
        .bind(&*ask.sku_id)
        .bind(&*ask.location_id)
        .fetch_one(pool)
        .await
}

/// Whether a unique constraint refused it.
pub(crate) fn is_repeat(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|error| error.is_unique_violation())
}
