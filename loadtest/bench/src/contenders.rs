//! The baselines' part of a round.

use std::time::Duration;

use sqlx::PgPool;
use tokio::time::{Instant, sleep};

use crate::Failure;
use crate::figures::{Checks, Round};
use crate::rival::{Mode, Rival, Servers};
use crate::settings::{CALLERS, CONNECTIONS};
use crate::tag;
use crate::wrk::{Kind, Loop, Outcome, run};

/// How long each setting of a baseline is tried before the rounds.
const TRIAL_SECONDS: u32 = 2;
/// Longest time for the usual gateway's writer to finish.
const WRITTEN_MAX: Duration = Duration::from_secs(120);
/// The baselines over Postgres alone.
const POSTGRES: [&str; 3] = ["textbook", "one-statement", "skip-locked"];
/// What the usual gateway begins with.
const USUAL_UNITS: i64 = 100_000_000;
const POOLS: [u32; 3] = [8, 16, 32];
const USUAL_CONNECTIONS: [u32; 3] = [1, 2, 8];

/// Each baseline's best setting.
#[derive(Clone, Debug)]
pub(crate) struct Best {
    usual_connections: u32,
    /// Of each of [`POSTGRES`], for each of [`CALLERS`].
    postgres: Vec<(&'static str, u32, Mode)>,
}

impl Best {
    /// Settings that are good almost everywhere, for a short run.
    pub(crate) fn assumed() -> Best {
        let mode = Mode::Postgres {
            name: "textbook",
            connections: 8,
        };
        Best {
            usual_connections: 1,
            postgres: vec![("textbook", CALLERS[0], mode)],
        }
    }

