//! The connection to Redis: the client's settings, its calls and their failures.
//!
//! A command is sent once: the client's own resending would run a script twice, so an answer that is lost is reported
//! as unavailable and the caller, who knows how to repeat safely, decides.

use std::sync::Arc;
use std::time::Duration;

use fred::clients::{Client, SubscriberClient};
use fred::interfaces::{ClientLike, ClusterInterface, EventInterface, LuaInterface, PubsubInterface};
use fred::types::config::{
    Config, ConnectionConfig, PerformanceConfig, ReconnectPolicy, TcpConfig, UnresponsiveConfig,
};
use fred::types::{ClusterHash, CustomCommand, Value};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::error::FlashError;
use super::script::Script;

/// Commands that may wait in the client while it reconnects; more would only be late.
const BUFFERED_COMMANDS_MAX: usize = 4_096;
/// Messages that the client keeps until we take them. It sets aside room for as many, eight times over.
const MESSAGES_KEPT: usize = 2_048;
/// Messages that a slow subscriber may lag behind.
const MESSAGES_MAX: usize = 65_536;
/// A connection that owes an answer for this long is dropped.
const UNRESPONSIVE: Duration = Duration::from_secs(3);

/// A Redis that is there accepts a new connection within this.
const RENEW_WITHIN: Duration = Duration::from_millis(100);

/// What drives a client. Left alone it would hold the connection, or look for one, after everybody has dropped the
/// client: it holds the client itself.
type Driver = AbortOnDropHandle<Result<(), fred::error::Error>>;

/// A connection, shared by clones; it ends with the last of them.
#[derive(Clone)]
pub(crate) struct Redis {
    client: Client,
    _driver: Arc<Driver>,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redis")
    }
}

fn connection_config() -> ConnectionConfig {
    ConnectionConfig {
        connection_timeout: Duration::from_secs(2),
        internal_command_timeout: Duration::from_secs(2),
        max_command_attempts: 1,
        max_command_buffer_len: BUFFERED_COMMANDS_MAX,
        unresponsive: UnresponsiveConfig {
            max_timeout: Some(UNRESPONSIVE),
            interval: Duration::from_millis(500),
        },
        tcp: TcpConfig {
            nodelay: Some(true),
            ..TcpConfig::default()
        },
        ..ConnectionConfig::default()
    }
}

pub(crate) fn config(url: &str) -> Result<Config, FlashError> {
    let mut config = Config::from_url(url).map_err(|e| FlashError::Broken(format!("redis url: {e}")))?;
    // Redis may be away when we start: keep trying.
    config.fail_fast = false;
    Ok(config)
}

fn reconnect() -> ReconnectPolicy {
    ReconnectPolicy::new_exponential(0, 20, 500, 2)
}

impl Redis {
    /// A client that connects in the background, and again whenever that is needed.
    ///
    /// # Errors
    /// The address can't be read.
    pub(crate) fn connect(url: &str, command_timeout: Duration) -> Result<Self, FlashError> {
        let performance = PerformanceConfig {
            default_command_timeout: command_timeout,
            ..PerformanceConfig::default()
        };
        let client = Client::new(
            config(url)?,
            Some(performance),
            Some(connection_config()),
            Some(reconnect()),
        );
        let driver = Arc::new(AbortOnDropHandle::new(client.connect()));
        Ok(Redis {
            client,
            _driver: driver,
        })
    }

    /// A connection that never reconnects: what was true of the server at its start stays true to its end.
    ///
    /// # Errors
    /// Redis can't be reached.
    pub(crate) async fn once(url: &str, command_timeout: Duration) -> Result<Self, FlashError> {
        let performance = PerformanceConfig {
            default_command_timeout: command_timeout,
            ..PerformanceConfig::default()
        };
        let mut config = config(url)?;
        config.fail_fast = true;
        let client = Client::new(config, Some(performance), Some(connection_config()), None);
        let driver = Arc::new(AbortOnDropHandle::new(client.init().await?));
        Ok(Redis {
            client,
            _driver: driver,
        })
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.client.is_connected()
    }

    pub(crate) fn is_clustered(&self) -> bool {
        self.client.is_clustered()
    }

    /// The node that serves `key`; none where there is only one, or it is not known.
    pub(crate) fn node_of(&self, key: &str) -> Option<String> {
        let state = self.client.cached_cluster_state()?;
        state
            .get_server(fred::util::redis_keyslot(key.as_bytes()))
            .map(ToString::to_string)
    }

    /// Waits up to `within` for the connection.
    pub(crate) async fn connected(&self, within: Duration) -> Result<(), FlashError> {
        if self.client.is_connected() {
            return Ok(());
        }
        match tokio::time::timeout(within, self.client.wait_for_connect()).await {
            Ok(connected) => Ok(connected?),
            Err(_) => Err(FlashError::Unavailable("not connected".into())),
        }
    }

    /// Runs a script that the node must have loaded.
    pub(crate) async fn eval(&self, script: &Script, keys: Vec<String>, args: Vec<Value>) -> Result<Value, FlashError> {
        if !self.client.is_connected() {
            return Err(FlashError::Unavailable("not connected".into()));
        }
        Ok(self.client.evalsha(script.sha.as_str(), keys, args).await?)
    }

