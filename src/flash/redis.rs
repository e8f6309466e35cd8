//! Redis as the lanes see it: a key, and a command for whoever serves it. That is one server, or a node of a cluster.

use std::sync::Arc;
use std::time::Duration;

use fred::types::Value;
use fred::types::config::ServerConfig;

use super::cluster::{self, Cluster};
use super::error::FlashError;
use super::node::{self, Call, Node};
use super::script::Script;

/// All servers, shared by clones; the connections end with the last of them.
#[derive(Clone, Debug)]
pub(crate) enum Redis {
    /// One server, or the one that sentinels name.
    One(Node),
    /// A cluster.
    Many(Arc<Cluster>),
}

impl Redis {
    /// Connects in the background, and again whenever that is needed, to who serves these keys.
    ///
    /// # Errors
    /// The address can't be read.
    pub(crate) fn connect(url: &str, keys: &[String], command_timeout: Duration) -> Result<Self, FlashError> {
        let config = node::config(url)?;
        Ok(match &config.server {
            ServerConfig::Clustered { hosts, .. } => {
                let seeds = hosts.clone();
                Redis::Many(Arc::new(Cluster::start(seeds, config, keys, command_timeout)))
            }
            _ => Redis::One(Node::connect(config, command_timeout)),
        })
    }

    /// The server that serves `key`, as far as is known.
    ///
    /// # Errors
    /// It is not known.
    pub(crate) fn node(&self, key: &str) -> Result<Node, FlashError> {
        match self {
            Redis::One(node) => Ok(node.clone()),
            Redis::Many(cluster) => cluster.node(key),
        }
    }

    /// Whether the server of `key` can be asked.
    pub(crate) fn is_connected_to(&self, key: &str) -> bool {
        self.node(key).is_ok_and(|node| node.is_connected())
    }

    /// Waits up to `within` for a connection to the server of `key`.
    pub(crate) async fn connected(&self, key: &str, within: Duration) -> Result<(), FlashError> {
        self.node(key)?.connected(within).await
    }

    /// Runs a script that the server of the first key must have loaded.
    pub(crate) async fn eval(&self, script: &Script, keys: Vec<String>, args: Vec<Value>) -> Result<Value, FlashError> {
        match self {
            Redis::One(node) => Ok(node.send(Call::script(script, keys, args)).await?),
            Redis::Many(cluster) => {
                let key = keys.first().cloned().unwrap_or_default();
                cluster.send(&key, Call::script(script, keys, args)).await
            }
        }
    }

    /// Runs a command whose first argument is its key.
    pub(crate) async fn keyed(&self, command: &'static str, args: Vec<Value>) -> Result<Value, FlashError> {
        match self {
            Redis::One(node) => Ok(node.send(Call::new(command, args)).await?),
            Redis::Many(cluster) => {
                let key = args.first().and_then(|key| key.as_string()).unwrap_or_default();
                cluster.send(&key, Call::new(command, args)).await
            }
        }
    }

    pub(crate) async fn publish(&self, channel: String, payload: Vec<u8>) -> Result<(), FlashError> {
        let args = vec![Value::from(channel), Value::Bytes(payload.into())];
        self.keyed("PUBLISH", args).await.map(|_| ())
    }

    /// A connection to the server of `key` that never reconnects, and which of `keys` that server has by its own word.
    ///
    /// # Errors
    /// It can't be reached.
    pub(crate) async fn visit(
        &self,
        key: &str,
        keys: &[String],
        command_timeout: Duration,
    ) -> Result<(Node, Vec<bool>), FlashError> {
        let node = Node::once(self.node(key)?.config(), command_timeout).await?;
        let serves = match self {
            Redis::One(_) => vec![true; keys.len()],
            Redis::Many(_) => cluster::serves(&node, keys).await?,
        };
        Ok((node, serves))
    }

    /// Has a cluster looked at again: something was not where it was thought to be.
    pub(crate) fn look_again(&self) {
        if let Redis::Many(cluster) = self {
            cluster.look_again();
        }
    }

    /// Drops the connection to the server of `key`: an answer is missing or is not ours.
    pub(crate) async fn distrust(&self, key: &str) {
        if let Ok(node) = self.node(key) {
            node.distrust().await;
        }
    }

    pub(crate) async fn quit(&self) {
        match self {
            Redis::One(node) => node.quit().await,
            Redis::Many(cluster) => cluster.quit().await,
        }
    }
}

/// A connection of its own to wherever one key is served, for commands that block.
#[derive(Debug)]
pub(crate) struct Apart {
    redis: Redis,
    key: String,
    command_timeout: Duration,
    own: Option<Node>,
}

impl Apart {
    pub(crate) fn new(redis: Redis, key: String, command_timeout: Duration) -> Self {
        Apart {
            redis,
            key,
            command_timeout,
            own: None,
        }
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Sends a command, waiting up to `within` for the connection.
    pub(crate) async fn send(&mut self, call: Call, within: Duration) -> Result<Value, FlashError> {
        let shared = self.redis.node(&self.key)?;
        let elsewhere = |own: &Node| own.server() != shared.server();
        if self.own.as_ref().is_none_or(elsewhere) {
            self.own = Some(Node::connect(shared.config(), self.command_timeout));
        }
        let node = self.own.as_ref().unwrap_or(&shared);
        node.connected(within).await?;
        match (node.send(call).await, &self.redis) {
            (Ok(answer), _) => Ok(answer),
            (Err(error), Redis::Many(cluster)) => {
                cluster.has_moved(&self.key, node, &error);
                Err(error.into())
            }
            (Err(error), Redis::One(_)) => Err(error.into()),
        }
    }

    pub(crate) async fn quit(&self) {
        if let Some(own) = &self.own {
            own.quit().await;
        }
    }
}
