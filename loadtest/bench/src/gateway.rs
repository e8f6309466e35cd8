//! The gateway's part of a round: its closed loops, and what each of them has to prove by the ledger.

use crate::Failure;
use crate::disk;
use crate::figures::{Checks, Round};
use crate::load::{self, Pace, Plan, Report, as_f64, report};
use crate::ours::{Ours, Sale, UNITS};
use crate::settings::{CALLERS, CONNECTIONS};
use crate::tag;
use crate::wrk::{Kind, Loop, Outcome, run};

/// Units of the sale that is sold out, each bought by another.
const FEW: u64 = 1_000;
/// Waits for a durable answer however long it takes: no 202 among the 2xx.
pub(crate) const DURABLE: Option<&str> = Some("wait=30");
/// Is answered once Redis has it.
pub(crate) const ACCEPTED: Option<&str> = Some("respond-async");

/// A round on a gateway that was just started.
pub(crate) struct Stage<'a> {
    pub(crate) ours: &'a Ours,
    pub(crate) seconds: u32,
    /// Which share of the answers may be shed: where others use the machine, callers can be more than it bears for a
    /// moment. What is shed is no answer.
    pub(crate) shed_max: f64,
    pub(crate) round: &'a mut Round,
    pub(crate) checks: &'a mut Checks,
}

impl Stage<'_> {
    /// Everything, or what matters most.
    ///
    /// # Errors
    /// The gateway does not serve.
    pub(crate) async fn run(&mut self, quick: bool) -> Result<(), Failure> {
        let sale = self.accepted().await?;
        self.read(&sale).await?;
        if !quick {
            self.endings(&sale).await?;
        }
        let callers = if quick { &CALLERS[..1] } else { &CALLERS[..] };
        for count in callers {
            self.durable(*count).await?;
        }
        for count in callers {
            self.engine(*count).await?;
        }
        self.sold_out().await?;
        if !quick {
            self.open_loops().await?;
        }
        self.verify().await
    }

    /// The whole ledger agrees.
    ///
    /// # Errors
    /// It could not be found out.
    pub(crate) async fn verify(&mut self) -> Result<(), Failure> {
        let found = self.ours.verify().await?;
        self.checks
            .hold(found.is_none(), || format!("verify: {}", found.unwrap_or_default()));
        Ok(())
    }

    /// One hot SKU, every request granted, the writer running, from an empty queue; and what a reservation takes in
    /// Redis, on the disk and in the log, once all are durable. Returns the sale, with all of them still open.
    ///
    /// # Errors
    /// The gateway does not serve.
    pub(crate) async fn accepted(&mut self) -> Result<Sale, Failure> {
        let sale = self.ours.sale(UNITS).await?;
        let (bytes, disk) = (
            self.ours.redis.live_bytes().await?,
            disk::read(&self.ours.database).await?,
        );
        let outcome = run(
            &self.ours.target(),
            self.closed(Kind::Accepted, &sale.name, CONNECTIONS, self.seconds * 2),
        )
        .await?
        .of_granted();
        self.round.put_loop("accepted", &outcome);
        let drained = self.ours.drained(&sale).await?;
        self.round.put("accepted.drain_s", drained.as_secs_f64());
        let rows = self
            .check_rows(&sale.name, outcome.answers, f64::from(CONNECTIONS))
            .await?;
        self.check_sale(&sale, rows).await?;
        self.check_granted("accepted", &outcome);
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
        Ok(sale)
    }

    /// What pages cost, of the item that was just sold a lot.
    ///
    /// # Errors
    /// The gateway does not serve.
    pub(crate) async fn read(&mut self, sale: &Sale) -> Result<(), Failure> {
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
    ///
    /// # Errors
    /// The gateway does not serve.
    pub(crate) async fn durable(&mut self, callers: u32) -> Result<(), Failure> {
        let sale = self.ours.sale(UNITS).await?;
        let outcome = run(
            &self.ours.target(),
            self.closed(Kind::Durable, &sale.name, callers, self.seconds),
        )
        .await?
        .of_granted();
        self.check_granted("durable", &outcome);
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
        .await?
        .of_granted();
        self.check_granted("engine", &outcome);
        self.round.put_loop(&format!("engine.{callers}"), &outcome);
        self.check_rows(&sku, outcome.answers, f64::from(callers)).await?;
        Ok(())
    }

    /// Nothing is left: refusals, and replays for some of those who got something.
    ///
    /// # Errors
    /// The gateway does not serve.
    pub(crate) async fn sold_out(&mut self) -> Result<(), Failure> {
        let units = i64::try_from(FEW)?;
        let sale = self.ours.sale(units).await?;
        let holders = tag::next();
        let bought = self.load(&sale.name, &holders, 64, DURABLE, Pace::Count(FEW)).await?;
        self.checks.hold(bought.granted == FEW, || {
            format!("{} of {FEW} units were sold", bought.granted)
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

    pub(crate) fn closed<'b>(&self, kind: Kind<'b>, sku: &'b str, connections: u32, seconds: u32) -> Loop<'b> {
        // The SKU's name is new with each measurement, and so is a tag.
        Loop {
            kind,
            tag: sku,
            sku,
            connections,
            seconds,
        }
    }

    pub(crate) fn plan(
        &self,
        sku: &str,
        tag: &str,
        connections: usize,
        prefer: Option<&'static str>,
        pace: Pace,
    ) -> Plan {
        Plan {
            address: self.ours.target().address,
            connections,
            tag: tag.to_owned(),
            sku: sku.to_owned(),
            prefer,
            pace,
            payable_until: None,
        }
    }

    pub(crate) async fn load(
        &self,
        sku: &str,
        tag: &str,
        connections: usize,
        prefer: Option<&'static str>,
        pace: Pace,
    ) -> Result<Report, Failure> {
        report(load::start(self.plan(sku, tag, connections, prefer, pace))).await
    }

    fn check_granted(&mut self, what: &str, outcome: &Outcome) {
        let asked = outcome.answers + outcome.refused;
        self.checks.hold(outcome.refused <= asked * self.shed_max, || {
            format!("{what}: {} of {asked} were refused", outcome.refused)
        });
    }

    /// There is a row for each answer, at most `unanswered` more, and no user has two units. Returns the rows.
    pub(crate) async fn check_rows(&mut self, sku: &str, answers: f64, unanswered: f64) -> Result<f64, Failure> {
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
    pub(crate) async fn check_sale(&mut self, sale: &Sale, rows: f64) -> Result<(), Failure> {
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
pub(crate) fn count(count: i64) -> f64 {
    f64::from(i32::try_from(count).unwrap_or(i32::MAX))
}
