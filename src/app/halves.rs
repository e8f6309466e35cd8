//! `verify` and `reconcile`: the two commands that compare, and what `reconcile` does about a report.
//!
//! Exit 0: all agrees; 1: something differs; 2: it could not be found out, or not be told.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;
use uuid::Uuid;

use super::{AppError, report};
use crate::config::{self, Halves};
use crate::dev;
use crate::flash::Flash;
use crate::ledger::{self, Ledger, LedgerError, approval};
use crate::worker;
use crate::worker::verify::VerifyError;

/// It could not be found out.
const UNKNOWN: u8 = 2;

pub(super) async fn verify(command: config::Verify) -> ExitCode {
    let compared = async {
        let (ledger, flash) = open(&command.halves, approval::Settings::default()).await?;
        Ok(worker::verify::verify(&ledger, &flash).await?)
    };
    tell(compared.await, command.halves.json, worker::verify::Report::exit_code)
}

pub(super) async fn reconcile(command: config::Reconcile) -> ExitCode {
    if let Some(id) = command.report {
        let shown = async {
            let approval = approval::Settings {
                approval_units_max: command.approval_units_max,
                ..approval::Settings::default()
            };
            let (ledger, flash) = open(&command.halves, approval).await?;
            report::run(&ledger, &flash, id, &command).await
        };
        return tell(shown.await, command.halves.json, report::Shown::exit_code);
    }
    let compared = async {
        let (ledger, flash) = open(&command.halves, approval::Settings::default()).await?;
        let mut drift = worker::reconcile::reconcile(&ledger, &flash, command.repair, &command.operator).await?;
        drift.notes.extend(report::waiting(&ledger).await?);
        Ok(drift)
    };
    tell(
        compared.await,
        command.halves.json,
        worker::reconcile::RepairReport::exit_code,
    )
}

#[derive(Debug, thiserror::Error)]
pub(super) enum HalvesError {
    #[error(transparent)]
    App(#[from] AppError),
    #[error(transparent)]
    Verify(#[from] VerifyError),
    #[error("could not find out: {0}")]
    Ledger(#[from] LedgerError),
    #[error("there is no report {0}")]
    NoReport(Uuid),
    #[error("no `flashgate dev` runs on {0}: name --redis-url and --database-url, or --data")]
    NoDev(String),
}

fn tell<R: Display + Serialize>(compared: Result<R, HalvesError>, json: bool, code: impl FnOnce(&R) -> u8) -> ExitCode {
    let report = match compared {
        Ok(report) => report,
        Err(error) => {
            tracing::error!("it could not be found out: {error}");
            return ExitCode::from(UNKNOWN);
        }
    };
    if let Err(error) = print(&mut io::stdout(), &report, json) {
        // 1 would tell of differences that nobody can read of, and 0 of a report that nobody has.
        tracing::error!("what was found out could not be written: {error}");
        return ExitCode::from(UNKNOWN);
    }
    ExitCode::from(code(&report))
}

fn print(out: &mut impl Write, report: &(impl Display + Serialize), json: bool) -> io::Result<()> {
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(report)?)?;
    } else {
        writeln!(out, "{report}")?;
    }
    out.flush()
}

async fn open(halves: &Halves, approval: approval::Settings) -> Result<(Ledger, Flash), HalvesError> {
    let (redis_url, database_url) = match (&halves.redis_url, &halves.database_url) {
        (Some(redis), Some(database)) => (redis.clone(), database.clone()),
        _ => dev::addresses(&halves.data).ok_or_else(|| HalvesError::NoDev(halves.data.display().to_string()))?,
    };
    let settings = ledger::Settings {
        approval,
        ..ledger::Settings::new(&database_url)
    };
    let ledger = Ledger::new(&settings).map_err(AppError::from)?;
    let flash = worker::verify::flash_beside(&ledger, &redis_url).await?;
    Ok((ledger, flash))
}
