//! Reconciliation: lists what differs between Redis and the ledger, and, where asked to, corrects Redis.
//!
//! Corrections go the way of every other change, as numbered grants that a gateway delivers: deltas of counters, and
//! records that are replaced only if they still are as they were found. So it may run while gateways sell. The ledger is
//! never corrected: it is what Redis is measured by, and what is wrong with itself `verify` tells.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::verify::{Finding, Halves, VerifyError, compare_halves, exit_code, write_lines};
use crate::domain::difference::{Difference, Kind};
use crate::domain::grant::Grant;
use crate::domain::reservation_id::ReservationId;
use crate::flash::Flash;
use crate::ledger::Ledger;
use crate::ledger::audit::repair::Repair;
use crate::ledger::once::By;
use crate::ledger::recon::OpenFinding;
use crate::metric;

/// How long repairs may take to be in force and durable: a gateway does it in tens of ms, a takeover in seconds.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(25);
/// A record may change between look and repair, and is then repaired anew; nobody's changes so often.
const ROUNDS_MAX: usize = 4;

/// What was found and done.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RepairReport {
    /// What differed.
    pub drift: Vec<Difference>,
    /// What was sent to lanes, in words.
    pub repaired: Vec<String>,
    /// What differs still; without a repair, all.
    pub left: Vec<Difference>,
    /// What could not be compared.
    pub undecided: Vec<String>,
    /// What an operator should know beside.
    pub notes: Vec<String>,
}

impl RepairReport {
    /// 0: nothing differs any more; 1: something does; 2: nothing does where it could be found out.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        exit_code(&self.left, &self.undecided)
    }
}

impl fmt::Display for RepairReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for difference in &self.drift {
            writeln!(f, "drift: {difference} [{}]", difference.kind.as_str())?;
        }
        write_lines(f, "repaired: ", &self.repaired)?;
        write_lines(f, "note: ", &self.notes)?;
        write_lines(f, "undecided: ", &self.undecided)?;
        if !self.repaired.is_empty() {
            for difference in &self.left {
                writeln!(f, "left: {difference} [{}]", difference.kind.as_str())?;
            }
        }
        match self.exit_code() {
            0 if self.drift.is_empty() => f.write_str("no drift"),
            0 => write!(f, "{} differences were repaired", self.drift.len()),
            1 => write!(f, "{} differences, {} left", self.drift.len(), self.left.len()),
            _ => f.write_str("no drift was found, but not everything could be compared"),
        }
    }
}

/// Compares Redis with the ledger, and with `repair` corrects what can be corrected, in `operator`'s name.
///
/// # Errors
/// It could not be found out, or another repair is running.
pub async fn reconcile(
    ledger: &Ledger,
    flash: &Flash,
    repair: bool,
    operator: &str,
) -> Result<RepairReport, VerifyError> {
    if !ledger.is_migrated().await? {
        return Err(VerifyError::NotMigrated);
    }
    if !repair {
        let halves = compare_halves(ledger, flash).await?;
        count(&halves.findings);
        let mut report = RepairReport {
            drift: differences(&halves.findings),
            ..RepairReport::default()
        };
        report.end(halves);
        return Ok(report);
    }
    let lock = ledger.repair_lock().await?.ok_or(VerifyError::RepairRunning)?;
    let report = repair_all(ledger, flash, operator).await;
    lock.release().await;
    report
}

async fn repair_all(ledger: &Ledger, flash: &Flash, operator: &str) -> Result<RepairReport, VerifyError> {
    let mut report = RepairReport::default();
    for round in 0..ROUNDS_MAX {
        let halves = compare_halves(ledger, flash).await?;
        if round == 0 {
            count(&halves.findings);
            report.drift = differences(&halves.findings);
        }
        let repairs = remedies(ledger, &halves.findings, &mut report.notes).await?;
        let sent = if repairs.is_empty() {
            Vec::new()
        } else {
            ledger.send_repairs(&repairs, operator).await?
        };
        for (repair, grant_id) in repairs.iter().zip(&sent) {
            tracing::warn!(operator, grant_id, repair = say(repair), "Redis is corrected");
            report.repaired.push(format!("{} (grant {grant_id})", say(repair)));
            flash.nudge_grants(repair.lane);
        }
        let in_force = wait(ledger, &sent, &mut report.notes).await?;
        if sent.is_empty() || !in_force {
            report.end(halves);
            if sent.is_empty() {
                settle(ledger, &mut report, operator).await?;
            }
            return Ok(report);
        }
    }
    let halves = compare_halves(ledger, flash).await?;
    report.end(halves);
    settle(ledger, &mut report, operator).await?;
    Ok(report)
}

