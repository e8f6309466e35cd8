//! Postgres is lost while buyers go on, and another server takes its place: a standby, or what was archived.
//!
//! Every test ends at rest, and then the books balance.

mod restore;
mod standby;

use flashgate::drill::wire::Wire;
use serde_json::json;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::faults::crowd::{Crowd, Heard};
use crate::support::door::until;
use crate::support::gateway::{LANES, Whole, migrate};
use crate::support::servers::Private;
use crate::support::wire::wired;

/// A gateway whose Postgres is behind an address that can move, with a live sale.
struct Stage {
    servers: Private,
    gateway: Whole,
    wire: Wire,
}

impl Stage {
    /// Over servers whose Postgres nobody has used yet.
    async fn over(servers: Private) -> Stage {
        migrate(&servers.postgres.url()).await;
        let (wire, database_url) = wired(&servers.postgres.tcp_url_of("flashgate")).await;
        let gateway = Whole::over(&servers.redis.url(), &database_url).await;
        gateway.sell("s", 100_000, json!({"buckets": LANES})).await;
        Stage { servers, gateway, wire }
    }
}

async fn run(pool: &PgPool, statement: &str) {
    sqlx::query(statement).execute(pool).await.expect("Postgres does it");
}

/// How far a Postgres has carried the queues.
async fn carried(pool: &PgPool) -> i64 {
    let sum = "SELECT sum(cursor_seq)::bigint FROM lane";
    sqlx::query_scalar(sum).fetch_one(pool).await.expect("Postgres answers")
}

/// Waits until the buyers' answers say that something is durable in whatever Postgres there is now.
async fn goes_on(stage: &Stage, crowd: Crowd) -> Vec<Heard> {
    crowd.buys(40).await;
    let heard = crowd.leave().await;
    until("drained lanes", async || {
        (stage.gateway.ready().await["mode"] == "serving").then_some(())
    })
    .await;
    stage.gateway.settled().await;
    heard
}

fn halt() -> CancellationToken {
    CancellationToken::new()
}
