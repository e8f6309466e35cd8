//! The stack of a drill: a private Redis and Postgres, two gateways, and a wire between each of them and each server.
//!
//! Faults break it and mend it; [`Stack::restore`] makes it whole before the next round. Dropping it ends every process
//! and frees what was mounted; its directory is the caller's.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::DrillError;
use super::gateway::Gateway;
use super::mount::Mount;
use super::wire::{Trouble, Wire};
use crate::dev::postgres::{self, Postgres};
use crate::dev::redis::{self, Redis};
use crate::ledger::{self, Ledger};

/// Enough for buckets in different lanes; each more is work for the machine, and shows nothing else.
const LANES: u16 = 4;
const GATEWAYS: u32 = 2;
/// What a round of load writes needs a tenth of it, and the log's segments the rest.
const SMALL_DISK: &str = "400m";

/// A whole stack.
#[derive(Debug)]
pub(super) struct Stack {
    // In the order in which they have to end.
    pub(super) gateways: Vec<Gateway>,
    pub(super) redis: Redis,
    pub(super) postgres: Postgres,
    pub(super) small_disk: Option<Mount>,
    dir: PathBuf,
    /// How many servers of Redis have been its Redis.
    generation: u32,
    seed: u64,
}

impl Stack {
    /// Starts everything under an empty directory; Postgres' data on a disk of its own where `small_disk`.
    ///
    /// # Errors
    /// Something does not come up.
    pub(super) async fn start(dir: &Path, seed: u64, small_disk: bool) -> Result<Stack, DrillError> {
        fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        let small_disk = if small_disk {
            Some(Mount::small(&dir.join("postgres"), SMALL_DISK)?)
        } else {
            None
        };
        let (redis, postgres) = blocking(|| {
            let halt = CancellationToken::new();
            let redis = Redis::start(redis::Settings::new(dir.join("redis-0")), &halt)?;
            Ok::<_, DrillError>((redis, Postgres::start(postgres::Settings::new(&dir), &halt)?))
        })?;
        let ledger = Ledger::new(&ledger::Settings::new(&postgres.url()))?;
        ledger.migrate(LANES).await?;
        ledger.close().await;
        let mut stack = Stack {
            gateways: Vec::new(),
            redis,
            postgres,
            small_disk,
            dir,
            generation: 0,
            seed,
        };
        let (to_redis, to_postgres) = (address_of(&stack.redis.url())?, address_of(&stack.postgres_url())?);
        for number in 0..GATEWAYS {
            let home = stack.dir.join(format!("gateway-{number}"));
            let redis = Wire::to(to_redis, seed ^ u64::from(number)).await?;
            let postgres = Wire::to(to_postgres, seed ^ u64::from(number) ^ 0xff).await?;
            stack
                .gateways
                .push(Gateway::start(number, home, redis, postgres).await?);
        }
        Ok(stack)
    }

    /// Postgres, directly.
    pub(super) fn postgres_url(&self) -> String {
        self.postgres.tcp_url_of("flashgate")
    }

    /// Redis, directly.
    pub(super) fn redis_address(&self) -> Result<SocketAddr, DrillError> {
        address_of(&self.redis.url())
    }

    /// A directory under the stack's, which is there.
    pub(super) fn room(&self, name: &str) -> Result<PathBuf, DrillError> {
        let room = self.dir.join(name);
        fs::create_dir_all(&room)?;
        Ok(room)
    }

    /// A seed for something in this stack.
    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// Another Redis, empty, beside the stack's.
    ///
    /// # Errors
    /// It does not come up.
    pub(super) fn other_redis(&mut self) -> Result<Redis, DrillError> {
        self.generation += 1;
        let dir = self.dir.join(format!("redis-{}", self.generation));
        Ok(blocking(|| {
            Redis::start(redis::Settings::new(dir), &CancellationToken::new())
        })?)
    }

    /// Makes this the stack's Redis: every gateway is led there. Returns the old one.
    ///
    /// # Errors
    /// Its address can't be read.
    pub(super) fn put_redis(&mut self, redis: Redis) -> Result<Redis, DrillError> {
        let old = std::mem::replace(&mut self.redis, redis);
        let address = self.redis_address()?;
        for gateway in &self.gateways {
            gateway.redis.lead_to(address);
        }
        Ok(old)
    }

    /// Starts Redis again.
    ///
    /// # Errors
    /// It does not come up.
    pub(super) fn restart_redis(&mut self) -> Result<(), DrillError> {
        Ok(blocking(|| self.redis.restart(&CancellationToken::new()))?)
    }

    /// Starts Postgres again.
    ///
    /// # Errors
    /// It does not come up.
    pub(super) fn restart_postgres(&mut self) -> Result<(), DrillError> {
        Ok(blocking(|| self.postgres.restart(&CancellationToken::new()))?)
    }

    /// Ends all trouble on the wires.
    pub(super) fn calm(&self) {
        for wire in self
            .gateways
            .iter()
            .flat_map(|gateway| [&gateway.redis, &gateway.postgres])
        {
            wire.trouble(Trouble::Calm);
        }
    }

    /// Starts each gateway that does not run, or not as it should.
    ///
    /// # Errors
    /// It does not come up.
    pub(super) async fn restore(&mut self) -> Result<(), DrillError> {
        self.calm();
        for gateway in self.gateways.iter_mut().filter(|gateway| !gateway.is_whole()) {
            gateway.launch(&[]).await?;
        }
        Ok(())
    }
}

/// Runs what waits for a process, without holding up the load.
pub(super) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

/// A moment for what can't be waited for in any other way.
pub(super) async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// The loopback port that a URL names.
pub(super) fn address_of(url: &str) -> Result<SocketAddr, DrillError> {
    let port = url.rsplit(':').next().and_then(|rest| rest.split('/').next());
    let port = port.and_then(|port| port.parse::<u16>().ok());
    port.map(|port| (Ipv4Addr::LOCALHOST, port).into())
        .ok_or_else(|| DrillError::Stack(format!("{url} has no port")))
}
