//! The ledger's own reconciliation, on a schedule: balances with their events once a day, order states as they come.

use std::time::Duration;

use super::{Context, repeat};
use crate::ledger::LedgerError;
use crate::ledger::once::By;
use crate::ledger::recon::{Compare, Report};
use crate::metric;

/// Between two looks at whether something is due.
const EVERY: Duration = Duration::from_secs(30);
/// How long an order's state is left alone: the shop's own commit or release, with its payment or reason, comes first.
const SETTLED_MS: i64 = 60_000;

/// Reconciles until stopped.
pub(crate) async fn run(context: Context) {
    repeat(&context, "reconciliation", EVERY, async || {
        run_once(&context, SETTLED_MS).await.map(|_| false)
    })
    .await;
}

/// Does what is due, with order states that were told at least `settled_ms` ago; returns the reports. Several processes
/// share the work.
///
/// # Errors
/// Postgres can't be asked.
pub async fn run_once(context: &Context, settled_ms: i64) -> Result<Vec<Report>, LedgerError> {
    let by = By::default();
    let mut reports: Vec<Report> = context
        .ledger
        .compare_balances(Compare::Daily, &by)
        .await?
        .into_iter()
        .collect();
    let judged = context.ledger.judge_orders(settled_ms, false, &by).await?;
    for ticket in &judged.tickets {
        context.flash.nudge_grants(ticket.lane);
    }
    reports.extend(judged.report);
    for report in &reports {
        let (kind, different) = (report.kind.as_str(), u64::try_from(report.different).unwrap_or(0));
        metrics::counter!(metric::RECONCILIATION_MISMATCHES, "kind" => kind).increment(different);
        if report.waiting > 0 {
            tracing::error!(
                report = %report.id, kind, report.compared, report.different, report.waiting,
                "differences wait for a person: `flashgate reconcile --report` shows them"
            );
        } else {
            tracing::info!(report = %report.id, kind, report.compared, report.different, "reconciled");
        }
    }
    let waiting = u32::try_from(context.ledger.waiting().await?).unwrap_or(u32::MAX);
    metrics::gauge!(metric::RECONCILIATION_WAITING).set(f64::from(waiting));
    Ok(reports)
}
