//! What the gateway is measured against: one program with a mode for each other way to do it, all of them behind the
//! gateway's own HTTP server, and each as good as its kind can be.
//!
//! `baselines MODE LISTEN …` prepares its tables or keys, prints the address it listens on, and serves
//! `POST /api/inventory/reservations` until it is killed. Nothing here expires, ends or is verified: whatever a
//! baseline lacks would only slow it down.

#![warn(missing_docs, unreachable_pub)]

mod contract;
mod no_op;
mod skip_locked;
mod textbook;
mod usual;

use std::error::Error;
use std::io::{self, Write};

use axum::Router;
use flashgate::http::listen;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tikv_jemallocator::Jemalloc;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

const USAGE: &str = "usage: baselines no-op LISTEN
       baselines usual LISTEN REDIS_URL CONNECTIONS [DATABASE_URL]    with it, its writer runs
       baselines textbook LISTEN DATABASE_URL CONNECTIONS             a transaction of two statements
       baselines one-statement LISTEN DATABASE_URL CONNECTIONS        the same as one statement
       baselines skip-locked LISTEN DATABASE_URL CONNECTIONS";

/// The gateway's defaults.
const SERVER: listen::Settings = listen::Settings {
    connections_max: 10_000,
    header_timeout_ms: 30_000,
    drain_ms: 10_000,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (address, router) = match args.as_slice() {
        ["no-op", address] => (address, no_op::router()),
        ["usual", address, redis, connections] => (address, usual::router(redis, connections.parse()?, None).await?),
        ["usual", address, redis, connections, database] => {
            let pool = postgres(database, 2).await?;
            (address, usual::router(redis, connections.parse()?, Some(pool)).await?)
        }
        ["textbook", address, database, connections] => {
            let pool = postgres(database, connections.parse()?).await?;
            (address, textbook::router(pool, textbook::Style::Transaction).await?)
        }
        ["one-statement", address, database, connections] => {
            let pool = postgres(database, connections.parse()?).await?;
            (address, textbook::router(pool, textbook::Style::Statement).await?)
        }
        ["skip-locked", address, database, connections] => {
            let pool = postgres(database, connections.parse()?).await?;
            (address, skip_locked::router(pool).await?)
        }
        _ => return Err(USAGE.into()),
    };
    serve(address, router).await
}

async fn postgres(url: &str, connections: u32) -> Result<PgPool, sqlx::Error> {
    PgPoolOptions::new()
        .min_connections(connections)
        .max_connections(connections)
        // Who waits is counted, not refused: the pool is this kind's queue.
        .acquire_timeout(std::time::Duration::from_secs(30))
        .test_before_acquire(false)
        .connect(url)
        .await
}

async fn serve(address: &str, router: Router) -> Result<(), Box<dyn Error>> {
    let listener = listen::bind(address.parse()?)?;
    writeln!(io::stdout(), "{}", listener.local_addr()?)?;
    listen::serve("baseline", listener, (None, router), &SERVER, CancellationToken::new()).await;
    Ok(())
}
