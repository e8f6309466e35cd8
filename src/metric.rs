//! Every metric: its name, labels, unit and meaning in one table, and the recorder behind `/metrics`.
//!
//! Labels have few values: routes, codes, causes, lanes. A SKU, a user, an order or a reservation is never a label.
//! Latencies are in seconds, as Prometheus wants them; sizes count what their name says.

use std::collections::HashMap;
use std::sync::{OnceLock, PoisonError, RwLock};

use metrics::Unit;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// From a Redis call on loopback (50 µs) to the longest wait a caller may ask for (30 s); with an edge where the alert is
/// (120 ms), for what lies between two edges is a guess.
const LATENCY: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.12, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0,
];
/// Powers of two up to the largest batch.
const SIZE: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0,
];
/// Recoveries and flushes that hang: up to minutes.
const LONG: &[f64] = &[
    0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram(&'static [f64]),
}

struct Metric {
    name: &'static str,
    kind: Kind,
    unit: Unit,
    meaning: &'static str,
}

macro_rules! metrics_table {
    ($($name:ident = $text:literal, $kind:expr, $unit:ident, $meaning:literal;)*) => {
        $(#[doc = $meaning] pub const $name: &str = $text;)*

        const ALL: &[Metric] = &[
            $(Metric { name: $text, kind: $kind, unit: Unit::$unit, meaning: $meaning },)*
        ];
    };
}

metrics_table! {
    HTTP_RESPONSES = "flashgate_http_responses_total", Kind::Counter, Count,
        "Answers, by `route` and `code` (`OK`, or the problem's code): success and failure rates.";
    HTTP_SECONDS = "flashgate_http_request_seconds", Kind::Histogram(LATENCY), Seconds,
        "Time from the parsed head to the answer, by `route` and `level` (`accepted`, `durable`, `none`).";
    HTTP_IN_FLIGHT = "flashgate_http_in_flight", Kind::Gauge, Count,
        "Requests being served.";
    HTTP_CONNECTIONS = "flashgate_http_connections", Kind::Gauge, Count,
        "Open connections, by `listener`.";
    HTTP_SHED = "flashgate_http_shed_total", Kind::Counter, Count,
        "Requests refused as OVERLOADED, by `class` (`beginning`, `ending`) and `cause` (`delay`, `in_flight`).";
    HTTP_BEGINNINGS_MAX = "flashgate_http_beginnings_max", Kind::Gauge, Count,
        "Reservations and reads that may be in flight now: what the delay in this process allows.";
    HTTP_DELAY_SECONDS = "flashgate_http_delay_seconds", Kind::Gauge, Seconds,
        "The delay that stands in this process: the least of the last 50 ms, of timers and of decisions.";
    HTTP_RATE_LIMITED = "flashgate_http_rate_limited_total", Kind::Counter, Count,
        "Requests refused at the edge, by `policy` (`client`, `global`).";

    RESERVATIONS = "flashgate_reservations_total", Kind::Counter, Count,
        "Decisions on requests to reserve, by `outcome` (`RESERVED`, `REPLAYED`, or the refusal's code).";
    RESERVATIONS_REJECTED = "flashgate_reservations_rejected_total", Kind::Counter, Count,
        "Accepted reservations that the ledger refused, by `cause`.";
    OVERSELL_ATTEMPTS = "flashgate_oversell_attempts_total", Kind::Counter, Count,
        "Accepted reservations of units beyond what the ledger had, all refused: anything but 0 is a fault of the fast half.";
    ACKNOWLEDGEMENT_SECONDS = "flashgate_acknowledgement_seconds", Kind::Histogram(LATENCY), Seconds,
        "Time from a request to reserve until it is known at `level` (`accepted`, `durable`).";
    SOLD_OUT_LOCAL = "flashgate_sold_out_local_total", Kind::Counter, Count,
        "Refusals answered from what the gateway knew, without asking Redis for a decision.";
    MOVER_WAITS = "flashgate_mover_waits_total", Kind::Counter, Count,
        "Requests that found their home bucket dry and waited for units of its siblings: contention for hot items.";
    MOVER_VERDICTS = "flashgate_mover_verdicts_total", Kind::Counter, Count,
        "What the mover found for a dry bucket, by `verdict` (`moved`, `sold_out`, `undecided`).";
    EXPIRED = "flashgate_reservations_expired_total", Kind::Counter, Count,
        "Reservations whose time was over.";
    COMMITS = "flashgate_commits_total", Kind::Counter, Count,
        "Commits, by `code` (`OK`, `REPLAYED`, or the refusal's code).";
    RELEASES = "flashgate_releases_total", Kind::Counter, Count,
        "Releases, by `code` (`OK`, `REPLAYED`, or the refusal's code).";
    EXTENSIONS = "flashgate_extensions_total", Kind::Counter, Count,
        "Extensions, by `code`.";
    ADJUSTMENTS = "flashgate_adjustments_total", Kind::Counter, Count,
        "Stock adjustments, by `reason`.";
    RETURNS = "flashgate_returns_total", Kind::Counter, Count,
        "Returns, by `code` (`OK`, `REPLAYED`, or the refusal's code).";
    TRANSFERS = "flashgate_transfers_total", Kind::Counter, Count,
        "Transfers between locations, by `code` (`OK`, `REPLAYED`, or the refusal's code).";
    APPROVALS = "flashgate_approvals_total", Kind::Counter, Count,
        "Adjustments that need a second person, by `step` (`asked`, `approved`, `rejected`).";
    RECONCILIATION_MISMATCHES = "flashgate_reconciliation_mismatches_total", Kind::Counter, Count,
        "Differences that the reconciler found, by `kind`.";
    READS = "flashgate_reads_total", Kind::Counter, Count,
        "Reads of stock, by where they were answered from (`source`: `memory`, `snapshot`, `ledger`).";
    READ_MODEL_AGE_SECONDS = "flashgate_read_model_age_seconds", Kind::Gauge, Seconds,
        "How far the snapshot is behind the ledger; from 2 s on pages are read from the ledger.";
    LOW_STOCK_ALERTS = "flashgate_low_stock_alerts_total", Kind::Counter, Count,
        "SKUs whose available units came down to their threshold, each time they did.";
    RECONCILIATION_WAITING = "flashgate_reconciliation_waiting", Kind::Gauge, Count,
        "Differences in reports that wait for a person.";

    SALES_FROZEN = "flashgate_sales_frozen_total", Kind::Counter, Count,
        "Sales that froze by themselves, by `cause` (`oversell_attempt`, `drift`).";
    SALES_FROZEN_WAITING = "flashgate_sales_frozen", Kind::Gauge, Count,
        "Sales that froze by themselves and that nobody has unfrozen or stopped.";

    QUEUE_DEPTH = "flashgate_queue_depth", Kind::Gauge, Count,
        "Reservations not yet in the ledger, by `lane`.";
    QUEUE_LAG_SECONDS = "flashgate_queue_lag_seconds", Kind::Gauge, Seconds,
        "Age of the oldest entry of the queue that is not in the ledger, by `lane`.";
    GRANT_AGE_SECONDS = "flashgate_grant_age_seconds", Kind::Gauge, Seconds,
        "For how long the oldest grant has waited that the lane has not got, by `lane`.";
    DRIFT_UNITS = "flashgate_drift_units", Kind::Gauge, Count,
        "Units by which Redis and the ledger are known to differ, by `lane`: 0, or a fault.";
    ALTERED = "flashgate_altered_total", Kind::Counter, Count,
        "Parts of Redis' data that are not as they were written, by `what` (`entry`, `slip`, `record`).";
    LANES = "flashgate_lanes", Kind::Gauge, Count,
        "Lanes by `state` (`open`, `closed`; of the closed ones, `fallback`: the ledger decides for them).";
    FALLBACKS = "flashgate_fallbacks_total", Kind::Counter, Count,
        "Lanes that this gateway left to the ledger since Redis was away.";
    FALLBACK_RESERVATIONS = "flashgate_fallback_reservations_total", Kind::Counter, Count,
        "Reservations of live sales that the ledger made in a lane's place.";
    RESERVE_CALL_SIZE = "flashgate_reserve_call_size", Kind::Histogram(SIZE), Count,
        "Requests that one script call decided.";
    WRITER_FLUSH_ROWS = "flashgate_writer_flush_rows", Kind::Histogram(SIZE), Count,
        "Reservations of a lane that one writer transaction made durable.";
    WRITER_FLUSH_LANES = "flashgate_writer_flush_lanes", Kind::Histogram(SIZE), Count,
        "Lanes that one statement made durable together; 0: it wrote nothing, and each lane went alone.";
    WRITER_FLUSH_SECONDS = "flashgate_writer_flush_seconds", Kind::Histogram(LONG), Seconds,
        "Time until a lane's batch is durable, from when its writer has read it.";
    ENDING_BATCH_SIZE = "flashgate_ending_batch_size", Kind::Histogram(SIZE), Count,
        "Endings that one transaction took, by `call`.";
    REDIS_CALL_SECONDS = "flashgate_redis_call_seconds", Kind::Histogram(LATENCY), Seconds,
        "Time of a call to Redis, by `call`.";
    POSTGRES_CALL_SECONDS = "flashgate_postgres_call_seconds", Kind::Histogram(LATENCY), Seconds,
        "Time of a call to Postgres, by `call`.";
    LOCK_HOLDERS = "flashgate_lock_holders_total", Kind::Counter, Count,
        "Sessions of Postgres that kept ours waiting, by `outcome` (`ended`: left open; `left`: at work, or another role's).";
    OLDEST_SNAPSHOT_SECONDS = "flashgate_postgres_oldest_snapshot_seconds", Kind::Gauge, Seconds,
        "For how long the oldest snapshot has been seen that a session of the database keeps.";
    EXPIRY_BACKLOG = "flashgate_expiry_backlog", Kind::Gauge, Count,
        "1 while a full run of the expiry worker left due reservations behind, else 0.";
    QUARANTINED = "flashgate_quarantined_total", Kind::Counter, Count,
        "Queue entries that the ledger could not take, set aside for an admin.";
    RECOVERIES = "flashgate_recoveries_total", Kind::Counter, Count,
        "Recoveries of lanes, by `outcome` (`opened`, `superseded`, `failed`).";
    RECOVERY_SECONDS = "flashgate_recovery_seconds", Kind::Histogram(LONG), Seconds,
        "Time from closing the lanes to opening them.";
    WORKER_FAILURES = "flashgate_worker_failures_total", Kind::Counter, Count,
        "Steps that a worker of this process could not do and tries again, by `worker`.";
    DEPENDENCY_UP = "flashgate_dependency_up", Kind::Gauge, Count,
        "1 where the `dependency` (`redis`, `postgres`) answers, else 0.";
}

/// Handles of one metric, by the value of one label. The recorder copies name and labels whenever it is asked for a
/// handle, which takes ten times as long as to count with it: what is counted for each request is asked for once.
#[derive(Debug)]
pub struct Handles<H>(RwLock<HashMap<&'static str, H>>);

impl<H> Default for Handles<H> {
    fn default() -> Self {
        Handles(RwLock::default())
    }
}

impl<H: Clone> Handles<H> {
    /// The handle for this value; `ask` gets it of the recorder, which must be installed.
    pub fn of(&self, value: &'static str, ask: impl FnOnce() -> H) -> H {
        if let Some(known) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(value) {
            return known.clone();
        }
        let mut handles = self.0.write().unwrap_or_else(PoisonError::into_inner);
        handles.entry(value).or_insert_with(ask).clone()
    }
}

/// The recorder of this process, installed by the first call.
///
/// # Panics
/// Another library installed a recorder before.
pub fn install() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let handle = builder()
                .install_recorder()
                .expect("nobody else installs a metrics recorder");
            describe();
            handle
        })
        .clone()
}

fn builder() -> PrometheusBuilder {
    ALL.iter()
        .fold(PrometheusBuilder::new(), |builder, metric| match metric.kind {
            Kind::Histogram(buckets) => builder
                .set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)
                .expect("the table lists no empty buckets"),
            Kind::Counter | Kind::Gauge => builder,
        })
}

fn describe() {
    for Metric {
        name,
        kind,
        unit,
        meaning,
    } in ALL
    {
        match kind {
            Kind::Counter => metrics::describe_counter!(*name, *unit, *meaning),
            Kind::Gauge => metrics::describe_gauge!(*name, *unit, *meaning),
            Kind::Histogram(_) => metrics::describe_histogram!(*name, *unit, *meaning),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_measure() {
        for metric in ALL {
            assert!(metric.name.starts_with("flashgate_"), "{}", metric.name);
            assert_eq!(
                metric.name.ends_with("_total"),
                matches!(metric.kind, Kind::Counter),
                "{}",
                metric.name
            );
            assert_eq!(
                metric.name.ends_with("_seconds"),
                metric.unit == Unit::Seconds,
                "{}",
                metric.name
            );
            if let Kind::Histogram(buckets) = metric.kind {
                assert!(buckets.is_sorted());
            }
        }
    }
}
