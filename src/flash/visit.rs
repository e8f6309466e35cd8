//! A visit to one server of Redis, on a connection that never reconnects: what recovery has to do there as a whole.
//!
//! Scripts belong to a server, not to a lane. Which lanes a server has, whether it has lost its scripts, and that they
//! are there again must be the word of one and the same server: after a reconnect it would be another's.

use super::Flash;
use super::error::FlashError;
use super::node::{Call, Node};
use super::reply::text;
use super::script::{self, CLOSE, WITNESS};
use crate::domain::lane::LaneNo;

/// One server.
#[derive(Debug)]
pub struct Visit {
    node: Node,
    lanes: Vec<LaneNo>,
}

impl Flash {
    /// One of these lanes for each server that has any of them, as far as is known.
    #[must_use]
    pub fn one_of_each_server(&self, lanes: &[LaneNo]) -> Vec<LaneNo> {
        let server = |lane: &LaneNo| self.redis.node(&self.lane(*lane).keys.meta()).ok()?.server();
        let mut found = Vec::new();
        let mut is_new = |lane: &&LaneNo| {
            let server = server(lane);
            let is_new = !found.contains(&server);
            found.push(server);
            is_new
        };
        lanes.iter().filter(|lane| is_new(lane)).copied().collect()
    }

    /// Visits the server that has this lane.
    ///
    /// # Errors
    /// Redis can't be asked, is a replica, or the lane has just got another server.
    pub async fn visit(&self, lane: LaneNo) -> Result<Visit, FlashError> {
        let keys: Vec<String> = self.lanes.iter().map(|lane| lane.keys.meta()).collect();
        let timeout = self.settings.command_timeout;
        let (node, serves) = self.redis.visit(&self.lane(lane).keys.meta(), &keys, timeout).await?;
        let lanes: Vec<LaneNo> = self
            .lane_numbers()
            .zip(serves)
            .filter_map(|(lane, serves)| serves.then_some(lane))
            .collect();
        if !lanes.contains(&lane) {
            self.redis.look_again();
            return Err(FlashError::Unavailable("the lane has another server now".into()));
        }
        // A replica can't be written to, and closing lanes in the ledger for its sake would stop whoever has the primary.
        let info = text(&node.send(Call::new("INFO", vec!["replication".into()])).await?);
        if info.lines().any(|line| line.trim() == "role:slave") {
            return Err(FlashError::Refused("this server is a replica".into()));
        }
        Ok(Visit { node, lanes })
    }
}

impl Visit {
    /// The lanes of this server: all, or in a cluster those that it says are its own.
    #[must_use]
    pub fn lanes(&self) -> &[LaneNo] {
        &self.lanes
    }

    /// Whether its lanes were recovered since it lost its scripts.
    ///
    /// # Errors
    /// It can't be asked any more.
    pub async fn is_witnessed(&self) -> Result<bool, FlashError> {
        self.node.has(&WITNESS).await
    }

    /// Loads what closing needs: nothing that could sell before the lanes are closed.
    ///
    /// # Errors
    /// It can't be asked any more.
    pub async fn load_close(&self) -> Result<(), FlashError> {
        self.node.load(&[&CLOSE]).await
    }

    /// Loads every script but the witness: all lanes are closed, or the witness was seen.
    ///
    /// # Errors
    /// It can't be asked any more.
    pub async fn load_scripts(&self) -> Result<(), FlashError> {
        self.node.load(&script::all_but_witness()).await
    }

    /// Says that its lanes are recovered: the last step of a recovery.
    ///
    /// # Errors
    /// It can't be asked any more.
    pub async fn load_witness(&self) -> Result<(), FlashError> {
        self.node.load(&[&WITNESS]).await
    }

    /// Refuses a Redis that is too old for what the scripts rely on.
    ///
    /// # Errors
    /// It can't be asked any more, or is older than Redis 7.0 or Valkey 7.2.
    pub async fn check_version(&self) -> Result<(), FlashError> {
        let info = text(&self.node.send(Call::new("INFO", vec!["server".into()])).await?);
        let version = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name))?;
            let mut parts = line.trim().split('.').map_while(|part| part.parse::<u32>().ok());
            Some((parts.next()?, parts.next().unwrap_or(0)))
        };
        let fits = match version("valkey_version:") {
            Some(valkey) => valkey >= (7, 2),
            None => version("redis_version:").is_some_and(|redis| redis >= (7, 0)),
        };
        if fits {
            Ok(())
        } else {
            Err(FlashError::Broken(
                "Redis 7.0 or Valkey 7.2 is needed, this one is older".into(),
            ))
        }
    }

    /// Ends it.
    pub async fn leave(self) {
        self.node.quit().await;
    }
}
