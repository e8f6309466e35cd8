//! Faults: servers and gateways that die, pause, lose data or step back in time, while buyers go on.
//!
//! Every test ends at rest, and then the books balance.

pub(crate) mod crowd;
mod empty_redis;
mod fallback;
mod gateways;
mod holders;
mod killed_redis;
mod lost_reply;
pub(crate) mod older_redis;
mod pair;
mod poison;
mod postgres;
mod rolling;
mod silent_postgres;
mod start;
mod unsaved;

use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::config::Config;
use fred::types::{ClusterHash, CustomCommand, Value};
use serde_json::json;

use crate::support::door::Buy;
use crate::support::gateway::{Whole, migrate};
use crate::support::servers::Private;

/// A gateway over servers of its own, with a live sale `s` of so many units.
async fn selling(units: i64) -> (Private, Whole) {
    let servers = Private::start().await;
    migrate(&servers.postgres.url()).await;
    let gateway = Whole::over(&servers.redis.url(), &servers.postgres.url()).await;
    gateway.sell("s", units, json!({})).await;
    (servers, gateway)
}

/// Makes a reservation of one unit durable; its order, which is its key too.
async fn durable(gateway: &Whole, order: &str) -> String {
    let told = gateway.insist(&Buy::of(order).key(order).prefer("wait=10")).await;
    assert_eq!((told.status, told.replayed), (201, false), "{}", told.body);
    told.id()
}

/// Takes a unit for this order without waiting for the ledger.
async fn accepted(gateway: &Whole, order: &str) -> String {
    let told = gateway
        .reserve(&Buy::of(order).key(order).prefer("respond-async"))
        .await;
    assert_eq!(told.standing(), "RESERVED accepted", "{}", told.body);
    told.id()
}

/// Buys what is left, unit by unit, until the sale is sold out; how many units that was.
async fn sell_out(gateway: &Whole) -> i64 {
    for bought in 0.. {
        let told = gateway
            .insist(&Buy::of(&format!("rest-{bought}")).prefer("wait=10"))
            .await;
        match told.status {
            201 => {}
            _ => {
                assert_eq!(told.problem(), (409, "INSUFFICIENT_STOCK"), "{}", told.body);
                return bought;
            }
        }
    }
    unreachable!("sales are small")
}

/// A command to Redis, past every gateway.
async fn redis(url: &str, command: &'static str, args: Vec<Value>) -> Value {
    let client = client(url).await;
    let answer = say(&client, command, args).await;
    client.quit().await.expect("it leaves");
    answer
}

async fn client(url: &str) -> Client {
    let client = Client::new(Config::from_url(url).expect("fred reads it"), None, None, None);
    client.init().await.expect("Redis answers");
    client
}

async fn say(client: &Client, command: &'static str, args: Vec<Value>) -> Value {
    let command = CustomCommand::new_static(command, ClusterHash::FirstKey, false);
    client.custom(command, args).await.expect("Redis answers")
}
