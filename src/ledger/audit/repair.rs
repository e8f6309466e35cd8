//! Repairs of a lane by numbered grants: what the ledger has to say to a lane that is not as the queue makes it.
//!
//! A counter is moved by a delta, a record replaced only if it is still as it was found: nothing is overwritten, so a
//! lane that sells meanwhile loses nothing.

use sqlx::postgres::Postgres;
use sqlx::{Connection, PgConnection};

use crate::domain::grant::Grant;
use crate::domain::id::Item;
use crate::domain::lane::LaneNo;
use crate::ledger::grants::{NewGrant, add_grants};
use crate::ledger::post::{Deltas, EventType, Movement, post};
use crate::ledger::{Ledger, LedgerError};

/// Advisory lock of whoever repairs.
const REPAIR: i64 = 0x666c_6173_6867_0010;

/// Whoever has it repairs; two at once would correct the same thing twice. It ends with the connection under it.
#[derive(Debug)]
pub struct RepairLock {
    connection: PgConnection,
}

impl RepairLock {
    /// Gives the lock back; dropping it does so too, a little later.
    pub async fn release(self) {
        // The server ends the session, and with it the lock, however the goodbye fares.
        self.connection.close().await.ok();
    }
}

/// One thing to repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// In which lane.
    pub lane: LaneNo,
    /// Of which sale.
    pub sale_no: i32,
    /// The sale's name.
    pub sale_id: String,
    /// What it sells.
    pub item: Item,
    /// The message: a `Correct` or a `Record`.
    pub grant: Grant,
}

impl Ledger {
    /// The lock of whoever repairs; none where another has it.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn repair_lock(&self) -> Result<Option<RepairLock>, LedgerError> {
        // Out of the pool, so that the lock can't outlive us in a pooled session.
        let mut connection = self.pool.acquire().await?.detach();
        let got = sqlx::query_scalar::<Postgres, bool>("-- repair.lock\n SELECT pg_try_advisory_lock($1)")
            .bind(REPAIR)
            .fetch_one(&mut connection)
            .await?;
        Ok(got.then_some(RepairLock { connection }))
    }

    /// Sends repairs on their way, in this order; returns their grants. Each correction of a counter is told by an event.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn send_repairs(&self, repairs: &[Repair], operator: &str) -> Result<Vec<i64>, LedgerError> {
        let mut attempt = 0;
        loop {
            match self.try_send(repairs, operator).await {
                Err(error) => {
                    attempt += 1;
                    self.before_retry(error, attempt).await?;
                }
                sent => return sent,
            }
        }
    }

    async fn try_send(&self, repairs: &[Repair], operator: &str) -> Result<Vec<i64>, LedgerError> {
        let mut tx = self.begin().await?;
        let corrections = repairs
            .iter()
            .filter(|repair| matches!(repair.grant, Grant::Correct(_)));
        let movements: Vec<Movement> = corrections.map(|repair| repair.movement(operator)).collect();
        post(&mut tx, &movements).await?;
        let grant = |repair: &Repair| NewGrant {
            lane: repair.lane,
            sale_no: repair.sale_no,
            grant: repair.grant.clone(),
            reservation_id: None,
        };
        let ids = add_grants(&mut tx, &repairs.iter().map(grant).collect::<Vec<_>>()).await?;
        tx.commit().await?;
        Ok(ids)
    }
}

impl Repair {
    /// No balance changes, for none was wrong; the event says that a counter does.
    fn movement(&self, operator: &str) -> Movement {
        Movement {
            item: self.item.clone(),
            event: EventType::Adjusted,
            quantity_delta: 0,
            deltas: Deltas::default(),
            reason: Some("drift_corrected".into()),
            reference_id: Some(format!("lane {}, sale {}", self.lane, self.sale_id)),
            reservation_id: None,
            order_id: None,
            operator: Some(operator.to_owned()),
            trace_id: None,
            metadata: None,
        }
    }
}
