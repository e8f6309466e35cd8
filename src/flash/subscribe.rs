//! What is published, heard: one connection to a single server, or one to each node of a cluster that is in use.
//!
//! Every node of a cluster passes on what is published at any of them, so the same message may come several times, and
//! none is missed only because one node is away or cut off from the others. Whoever takes them must not mind.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use fred::clients::SubscriberClient;
use fred::interfaces::{ClientLike, EventInterface, PubsubInterface};
use fred::types::config::{Config, PerformanceConfig, Server};
use fred::types::{ClusterHash, CustomCommand, Value};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::node::{Driver, connection_config, reconnect};
use super::redis::Redis;

/// Messages that the client keeps until we take them. It sets aside room for as many, eight times over.
const MESSAGES_KEPT: usize = 2_048;
/// Messages that a slow subscriber may lag behind.
const MESSAGES_MAX: usize = 65_536;
/// A connection that was silent for so long is asked whether it still is one.
const SILENT_MAX: Duration = Duration::from_secs(1);

/// A channel, and what was published there.
pub(crate) type Message = (String, Vec<u8>);

/// What comes over the channels that match a pattern. Ends when the receiver is dropped.
pub(crate) fn subscribe(redis: &Redis, command_timeout: Duration, patterns: Vec<String>) -> mpsc::Receiver<Message> {
    let (tx, rx) = mpsc::channel(MESSAGES_MAX);
    let of = move |config| listen(config, command_timeout, patterns.clone(), tx.clone());
    match redis {
        Redis::One(node) => {
            tokio::spawn(of(node.config()));
        }
        Redis::Many(cluster) => {
            let (mut used, cluster) = (cluster.used(), std::sync::Arc::downgrade(cluster));
            tokio::spawn(async move {
                let mut heard: HashMap<Server, AbortOnDropHandle<()>> = HashMap::new();
                loop {
                    let servers: BTreeSet<Server> = used.borrow_and_update().clone();
                    let Some(cluster) = cluster.upgrade() else { return };
                    heard.retain(|server, _| servers.contains(server));
                    for server in servers {
                        let start = || AbortOnDropHandle::new(tokio::spawn(of(cluster.config_of(&server))));
                        heard.entry(server.clone()).or_insert_with(start);
                    }
                    drop(cluster);
                    if used.changed().await.is_err() {
                        return;
                    }
                }
            });
        }
    }
    rx
}

/// Passes on what one server tells, until nobody listens.
async fn listen(config: Config, command_timeout: Duration, patterns: Vec<String>, tx: mpsc::Sender<Message>) {
    let performance = PerformanceConfig {
        broadcast_channel_capacity: MESSAGES_KEPT,
        default_command_timeout: command_timeout,
        ..PerformanceConfig::default()
    };
    let client = SubscriberClient::new(config, Some(performance), Some(connection_config()), Some(reconnect()));
    let mut messages = client.message_rx();
    let driver: Driver = AbortOnDropHandle::new(client.connect());
    // Subscribes again after every reconnect.
    let resubscribe = AbortOnDropHandle::new(client.manage_subscriptions());
    let _ = client.wait_for_connect().await;
    let _ = client.psubscribe(patterns).await;
    while !tx.is_closed() {
        match tokio::time::timeout(SILENT_MAX, messages.recv()).await {
            Ok(Ok(message)) => {
                if let (channel, Some(payload)) = (message.channel.to_string(), message.value.into_owned_bytes()) {
                    let _ = tx.send((channel, payload.to_vec())).await;
                }
            }
            Ok(Err(RecvError::Closed)) => break,
            Ok(Err(RecvError::Lagged(_))) => {}
            // A server that vanished without a word owes this answer, and the client drops the connection.
            Err(_) if client.is_connected() => {
                let ping = CustomCommand::new_static("PING", ClusterHash::Random, false);
                let _: Result<Value, _> = client.custom(ping, Vec::<Value>::new()).await;
            }
            Err(_) => {}
        }
    }
    drop(resubscribe);
    let _ = client.quit().await;
    drop(driver);
}