    /// Runs a command whose first argument is its key.
    pub(crate) async fn keyed(&self, command: &'static str, args: Vec<Value>) -> Result<Value, FlashError> {
        if !self.client.is_connected() {
            return Err(FlashError::Unavailable("not connected".into()));
        }
        let command = CustomCommand::new_static(command, ClusterHash::FirstValue, false);
        Ok(self.client.custom(command, args).await?)
    }

    /// Waits up to `block` for entries after `after`; the connection must be this caller's alone.
    pub(crate) async fn read_stream(
        &self,
        key: &str,
        after: &str,
        count: usize,
        block: Duration,
    ) -> Result<Value, FlashError> {
        if !self.client.is_connected() {
            return Err(FlashError::Unavailable("not connected".into()));
        }
        let command = CustomCommand::new_static("XREAD", ClusterHash::Offset(5), true);
        let args: Vec<Value> = vec![
            "COUNT".into(),
            count.to_string().into(),
            "BLOCK".into(),
            block.as_millis().to_string().into(),
            "STREAMS".into(),
            key.into(),
            after.into(),
        ];
        Ok(self.client.custom(command, args).await?)
    }

    /// Loads scripts on the node that serves `key`, over this connection.
    pub(crate) async fn load(&self, key: &str, scripts: &[&Script]) -> Result<(), FlashError> {
        let slot = ClusterHash::Custom(fred::util::redis_keyslot(key.as_bytes()));
        for script in scripts {
            let command = CustomCommand::new_static("SCRIPT", slot.clone(), false);
            let args: Vec<Value> = vec!["LOAD".into(), script.source.into()];
            let sha: String = self.client.custom(command, args).await?;
            if sha != script.sha {
                return Err(FlashError::Broken("a script's hash differs".into()));
            }
        }
        Ok(())
    }

    /// Whether the node that serves `key` has the script.
    pub(crate) async fn has(&self, key: &str, script: &Script) -> Result<bool, FlashError> {
        let slot = ClusterHash::Custom(fred::util::redis_keyslot(key.as_bytes()));
        let command = CustomCommand::new_static("SCRIPT", slot, false);
        let args: Vec<Value> = vec!["EXISTS".into(), script.sha.as_str().into()];
        let found: Vec<i64> = self.client.custom(command, args).await?;
        Ok(found == [1])
    }

    pub(crate) async fn info(&self) -> Result<String, FlashError> {
        let command = CustomCommand::new_static("INFO", ClusterHash::Random, false);
        Ok(self.client.custom(command, vec![Value::from("server")]).await?)
    }

    pub(crate) async fn publish(&self, channel: String, payload: Vec<u8>) -> Result<(), FlashError> {
        let command = CustomCommand::new_static("PUBLISH", ClusterHash::FirstValue, false);
        let _: Value = self
            .client
            .custom(command, vec![Value::from(channel), Value::Bytes(payload.into())])
            .await?;
        Ok(())
    }

    /// Drops the connection: an answer is missing or is not ours, so none on it can be trusted. What is sent from now
    /// on waits behind that; where Redis is away, the new connection is not waited for.
    pub(crate) async fn distrust(&self) {
        let _ = tokio::time::timeout(RENEW_WITHIN, self.client.force_reconnection()).await;
    }

    pub(crate) async fn quit(&self) {
        let _ = self.client.quit().await;
    }
}

/// What came over the channels that match a pattern: channel and payload. Ends when the receiver is dropped.
///
/// # Errors
/// The address can't be read.
pub(crate) fn subscribe(url: &str, patterns: Vec<String>) -> Result<mpsc::Receiver<(String, Vec<u8>)>, FlashError> {
    let performance = PerformanceConfig {
        broadcast_channel_capacity: MESSAGES_KEPT,
        ..PerformanceConfig::default()
    };
    let client = SubscriberClient::new(
        config(url)?,
        Some(performance),
        Some(connection_config()),
        Some(reconnect()),
    );
    let mut messages = client.message_rx();
    let (tx, rx) = mpsc::channel(MESSAGES_MAX);
    let driver: Driver = AbortOnDropHandle::new(client.connect());
    tokio::spawn(async move {
        // Subscribes again after every reconnect.
        let resubscribe = client.manage_subscriptions();
        let _ = client.wait_for_connect().await;
        let _ = client.psubscribe(patterns).await;
        while !tx.is_closed() {
            match tokio::time::timeout(Duration::from_secs(1), messages.recv()).await {
                Ok(Ok(message)) => {
                    if let (channel, Some(payload)) = (message.channel.to_string(), message.value.into_owned_bytes()) {
                        let _ = tx.send((channel, payload.to_vec())).await;
                    }
                }
                Ok(Err(tokio::sync::broadcast::error::RecvError::Closed)) => break,
                Ok(Err(tokio::sync::broadcast::error::RecvError::Lagged(_))) | Err(_) => {}
            }
        }
        resubscribe.abort();
        let _ = client.quit().await;
        drop(driver);
    });
    Ok(rx)
}
