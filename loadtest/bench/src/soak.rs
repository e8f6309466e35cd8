//! What shows only after a while or at size: `make soak`. One gateway over one pair of servers goes through all of it,
//! so that each part begins with what the ones before have left.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::cpu::resident_bytes;
use crate::figures::{Checks, Round, Spread};
use crate::gateway::{ACCEPTED, DURABLE, Stage, count};
use crate::load::{self, Gate, Pace, as_f64, report};
use crate::ours::{Ours, Sale, UNITS};
use crate::settings::{CALLERS, CONNECTIONS, OPEN_CONNECTIONS, SHED_MAX};
use crate::tag;
use crate::wrk::{Kind, run};
use crate::{Failure, say};

/// Time to pay while it goes on for half an hour: a sale has a million units, so they have to come back.
const HOLD_SECONDS: u32 = 20;
/// Units kept back where a million reservations are wanted and more must be possible.
const SPARE: i64 = 10_000;
/// SKUs that are known, items that are on sale.
const KNOWN: f64 = 1_000_000.0;
const ON_SALE: f64 = 10_000.0;
/// Units of each of these: more than come to one of them in a minute.
const ON_SALE_UNITS: i64 = 1_000;
/// Sales that are made at a time.
const MAKERS: u32 = 32;
/// Half an hour, at this share of the steady rate; what happens in its last two thirds is what counts.
const ENDURANCE: Duration = Duration::from_secs(1_800);
const LOAD: f64 = 0.9;
const SETTLED: f64 = 1.0 / 3.0;
/// How that rate is found: from this share of the rate without expiries up, each step by so much more, each so long that
/// things have expired for 45 s at its end: after 15 s a rate that fell behind by a seventh hid in what was allowed. It is
/// borne where no more is late at the end than comes in so many seconds, and so much was granted.
const FIRST_STEP: f64 = 0.3;
const STEP_UP: f64 = 1.15;
const STEP: Duration = Duration::from_secs(65);
const LATE_SECONDS: f64 = 1.0;
const GRANTED: f64 = 0.995;
/// Comparisons of Redis with the ledger in a minute, at least; one is wanted.
const COMPARED_LEAST: f64 = 0.8;
/// Between two looks at memory, and how many make a mean.
const MEMORY_LOOK: Duration = Duration::from_secs(5);
const MEMORY_MEAN: usize = 12;
/// How long a rate is measured, how often, and for how long before others expire beside it.
const RATE_SECONDS: u32 = 20;
const RATE_TIMES: usize = 3;
const UNDISTURBED: Duration = Duration::from_secs(20);
/// Longest time until a million reservations have expired, and until an emptied Redis sells again.
const EXPIRED_MAX: Duration = Duration::from_secs(600);
const RECOVERED_MAX: Duration = Duration::from_secs(300);
/// How often the end of these is looked for.
const LOOK: Duration = Duration::from_millis(100);

/// All of it, at a scale: 1 is the real thing, less is for trying it.
///
/// # Errors
/// The gateway does not serve.
pub(crate) async fn soak(flashgate: &Path, scale: f64, round: &mut Round, checks: &mut Checks) -> Result<(), Failure> {
    let mut ours = Ours::serve(flashgate).await?;
    let mut soak = Soak::new(&ours, scale, round, checks);
    say("one SKU alone")?;
    let alone = soak.rates(None).await?;
    say("half an hour near the steady rate")?;
    soak.endurance(alone).await?;
    say("a large catalogue")?;
    soak.catalogue(alone).await?;
    say("a million reservations expire")?;
    soak.expiry().await?;
    say("a million live reservations: a start, then an emptied Redis")?;
    let sale = soak.live().await?;
    let started = ours.restart().await?;
    let mut soak = Soak::new(&ours, scale, round, checks);
    soak.round.put("start.s", started.as_secs_f64());
    soak.emptied(&sale).await?;
    say("verify")?;
    soak.stage().verify().await?;
    ours.stop().await
}

struct Soak<'a> {
    ours: &'a Ours,
    scale: f64,
    round: &'a mut Round,
    checks: &'a mut Checks,
}

impl<'a> Soak<'a> {
    fn new(ours: &'a Ours, scale: f64, round: &'a mut Round, checks: &'a mut Checks) -> Soak<'a> {
        Soak {
            ours,
            scale,
            round,
            checks,
        }
    }

    fn stage(&mut self) -> Stage<'_> {
        Stage {
            ours: self.ours,
            seconds: RATE_SECONDS,
            shed_max: SHED_MAX,
            round: self.round,
            checks: self.checks,
        }
    }

