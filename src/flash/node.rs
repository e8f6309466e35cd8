//! One server of Redis: the client's settings, its connection, and the one way a command is sent.
//!
//! A command is sent once: the client's own resending would run a script twice, so an answer that is lost is reported
//! as unavailable and the caller, who knows how to repeat safely, decides.

use std::sync::Arc;
use std::time::Duration;

use fred::clients::Client;
use fred::error::{Error, ErrorKind};
use fred::interfaces::ClientLike;
use fred::types::config::{
    Config, ConnectionConfig, PerformanceConfig, ReconnectPolicy, Server, ServerConfig, TcpConfig, UnresponsiveConfig,
};
use fred::types::{ClusterHash, CustomCommand, Value};
use tokio_util::task::AbortOnDropHandle;

use super::error::FlashError;
use super::script::Script;

/// Commands that may wait in the client while it reconnects; more would only be late.
const BUFFERED_COMMANDS_MAX: usize = 4_096;
/// A connection that owes an answer for this long is dropped.
const UNRESPONSIVE: Duration = Duration::from_secs(3);
/// A Redis that is there accepts a new connection within this.
const RENEW_WITHIN: Duration = Duration::from_millis(100);

/// What drives a client. Left alone it would hold the connection, or look for one, after everybody has dropped the
/// client: it holds the client itself.
pub(crate) type Driver = AbortOnDropHandle<Result<(), Error>>;

/// A command and its arguments.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    command: &'static str,
    args: Vec<Value>,
    blocks: bool,
}

impl Call {
    pub(crate) fn new(command: &'static str, args: Vec<Value>) -> Self {
        Call {
            command,
            args,
            blocks: false,
        }
    }

    /// One that holds the connection until there is an answer.
    pub(crate) fn blocking(command: &'static str, args: Vec<Value>) -> Self {
        Call {
            blocks: true,
            ..Call::new(command, args)
        }
    }

    /// Runs a script that the server must have loaded.
    pub(crate) fn script(script: &Script, keys: Vec<String>, args: Vec<Value>) -> Self {
        let mut all = Vec::with_capacity(2 + keys.len() + args.len());
        all.push(script.sha.as_str().into());
        all.push(keys.len().to_string().into());
        all.extend(keys.into_iter().map(Value::from));
        all.extend(args);
        Call::new("EVALSHA", all)
    }
}

/// A connection to one server, shared by clones; it ends with the last of them.
#[derive(Clone)]
pub(crate) struct Node {
    client: Client,
    _driver: Arc<Driver>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Node").field(&self.server()).finish()
    }
}

pub(crate) fn connection_config() -> ConnectionConfig {
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

pub(crate) fn reconnect() -> ReconnectPolicy {
    ReconnectPolicy::new_exponential(0, 20, 500, 2)
}

fn performance(command_timeout: Duration) -> PerformanceConfig {
    PerformanceConfig {
        default_command_timeout: command_timeout,
        ..PerformanceConfig::default()
    }
}

impl Node {
    /// A connection that is made in the background, and again whenever that is needed.
    pub(crate) fn connect(config: Config, command_timeout: Duration) -> Self {
        let performance = performance(command_timeout);
        let client = Client::new(config, Some(performance), Some(connection_config()), Some(reconnect()));
        let driver = Arc::new(AbortOnDropHandle::new(client.connect()));
        Node {
            client,
            _driver: driver,
        }
    }

    /// A connection that never reconnects: what was true of the server at its start stays true to its end.
    ///
    /// # Errors
    /// The server can't be reached.
    pub(crate) async fn once(config: Config, command_timeout: Duration) -> Result<Self, FlashError> {
        let config = Config {
            fail_fast: true,
            ..config
        };
        let performance = performance(command_timeout);
        let client = Client::new(config, Some(performance), Some(connection_config()), None);
        let driver = Arc::new(AbortOnDropHandle::new(client.init().await?));
        Ok(Node {
            client,
            _driver: driver,
        })
    }

    /// How to reach this server.
    pub(crate) fn config(&self) -> Config {
        self.client.client_config()
    }

    /// Its address, where it is one server and not a service that sentinels watch.
    pub(crate) fn server(&self) -> Option<Server> {
        match self.config().server {
            ServerConfig::Centralized { server } => Some(server),
            _ => None,
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.client.is_connected()
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

    pub(crate) async fn send(&self, call: Call) -> Result<Value, Error> {
        if !self.client.is_connected() {
            return Err(Error::new(ErrorKind::IO, "not connected"));
        }
        // Which node of a cluster serves what is known elsewhere: here there is one server.
        let command = CustomCommand::new_static(call.command, ClusterHash::Random, call.blocks);
        self.client.custom(command, call.args).await
    }

    /// Loads scripts, over this connection.
    pub(crate) async fn load(&self, scripts: &[&Script]) -> Result<(), FlashError> {
        for script in scripts {
            let loaded = self
                .send(Call::new("SCRIPT", vec!["LOAD".into(), script.source.into()]))
                .await?;
            if loaded.as_str().as_deref() != Some(script.sha.as_str()) {
                return Err(FlashError::Broken("a script's hash differs".into()));
            }
        }
        Ok(())
    }

    /// Whether it has the script.
    pub(crate) async fn has(&self, script: &Script) -> Result<bool, FlashError> {
        let args = vec!["EXISTS".into(), script.sha.as_str().into()];
        let found: Vec<i64> = self.send(Call::new("SCRIPT", args)).await?.convert()?;
        Ok(found == [1])
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
