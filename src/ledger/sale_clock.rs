//! The sales' clock: starts the sales whose start has come, and stops those whose end has.
//!
//! Each sale is a transaction of its own, and so is its failure: the others start and stop on time. How a sale changes
//! its state is [`super::sale_life`]'s business.

use chrono::{DateTime, Utc};

use super::once::By;
use super::sale::{Acted, LockedRow, locked_columns};
use super::sale_life::enter;
use super::sale_row::sale_columns;
use super::{Ledger, LedgerError, OfOneSale};
use crate::domain::sale::SaleState;
use crate::domain::time::Millis;

/// Most sales that one run starts and stops; the next run takes the rest.
const DUE_MAX: i64 = 100;

/// What the clock did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DueRun {
    /// Sales that started or stopped.
    pub acted: Vec<Acted>,
    /// When the next is due; those that failed now are not counted, they are tried again by every run.
    pub next: Option<Millis>,
}

/// Asked several times a second: `NOT drained` follows from the states, and lets the index of the few sales that are not
/// over answer.
pub const DUE: &str = "-- sale.due
    SELECT sale_no FROM sale
    WHERE NOT drained AND (state = 'scheduled' AND starts_at <= clock_timestamp()
        OR state IN ('draft', 'scheduled', 'live', 'paused') AND ends_at <= clock_timestamp())
    ORDER BY sale_no LIMIT $1";

/// As often; `$1` are sales left out.
pub const NEXT_DUE: &str = "-- sale.next_due
    SELECT min(least(CASE WHEN state = 'scheduled' THEN starts_at END, ends_at)) FROM sale
    WHERE NOT drained AND state IN ('draft', 'scheduled', 'live', 'paused') AND sale_no <> ALL($1)";

impl Ledger {
    /// Starts the sales whose start has come and stops those whose end has; a frozen one waits for an operator. What
    /// another gateway is at is left to it.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn due_sales(&self) -> Result<DueRun, LedgerError> {
        let due: Vec<i32> = sqlx::query_scalar(DUE).bind(DUE_MAX).fetch_all(&self.pool).await?;
        let (mut run, mut failed) = (DueRun::default(), Vec::new());
        for sale_no in due {
            match self.act_by_clock(sale_no).await.of_one_sale(sale_no, "start or stop")? {
                Some(acted) => run.acted.extend(acted),
                None => failed.push(sale_no),
            }
        }
        let next: Option<DateTime<Utc>> = sqlx::query_scalar(NEXT_DUE).bind(&failed).fetch_one(&self.pool).await?;
        run.next = next.map(Millis::from);
        Ok(run)
    }

    async fn act_by_clock(&self, sale_no: i32) -> Result<Option<Acted>, LedgerError> {
        let mut tx = self.begin_in_haste().await?;
        let row: Option<DueRow> = sqlx::query_as(concat!(
            "-- sale.lock_due: looked at again under the lock, for an operator may have been first
             SELECT ",
            locked_columns!(),
            ", coalesce(s.ends_at <= clock_timestamp(), false) AS is_over FROM sale s
             WHERE sale_no = $1 AND (state = 'scheduled' AND starts_at <= clock_timestamp()
                 OR state IN ('draft', 'scheduled', 'live', 'paused') AND ends_at <= clock_timestamp())
             FOR NO KEY UPDATE SKIP LOCKED"
        ))
        .bind(sale_no)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else {
            return Ok(None);
        };
        let mut kept = row.kept.read()?;
        let to = if row.is_over { SaleState::Ended } else { SaleState::Live };
        let grants = enter(&mut tx, &mut kept, to, &By::default()).await?;
        tx.commit().await?;
        Ok(Some(Acted {
            sale: kept.sale,
            grants,
            replayed: false,
        }))
    }
}

#[derive(sqlx::FromRow)]
struct DueRow {
    #[sqlx(flatten)]
    kept: LockedRow,
    is_over: bool,
}
