//! What one of each costs, as `make bench` measured it.
//!
//! Medians of a run on two shared cores of one machine, with everything on it (`loadtest/results/`; docs/capacity.md says
//! which run). Another machine has other costs: measure there, and give its results to `flashgate capacity --results`.

use serde::Deserialize;

/// CPU time in µs, room in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Costs {
    /// A gateway's CPU time for a reservation, accepted, and carried into the ledger.
    #[serde(rename = "accepted.gateway_us")]
    pub gateway_us: f64,
    /// Redis' for the same, with many a call.
    #[serde(rename = "accepted.redis_us")]
    pub redis_us: f64,
    /// Postgres' for the same, with many a transaction.
    #[serde(rename = "accepted.postgres_us")]
    pub postgres_us: f64,
    /// A gateway's CPU time for the end of a reservation, whichever it is: that of one that is paid.
    #[serde(rename = "commit.gateway_us")]
    pub ending_gateway_us: f64,
    /// Postgres' for the same.
    #[serde(rename = "commit.postgres_us")]
    pub ending_postgres_us: f64,
    /// A gateway's CPU time to say that something is sold out.
    #[serde(rename = "sold-out.gateway_us")]
    pub sold_out_us: f64,
    /// A gateway's CPU time for a read.
    #[serde(rename = "read.gateway_us")]
    pub read_us: f64,
    /// Of Redis' memory, for a reservation that counts.
    #[serde(rename = "live.redis_bytes")]
    pub redis_bytes: f64,
    /// Of Postgres' disk: the row of a reservation, with its indexes.
    #[serde(rename = "disk.reservations_bytes")]
    pub reservation_bytes: f64,
    /// An event, with its indexes.
    #[serde(rename = "disk.events_bytes")]
    pub event_bytes: f64,
    /// An idempotency key, with its index.
    #[serde(rename = "disk.keys_bytes")]
    pub key_bytes: f64,
    /// Of Postgres' log, for a reservation.
    #[serde(rename = "wal.bytes")]
    pub wal_bytes: f64,
    /// The same, for its end.
    #[serde(rename = "commit.wal_bytes")]
    pub ending_wal_bytes: f64,
}

impl Costs {
    /// As `flashgate capacity` has them where it is given none.
    pub const MEASURED: Costs = Costs {
        gateway_us: 26.5,
        redis_us: 7.5,
        postgres_us: 26.5,
        ending_gateway_us: 29.1,
        ending_postgres_us: 37.5,
        sold_out_us: 21.9,
        read_us: 12.2,
        redis_bytes: 134.0,
        reservation_bytes: 398.0,
        event_bytes: 335.0,
        key_bytes: 126.0,
        wal_bytes: 1_398.0,
        ending_wal_bytes: 1_318.0,
    };

    /// The medians of a run of the benchmark.
    ///
    /// # Errors
    /// The text is no such run, or lacks one of the figures.
    pub fn of_results(json: &str) -> serde_json::Result<Costs> {
        #[derive(Deserialize)]
        struct Results {
            figures: serde_json::Map<String, serde_json::Value>,
        }
        let results: Results = serde_json::from_str(json)?;
        let medians = results
            .figures
            .into_iter()
            .map(|(name, mut spread)| (name, spread["median"].take()))
            .collect::<serde_json::Map<_, _>>();
        serde_json::from_value(serde_json::Value::Object(medians))
    }
}
