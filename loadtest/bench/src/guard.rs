//! The guard: a short run, whose ratios to the no-op handler are compared with those that the repository keeps, so that
//! no change makes the gateway a third slower without anybody noticing.
//!
//! It never looks at a time: a busy or a slow machine slows the no-op handler down as well, which is measured right
//! before and right after whatever is held against it. Beside each ratio of rates stands one of CPU time, which moves
//! less with noise, and also shows what a machine with idle cores hides; where others are busy it alone counts. A ratio
//! that is too low is measured once more, with more rounds, before the run fails.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use chrono::SecondsFormat;
use serde_json::json;

use crate::contenders;
use crate::figures::{Round, Spread};
use crate::gateway::Stage;
use crate::machine::busy_share;
use crate::ours::Ours;
use crate::ratios::{
    CPU, Compared, GUARDED, OTHERS_MAX, REFERENCE, Reference, SAVE, compare, ratios, read, still_dropped,
};
use crate::results::Results;
use crate::rival::{Mode, Servers};
use crate::settings::Settings;
use crate::wrk::Outcome;
use crate::{Failure, say};

/// How often what is too little is measured again, where others are busy then.
const REPEATS_MAX: u32 = 2;
/// How long the no-op handler is measured in between.
const NO_OP_SECONDS: u32 = 1;

/// Measures, and compares or saves. Whether all checks held and no ratio dropped.
///
/// # Errors
/// It could not run, or the reference is not of these figures.
pub(crate) async fn guard(
    settings: &Settings,
    flashgate: &Path,
    baselines: &Path,
    results: &mut Results,
) -> Result<bool, Failure> {
    let path = Path::new(REFERENCE);
    let reference = if settings.save { None } else { Some(read(path)?) };
    measure(settings.rounds(), settings.seconds(), flashgate, baselines, results).await?;
    let Some(reference) = reference else {
        return save(path, settings, results);
    };
    let mut dropped = judge(&reference, results)?;
    dropped.retain(|figure| figure.dropped() && figure.counts(others(results)));
    for _ in 0..REPEATS_MAX {
        if dropped.is_empty() || !results.checks.failed.is_empty() {
            break;
        }
        // The other servers of a shared machine may have had their moment.
        say("that is too little: once more, with more rounds")?;
        results.rounds.clear();
        results.others.clear();
        let rounds = settings.rounds() * 2 - 1;
        measure(rounds, settings.seconds(), flashgate, baselines, results).await?;
        let again = judge(&reference, results)?;
        let busy = others(results);
        dropped = still_dropped(dropped, &again, busy);
        if dropped.iter().all(|figure| figure.counts(busy)) {
            break;
        }
    }
    let mut out = io::stdout().lock();
    for failed in &results.checks.failed {
        writeln!(out, "FAILED: {failed}")?;
    }
    for figure in &dropped {
        writeln!(
            out,
            "FAILED: {}: {:.3} of the no-op handler's, {:.3} in {REFERENCE}: {:.0} % less, and a third is too much",
            figure.name,
            figure.measured.median,
            figure.reference,
            (1.0 - figure.share()) * 100.0
        )?;
    }
    if !dropped.is_empty() {
        writeln!(out, "what is meant to cost that much is written down by {SAVE}")?;
    }
    writeln!(
        out,
        "{} checks, {} failed",
        results.checks.done,
        results.checks.failed.len()
    )?;
    Ok(results.checks.failed.is_empty() && dropped.is_empty())
}

/// So many rounds.
async fn measure(
    rounds: u32,
    seconds: u32,
    flashgate: &Path,
    baselines: &Path,
    results: &mut Results,
) -> Result<(), Failure> {
    for number in 1..=rounds {
        results.others.push(tokio::task::spawn_blocking(busy_share).await?);
        say(&format!("round {number} of {rounds}"))?;
        let mut measured = Round::default();
        let servers = Servers::start(baselines).await?;
        let ours = Ours::start(flashgate).await?;
        let mut stage = Stage {
            ours: &ours,
            seconds,
            shed_max: 1.0,
            round: &mut measured,
            checks: &mut results.checks,
        };
        round(&mut stage, &servers).await?;
        ours.stop().await?;
        servers.stop().await;
        results.rounds.push(measured);
    }
    Ok(())
}

