//! Repairs of a lane by numbered grants: what the ledger has to say to a lane that is not as the queue makes it.
//!
//! A counter is moved by a delta, a record replaced only if it is still as it was found: nothing is overwritten, so a
//! lane that sells meanwhile loses nothing.

use sqlx::postgres::Postgres;

use crate::domain::grant::Grant;
use crate::domain::id::Item;
use crate::domain::lane::LaneNo;
use crate::ledger::connection::Connection;
use crate::ledger::grants::{NewGrant, add_grants};
use crate::ledger::post::{Deltas, EventType, Movement, Posted, post};
use crate::ledger::{Ledger, LedgerError};

/// Advisory lock of whoever repairs.
const REPAIR: i64 = 0x666c_6173_6867_0010;
/// Advisory lock of whoever compares because it is time to.
const LIVE: i64 = 0x666c_6173_6867_0011;

/// Whoever has it repairs, or compares; two at once would correct the same thing twice. It ends with the connection under
/// it.
#[derive(Debug)]
pub struct RepairLock {
    connection: Connection,
}

impl RepairLock {
    /// Gives the lock back; dropping it does so too, a little later.
    pub async fn release(mut self) {
        // The server ends the session, and with it the lock, however the goodbye fares; but only a little later.
        sqlx::query("-- repair.unlock\n SELECT pg_advisory_unlock_all()")
            .execute(&mut self.connection)
            .await
            .ok();
        self.connection.close().await;
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
        self.lock_apart(REPAIR).await
    }

    /// The lock of whoever compares because it is time to; none where another does.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn live_lock(&self) -> Result<Option<RepairLock>, LedgerError> {
        self.lock_apart(LIVE).await
    }

    async fn lock_apart(&self, what: i64) -> Result<Option<RepairLock>, LedgerError> {
        // Out of the pool, so that the lock can't outlive us in a pooled session.
        let mut connection = self.pool.acquire().await?.detach();
        let got = sqlx::query_scalar::<Postgres, bool>("-- repair.lock\n SELECT pg_try_advisory_lock($1)")
            .bind(what)
            .fetch_one(&mut connection)
            .await?;
        Ok(got.then_some(RepairLock { connection }))
    }

    /// Records that are being replaced: number of the sale, and buyer.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn records_on_the_way(&self) -> Result<Vec<(i32, String)>, LedgerError> {
        Ok(sqlx::query_as(
            "-- repair.records_on_the_way
             SELECT sale_no, buyer FROM lane_grant WHERE kind = 'record' AND buyer IS NOT NULL",
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// Sends repairs on their way, in this order; returns their grants. Each is told by an event.
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
        let sent = send(&mut tx, repairs, operator).await?;
        tx.commit().await?;
        Ok(sent.into_iter().map(|sent| sent.grant_id).collect())
    }
}

/// What became of a repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ledger) struct Sent {
    /// The message on its way.
    pub(in crate::ledger) grant_id: i64,
    /// What tells of it.
    pub(in crate::ledger) event_id: i64,
}

/// Appends the repairs' grants, each with its event, in this order.
pub(in crate::ledger) async fn send(
    tx: &mut Connection,
    repairs: &[Repair],
    operator: &str,
) -> Result<Vec<Sent>, LedgerError> {
    let movements: Vec<Movement> = repairs.iter().map(|repair| repair.movement(operator)).collect();
    let posted = post(tx, &movements).await?;
    let grant = |repair: &Repair| NewGrant {
        lane: repair.lane,
        sale_no: repair.sale_no,
        grant: repair.grant.clone(),
        reservation_id: None,
    };
    let ids = add_grants(tx, &repairs.iter().map(grant).collect::<Vec<_>>()).await?;
    let sent = |(grant_id, posted): (i64, &Posted)| Sent {
        grant_id,
        event_id: posted.event_id,
    };
    Ok(ids.into_iter().zip(&posted).map(sent).collect())
}

impl Repair {
    /// No balance changes, for none was wrong; the event says that a counter, or a buyer's record, does.
    fn movement(&self, operator: &str) -> Movement {
        let (reason, metadata) = match &self.grant {
            Grant::Correct(delta) => ("drift_corrected", serde_json::json!({"counterDelta": delta})),
            Grant::Record { buyer, .. } => ("record_corrected", serde_json::json!({"buyer": buyer})),
            other => (other.kind(), serde_json::Value::Null),
        };
        Movement {
            item: self.item.clone(),
            event: EventType::Adjusted,
            quantity_delta: 0,
            deltas: Deltas::default(),
            reason: Some(reason.to_owned()),
            reference_id: Some(format!("lane {}, sale {}", self.lane, self.sale_id)),
            reservation_id: None,
            order_id: None,
            operator: Some(operator.to_owned()),
            trace_id: None,
            metadata: Some(metadata).filter(|metadata| !metadata.is_null()),
        }
    }
}
