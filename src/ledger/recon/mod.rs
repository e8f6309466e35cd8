//! Reconciliation of the ledger with everything else that claims to know: its own events, counts of shelves, sellers'
//! feeds, and what became of orders.
//!
//! Each run leaves a report. What differs is either corrected, by an event that the report names, or shown to a person
//! with the reason. Nothing is overwritten: a balance moves by a difference, under its lock. What Redis holds is compared
//! elsewhere (`worker::drift`); what that finds is written down here, and freezes sales.

mod compare;
mod count;
mod freeze;
mod judge;
mod live;
mod newest;
mod order_state;
mod repair;
mod report;
mod restore;

use uuid::Uuid;

pub use compare::Compare;
pub use count::{Count, Counted};
pub use freeze::Frozen;
pub(super) use freeze::keeps_frozen;
pub use judge::Judged;
pub use live::{LiveFound, OpenFinding};
pub use order_state::{NewsAnswer, OrderNews};
pub use repair::Repaired;
pub use report::{Discrepancy, Filter, OpenReport, Report};
pub(in crate::ledger) use restore::RESTORED;
pub use restore::SIDES;

use super::LedgerError;
use super::once::By;
use crate::domain::reconciliation::ReportKind;
use crate::ledger::connection::Connection;

/// Whom events name where nobody asked.
pub const AUTOMATIC: &str = "AUTO_RECONCILE";

/// What reconciliation may do by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
#[group(skip)]
pub struct Settings {
    /// Largest difference in units of one figure that reconciliation corrects without a person
    #[arg(long, env = "FLASHGATE_CORRECT_UNITS_MAX", value_name = "UNITS", default_value_t = CORRECT_UNITS_MAX,
          value_parser = clap::value_parser!(i64).range(0..=1_000_000_000))]
    pub correct_units_max: i64,

    /// Time between two comparisons of Redis with the ledger, by any gateway
    #[arg(long, env = "FLASHGATE_COMPARE_EVERY_MS", value_name = "MS", default_value_t = COMPARE_EVERY_MS,
          value_parser = clap::value_parser!(u32).range(100..=86_400_000))]
    pub compare_every_ms: u32,

    /// Buyers that one such comparison looks at; the next goes on from there. 50 reservations that are passed to find them
    /// count for one, and a sale in a lane for 100 at least
    #[arg(long, env = "FLASHGATE_COMPARE_RECORDS_MAX", value_name = "COUNT", default_value_t = COMPARE_RECORDS_MAX,
          value_parser = clap::value_parser!(u32).range(1_000..=100_000_000))]
    pub compare_records_max: u32,

    /// Most units by which a sale may drift and be corrected while it sells; beyond that it is frozen
    #[arg(long, env = "FLASHGATE_FREEZE_DRIFT_UNITS", value_name = "UNITS", default_value_t = FREEZE_DRIFT_UNITS,
          value_parser = clap::value_parser!(i64).range(0..=1_000_000_000))]
    pub freeze_drift_units: i64,

    /// The same in thousandths of the allocation; the larger of the two counts
    #[arg(long, env = "FLASHGATE_FREEZE_DRIFT_PERMILLE", value_name = "PERMILLE", default_value_t = FREEZE_DRIFT_PERMILLE,
          value_parser = clap::value_parser!(u16).range(0..=1_000))]
    pub freeze_drift_permille: u16,
}

/// Miscounts are small; what is larger is a pallet, a wrong file or a thief, and somebody should know.
const CORRECT_UNITS_MAX: i64 = 100;
/// A minute of a wrong counter is few units; a comparison at rest costs two statements a lane and a script call for 64 counters.
const COMPARE_EVERY_MS: u32 = 60_000;
/// Some seconds of one connection.
const COMPARE_RECORDS_MAX: u32 = 50_000;
/// A fault that keeps within these has little to lose by being put right while it sells.
const FREEZE_DRIFT_UNITS: i64 = 10;
const FREEZE_DRIFT_PERMILLE: u16 = 1;

impl Default for Settings {
    fn default() -> Self {
        Settings {
            correct_units_max: CORRECT_UNITS_MAX,
            compare_every_ms: COMPARE_EVERY_MS,
            compare_records_max: COMPARE_RECORDS_MAX,
            freeze_drift_units: FREEZE_DRIFT_UNITS,
            freeze_drift_permille: FREEZE_DRIFT_PERMILLE,
        }
    }
}

/// Starts a report of a run that is no count.
async fn open_report(tx: &mut Connection, kind: ReportKind, by: &By) -> Result<Uuid, LedgerError> {
    let id = Uuid::new_v4();
    sqlx::query(
        "-- recon.open_report
         INSERT INTO reconciliation_report (report_id, kind, operator, trace_id) VALUES ($1, $2, $3, $4)",
    )
    .bind(id)
    .bind(kind.as_str())
    .bind(by.operator.as_deref().unwrap_or(AUTOMATIC))
    .bind(by.trace.map(|trace| trace.to_uuid()))
    .execute(tx)
    .await?;
    Ok(id)
}

/// Ends a report.
async fn close_report(tx: &mut Connection, report: Uuid, compared: i64) -> Result<(), LedgerError> {
    sqlx::query(
        "-- recon.close_report
         UPDATE reconciliation_report SET compared = $2, ended_at = clock_timestamp() WHERE report_id = $1",
    )
    .bind(report)
    .bind(compared)
    .execute(tx)
    .await?;
    Ok(())
}
