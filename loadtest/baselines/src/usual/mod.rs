//! The usual gateway of a flash sale: one `EVALSHA` a request, which takes the units and `XADD`s the record; accepted
//! when it answers. Calls are pipelined: requests share a few connections and none waits for another's answer.
//!
//! With a database its [`writer`] carries the records into Postgres, as a consumer beside such a gateway does.

mod writer;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use fred::clients::Pool;
use fred::interfaces::{ClientLike, LuaInterface};
use fred::types::config::{Config, ConnectionConfig, PerformanceConfig, TcpConfig};
use fred::types::{ClusterHash, CustomCommand, Value};
use fred::util::sha1_hash;
use sqlx::PgPool;

use crate::contract::{Level, PATH, Reserve, new_id, problem, sold_out, unavailable};

const SCRIPT: &str = include_str!("reserve.lua");
/// Units of the item, more than anybody can sell, and how many of them a buyer may have.
const UNITS: i64 = 100_000_000;
const LIMIT: i64 = 1;
/// The keys of the script, in its order: one slot.
const KEYS: [&str; 4] = ["{usual}:stock", "{usual}:bought", "{usual}:orders", "{usual}:queue"];

#[derive(Clone)]
struct Usual {
    redis: Pool,
    sha: Arc<str>,
}

pub(crate) async fn router(
    url: &str,
    connections: usize,
    database: Option<PgPool>,
) -> Result<Router, Box<dyn std::error::Error>> {
    let redis = connect(url, connections).await?;
    for (command, args) in [
        ("DEL", KEYS.map(Value::from).to_vec()),
        ("SET", vec![KEYS[0].into(), UNITS.into()]),
    ] {
        let _: Value = redis.custom(command_of(command), args).await?;
    }
    let _: Value = redis
        .custom(command_of("SCRIPT"), vec![Value::from("LOAD"), SCRIPT.into()])
        .await?;
    if let Some(pool) = database {
        // It blocks for entries, so its connection is its own.
        let reader = connect(url, 1).await?;
        writer::start(reader, pool, KEYS[3]).await?;
    }
    let sha = sha1_hash(SCRIPT).into();
    Ok(Router::new()
        .route(PATH, post(reserve))
        .with_state(Usual { redis, sha }))
}

async fn connect(url: &str, connections: usize) -> Result<Pool, fred::error::Error> {
    let connection = ConnectionConfig {
        max_command_attempts: 1,
        tcp: TcpConfig {
            nodelay: Some(true),
            ..TcpConfig::default()
        },
        ..ConnectionConfig::default()
    };
    let performance = PerformanceConfig {
        default_command_timeout: Duration::from_secs(10),
        ..PerformanceConfig::default()
    };
    let pool = Pool::new(
        Config::from_url(url)?,
        Some(performance),
        Some(connection),
        None,
        connections,
    )?;
    pool.init().await?;
    Ok(pool)
}

fn command_of(name: &'static str) -> CustomCommand {
    CustomCommand::new_static(name, ClusterHash::Random, false)
}

async fn reserve(State(usual): State<Usual>, body: Bytes) -> Response {
    let ask = match Reserve::parse(&body) {
        Ok(ask) => ask,
        Err(invalid) => return invalid.into_response(),
    };
    let id = new_id();
    let args: Vec<Value> = vec![
        id.as_str().into(),
        (&*ask.order_id).into(),
        ask.buyer().into(),
        ask.quantity.into(),
        LIMIT.into(),
        (&*ask.sku_id).into(),
    ];
    let reply: Result<Vec<Value>, _> = usual.redis.evalsha(&*usual.sha, KEYS.to_vec(), args).await;
    match reply {
        Ok(reply) => answer(&ask, &id, &reply),
        Err(error) => unavailable(&error),
    }
}

fn answer(ask: &Reserve<'_>, id: &str, reply: &[Value]) -> Response {
    let word = reply.first().and_then(Value::as_str);
    let first = reply.get(1).and_then(Value::as_str);
    match (word.as_deref(), first) {
        (Some("reserved"), _) => ask.reserved(id, Level::Accepted),
        (Some("replayed"), Some(first)) => ask.reserved(&first, Level::Accepted),
        (Some("insufficient"), _) => sold_out(),
        (Some("limit"), _) => problem(StatusCode::CONFLICT, "USER_LIMIT_EXCEEDED"),
        _ => problem(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL"),
    }
}
