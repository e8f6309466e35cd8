//! `reconcile --report`: look at what a reconciliation of the ledger found, then repair or close what waits in it.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use super::halves::HalvesError;
use crate::config;
use crate::domain::reconciliation::ReportKind;
use crate::domain::trace::TraceId;
use crate::flash::Flash;
use crate::ledger::once::By;
use crate::ledger::recon::{Discrepancy, Repaired, Report};
use crate::ledger::{Ledger, LedgerError};
use crate::recall::{Recall, Recalled};
use crate::worker::reconcile::reconcile;

/// Most reports that are named.
const NAMED_MAX: i64 = 20;
/// Longest wait for units that a repair takes from a sale.
const RECALL_MAX: Duration = Duration::from_secs(10);
/// What waits for a person.
const WAITS: &str = "manual_review";

/// A report, and what was done about it just now.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    #[serde(flatten)]
    report: Report,
    /// In words.
    done: Vec<String>,
}

impl Shown {
    /// 0: nothing waits for a person; 1: something does.
    pub(super) fn exit_code(&self) -> u8 {
        u8::from(self.report.waiting > 0)
    }
}

/// Reports in which something waits for a person, as notes.
pub(super) async fn waiting(ledger: &Ledger) -> Result<Vec<String>, LedgerError> {
    let reports = ledger.open_reports(NAMED_MAX).await?;
    let note = |open: crate::ledger::recon::OpenReport| {
        let (id, kind, waiting) = (open.report_id, open.kind, open.waiting);
        format!(
            "{waiting} differences of the {kind} report {id} wait for a person: `flashgate reconcile --report {id}`"
        )
    };
    Ok(reports.into_iter().map(note).collect())
}

/// Shows a report, after what the command asks for.
pub(super) async fn run(
    ledger: &Ledger,
    flash: &Flash,
    id: Uuid,
    command: &config::Reconcile,
) -> Result<Shown, HalvesError> {
    let report = ledger.report(id).await?.ok_or(HalvesError::NoReport(id))?;
    let by = By {
        operator: Some(command.operator.clone()),
        trace: Some(TraceId(*Uuid::new_v4().as_bytes())),
    };
    let mut done = Vec::new();
    let is_live = report.kind == ReportKind::Live;
    if is_live && command.repair && report.waiting > 0 {
        let repaired = reconcile(ledger, flash, true, &command.operator).await?;
        done.extend(repaired.repaired.into_iter().chain(repaired.notes));
        done.extend(repaired.left.iter().map(|left| format!("left: {left}")));
        return again(ledger, id, done).await;
    }
    for found in report.discrepancies.iter().filter(|found| found.status == WAITS) {
        if let Some(note) = &command.close {
            ledger.close_discrepancy(found.id, note, &by).await?;
            done.push(format!("{}: closed", place(found)));
        } else if command.repair {
            let repaired = repair(ledger, flash, &report, found, &by).await?;
            if let Repaired::Corrected { tickets, .. } = &repaired {
                tickets.iter().for_each(|ticket| flash.nudge_grants(ticket.lane));
            }
            tracing::warn!(operator = command.operator, report = %id, of = place(found), ?repaired, "a repair by hand");
            done.push(format!("{}: {}", place(found), say(&repaired)));
        }
    }
    again(ledger, id, done).await
}

/// Repairs, once what it takes from a sale has come back.
async fn repair(
    ledger: &Ledger,
    flash: &Flash,
    report: &Report,
    found: &Discrepancy,
    by: &By,
) -> Result<Repaired, LedgerError> {
    let mut recall = Recall::within(RECALL_MAX);
    loop {
        let short = match ledger.repair(report, found, by).await? {
            Repaired::Short(short) => short,
            repaired => return Ok(repaired),
        };
        match recall.take_back(ledger, flash, &short.sale, short.allocation).await? {
            Recalled::Back => {}
            Recalled::Held(held) => {
                return Ok(Repaired::Left(format!(
                    "sale {} could not give the units; its buyers hold {held}",
                    short.sale
                )));
            }
            Recalled::Late => return Ok(Repaired::Short(short)),
        }
    }
}

/// The report as it is after what was done.
async fn again(ledger: &Ledger, id: Uuid, done: Vec<String>) -> Result<Shown, HalvesError> {
    let report = ledger.report(id).await?.ok_or(HalvesError::NoReport(id))?;
    Ok(Shown { report, done })
}

fn say(repaired: &Repaired) -> String {
    match repaired {
        Repaired::Corrected {
            event_id: Some(event_id),
            ..
        } => format!("corrected by event {event_id}"),
        Repaired::Corrected { event_id: None, .. } => "corrected".to_owned(),
        Repaired::Superseded => "a newer count is in the balance, or the order has become something else".to_owned(),
        Repaired::Short(short) => format!("left: sale {} gave no units in time: again, soon", short.sale),
        Repaired::Left(why) => format!("left: {why}"),
    }
}

/// What a difference is about.
fn place(found: &Discrepancy) -> String {
    let item = found.sku.as_ref().zip(found.location.as_ref());
    let parts = [
        item.map(|(sku, location)| format!("{sku} at {location}")),
        found.order.as_ref().map(|order| format!("order {order}")),
        found.reservation.map(|id| format!("reservation {id}")),
        found.sale_id.as_ref().map(|sale| format!("sale {sale}")),
        found.lane.map(|lane| format!("lane {lane}")),
        found.buyer.as_ref().map(|buyer| format!("buyer {buyer}")),
        found.figure.clone(),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = &self.report;
        write!(f, "report {} ({})", report.id, report.kind.as_str())?;
        if let (Some(count), Some(location)) = (&report.count_id, &report.location) {
            write!(f, ", count {count} at {location}")?;
        }
        match report.ended_at {
            Some(at) => writeln!(f, ", by {}, ended {at}", report.operator)?,
            None => writeln!(f, ", by {}, not ended", report.operator)?,
        }
        for found in &report.discrepancies {
            write!(
                f,
                "{}: {}: expected {}, found {}; {}",
                found.status,
                place(found),
                found.expected,
                found.found,
                found.cause
            )?;
            if let Some(review) = found.review.as_ref().filter(|_| found.status == WAITS) {
                write!(f, ", {review}")?;
            }
            if let Some(grant) = found.grant_id {
                write!(f, ", grant {grant}")?;
            }
            if let Some(event) = found.event_id {
                write!(f, ", event {event}")?;
            }
            writeln!(f)?;
        }
        for line in &self.done {
            writeln!(f, "done: {line}")?;
        }
        write!(
            f,
            "compared {}, {} different, {} wait for a person",
            report.compared, report.different, report.waiting
        )
    }
}
