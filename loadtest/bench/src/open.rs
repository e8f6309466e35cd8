//! The gateway's part of a round that wrk can't measure: the steady rate, and latency at rates that don't wait for
//! answers.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::Failure;
use crate::gateway::{ACCEPTED, DURABLE, Stage, count};
use crate::load::{self, Gate, Pace, as_f64, report};
use crate::ours::{Sale, UNITS};
use crate::settings::{BURST_CONNECTIONS, CALLERS, CONNECTIONS, OPEN_CONNECTIONS};
use crate::tag;

/// Reservations that may wait for the ledger while the steady rate is measured: several full batches of the writer.
const STEADY_QUEUE: i64 = 16_384;
/// Until the queue is as full as it will be.
const STEADY_WARMUP: Duration = Duration::from_secs(2);
const STEADY_LOOK: Duration = Duration::from_millis(25);
/// The share of what can be borne at which latency is measured: of the steady rate, which is one of accepted answers, and
/// of what as many callers as can be get durable answers at.
const COMFORTABLE: f64 = 0.7;
/// A burst, in steady rates.
const BURST: f64 = 10.0;

/// One step of an open loop's rates.
#[derive(Clone, Copy, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Step {
    /// Requests per second that were due.
    pub(crate) offered: f64,
    /// Those that were granted.
    pub(crate) granted: f64,
    /// Share that was shed, or never answered, or could not even be sent.
    pub(crate) failed: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
}

impl Stage<'_> {
    /// The steady rate, latency at what it can bear, and a burst.
    ///
    /// # Errors
    /// The gateway does not serve.
    pub(crate) async fn open_loops(&mut self) -> Result<(), Failure> {
        let steady = self.steady().await?;
        self.comfortable("open", steady * COMFORTABLE).await?;
        let durable = format!("durable.{}.rate", CALLERS[1]);
        let durable = self.round.get(&durable).ok_or("no durable rate was measured")?;
        self.comfortable("open-durable", durable * COMFORTABLE).await?;
        self.burst(steady).await
    }

    /// The rate at which the queue neither grows nor runs empty: buyers come as fast as they can while fewer than
    /// [`STEADY_QUEUE`] wait for the ledger.
    async fn steady(&mut self) -> Result<f64, Failure> {
        let sale = self.ours.sale(UNITS).await?;
        let gate = Gate::default();
        let connections = usize::try_from(CONNECTIONS)?;
        let pace = Pace::Gate(gate.clone());
        let load = load::start(self.plan(&sale.name, &tag::next(), connections, ACCEPTED, pace));
        let watched = self.watch(&sale, &gate).await;
        gate.end();
        let report = report(load).await?;
        let rate = watched?;
        self.ours.drained(&sale).await?;
        let rows = self
            .check_rows(&sale.name, as_f64(report.granted), as_f64(report.unknown))
            .await?;
        self.check_sale(&sale, rows).await?;
        Ok(rate)
    }

    async fn watch(&mut self, sale: &Sale, gate: &Gate) -> Result<f64, Failure> {
        let window = Duration::from_secs(u64::from(self.seconds) * 2);
        let pids = self.ours.target().pids;
        let begin = Instant::now();
        let mut from = None;
        loop {
            let (now, progress) = (Instant::now(), self.ours.progress(sale).await?);
            gate.set_open(progress.queue < STEADY_QUEUE);
            match from {
                None if begin.elapsed() > STEADY_WARMUP => from = Some((now, progress, pids.cpu())),
                Some((since, first, cpu)) if now - since > window => {
                    let rows = count(progress.durable - first.durable);
                    let rate = rows / (now - since).as_secs_f64();
                    let spent = pids.cpu().since(cpu);
                    self.round.put("steady.rate", rate);
                    self.round
                        .put("steady.queue_growth", count(progress.queue - first.queue));
                    self.round.put("steady.gateway_us", spent.gateway / rows * 1e6);
                    self.round.put("steady.redis_us", spent.redis / rows * 1e6);
                    self.round.put("steady.postgres_us", spent.postgres / rows * 1e6);
                    return Ok(rate);
                }
                _ => {}
            }
            sleep(STEADY_LOOK).await;
        }
    }

    /// Latency of durable answers at a rate that should be comfortable.
    async fn comfortable(&mut self, name: &str, rate: f64) -> Result<(), Failure> {
        let step = self.step(rate, self.seconds + 1).await?;
        for (figure, value) in [
            ("offered", step.offered),
            ("granted", step.granted),
            ("failed", step.failed),
            ("p50_ms", step.p50_ms),
            ("p95_ms", step.p95_ms),
            ("p99_ms", step.p99_ms),
        ] {
            self.round.put(format!("{name}.{figure}"), value);
        }
        Ok(())
    }

    /// An open loop of durable answers at one rate.
    ///
    /// # Errors
    /// The gateway does not serve.
    pub(crate) async fn step(&mut self, rate: f64, seconds: u32) -> Result<Step, Failure> {
        let sale = self.ours.sale(UNITS).await?;
        let pace = Pace::Rate {
            per_second: rate,
            seconds: f64::from(seconds),
        };
        let report = self
            .load(&sale.name, &tag::next(), OPEN_CONNECTIONS, DURABLE, pace)
            .await?;
        self.ours.drained(&sale).await?;
        let granted = as_f64(report.granted);
        let rows = self.check_rows(&sale.name, granted, as_f64(report.unknown)).await?;
        self.check_sale(&sale, rows).await?;
        Ok(Step {
            offered: rate,
            granted: granted / f64::from(seconds),
            failed: (1.0 - granted / report.due).max(0.0),
            p50_ms: report.from_due.percentile_ms(50),
            p95_ms: report.from_due.percentile_ms(95),
            p99_ms: report.from_due.percentile_ms(99),
        })
    }

    /// Far more than can be served. Neither the cores, which the generator shares, nor the connections bear that much,
    /// so latencies count from the sending, and what was really sent is told.
    async fn burst(&mut self, steady: f64) -> Result<(), Failure> {
        let sale = self.ours.sale(UNITS).await?;
        let seconds = f64::from(self.seconds) * 2.0;
        let pace = Pace::Rate {
            per_second: steady * BURST,
            seconds,
        };
        let report = self
            .load(&sale.name, &tag::next(), BURST_CONNECTIONS, None, pace)
            .await?;
        let drained = self.ours.drained(&sale).await?;
        let rows = self
            .check_rows(&sale.name, as_f64(report.granted), as_f64(report.unknown))
            .await?;
        self.check_sale(&sale, rows).await?;
        self.round.put("burst.sent_steady_rates", report.rate() / steady);
        self.round.put("burst.granted_rate", as_f64(report.granted) / seconds);
        self.round
            .put("burst.shed", as_f64(report.shed) / as_f64(report.sent()));
        self.round.put("burst.unanswered", as_f64(report.unknown));
        self.round.put("burst.p50_ms", report.from_sent.percentile_ms(50));
        self.round.put("burst.p95_ms", report.from_sent.percentile_ms(95));
        self.round
            .put("burst.p95_from_due_ms", report.from_due.percentile_ms(95));
        self.round.put("burst.drain_s", drained.as_secs_f64());
        Ok(())
    }
}
