//! What Redis says of its memory.

use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::config::Config;
use fred::types::{ClusterHash, CustomCommand, Value};

use crate::Failure;

/// A connection.
pub(crate) struct Redis(Client);

impl Redis {
    /// # Errors
    /// It can't be reached.
    pub(crate) async fn connect(url: &str) -> Result<Redis, Failure> {
        let client = Client::new(Config::from_url(url)?, None, None, None);
        client.init().await?;
        Ok(Redis(client))
    }

    /// Runs a command.
    ///
    /// # Errors
    /// Redis refuses it.
    pub(crate) async fn run(&self, command: &'static str, args: &[&str]) -> Result<Value, Failure> {
        let args: Vec<Value> = args.iter().map(|arg| Value::from(*arg)).collect();
        let command = CustomCommand::new_static(command, ClusterHash::Random, false);
        Ok(self.0.custom(command, args).await?)
    }

    /// Ends the connection.
    pub(crate) async fn close(&self) {
        // Who stops the server next does not mind a connection that is gone already.
        self.0.quit().await.ok();
    }

    /// Its version.
    ///
    /// # Errors
    /// Redis does not tell.
    pub(crate) async fn version(&self) -> Result<String, Failure> {
        let said: String = self.run("INFO", &["server"]).await?.convert()?;
        let line = said.lines().find_map(|line| line.strip_prefix("redis_version:"));
        Ok(line.unwrap_or("unknown").trim().to_owned())
    }

    /// Bytes in use, all told.
    ///
    /// # Errors
    /// Redis does not tell.
    pub(crate) async fn used_bytes(&self) -> Result<f64, Failure> {
        figure(&self.memory().await?, "used_memory")
    }

    /// Bytes in use for data: all that Redis has allocated, without what the queues hold (their entries stay for a
    /// minute and are no cost of a live reservation) and without buffers of connections and files.
    ///
    /// # Errors
    /// Redis does not tell.
    pub(crate) async fn live_bytes(&self) -> Result<f64, Failure> {
        let said = self.memory().await?;
        let buffers = figure(&said, "mem_clients_normal")? + figure(&said, "mem_aof_buffer")?;
        let mut bytes = figure(&said, "used_memory")? - buffers;
        let queues: Vec<String> = self.run("KEYS", &["fg:*:queue"]).await?.convert()?;
        for queue in queues {
            let used: Option<f64> = self
                .run("MEMORY", &["USAGE", &queue, "SAMPLES", "0"])
                .await?
                .convert()?;
            bytes -= used.unwrap_or(0.0);
        }
        Ok(bytes)
    }

    async fn memory(&self) -> Result<String, Failure> {
        Ok(self.run("INFO", &["memory"]).await?.convert()?)
    }
}

fn figure(said: &str, name: &str) -> Result<f64, Failure> {
    let line = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line
        .ok_or_else(|| format!("Redis does not tell {name}"))?
        .trim()
        .parse()?)
}
