//! When a transaction is run again: Postgres asked for it, or a day's partition was missing and has been made.

use std::time::Duration;

use super::{Ledger, LedgerError};

/// Most attempts at one transaction. Locks are taken in one order, so the second nearly always succeeds.
const ATTEMPTS_MAX: u32 = 5;
/// Pause before the second attempt; it grows with each.
const PAUSE: Duration = Duration::from_millis(5);

/// The outcome of a transaction, run again while its failure is one that another attempt may cure.
macro_rules! retried {
    ($ledger:expr, $once:expr) => {{
        let mut attempt = 0;
        loop {
            match $once.await {
                Err(error) => {
                    attempt += 1;
                    $ledger.before_retry(error, attempt).await?;
                }
                done => break done,
            }
        }
    }};
}
pub(super) use retried;

impl Ledger {
    /// Returns where attempt `attempt` (from 1) failed with something that another may cure.
    ///
    /// # Errors
    /// The error itself, where trying again is of no use.
    pub(super) async fn before_retry(&self, error: LedgerError, attempt: u32) -> Result<(), LedgerError> {
        if attempt >= ATTEMPTS_MAX {
            return Err(error);
        }
        if error.is_missing_partition() {
            sqlx::query("-- partition.today\nSELECT ensure_day(clock_timestamp())")
                .execute(&self.pool)
                .await?;
        } else if matches!(error, LedgerError::Retry(_)) {
            tokio::time::sleep(PAUSE * attempt).await;
        } else {
            return Err(error);
        }
        Ok(())
    }
}