    fn seconds(&self, whole: Duration) -> Duration {
        whole.mul_f64(self.scale).max(Duration::from_secs(2))
    }

    /// Durable reservations per second of one hot SKU, or over many items; the median of some tries.
    async fn rates(&mut self, spread: Option<(u32, u32)>) -> Result<f64, Failure> {
        let mut rates = Vec::new();
        for _ in 0..RATE_TIMES {
            let sale = self.ours.sale(UNITS).await?;
            let seconds = u32::try_from(self.seconds(Duration::from_secs(RATE_SECONDS.into())).as_secs())?;
            let kind = spread.map_or(Kind::Durable, |(first, count)| Kind::Spread { first, count });
            let stage = self.stage();
            let outcome = run(
                &stage.ours.target(),
                stage.closed(kind, &sale.name, CONNECTIONS, seconds),
            )
            .await?;
            self.checks
                .hold(outcome.refused == 0.0, || format!("{} were refused", outcome.refused));
            rates.push(outcome.rate);
        }
        Ok(Spread::of(rates).map_or(f64::NAN, |spread| spread.median))
    }

    /// Half an hour near the steady rate, with the answers that this rate was measured with; all of it expires meanwhile.
    async fn endurance(&mut self, alone: f64) -> Result<(), Failure> {
        let length = self.seconds(ENDURANCE);
        let sale = self.ours.admin().sale(tag::next(), UNITS, HOLD_SECONDS).await?;
        let steady = self.bearable(&sale, alone).await?;
        let pace = Pace::Rate {
            per_second: steady * LOAD,
            seconds: length.as_secs_f64(),
        };
        let load = load::start(
            self.stage()
                .plan(&sale.name, &tag::next(), OPEN_CONNECTIONS, ACCEPTED, pace),
        );
        let (mut memory, mut comparisons) = (Vec::new(), BTreeSet::new());
        while !load.is_finished() {
            memory.push(self.memory().await?);
            comparisons.insert(self.compared_at().await?);
            sleep(MEMORY_LOOK.min(length / 20)).await;
        }
        self.alarms(comparisons.len(), length).await?;
        let report = report(load).await?;
        self.ours.drained(&sale).await?;
        let back = self.ours.back_on_sale(&sale).await?;
        self.round.put("endurance.back_s", back.as_secs_f64());
        let accepted = self.ours.progress(&sale).await?.accepted;
        self.checks.hold(accepted >= i64::try_from(report.granted)?, || {
            format!("{} answers, {accepted} reservations", report.granted)
        });
        self.stage().check_sale(&sale, count(accepted)).await?;
        let from = memory
            .iter()
            .take_while(|(at, _)| *at < memory[0].0 + length.mul_f64(SETTLED))
            .count();
        let mean = |looks: &[(Instant, f64)]| looks.iter().map(|look| look.1).sum::<f64>() / as_f64(looks.len() as u64);
        let settled = &memory[from.min(memory.len() - 1)..];
        let few = MEMORY_MEAN.min(settled.len());
        self.round.put("endurance.memory_bytes", mean(&settled[..few]));
        self.round.put(
            "endurance.memory_growth_percent",
            (mean(&settled[settled.len() - few..]) / mean(&settled[..few]) - 1.0) * 100.0,
        );
        self.round.put("endurance.minutes", length.as_secs_f64() / 60.0);
        self.round
            .put("endurance.rate", as_f64(report.granted) / length.as_secs_f64());
        self.round.put(
            "endurance.errors_percent",
            (1.0 - as_f64(report.granted) / report.due).max(0.0) * 100.0,
        );
        self.round.put("endurance.p95_ms", report.from_due.percentile_ms(95));
        self.round.put("endurance.p99_ms", report.from_due.percentile_ms(99));
        Ok(())
    }

    /// Nothing was wrong, so nothing may have been found: what compares Redis with the ledger all the time, what looks at
    /// every entry of the queue, and what freezes a sale were silent.
    async fn alarms(&mut self, comparisons: usize, length: Duration) -> Result<(), Failure> {
        let (differences, others): (i64, i64) = sqlx::query_as(
            "-- bench.alarms
            SELECT (SELECT count(*) FROM reconciliation_discrepancy),
                (SELECT count(*) FROM alarm) + (SELECT count(*) FROM quarantine)
                    + (SELECT count(*) FROM sale WHERE frozen_at IS NOT NULL)",
        )
        .fetch_one(&self.ours.database)
        .await?;
        self.checks.hold(differences == 0 && others == 0, || {
            format!("false alarms: {differences} differences, {others} alarms, cases of quarantine, frozen sales")
        });
        let minutes = length.as_secs_f64() / 60.0;
        self.checks
            .hold(as_f64(comparisons as u64) > minutes * COMPARED_LEAST, || {
                format!("{comparisons} comparisons in {minutes} minutes")
            });
        self.round.put("endurance.differences", count(differences));
        self.round.put("endurance.comparisons", as_f64(comparisons as u64));
        Ok(())
    }

