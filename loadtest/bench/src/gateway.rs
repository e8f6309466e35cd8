//! The gateway's part of a round.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::Failure;
use crate::disk;
use crate::figures::{Checks, Round};
use crate::load::{self, Gate, Pace, Plan, Report, as_f64, report};
use crate::ours::{Ours, Sale, UNITS};
use crate::settings::{BURST_CONNECTIONS, CALLERS, CONNECTIONS, OPEN_CONNECTIONS};
use crate::tag;
use crate::wrk::{Kind, Loop, run};

/// Units of the sale that is sold out, each bought by another.
const FEW: u64 = 1_000;
/// Reservations that may wait for the ledger while the steady rate is measured: several full batches of the writer.
const STEADY_QUEUE: i64 = 16_384;
/// Until the queue is as full as it will be.
const STEADY_WARMUP: Duration = Duration::from_secs(2);
const STEADY_LOOK: Duration = Duration::from_millis(25);
/// The share of the steady rate at which latency is measured.
const COMFORTABLE: f64 = 0.7;
/// A burst, in steady rates.
const BURST: f64 = 10.0;
/// Waits for a durable answer however long it takes: no 202 among the 2xx.
const DURABLE: Option<&str> = Some("wait=30");

/// A round on a gateway that was just started.
pub(crate) struct Stage<'a> {
    pub(crate) ours: &'a Ours,
    pub(crate) seconds: u32,
    pub(crate) round: &'a mut Round,
    pub(crate) checks: &'a mut Checks,
}

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
    /// Everything, or what matters most.
    ///
    /// # Errors
    /// The gateway does not serve.
    pub(crate) async fn run(&mut self, quick: bool) -> Result<(), Failure> {
        self.accepted().await?;
        let callers = if quick { &CALLERS[..1] } else { &CALLERS[..] };
        for count in callers {
            self.durable(*count).await?;
        }
        for count in callers {
            self.engine(*count).await?;
        }
        self.sold_out().await?;
        if !quick {
            let steady = self.steady().await?;
            self.comfortable(steady * COMFORTABLE).await?;
            self.burst(steady).await?;
        }
        let found = self.ours.verify().await?;
        self.checks
            .hold(found.is_none(), || format!("verify: {}", found.unwrap_or_default()));
        Ok(())
    }

    /// One hot SKU, every request granted, the writer running, from an empty queue; and what a reservation takes in
    /// Redis, on the disk and in the log, once all are durable.
    async fn accepted(&mut self) -> Result<(), Failure> {
        let sale = self.ours.sale(UNITS).await?;
        let (bytes, disk) = (
            self.ours.redis.live_bytes().await?,
            disk::read(&self.ours.database).await?,
        );
        let outcome = run(
            &self.ours.target(),
            self.closed(Kind::Accepted, &sale.name, CONNECTIONS, self.seconds * 2),
        )
        .await?;
        self.round.put_loop("accepted", &outcome);
        let drained = self.ours.drained(&sale).await?;
        self.round.put("accepted.drain_s", drained.as_secs_f64());
        let rows = self
            .check_rows(&sale.name, outcome.answers, f64::from(CONNECTIONS))
            .await?;
        self.check_sale(&sale, rows).await?;
        self.checks.hold(outcome.refused == 0.0, || {
            format!("accepted: {} were refused", outcome.refused)
        });
        let after = disk::read(&self.ours.database).await?;
        let each = |after: f64, before: f64| (after - before) / rows.max(1.0);
        self.round
            .put("live.redis_bytes", each(self.ours.redis.live_bytes().await?, bytes));
        self.round.put("disk.bytes", each(after.tables, disk.tables));
        for (at, part) in ["reservations", "events", "keys"].into_iter().enumerate() {
            self.round
                .put(format!("disk.{part}_bytes"), each(after.parts[at], disk.parts[at]));
        }
        self.round.put("wal.bytes", each(after.wal, disk.wal));
        // What pages cost is measured beside the item that was just sold a lot.
        let read = run(
            &self.ours.target(),
            self.closed(Kind::Read, &sale.name, CONNECTIONS, self.seconds),
        )
        .await?;
        self.checks
            .hold(read.refused == 0.0, || format!("reads: {} were refused", read.refused));
        self.round.put_loop("read", &read);
        Ok(())
    }

    /// Answers after Postgres' commit, through the sale.
    async fn durable(&mut self, callers: u32) -> Result<(), Failure> {
        let sale = self.ours.sale(UNITS).await?;
        let outcome = run(
            &self.ours.target(),
            self.closed(Kind::Durable, &sale.name, callers, self.seconds),
        )
        .await?;
        self.checks.hold(outcome.refused == 0.0, || {
            format!("durable: {} were refused", outcome.refused)
        });
        self.round.put_loop(&format!("durable.{callers}"), &outcome);
        self.ours.drained(&sale).await?;
        let rows = self.check_rows(&sale.name, outcome.answers, f64::from(callers)).await?;
        self.check_sale(&sale, rows).await
    }

    /// The same without a sale: the ledger engine.
    async fn engine(&mut self, callers: u32) -> Result<(), Failure> {
        let sku = self.ours.item().await?;
        let outcome = run(
            &self.ours.target(),
            self.closed(Kind::Durable, &sku, callers, self.seconds),
        )
        .await?;
        self.checks.hold(outcome.refused == 0.0, || {
            format!("engine: {} were refused", outcome.refused)
        });
        self.round.put_loop(&format!("engine.{callers}"), &outcome);
        self.check_rows(&sku, outcome.answers, f64::from(callers)).await?;
        Ok(())
    }

    /// Nothing is left: refusals, and replays for some of those who got something.
    async fn sold_out(&mut self) -> Result<(), Failure> {
        let units = i64::try_from(FEW)?;
        let sale = self.ours.sale(units).await?;
        let holders = tag::next();
        let bought = self.load(&sale.name, &holders, 64, DURABLE, Pace::Count(FEW)).await?;
        self.checks.hold(bought.granted() == FEW, || {
            format!("{} of {FEW} units were sold", bought.granted())
        });
        let kind = Kind::SoldOut {
            holders: &holders,
            count: FEW,
        };
        let outcome = run(
            &self.ours.target(),
            self.closed(kind, &sale.name, CONNECTIONS, self.seconds),
        )
        .await?;
        self.round.put_loop("sold-out", &outcome);
        let share = outcome.refused / outcome.answers;
        self.checks.hold((0.985..=0.995).contains(&share), || {
            format!("sold out: {share} of the answers were refusals, and 0.99 of the buyers hold nothing")
        });
        // Sold is what there was, and asked for was more.
        let rows = self.check_rows(&sale.name, as_f64(FEW), 0.0).await?;
        self.check_sale(&sale, rows).await
    }

    /// The rate at which the queue neither grows nor runs empty: buyers come as fast as they can while fewer than
    /// [`STEADY_QUEUE`] wait for the ledger.
    async fn steady(&mut self) -> Result<f64, Failure> {
        let sale = self.ours.sale(UNITS).await?;
        let gate = Gate::default();
        let connections = usize::try_from(CONNECTIONS)?;
        let load = load::start(self.plan(
            &sale.name,
            &tag::next(),
            connections,
            Some("respond-async"),
            Pace::Gate(gate.clone()),
        ));
        let watched = self.watch(&sale, &gate).await;
        gate.end();
        let report = report(load).await?;
        let rate = watched?;
        self.ours.drained(&sale).await?;
        let rows = self
            .check_rows(&sale.name, as_f64(report.granted()), as_f64(report.unknown))
            .await?;
        self.check_sale(&sale, rows).await?;
        Ok(rate)
    }

    async fn watch(&mut self, sale: &Sale, gate: &Gate) -> Result<f64, Failure> {
        let pids = self.ours.target().pids;
        let begin = Instant::now();
        let mut from = None;
        let window = Duration::from_secs(u64::from(self.seconds) * 2);
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

    /// Latency of durable answers at a rate that the gateway can bear.
    async fn comfortable(&mut self, rate: f64) -> Result<(), Failure> {
        let step = self.step(rate, self.seconds + 1).await?;
        self.round.put("open.offered", step.offered);
        self.round.put("open.granted", step.granted);
        self.round.put("open.failed", step.failed);
        self.round.put("open.p50_ms", step.p50_ms);
        self.round.put("open.p95_ms", step.p95_ms);
        self.round.put("open.p99_ms", step.p99_ms);
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
        let granted = as_f64(report.granted());
        let rows = self.check_rows(&sale.name, granted, as_f64(report.unknown)).await?;
        self.check_sale(&sale, rows).await?;
        Ok(Step {
            offered: rate,
            granted: granted / f64::from(seconds),
            failed: (1.0 - granted / report.due).max(0.0),
            p50_ms: report.due_ms(50),
            p95_ms: report.due_ms(95),
            p99_ms: report.due_ms(99),
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
            .check_rows(&sale.name, as_f64(report.granted()), as_f64(report.unknown))
            .await?;
        self.check_sale(&sale, rows).await?;
        self.round.put("burst.sent_steady_rates", report.rate() / steady);
        self.round.put("burst.granted_rate", as_f64(report.granted()) / seconds);
        self.round
            .put("burst.shed", as_f64(report.shed()) / as_f64(report.sent()));
        self.round.put("burst.unanswered", as_f64(report.unknown));
        self.round.put("burst.p50_ms", report.sent_ms(50));
        self.round.put("burst.p95_ms", report.sent_ms(95));
        self.round.put("burst.p95_from_due_ms", report.due_ms(95));
        self.round.put("burst.drain_s", drained.as_secs_f64());
        Ok(())
    }

    fn closed<'b>(&self, kind: Kind<'b>, sku: &'b str, connections: u32, seconds: u32) -> Loop<'b> {
        // The SKU's name is new with each measurement, and so is a tag.
        Loop {
            kind,
            tag: sku,
            sku,
            connections,
            seconds,
        }
    }

    fn plan(&self, sku: &str, tag: &str, connections: usize, prefer: Option<&'static str>, pace: Pace) -> Plan {
        Plan {
            address: self.ours.target().address,
            connections,
            tag: tag.to_owned(),
            sku: sku.to_owned(),
            prefer,
            pace,
        }
    }

    async fn load(
        &self,
        sku: &str,
        tag: &str,
        connections: usize,
        prefer: Option<&'static str>,
        pace: Pace,
    ) -> Result<Report, Failure> {
        report(load::start(self.plan(sku, tag, connections, prefer, pace))).await
    }

    /// There is a row for each answer, at most `unanswered` more, and no user has two units. Returns the rows.
    async fn check_rows(&mut self, sku: &str, answers: f64, unanswered: f64) -> Result<f64, Failure> {
        let sql = "-- bench.rows
            SELECT count(*), count(*) FILTER (WHERE units > 1), coalesce(sum(units), 0)::bigint
            FROM (SELECT sum(quantity) AS units FROM inventory_reservation WHERE sku_id = $1 AND status = 'RESERVED'
                GROUP BY user_id) u";
        let (users, beyond, units): (i64, i64, i64) =
            sqlx::query_as(sql).bind(sku).fetch_one(&self.ours.database).await?;
        let rows = count(units);
        self.checks.hold((answers..=answers + unanswered).contains(&rows), || {
            format!("{sku}: {rows} units in the ledger, {answers} answers and up to {unanswered} more")
        });
        self.checks.hold(beyond == 0 && users == units, || {
            format!("{sku}: {beyond} of {users} users have more than the one unit that is allowed")
        });
        Ok(rows)
    }

    /// What the sale says is what the ledger has, and nothing drifts.
    async fn check_sale(&mut self, sale: &Sale, rows: f64) -> Result<(), Failure> {
        let progress = self.ours.progress(sale).await?;
        let holds = count(progress.accepted) == rows
            && progress.accepted == progress.durable
            && progress.rejected == 0
            && progress.drift == 0;
        self.checks
            .hold(holds, || format!("{}: {progress:?}, {rows} rows", sale.name));
        Ok(())
    }
}

/// Counts of a run fit.
fn count(count: i64) -> f64 {
    f64::from(i32::try_from(count).unwrap_or(i32::MAX))
}