/// A person has compared everything: what waited and is not found any more is settled.
async fn settle(ledger: &Ledger, report: &mut RepairReport, operator: &str) -> Result<(), VerifyError> {
    let mut left = ledger.audit_live().await?;
    left.extend(report.left.iter().cloned());
    let (gone, open): (Vec<OpenFinding>, Vec<OpenFinding>) = ledger
        .open_findings()
        .await?
        .into_iter()
        .partition(|open| report.undecided.is_empty() && !left.iter().any(|difference| open.is_of(difference)));
    let by = By {
        operator: Some(operator.to_owned()),
        trace: None,
    };
    ledger.settle_findings(&gone, &by).await?;
    if !gone.is_empty() {
        report
            .notes
            .push(format!("{} findings that waited are settled", gone.len()));
    }
    if open.is_empty() {
        for (sale, cause) in ledger.frozen_for().await? {
            let cause = cause.as_str();
            report
                .notes
                .push(format!("sale {sale} froze by itself ({cause}) and may be unfrozen"));
        }
    }
    Ok(())
}

impl RepairReport {
    fn end(&mut self, halves: Halves) {
        self.left = differences(&halves.findings);
        self.undecided = halves.undecided;
        self.notes.extend(halves.notes);
    }
}

fn differences(findings: &[Finding]) -> Vec<Difference> {
    findings.iter().map(|finding| finding.difference.clone()).collect()
}

fn count(findings: &[Finding]) {
    for finding in findings {
        metrics::counter!(metric::RECONCILIATION_MISMATCHES, "kind" => finding.difference.kind.as_str()).increment(1);
    }
}

/// What to send, once each. A record whose reservation the ledger lacks, although events tell of it, is left alone: there
/// the ledger is wrong.
pub(super) async fn remedies(
    ledger: &Ledger,
    findings: &[Finding],
    notes: &mut Vec<String>,
) -> Result<Vec<Repair>, VerifyError> {
    let unknown: Vec<ReservationId> = findings
        .iter()
        .filter(|finding| finding.difference.kind == Kind::RecordUnknown)
        .filter_map(|finding| finding.difference.site.reservation_id)
        .collect();
    let lost = ledger.told_and_missing(&unknown).await?;
    let mut repairs: Vec<Repair> = Vec::new();
    for finding in findings {
        let Some(repair) = &finding.remedy else { continue };
        let of_buyer = |id: &ReservationId| {
            findings
                .iter()
                .any(|f| f.remedy.as_ref() == Some(repair) && f.difference.site.reservation_id == Some(*id))
        };
        if let Some(id) = lost.iter().find(|id| of_buyer(id)) {
            let note = format!(
                "not repaired, for events tell of reservation {id}, which the ledger lacks: {}",
                say(repair)
            );
            if !notes.contains(&note) {
                notes.push(note);
            }
        } else if !repairs.contains(repair) {
            repairs.push(repair.clone());
        }
    }
    Ok(repairs)
}

fn say(repair: &Repair) -> String {
    let (sale, lane) = (&repair.sale_id, repair.lane);
    match &repair.grant {
        Grant::Correct(delta) => format!("the counter of sale {sale} in lane {lane} is moved by {delta:+}"),
        Grant::Record { buyer, .. } => {
            format!("the record of buyer {buyer} of sale {sale} in lane {lane} is written as the ledger has it")
        }
        other => format!("a {} grant for sale {sale} in lane {lane}", other.kind()),
    }
}

/// Waits until the grants are in force and that is durable; says whether they are, and if not, on whom it depends.
async fn wait(ledger: &Ledger, sent: &[i64], notes: &mut Vec<String>) -> Result<bool, VerifyError> {
    let until = Instant::now() + IN_FORCE_WITHIN;
    loop {
        let left = ledger.grants_left(sent).await?;
        if left.is_empty() {
            return Ok(true);
        }
        if Instant::now() >= until {
            let mut lanes: Vec<_> = left.iter().map(|grant| grant.lane).collect();
            lanes.sort_unstable();
            lanes.dedup();
            for lane in lanes {
                let waits = match ledger.lane(lane).await?.owner_name {
                    Some(owner) => format!("{owner}, which owns the lane, has not delivered it yet"),
                    None => "no gateway owns the lane: start one, and it is delivered".to_owned(),
                };
                notes.push(format!("the repair of lane {lane} is not in force: {waits}"));
            }
            return Ok(false);
        }
        tokio::time::sleep(POLL).await;
    }
}