    /// When Redis was last compared with the ledger, in microseconds.
    async fn compared_at(&self) -> Result<i64, Failure> {
        let at = "-- bench.compared_at
            SELECT coalesce((extract(epoch FROM nullif(begun_at, '-infinity')) * 1e6)::int8, 0) FROM live_comparison";
        Ok(sqlx::query_scalar(at).fetch_one(&self.ours.database).await?)
    }

    /// The highest rate that is borne while all of it expires and comes back as fast, found from below. Whoever lets in
    /// as many as come learns nothing: what falls due together then is more than the machine bears, and so for ever.
    async fn bearable(&mut self, sale: &Sale, alone: f64) -> Result<f64, Failure> {
        let mut rate = alone * FIRST_STEP;
        let mut borne = None;
        loop {
            let pace = Pace::Rate {
                per_second: rate,
                seconds: STEP.as_secs_f64(),
            };
            let name = tag::next();
            let plan = self.stage().plan(&sale.name, &name, OPEN_CONNECTIONS, ACCEPTED, pace);
            let report = report(load::start(plan)).await?;
            let progress = self.ours.progress(sale).await?;
            let live = rate * f64::from(HOLD_SECONDS);
            let late = progress.queue.max(progress.taken - i64::from(whole(live)));
            let is_borne = count(late) < rate * LATE_SECONDS && as_f64(report.granted) > report.due * GRANTED;
            say(&format!(
                "{rate:.0}/s: {late} late, {} of {:.0} granted",
                report.granted, report.due
            ))?;
            self.ours.drained(sale).await?;
            match (is_borne, borne) {
                (true, _) => {
                    borne = Some(rate);
                    rate *= STEP_UP;
                }
                (false, Some(borne)) => {
                    self.round.put("endurance.steady_rate", borne);
                    return Ok(borne);
                }
                (false, None) => rate *= FIRST_STEP,
            }
        }
    }

    /// What the gateway and Redis hold in memory; Postgres' is what it was given.
    async fn memory(&self) -> Result<(Instant, f64), Failure> {
        let gateway = resident_bytes(self.ours.target().pids.gateway);
        Ok((Instant::now(), gateway + self.ours.redis.used_bytes().await?))
    }

    /// A catalogue of a million, ten thousand of them on sale, and all that the half hour has left behind.
    async fn catalogue(&mut self, alone: f64) -> Result<(), Failure> {
        let known = whole(KNOWN * self.scale);
        let statements = [
            "-- bench.skus
            INSERT INTO sku (sku_id) SELECT 'known-' || no FROM generate_series(1, $1::int) no",
            // Without any units, so without an event.
            "-- bench.balances
            INSERT INTO inventory_balance (sku_id, location_id)
            SELECT 'known-' || no, 'wh1' FROM generate_series(1, $1::int) no",
        ];
        for statement in statements {
            sqlx::query(statement)
                .bind(i32::try_from(known)?)
                .execute(&self.ours.database)
                .await?;
        }
        let items = whole(ON_SALE * self.scale).max(MAKERS);
        let first = tag::range(items);
        let mut makers = JoinSet::new();
        for maker in 0..MAKERS {
            let admin = self.ours.admin();
            makers.spawn(async move {
                for item in (maker..items).step_by(MAKERS as usize) {
                    admin.sale(tag::of(first + item), ON_SALE_UNITS, 900).await?;
                }
                Ok::<(), Failure>(())
            });
        }
        while let Some(made) = makers.join_next().await {
            made??;
        }
        let past: i64 = sqlx::query_scalar("SELECT count(*) FROM inventory_reservation")
            .fetch_one(&self.ours.database)
            .await?;
        self.round.put("catalogue.skus", f64::from(known));
        self.round.put("catalogue.on_sale", f64::from(items));
        self.round.put("catalogue.past_reservations", count(past));
        let hot = self.rates(None).await?;
        let spread = self.rates(Some((first, items))).await?;
        self.round.put("catalogue.alone_rate", alone);
        self.round.put("catalogue.hot_rate", hot);
        self.round.put("catalogue.spread_rate", spread);
        Ok(())
    }

