//! The drill: load against a stack of its own, faults, and a judge who compares what clients saw with what the ledger
//! has.
//!
//! It stands on top of everything, beside `app`, and changes nothing of the product: what it finds, it finds from
//! outside. A round is: sales that are new, clients, a fault, its end, the time until all is well again, rest, and then
//! the comparison of everything with everything. Safety is judged over the whole of it, liveness after the fault.
//!
//! A seed decides the order of the faults, their moments and what clients choose. What the machine decides, such as who
//! of two comes first, stays chance.

pub mod check;
pub mod fault;
mod gateway;
mod heal;
pub mod history;
mod load;
mod mount;
mod report;
mod round;
mod shop;
mod stack;
mod web;
pub mod wire;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tokio_util::sync::CancellationToken;

use self::fault::Fault;
use self::history::HistoryError;
use self::report::Report;
use self::round::Session;
use crate::dev::DevError;
use crate::domain::id::IdError;
use crate::ledger::LedgerError;
use crate::worker::verify::VerifyError;

/// Something is not as it must be.
const FAILED: u8 = 1;
/// It could not be found out.
const UNKNOWN: u8 = 2;

/// What to drill.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which faults.
    pub faults: Vec<Fault>,
    /// How often each at least.
    pub rounds: u32,
    /// What decides whatever can be decided.
    pub seed: u64,
    /// As many rounds more as fit into this time.
    pub budget: Option<Duration>,
    /// Less load, and less of it before and after the fault.
    pub short: bool,
    /// Where everything is kept; without one, in a temporary directory that only a failure leaves behind.
    pub dir: Option<PathBuf>,
}

/// Why a drill could not go on.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// The stack does not do what it must for a drill to be one.
    #[error("{0}")]
    Stack(String),
    /// A server does not come up.
    #[error(transparent)]
    Dev(#[from] DevError),
    /// Files, processes, ports.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Postgres can't be asked.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The halves can't be compared.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// Clients can't be made.
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    /// What clients saw can't be read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// A name that is none.
    #[error(transparent)]
    Id(#[from] IdError),
}

/// Says which faults there are.
///
/// # Errors
/// The output can't be written.
pub fn list() -> io::Result<ExitCode> {
    let mut out = io::stdout();
    for fault in Fault::ALL {
        writeln!(out, "{:<24}{}", fault.as_str(), fault.what())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Drills until done, or until `stop`. Exit 0: everything held; 1: something did not; 2: it could not be found out.
///
/// # Errors
/// The output can't be written.
pub async fn run(settings: Settings, stop: CancellationToken) -> io::Result<ExitCode> {
    let dir = settings.dir.clone().unwrap_or_else(|| {
        let name = format!("flashgate-drill-{}-{:08x}", std::process::id(), rand::random::<u32>());
        std::env::temp_dir().join(name)
    });
    let mut report = Report::default();
    let since = Instant::now();
    let done = tokio::select! {
        done = drill(&settings, &dir, &mut report) => done,
        () = stop.cancelled() => {
            report.note("it was stopped before its end".to_owned());
            Ok(())
        }
    };
    let code = match (&done, report.has_failed()) {
        (_, true) => FAILED,
        (Err(_), false) => UNKNOWN,
        (Ok(()), false) => 0,
    };
    if let Err(error) = done {
        report.note(format!("it could not go on: {error}"));
    }
    if code == 0 && settings.dir.is_none() {
        std::fs::remove_dir_all(&dir).ok();
    } else {
        report.note(format!("what is left of it lies in {}", dir.display()));
    }
    let mut out = io::stdout();
    writeln!(out, "\n{report}")?;
    writeln!(out, "seed {}, {} s", settings.seed, since.elapsed().as_secs())?;
    out.flush()?;
    Ok(ExitCode::from(code))
}

/// All faults in turn, again and again.
async fn drill(settings: &Settings, dir: &Path, report: &mut Report) -> Result<(), DrillError> {
    std::fs::create_dir_all(dir)?;
    let since = Instant::now();
    let mut faults = Vec::new();
    for fault in &settings.faults {
        match fault.is_possible(dir) {
            Ok(()) => faults.push(*fault),
            Err(why) => report.note(format!("{} is left out: {why}", fault.as_str())),
        }
    }
    let mut session: Option<Session> = None;
    let mut number = 0;
    for pass in 0.. {
        let mut turn = faults.clone();
        turn.shuffle(&mut StdRng::seed_from_u64(settings.seed.wrapping_add(pass)));
        // The other stack that these need is made once.
        turn.sort_by_key(|fault| fault.needs_small_disk());
        for fault in turn {
            let is_over = settings.budget.is_none_or(|budget| since.elapsed() > budget);
            if pass >= u64::from(settings.rounds) && is_over {
                return Ok(());
            }
            number += 1;
            let seed = settings.seed.wrapping_mul(1_000_003).wrapping_add(number);
            let mut on = match session.take() {
                Some(session) if session.suits(fault) => session,
                old => {
                    if let Some(old) = old {
                        old.end();
                    }
                    let dir = dir.join(format!("stack-{number}"));
                    Session::start(&dir, seed, fault.needs_small_disk(), settings.dir.is_some()).await?
                }
            };
            let round = u32::try_from(number).unwrap_or(u32::MAX);
            let told = on.round(fault, round, seed, settings.short).await;
            let is_well = report.add(fault, round, told)?;
            if is_well {
                session = Some(on);
            }
        }
        if faults.is_empty() {
            return Err(DrillError::Stack("there is nothing to drill".to_owned()));
        }
        // Histories and tables grow; a stack of its own keeps each turn as long as the first.
        if let Some(old) = session.take() {
            old.end();
        }
    }
    Ok(())
}