/// All of them in turn, each between two of the no-op handler, so that a moment of noise meets both.
async fn round(stage: &mut Stage<'_>, servers: &Servers) -> Result<(), Failure> {
    let no_op = servers.rival(Mode::NoOp).await?;
    let mut before = contenders::no_op(&no_op, NO_OP_SECONDS, stage.checks).await?;
    let mut sold = None;
    for who in GUARDED {
        match (who, &sold) {
            ("accepted", _) => sold = Some(stage.accepted().await?),
            ("read", Some(sale)) => stage.read(sale).await?,
            ("durable.512", _) => stage.durable(512).await?,
            ("sold-out", _) => stage.sold_out().await?,
            _ => return Err(format!("nothing measures {who}").into()),
        }
        let after = contenders::no_op(&no_op, NO_OP_SECONDS, stage.checks).await?;
        let us = |outcome: &Outcome| outcome.each_us(outcome.cpu.gateway);
        stage
            .round
            .put(format!("{who}.no_op_rate"), f64::midpoint(before.rate, after.rate));
        stage
            .round
            .put(format!("{who}.no_op_us"), f64::midpoint(us(&before), us(&after)));
        before = after;
    }
    no_op.stop().await?;
    stage.verify().await
}

/// Prints every ratio beside its reference; none where that is of another kind of machine.
fn judge(reference: &Reference, results: &Results) -> Result<Vec<Compared>, Failure> {
    let compared = compare(&reference.medians, &ratios(&results.rounds))?;
    let others = others(results);
    let mut out = io::stdout().lock();
    writeln!(out)?;
    writeln!(
        out,
        "{:<28}{:>11}{:>10}{:>9}  spread",
        "÷ no-op, median of rounds", "reference", "measured", "of it"
    )?;
    for figure in &compared {
        let mark = match (figure.dropped(), figure.counts(others)) {
            (true, true) => "  DROPPED",
            (true, false) => "  (does not count)",
            _ => "",
        };
        writeln!(out, "{figure}{mark}")?;
    }
    if others > OTHERS_MAX {
        let percent = others * 100.0;
        writeln!(out, "others used {percent:.0} % of this machine: only {CPU} counts")?;
    }
    if reference.cores != results.machine.cores {
        let (theirs, ours) = (reference.cores, results.machine.cores);
        writeln!(
            out,
            "{REFERENCE} is of a machine with {theirs} cores, this one has {ours}: nothing is judged; {SAVE} writes one of this"
        )?;
        return Ok(Vec::new());
    }
    writeln!(out)?;
    Ok(compared)
}

/// The share of the machine that others used.
fn others(results: &Results) -> f64 {
    Spread::of(results.others.clone()).map_or(0.0, |others| others.median)
}

/// Only what has proved itself becomes a reference.
fn save(path: &Path, settings: &Settings, results: &Results) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    for failed in &results.checks.failed {
        writeln!(out, "FAILED: {failed}")?;
    }
    if !results.checks.failed.is_empty() {
        return Ok(false);
    }
    let ratios = ratios(&results.rounds);
    for (name, spread) in &ratios {
        writeln!(
            out,
            "{name:<28}{:>11.3}  {:.3} to {:.3}",
            spread.median, spread.min, spread.max
        )?;
    }
    let kept = json!({
        "began": results.began.to_rfc3339_opts(SecondsFormat::Secs, true),
        "commit": results.commit,
        "machine": results.machine,
        "othersBusy": results.others,
        "settings": { "rounds": settings.rounds(), "seconds": settings.seconds() },
        "ratios": ratios,
    });
    fs::write(path, serde_json::to_string_pretty(&kept)? + "\n")?;
    let others = others(results);
    if others > OTHERS_MAX {
        let percent = others * 100.0;
        writeln!(
            out,
            "others used {percent:.0} % of this machine: save it again when it is quiet"
        )?;
    }
    writeln!(out, "saved {REFERENCE}")?;
    Ok(true)
}