    /// A million reservations are due at one instant, beside callers who reserve.
    async fn expiry(&mut self) -> Result<(), Failure> {
        let (sale, due) = self.fill(UNITS, true).await?;
        let other = self.ours.sale(UNITS).await?;
        let gate = Gate::default();
        let callers = usize::try_from(CALLERS[0])?;
        let pace = Pace::Gate(gate.clone());
        let load = load::start(self.stage().plan(&other.name, &tag::next(), callers, DURABLE, pace));
        let seen = self.see_expire(&sale, &other, due, &gate).await;
        gate.end();
        report(load).await?;
        seen?;
        self.ours.drained(&other).await?;
        Ok(())
    }

    async fn see_expire(&mut self, sale: &Sale, other: &Sale, due: Instant, gate: &Gate) -> Result<(), Failure> {
        let reserved = self.ours.progress(sale).await?.durable;
        tokio::time::sleep_until(due - UNDISTURBED.min(due - Instant::now())).await;
        gate.set_open(true);
        sleep(Duration::from_secs(1)).await;
        let (began, first) = (Instant::now(), self.ours.progress(other).await?.durable);
        tokio::time::sleep_until(due).await;
        let (middle, second) = (Instant::now(), self.ours.progress(other).await?.durable);
        while self.ours.progress(sale).await?.expired < reserved {
            if middle.elapsed() > EXPIRED_MAX {
                return Err("the reservations do not expire".into());
            }
            sleep(LOOK).await;
        }
        let (end, third) = (Instant::now(), self.ours.progress(other).await?.durable);
        let before = count(second - first) / (middle - began).as_secs_f64();
        let during = count(third - second) / (end - middle).as_secs_f64();
        self.round.put("expiry.reservations", count(reserved));
        self.round.put("expiry.s", (end - middle).as_secs_f64());
        self.round.put("expiry.rate_before", before);
        self.round.put("expiry.rate_during", during);
        self.round
            .put("expiry.slowdown_percent", (1.0 - during / before) * 100.0);
        Ok(())
    }

    /// A sale with almost all of its million units reserved, for an hour.
    async fn live(&mut self) -> Result<Sale, Failure> {
        Ok(self.fill(UNITS - SPARE, false).await?.0)
    }

    /// Fills a sale. Where they fall due together, that is when: late enough for all of them to be made.
    async fn fill(&mut self, units: i64, together: bool) -> Result<(Sale, Instant), Failure> {
        let sale = self.ours.admin().sale(tag::next(), UNITS, 3_600).await?;
        let wanted = whole(count(units) * self.scale);
        let connections = usize::try_from(CONNECTIONS)?;
        // At a fifth of what any machine of two cores reached.
        let due = Instant::now() + Duration::from_secs(u64::from(wanted) / 3_000) + UNDISTURBED * 2;
        let mut plan = self.stage().plan(
            &sale.name,
            &tag::next(),
            connections,
            ACCEPTED,
            Pace::Count(wanted.into()),
        );
        plan.payable_until = together.then_some(due);
        let report = report(load::start(plan)).await?;
        self.ours.drained(&sale).await?;
        self.checks.hold(report.granted == u64::from(wanted), || {
            format!("{} of {wanted} were granted", report.granted)
        });
        let left = (due - Instant::now()).as_secs_f64();
        self.checks.hold(!together || left > UNDISTURBED.as_secs_f64(), || {
            format!("{left} s before they were due the reservations were made: too late to compare")
        });
        Ok((sale, due))
    }

    /// Redis loses everything while reservations are live.
    async fn emptied(&mut self, sale: &Sale) -> Result<(), Failure> {
        let live = self.ours.progress(sale).await?.durable;
        self.ours.redis.run("FLUSHALL", &[]).await?;
        let begin = Instant::now();
        // The item of the million itself sells again.
        loop {
            let plan = self.stage().plan(&sale.name, &tag::next(), 1, DURABLE, Pace::Count(1));
            if report(load::start(plan)).await.is_ok_and(|report| report.granted == 1) {
                break;
            }
            if begin.elapsed() > RECOVERED_MAX {
                return Err("the emptied Redis does not come back".into());
            }
            sleep(LOOK).await;
        }
        self.ours.serving().await?;
        self.round.put("emptied.live", count(live));
        self.round.put("emptied.s", begin.elapsed().as_secs_f64());
        Ok(())
    }
}

/// Numbers of a run fit.
fn whole(number: f64) -> u32 {
    format!("{number:.0}").parse().unwrap_or(u32::MAX)
}
