//! Measures flashgate beside what one would use instead, and beside the ceiling of HTTP here, in one run on one
//! machine, and says how the figures compare: `make bench`. What shows only after a while or at size is `make soak`.
//!
//! All contenders take turns (A B C A B C …), each round on new directories and servers of the same kind and settings,
//! so that what a busy machine does to one it does to all. A figure is the median of its rounds, a ratio the median of
//! the rounds' ratios. Each measurement ends by proving itself: a row for each answer, no more sold than there was, no
//! user beyond the limit, and `flashgate verify` over the whole. `make guard` is a short run that is compared with figures
//! that are kept.

#![warn(missing_docs, unreachable_pub)]

mod contenders;
mod cpu;
mod disk;
mod endings;
mod figures;
mod gateway;
mod guard;
mod histogram;
mod http;
mod load;
mod machine;
mod open;
mod ours;
mod plot;
mod ratios;
mod redis;
mod results;
mod rival;
mod rows;
mod settings;
mod soak;
mod tag;
mod wrk;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::contenders::Best;
use crate::figures::{Checks, Round};
use crate::gateway::Stage;
use crate::machine::{Machine, busy_share, commit};
use crate::ours::Ours;
use crate::results::Results;
use crate::rival::Servers;
use crate::settings::{SHED_MAX, Settings};

/// What ends a run.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Steps of the open loop, in steady rates.
const SWEEP: [f64; 9] = [0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.9, 1.0, 1.1];

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let settings = Settings::parse();
    // Told to end, it drops what runs, and whatever is dropped ends its servers.
    let ended = tokio::select! {
        ended = run(&settings) => ended,
        told = told_to_end() => told.and(Err("told to end".into())),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            writeln!(io::stderr(), "bench: {error}").ok();
            ExitCode::from(2)
        }
    }
}

async fn told_to_end() -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed?,
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Whether all checks held.
async fn run(settings: &Settings) -> Result<bool, Failure> {
    // A burst has thousands of connections; the usual limit is 1,024 files.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let here = std::env::current_exe()?;
    let programs = settings
        .programs
        .clone()
        .or_else(|| here.parent().map(PathBuf::from))
        .unwrap_or_default();
    let (flashgate, baselines) = (programs.join("flashgate"), programs.join("baselines"));

    let servers = Servers::start(&baselines).await?;
    let mut results = Results {
        table: if settings.soak { &rows::SOAK } else { &rows::BENCH },
        began: chrono::Utc::now(),
        commit: commit(),
        machine: Machine::of(servers.redis.version().await?, version(&servers).await?),
        others: vec![tokio::task::spawn_blocking(busy_share).await?],
        trials: Round::default(),
        rounds: Vec::new(),
        sweep: Vec::new(),
        checks: Checks::default(),
    };
    if settings.guard {
        servers.stop().await;
        return guard::guard(settings, &flashgate, &baselines, &mut results).await;
    }
    let measured = if settings.soak {
        servers.stop().await;
        let mut round = Round::default();
        let measured = soak::soak(&flashgate, settings.scale, &mut round, &mut results.checks).await;
        results.rounds.push(round);
        measured
    } else {
        bench(settings, &flashgate, &baselines, servers, &mut results).await
    };
    // A run that broke off after an hour has measured something.
    results.print(settings.quick)?;
    measured?;
    if !settings.quick {
        results.save(settings)?;
    }
    Ok(results.checks.failed.is_empty())
}

/// All contenders in turn; `servers` are for the trials of the baselines' settings.
async fn bench(
    settings: &Settings,
    flashgate: &Path,
    baselines: &Path,
    servers: Servers,
    results: &mut Results,
) -> Result<(), Failure> {
    let best = if settings.quick {
        Best::assumed()
    } else {
        say("trying the baselines' settings")?;
        Best::find(&servers, &mut results.trials).await?
    };
    servers.stop().await;
    for number in 1..=settings.rounds() {
        results.others.push(tokio::task::spawn_blocking(busy_share).await?);
        say(&format!("round {number} of {}", settings.rounds()))?;
        let mut round = Round::default();
        let servers = Servers::start(baselines).await?;
        let (seconds, checks) = (settings.seconds(), &mut results.checks);
        contenders::round(&servers, &best, seconds, settings.quick, &mut round, checks).await?;
        servers.stop().await;
        let ours = Ours::start(flashgate).await?;
        let mut stage = Stage {
            ours: &ours,
            seconds,
            shed_max: SHED_MAX,
            round: &mut round,
            checks,
        };
        stage.run(settings.quick).await?;
        ours.stop().await?;
        results.rounds.push(round);
    }
    if !settings.quick {
        say("latency against offered rate")?;
        sweep(flashgate, settings.seconds(), results).await?;
    }
    Ok(())
}

/// Durable latency at rates around the steady one, on a gateway of its own.
async fn sweep(flashgate: &Path, seconds: u32, results: &mut Results) -> Result<(), Failure> {
    let steady = results
        .spread("steady.rate")
        .ok_or("no steady rate was measured")?
        .median;
    let ours = Ours::start(flashgate).await?;
    let mut round = Round::default();
    let mut stage = Stage {
        ours: &ours,
        seconds,
        shed_max: SHED_MAX,
        round: &mut round,
        checks: &mut results.checks,
    };
    for part in SWEEP {
        results.sweep.push(stage.step(steady * part, seconds).await?);
    }
    stage.verify().await?;
    ours.stop().await
}

async fn version(servers: &Servers) -> Result<String, Failure> {
    Ok(sqlx::query_scalar("SHOW server_version")
        .fetch_one(&servers.database)
        .await?)
}

pub(crate) fn say(what: &str) -> io::Result<()> {
    writeln!(io::stderr(), "{} {what}", chrono::Utc::now().format("%H:%M:%S"))
}
