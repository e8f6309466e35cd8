//! How Postgres and Redis are used: the arguments, and the settings of the modules that they become.

use std::time::Duration;

use clap::Args;

use crate::{flash, ledger};

/// Connections to Postgres.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub(super) struct Postgres {
    /// Most connections to Postgres
    #[arg(long, env = "FLASHGATE_POSTGRES_CONNECTIONS", value_name = "COUNT", default_value_t = 24,
          value_parser = clap::value_parser!(u32).range(4..=1_000))]
    postgres_connections: u32,

    /// Most connections to Postgres, and to its replica, for the reads of pages
    #[arg(long, env = "FLASHGATE_POSTGRES_READ_CONNECTIONS", value_name = "COUNT", default_value_t = 4,
          value_parser = clap::value_parser!(u32).range(1..=1_000))]
    postgres_read_connections: u32,

    /// Longest wait for a connection to Postgres
    #[arg(long, env = "FLASHGATE_POSTGRES_ACQUIRE_MS", value_name = "MS", default_value_t = 2_000,
          value_parser = clap::value_parser!(u64).range(1..=60_000))]
    postgres_acquire_ms: u64,

    /// Longest time of one statement; some have lower limits
    #[arg(long, env = "FLASHGATE_POSTGRES_STATEMENT_MS", value_name = "MS", default_value_t = 30_000,
          value_parser = clap::value_parser!(u64).range(100..=600_000))]
    postgres_statement_ms: u64,

    /// How long a transaction of the same role may be left open over what is waited for, before it is ended
    #[arg(long, env = "FLASHGATE_POSTGRES_LOCK_PATIENCE_MS", value_name = "MS", default_value_t = 2_000,
          value_parser = clap::value_parser!(u64).range(500..=3_600_000))]
    postgres_lock_patience_ms: u64,
}

/// Calls to Redis, and what is batched into them.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub(super) struct Redis {
    /// Longest time of one command to Redis
    #[arg(long, env = "FLASHGATE_REDIS_COMMAND_MS", value_name = "MS", default_value_t = 1_000,
          value_parser = clap::value_parser!(u64).range(10..=60_000))]
    redis_command_ms: u64,

    /// Most requests that one script call decides
    #[arg(long, env = "FLASHGATE_BATCH_MAX", value_name = "COUNT", default_value_t = 128,
          value_parser = clap::value_parser!(u32).range(1..=128))]
    batch_max: u32,

    /// Most script calls in flight per lane
    #[arg(long, env = "FLASHGATE_CALLS_MAX", value_name = "COUNT", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=128))]
    calls_max: u32,

    /// Most requests that wait for a lane's next script call
    #[arg(long, env = "FLASHGATE_WAITING_MAX", value_name = "COUNT", default_value_t = 8_192,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    waiting_max: u32,

    /// Most reservations of a lane that may wait for the ledger
    #[arg(long, env = "FLASHGATE_QUEUE_MAX", value_name = "COUNT", default_value_t = 500_000,
          value_parser = clap::value_parser!(u64).range(128..=100_000_000))]
    queue_max: u64,

    /// Longest time a request waits for units from a sale's other buckets
    #[arg(long, env = "FLASHGATE_DRY_WAIT_MS", value_name = "MS", default_value_t = 2_000,
          value_parser = clap::value_parser!(u64).range(1..=30_000))]
    dry_wait_ms: u64,
}

impl Postgres {
    /// For the Postgres at `url`.
    pub(super) fn settings(&self, url: &str) -> ledger::Settings {
        ledger::Settings {
            connections_max: self.postgres_connections,
            read_connections_max: self.postgres_read_connections,
            acquire_timeout: Duration::from_millis(self.postgres_acquire_ms),
            statement_timeout: Duration::from_millis(self.postgres_statement_ms),
            lock_patience: Duration::from_millis(self.postgres_lock_patience_ms),
            ..ledger::Settings::new(url)
        }
    }
}

impl Redis {
    /// For the Redis at `url`.
    pub(super) fn settings(&self, url: &str) -> flash::Settings {
        let count = |n: u32| usize::try_from(n).expect("32 bits fit");
        flash::Settings {
            batch_max: count(self.batch_max),
            calls_max: count(self.calls_max),
            waiting_max: count(self.waiting_max),
            queue_max: self.queue_max,
            command_timeout: Duration::from_millis(self.redis_command_ms),
            dry_wait: Duration::from_millis(self.dry_wait_ms),
            ..flash::Settings::new(url)
        }
    }
}