    /// Tries every setting, and keeps the best of each baseline. The trials are figures too.
    ///
    /// # Errors
    /// A baseline does not run.
    pub(crate) async fn find(servers: &Servers, trials: &mut Round) -> Result<Best, Failure> {
        let mut usual = Vec::new();
        for connections in USUAL_CONNECTIONS {
            let mode = Mode::Usual {
                connections,
                writes: true,
            };
            let rate = once(servers, mode, Kind::Accepted, CONNECTIONS, TRIAL_SECONDS)
                .await?
                .rate;
            trials.put(format!("usual.{connections}.rate"), rate);
            usual.push((rate, connections));
        }
        let mut tried: Vec<(f64, &'static str, u32, Mode)> = Vec::new();
        for name in POSTGRES {
            for connections in POOLS {
                for callers in CALLERS {
                    let mode = Mode::Postgres { name, connections };
                    let rate = once(servers, mode, Kind::Durable, callers, TRIAL_SECONDS).await?.rate;
                    trials.put(format!("{name}.{callers}.{connections}.rate"), rate);
                    tried.push((rate, name, callers, mode));
                }
            }
        }
        // The best first; of each baseline and number of callers the first counts.
        tried.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut postgres: Vec<(&'static str, u32, Mode)> = Vec::new();
        for (_, name, callers, mode) in tried {
            if !postgres.iter().any(|(known, of, _)| (*known, *of) == (name, callers)) {
                postgres.push((name, callers, mode));
            }
        }
        let usual_connections = usual
            .into_iter()
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map_or(1, |(_, count)| count);
        Ok(Best {
            usual_connections,
            postgres,
        })
    }
}

/// Measures every baseline once.
///
/// # Errors
/// One does not run.
pub(crate) async fn round(
    servers: &Servers,
    best: &Best,
    seconds: u32,
    quick: bool,
    round: &mut Round,
    checks: &mut Checks,
) -> Result<(), Failure> {
    for (name, callers, mode) in &best.postgres {
        let before = postgres_rows(&servers.database, name).await;
        let outcome = once(servers, *mode, Kind::Durable, *callers, seconds).await?;
        round.put_loop(&format!("{name}.{callers}"), &outcome);
        let (rows, taken) = postgres_rows(&servers.database, name).await?;
        // Rows of the trials and of rounds before are there already.
        let made = rows - before.map_or(0, |(rows, _)| rows);
        check_answers(&format!("{name} at {callers}"), &outcome, made, *callers, checks);
        checks.hold(rows == taken, || {
            format!("{name}: {rows} reservations of {taken} units")
        });
    }
    for (name, writes) in [("usual", true), ("usual-unwritten", false)] {
        if writes || !quick {
            let connections = best.usual_connections;
            let mode = Mode::Usual { connections, writes };
            let rival = servers.rival(mode).await?;
            let outcome = run(
                &rival.target,
                loop_of(Kind::Accepted, &tag::next(), CONNECTIONS, seconds * 2),
            )
            .await?;
            round.put_loop(name, &outcome);
            check_usual(servers, name, writes, &outcome, checks).await?;
            rival.stop().await?;
        }
    }
    // Last, next to ours: it is what most of ours is compared with.
    let rival = servers.rival(Mode::NoOp).await?;
    round.put_loop("no-op", &no_op(&rival, seconds, checks).await?);
    rival.stop().await?;
    if !quick {
        let pages = once(servers, Mode::NoOp, Kind::Read, CONNECTIONS, seconds).await?;
        round.put_loop("no-op-read", &pages);
    }
    Ok(())
}

/// Measures the handler that does nothing.
///
/// # Errors
/// It does not run.
pub(crate) async fn no_op(rival: &Rival, seconds: u32, checks: &mut Checks) -> Result<Outcome, Failure> {
    let outcome = run(
        &rival.target,
        loop_of(Kind::Accepted, &tag::next(), CONNECTIONS, seconds),
    )
    .await?;
    checks.hold(outcome.refused == 0.0, || format!("no-op refused {}", outcome.refused));
    Ok(outcome)
}

fn loop_of<'a>(kind: Kind<'a>, tag: &'a str, connections: u32, seconds: u32) -> Loop<'a> {
    Loop {
        kind,
        tag,
        sku: "hot",
        connections,
        seconds,
    }
}

async fn once(
    servers: &Servers,
    mode: Mode,
    kind: Kind<'_>,
    connections: u32,
    seconds: u32,
) -> Result<Outcome, Failure> {
    let rival = servers.rival(mode).await?;
    let outcome = run(&rival.target, loop_of(kind, &tag::next(), connections, seconds)).await?;
    rival.stop().await?;
    Ok(outcome)
}

/// All were granted, and there is a row for each answer: at the end of a loop some are on their way.
fn check_answers(who: &str, outcome: &Outcome, made: i64, connections: u32, checks: &mut Checks) {
    checks.hold(outcome.refused == 0.0, || {
        format!("{who}: {} were refused", outcome.refused)
    });
    let unanswered = whole(made) - outcome.answers;
    checks.hold((0.0..=f64::from(connections)).contains(&unanswered), || {
        format!("{who}: {made} reservations, {} answers", outcome.answers)
    });
}

async fn check_usual(
    servers: &Servers,
    name: &str,
    writes: bool,
    outcome: &Outcome,
    checks: &mut Checks,
) -> Result<(), Failure> {
    // At one instant: calls whose callers have gone may still be under way.
    let look = "return { redis.call('GET', KEYS[1]), redis.call('HLEN', KEYS[2]), redis.call('HLEN', KEYS[3]) }";
    let keys = ["{usual}:stock", "{usual}:orders", "{usual}:bought"];
    let reply = servers
        .redis
        .run("EVAL", &[look, "3", keys[0], keys[1], keys[2]])
        .await?;
    let (left, orders, buyers): (i64, i64, i64) = reply.convert()?;
    check_answers(name, outcome, orders, CONNECTIONS, checks);
    checks.hold(orders == USUAL_UNITS - left && orders == buyers, || {
        format!("{name}: {orders} reservations by {buyers} buyers, {left} of {USUAL_UNITS} units left")
    });
    if writes {
        check_written(servers, name, orders, checks).await?;
    }
    Ok(())
}

/// The writer carries every reservation into Postgres.
async fn check_written(servers: &Servers, name: &str, orders: i64, checks: &mut Checks) -> Result<(), Failure> {
    let begin = Instant::now();
    loop {
        let sql = "SELECT count(*) FROM usual.reservation";
        let written: i64 = sqlx::query_scalar(sql).fetch_one(&servers.database).await?;
        if written >= orders || begin.elapsed() > WRITTEN_MAX {
            checks.hold(written >= orders, || {
                format!("{name}: {written} of {orders} reservations were written")
            });
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Reservations, and units taken.
async fn postgres_rows(pool: &PgPool, baseline: &str) -> Result<(i64, i64), sqlx::Error> {
    let sql = match baseline {
        "textbook" | "one-statement" => {
            "SELECT (SELECT count(*) FROM textbook.reservation), (SELECT sum(reserved)::bigint FROM textbook.balance)"
        }
        _ => {
            "SELECT (SELECT count(*) FROM skip_locked.reservation),
            (SELECT count(*) FROM skip_locked.unit WHERE reservation_id IS NOT NULL)"
        }
    };
    sqlx::query_as(sql).fetch_one(pool).await
}

/// Counts of a run fit.
fn whole(count: i64) -> f64 {
    f64::from(i32::try_from(count).unwrap_or(i32::MAX))
}
