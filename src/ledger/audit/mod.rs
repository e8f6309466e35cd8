//! The audit of the ledger: recomputes all that is stored twice, and names what disagrees. It changes nothing.
//!
//! Each comparison is one statement, so of one snapshot, and exact while gateways sell. All of them together are not: a
//! snapshot keeps every version of a row that came after it, and those of a hot balance are walked past by each who
//! changes it next. What Redis holds is compared elsewhere, with the views of a lane and of its buyers that `foothold` and
//! `buyers` read, each of one snapshot too. [`repair`] alone writes: the grants that correct a lane.

mod account;
mod balances;
mod buyers;
mod carts;
mod foothold;
mod keys;
mod lanes;
mod live;
mod movements;
mod named;
pub mod repair;
mod reservations;
mod sales;
mod snapshot;

use std::time::Duration;

use super::{Ledger, LedgerError, Transaction};
use crate::domain::difference::Difference;
use crate::ledger::connection::Connection;

pub use buyers::{BuyerRow, BuyersStep, BuyersView};
pub use foothold::{BucketView, Foothold, LaneView, PendingCorrection};

/// Most differences of one kind that are named: who has more has one fault, many times.
const NAMED_MAX: usize = 1_000;

/// Millions of events are summed up and sorted: that takes longer than any other statement may.
const STATEMENT_MAX: Duration = Duration::from_secs(600);

/// What the audit found.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// What was compared.
    pub compared: AuditCount,
    /// What disagrees.
    pub differences: Vec<Difference>,
    /// What an operator should know beside.
    pub notes: Vec<String>,
}

/// How much was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct AuditCount {
    /// SKUs at locations.
    pub balances: i64,
    /// Events.
    pub events: i64,
    /// Reservations, of both tiers.
    pub reservations: i64,
    /// Sales.
    pub sales: i64,
}

impl Ledger {
    /// Compares the ledger with itself.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn audit(&self) -> Result<Audit, LedgerError> {
        let mut tx = self.reading("READ COMMITTED").await?;
        at_length(&mut tx).await?;
        let mut audit = Audit {
            compared: count(&mut tx).await?,
            ..Audit::default()
        };
        balances::check(&mut tx, &mut audit).await?;
        movements::check(&mut tx, &mut audit).await?;
        named::check(&mut tx, &mut audit).await?;
        reservations::check(&mut tx, &mut audit).await?;
        carts::check(&mut tx, &mut audit).await?;
        sales::check(&mut tx, &mut audit).await?;
        keys::check(&mut tx, &mut audit).await?;
        lanes::check(&mut tx, &mut audit).await?;
        snapshot::check(&mut tx, &mut audit).await?;
        tx.rollback().await?;
        Ok(audit)
    }

    /// One view of everything, read only.
    async fn snapshot(&self) -> Result<Transaction, LedgerError> {
        self.reading("REPEATABLE READ").await
    }

    /// The same, for statements that look up single rows: a plan that was made while a table was empty stays, and grants
    /// come by the million.
    async fn snapshot_of_few(&self) -> Result<Transaction, LedgerError> {
        let mut tx = self.snapshot().await?;
        sqlx::query("-- audit.few\nSET LOCAL enable_seqscan = off")
            .execute(&mut *tx)
            .await?;
        Ok(tx)
    }

    /// Both tiers are locked first: a day that moves between them is in one of them. Compiling a statement costs more than
    /// a page of buyers.
    async fn reading(&self, isolation: &str) -> Result<Transaction, LedgerError> {
        let mut tx = self.begin().await?;
        let set = format!(
            "SET TRANSACTION ISOLATION LEVEL {isolation}, READ ONLY;
             SET LOCAL jit = off;
             LOCK TABLE inventory_reservation, inventory_reservation_cold IN ACCESS SHARE MODE"
        );
        sqlx::raw_sql(&set).execute(&mut *tx).await?;
        Ok(tx)
    }
}

impl Audit {
    /// Takes differences of one kind, at most as many as are named.
    fn take(&mut self, mut found: Vec<Difference>) {
        if found.len() > NAMED_MAX {
            found.truncate(NAMED_MAX);
            if let Some(first) = found.first() {
                self.notes.push(format!(
                    "there are more than {NAMED_MAX} differences like this one, which are not named: {first}"
                ));
            }
        }
        self.differences.extend(found);
    }
}

/// One more than is named, to know whether there are more.
fn rows_max() -> i64 {
    i64::try_from(NAMED_MAX + 1).expect("a small number")
}

async fn count(tx: &mut Connection) -> Result<AuditCount, LedgerError> {
    Ok(sqlx::query_as(
        "-- audit.count
         SELECT (SELECT count(*) FROM inventory_balance) AS balances, (SELECT count(*) FROM inventory_movement) AS events,
             (SELECT count(*) FROM inventory_reservation) + (SELECT count(*) FROM inventory_reservation_cold)
                 AS reservations,
             (SELECT count(*) FROM sale) AS sales",
    )
    .fetch_one(tx)
    .await?)
}

/// Lets statements take as long as they need.
async fn at_length(tx: &mut Connection) -> Result<(), LedgerError> {
    tx.allow(STATEMENT_MAX).await?;
    // A merge on disk is slower than memory that is given back in seconds.
    sqlx::query("-- audit.memory\n SET LOCAL work_mem = '64MB'")
        .execute(tx)
        .await?;
    Ok(())
}
