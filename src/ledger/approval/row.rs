//! Approvals as rows: how they are read, locked and decided.

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use crate::domain::balance::Balance;
use crate::domain::id::Item;
use crate::domain::time::Millis;
use crate::ledger::LedgerError;
use crate::ledger::adjust::Adjust;
use crate::ledger::connection::Connection;
use crate::ledger::reason::Reason;
use crate::ledger::sale_row::read_item;

/// A change that waits, or waited, for a second person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// For paging: later ones have higher numbers.
    pub no: i64,
    /// Its id, and that of the adjustment that comes of it.
    pub id: Uuid,
    /// `PENDING`, `APPROVED`, `REJECTED` or `EXPIRED`.
    pub status: String,
    /// What and where.
    pub item: Item,
    /// Units.
    pub delta: i64,
    /// Why.
    pub reason: Reason,
    /// What it refers to outside.
    pub reference: String,
    /// In the words of who asked.
    pub note: Option<String>,
    /// `size` or `safety_stock`.
    pub why: String,
    /// Who asked.
    pub operator: String,
    /// The balance when it was asked.
    pub before: Balance,
    /// The balance as it would have been after it.
    pub after: Balance,
    /// When it was asked.
    pub created_at: Millis,
    /// Until when it waits.
    pub expires_at: Millis,
    /// That is past, and it still says that it is pending.
    pub is_overdue: bool,
    /// Who decided.
    pub decided_by: Option<String>,
    /// In their words.
    pub decision_note: Option<String>,
    /// When, or when it expired.
    pub decided_at: Option<Millis>,
    /// The event of the adjustment that it takes back, if it does that.
    pub undoes: Option<i64>,
    /// The event of what was done, where it was approved.
    pub event_id: Option<i64>,
    pub(super) trace: Option<Uuid>,
}

impl Approval {
    pub(super) fn is_open(&self) -> bool {
        self.status == "PENDING" && !self.is_overdue
    }

    /// The adjustment that was asked for.
    pub(super) fn ask(&self) -> Adjust {
        Adjust {
            item: self.item.clone(),
            delta: self.delta,
            reason: self.reason,
            reference: Some(self.reference.clone()),
            note: self.note.clone(),
            key: None,
        }
    }
}

/// The columns of an [`ApprovalRow`].
macro_rules! columns {
    () => {
        "approval_no, approval_id, status, sku_id, location_id, delta, reason, reference_id, note, why, operator, \
         trace_id, before, after, created_at, expires_at, status = 'PENDING' AND expires_at <= clock_timestamp() AS \
         is_overdue, decided_by, decision_note, decided_at, undoes, \
         (SELECT event_id FROM adjustment WHERE adjustment_id = approval_id) AS event_id"
    };
}
pub(super) use columns;

#[derive(sqlx::FromRow)]
pub(super) struct ApprovalRow {
    approval_no: i64,
    approval_id: Uuid,
    status: String,
    sku_id: String,
    location_id: String,
    delta: i64,
    reason: String,
    reference_id: String,
    note: Option<String>,
    why: String,
    operator: String,
    trace_id: Option<Uuid>,
    before: Json<Balance>,
    after: Json<Balance>,
    created_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    is_overdue: bool,
    decided_by: Option<String>,
    decision_note: Option<String>,
    decided_at: Option<DateTime<Utc>>,
    undoes: Option<i64>,
    event_id: Option<i64>,
}

impl ApprovalRow {
    pub(super) fn read(self) -> Result<Approval, LedgerError> {
        let reason = Reason::parse(&self.reason);
        Ok(Approval {
            no: self.approval_no,
            id: self.approval_id,
            status: self.status,
            item: read_item(&self.sku_id, &self.location_id)?,
            delta: self.delta,
            reason: reason.ok_or_else(|| LedgerError::Broken(format!("an approval for {:?}", self.reason)))?,
            reference: self.reference_id,
            note: self.note,
            why: self.why,
            operator: self.operator,
            before: self.before.0,
            after: self.after.0,
            created_at: self.created_at.into(),
            expires_at: self.expires_at.into(),
            is_overdue: self.is_overdue,
            decided_by: self.decided_by,
            decision_note: self.decision_note,
            decided_at: self.decided_at.map(Millis::from),
            undoes: self.undoes,
            event_id: self.event_id,
            trace: self.trace_id,
        })
    }
}

pub(in crate::ledger) async fn read_approval(tx: &mut Connection, id: Uuid) -> Result<Option<Approval>, LedgerError> {
    let row: Option<ApprovalRow> = sqlx::query_as(concat!(
        "-- approval.read\nSELECT ",
        columns!(),
        " FROM approval WHERE approval_id = $1"
    ))
    .bind(id)
    .fetch_optional(tx)
    .await?;
    row.map(ApprovalRow::read).transpose()
}

/// The undo of this event that waits, if one does; it is not locked.
pub(in crate::ledger) async fn waiting_undo(
    tx: &mut Connection,
    event_id: i64,
) -> Result<Option<Approval>, LedgerError> {
    let row: Option<ApprovalRow> = sqlx::query_as(concat!(
        "-- approval.waiting_undo\nSELECT ",
        columns!(),
        " FROM approval WHERE undoes = $1 AND status = 'PENDING'"
    ))
    .bind(event_id)
    .fetch_optional(tx)
    .await?;
    row.map(ApprovalRow::read).transpose()
}

pub(super) async fn lock_approval(tx: &mut Connection, id: Uuid) -> Result<Option<Approval>, LedgerError> {
    let row: Option<ApprovalRow> = sqlx::query_as(concat!(
        "-- approval.lock\nSELECT ",
        columns!(),
        " FROM approval WHERE approval_id = $1 FOR NO KEY UPDATE"
    ))
    .bind(id)
    .fetch_optional(tx)
    .await?;
    row.map(ApprovalRow::read).transpose()
}

pub(super) async fn decide(
    tx: &mut Connection,
    id: Uuid,
    status: &str,
    person: &str,
    note: Option<&str>,
) -> Result<Approval, LedgerError> {
    let row: ApprovalRow = sqlx::query_as(concat!(
        "-- approval.decide
         UPDATE approval SET status = $2, decided_by = $3, decision_note = $4, decided_at = clock_timestamp()
         WHERE approval_id = $1 RETURNING ",
        columns!()
    ))
    .bind(id)
    .bind(status)
    .bind(person)
    .bind(note)
    .fetch_one(tx)
    .await?;
    row.read()
}

/// Deletes the keys of requests of which nothing came.
pub(super) async fn give_keys_back(tx: &mut Connection, approvals: &[Uuid]) -> Result<(), LedgerError> {
    sqlx::query(
        "-- approval.give_keys_back
         DELETE FROM inventory_key k USING approval a
         WHERE a.approval_id = ANY($1) AND k.key_hash = a.key_hash AND k.subject_id = a.approval_id",
    )
    .bind(approvals)
    .execute(tx)
    .await?;
    Ok(())
}
