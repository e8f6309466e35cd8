//! What the ledger engine is measured against: the gateway as a textbook has it. For each request one transaction with
//! a conditional `UPDATE` of the balance and an `INSERT` of the reservation, over a pool of connections; behind the same
//! HTTP stack, durable when it answers.
//!
//! `textbook DATABASE_URL LISTEN POOL`: makes its two tables in the schema `textbook`, with a million units of `hot` at
//! `wh1` for every run, prints the address and serves `POST /api/inventory/reservations` until it is killed. It knows no
//! replays but a unique key, no expiry, no events, no carts: whatever it lacks would only slow it down.

#![warn(missing_docs, unreachable_pub)]

use std::error::Error;
use std::io::{self, Write};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

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
        ON CONFLICT (sku_id, location_id) DO UPDATE SET available = 1000000";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reserve {
    order_id: String,
    sku_id: String,
    location_id: String,
    quantity: i64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [database_url, listen, pool] = args.as_slice() else {
        return Err("usage: textbook DATABASE_URL LISTEN POOL".into());
    };
    let pool = PgPoolOptions::new()
        .max_connections(pool.parse()?)
        .connect(database_url)
        .await?;
    sqlx::raw_sql(SCHEMA).execute(&pool).await?;
    let listener = tokio::net::TcpListener::bind(listen).await?;
    writeln!(io::stdout(), "{}", listener.local_addr()?)?;
    let router = Router::new()
        .route("/api/inventory/reservations", post(reserve))
        .with_state(pool);
    Ok(axum::serve(listener, router).await?)
}

async fn reserve(State(pool): State<PgPool>, Json(ask): Json<Reserve>) -> (StatusCode, Json<Value>) {
    match try_reserve(&pool, &ask).await {
        Ok(Some(id)) => (
            StatusCode::CREATED,
            Json(json!({
                "reservationId": id.to_string(), "orderId": ask.order_id, "status": "RESERVED", "ack": "durable",
                "skuId": ask.sku_id, "locationId": ask.location_id, "quantity": ask.quantity,
            })),
        ),
        Ok(None) => (StatusCode::CONFLICT, Json(json!({"code": "INSUFFICIENT_STOCK"}))),
        Err(error) => (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(json!({"code": "LEDGER_UNAVAILABLE", "detail": error.to_string()})),
        ),
    }
}

async fn try_reserve(pool: &PgPool, ask: &Reserve) -> Result<Option<Uuid>, sqlx::Error> {
    let mut tx = pool.begin().await?;
    let taken = sqlx::query(
        "-- textbook.take
         UPDATE textbook.balance SET available = available - $3, reserved = reserved + $3
         WHERE sku_id = $1 AND location_id = $2 AND available >= $3",
    )
    .bind(&ask.sku_id)
    .bind(&ask.location_id)
    .bind(ask.quantity)
    .execute(&mut *tx)
    .await?;
    if taken.rows_affected() == 0 {
        return Ok(None);
    }
    let id = Uuid::new_v4();
    sqlx::query(
        "-- textbook.insert
         INSERT INTO textbook.reservation (reservation_id, order_id, sku_id, location_id, quantity)
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(id)
    .bind(&ask.order_id)
    .bind(&ask.sku_id)
    .bind(&ask.location_id)
    .bind(ask.quantity)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Some(id))
}
