//! Approvals: adjustments that one person may not make alone.
//!
//! What was asked stands here with the balance before and after, until a second person approves or rejects it or its
//! time is over. Approving carries the adjustment out, once, in the transaction that marks it; so it is judged by the
//! balance of that moment, and its event names both people. Who asked can't approve. What is rejected or expires gives
//! its key back: it may be asked anew. An undo is an adjustment like any other.

mod row;

use serde_json::{Value, json};
use sqlx::types::Json;
use uuid::Uuid;

pub use self::row::Approval;
use self::row::{ApprovalRow, columns, decide, give_keys_back, lock_approval};
pub(super) use self::row::{read_approval, waiting_undo};
use super::adjust::{Adjust, Adjustment, CallBack, Refused, carry_out, read_adjustment};
use super::balance::lock_balance;
use super::once::{By, Resolution};
use super::retry::retried;
use super::sale::lock_sale_of;
use super::undo::{Undone, take_back};
use super::{Ledger, LedgerError};
use crate::domain::balance::Balance;
use crate::domain::time::Millis;
use crate::domain::trace::TraceId;
use crate::ledger::connection::Connection;

/// Which adjustments wait for a second person, undos among them. Those for `stock_received` and `return_processed` never
/// do: a delivery or a customer speaks for them. What a count says is corrected without a person up to the smaller of
/// this size and that of reconciliation; what is larger than this takes another person than who counted.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
#[group(skip)]
pub struct Settings {
    /// Most units that one person may adjust by hand; more wait for a second person
    #[arg(long, env = "FLASHGATE_APPROVAL_UNITS_MAX", value_name = "COUNT", default_value_t = 1_000,
          value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub approval_units_max: u32,

    /// Whether a manual change that leaves less than the safety stock waits for a second person
    #[arg(long, env = "FLASHGATE_APPROVAL_SAFETY_STOCK", value_name = "BOOL", default_value_t = true,
          action = clap::ArgAction::Set)]
    pub approval_safety_stock: bool,

    /// How long a change waits for a second person; keys outlive it
    #[arg(long, env = "FLASHGATE_APPROVAL_TTL_SECONDS", value_name = "SECONDS", default_value_t = 86_400,
          value_parser = clap::value_parser!(u32).range(1..=172_800))]
    pub approval_ttl_seconds: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            approval_units_max: 1_000,
            approval_safety_stock: true,
            approval_ttl_seconds: 86_400,
        }
    }
}

impl Settings {
    /// The rule that wants a second person for a change by hand of so many units that leaves this, if one does.
    pub(super) fn wants(&self, delta: i64, after: &Balance) -> Option<&'static str> {
        if self.is_large(delta) {
            return Some("size");
        }
        let is_short = after.on_hand - after.reserved - after.unavailable < after.safety_stock;
        (self.approval_safety_stock && delta < 0 && is_short).then_some("safety_stock")
    }

    /// Whether it takes two, whatever it leaves.
    pub(super) fn is_large(&self, delta: i64) -> bool {
        delta.abs() > i64::from(self.approval_units_max)
    }
}

/// What is to wait for a second person.
pub(super) struct Asked<'a> {
    /// The adjustment.
    pub(super) ask: &'a Adjust,
    /// The event that it takes back, if it does that.
    pub(super) undoes: Option<i64>,
    /// The rule that wants it.
    pub(super) why: &'a str,
    /// The balance.
    pub(super) before: &'a Balance,
    /// The balance after it.
    pub(super) after: &'a Balance,
}

/// What came of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decided {
    /// The key was sent with another request.
    KeyReused,
    /// It is rejected.
    Rejected {
        /// What was rejected.
        approval: Approval,
        /// It was rejected before.
        replayed: bool,
    },
    /// It is approved, and the adjustment carried out.
    Approved {
        /// What was approved.
        approval: Approval,
        /// What was done.
        adjustment: Adjustment,
        /// It was approved before.
        replayed: bool,
    },
    /// No such approval.
    Unknown,
    /// Who asked can't approve.
    SamePerson,
    /// It was rejected, approved or expired before.
    Closed(Approval),
    /// By now too few units are there; it goes on waiting.
    Insufficient(Approval, Balance),
    /// Units must come back from a sale's lanes first: [`Ledger::take_back`], then again.
    Short(Approval, CallBack),
    /// It would take back an adjustment that a count of this moment has put right since; it goes on waiting.
    Counted(Approval, Millis),
    /// A sale has set units aside that it needs and gives none at this moment, for it is being stopped: again, soon.
    SetAside,
}

impl Ledger {
    /// Approvals, newest first: of this status, if one is given, and older than `before`.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn approvals(
        &self,
        status: Option<&str>,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<Approval>, LedgerError> {
        self.expire_approvals().await?;
        let rows: Vec<ApprovalRow> = sqlx::query_as(concat!(
            "-- approval.list\nSELECT ",
            columns!(),
            " FROM approval WHERE ($1::text IS NULL OR status = $1) AND approval_no < $2
              ORDER BY approval_no DESC LIMIT $3"
        ))
        .bind(status)
        .bind(before.unwrap_or(i64::MAX))
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(ApprovalRow::read).collect()
    }

    /// Carries out what was asked, as a second person.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn approve(&self, id: Uuid, by: Resolution<'_>) -> Result<Decided, LedgerError> {
        self.expire_approvals().await?;
        match retried!(self, self.approve_once(id, by, false))? {
            // The sale is locked before the balance, so it starts over.
            Decided::SetAside => retried!(self, self.approve_once(id, by, true)),
            decided => Ok(decided),
        }
    }

    async fn approve_once(
        &self,
        id: Uuid,
        resolution: Resolution<'_>,
        from_sale: bool,
    ) -> Result<Decided, LedgerError> {
        let Resolution { person, note, .. } = resolution;
        let mut tx = self.begin().await?;
        if !resolution.claim(&mut tx).await? {
            return Ok(Decided::KeyReused);
        }
        let Some(approval) = lock_approval(&mut tx, id).await? else {
            return Ok(Decided::Unknown);
        };
        if approval.operator == person {
            return Ok(Decided::SamePerson);
        }
        if approval.status == "APPROVED"
            && let Some(adjustment) = read_adjustment(&mut tx, id).await?
        {
            return Ok(Decided::Approved {
                approval,
                adjustment,
                replayed: true,
            });
        }
        if !approval.is_open() {
            return Ok(Decided::Closed(approval));
        }
        let ask = approval.ask();
        let by = By {
            operator: Some(approval.operator.clone()),
            trace: approval.trace.map(TraceId::from_uuid),
        };
        let agreed = agreed(id, person, note);
        let sale = match from_sale {
            true => lock_sale_of(&mut tx, &ask.item).await?,
            false => None,
        };
        let adjustment = if let Some(event_id) = approval.undoes {
            match take_back(&mut tx, id, event_id, sale, approval.note.as_deref(), &by, agreed).await? {
                Undone::Done(adjustment) => adjustment,
                Undone::Insufficient { found, .. } => return Ok(Decided::Insufficient(approval, found)),
                Undone::Short { short, .. } => return Ok(Decided::Short(approval, short)),
                Undone::SetAside(_) => return Ok(Decided::SetAside),
                Undone::Counted(counted_at) => return Ok(Decided::Counted(approval, counted_at)),
                other => return Err(LedgerError::Broken(format!("undo {id} waited, and comes to {other:?}"))),
            }
        } else {
            let found = lock_balance(&mut tx, &ask.item).await?;
            match carry_out(&mut tx, id, &ask, found, sale, &by, Some(agreed)).await? {
                Ok(adjustment) => adjustment,
                Err(Refused::Insufficient) => return Ok(Decided::Insufficient(approval, found)),
                Err(Refused::Short(short)) => return Ok(Decided::Short(approval, short)),
                Err(Refused::SetAside) => return Ok(Decided::SetAside),
            }
        };
        let approval = decide(&mut tx, id, "APPROVED", person, note).await?;
        tx.commit().await?;
        Ok(Decided::Approved {
            approval,
            adjustment,
            replayed: false,
        })
    }

    /// Rejects what was asked. Who asked may do so too, to take it back.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn reject(&self, id: Uuid, by: Resolution<'_>) -> Result<Decided, LedgerError> {
        self.expire_approvals().await?;
        let mut tx = self.begin().await?;
        if !by.claim(&mut tx).await? {
            return Ok(Decided::KeyReused);
        }
        let Some(approval) = lock_approval(&mut tx, id).await? else {
            return Ok(Decided::Unknown);
        };
        if approval.status == "REJECTED" {
            return Ok(Decided::Rejected {
                approval,
                replayed: true,
            });
        }
        if !approval.is_open() {
            return Ok(Decided::Closed(approval));
        }
        let approval = decide(&mut tx, id, "REJECTED", by.person, by.note).await?;
        give_keys_back(&mut tx, &[id]).await?;
        tx.commit().await?;
        Ok(Decided::Rejected {
            approval,
            replayed: false,
        })
    }

    /// Ends what has waited too long; returns how many.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn expire_approvals(&self) -> Result<usize, LedgerError> {
        let mut tx = self.begin().await?;
        let expired: Vec<Uuid> = sqlx::query_scalar(
            "-- approval.expire: who is deciding at this moment comes first
             UPDATE approval SET status = 'EXPIRED', decided_at = clock_timestamp() WHERE approval_no = ANY (ARRAY(
                 SELECT approval_no FROM approval WHERE status = 'PENDING' AND expires_at <= clock_timestamp()
                 ORDER BY approval_no FOR NO KEY UPDATE))
             RETURNING approval_id",
        )
        .fetch_all(&mut *tx)
        .await?;
        if !expired.is_empty() {
            give_keys_back(&mut tx, &expired).await?;
            tx.commit().await?;
        }
        Ok(expired.len())
    }

    pub(super) async fn insert_approval(
        &self,
        tx: &mut Connection,
        id: Uuid,
        asked: Asked<'_>,
        by: &By,
    ) -> Result<Approval, LedgerError> {
        let ask = asked.ask;
        let row: ApprovalRow = sqlx::query_as(concat!(
            "-- approval.insert
             INSERT INTO approval (approval_id, sku_id, location_id, delta, reason, reference_id, note, why, operator,
                 trace_id, key_hash, before, after, expires_at, undoes)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, clock_timestamp() + $14 * interval '1 s',
                 $15)
             RETURNING ",
            columns!()
        ))
        .bind(id)
        .bind(ask.item.sku.as_str())
        .bind(ask.item.location.as_str())
        .bind(ask.delta)
        .bind(ask.reason.as_str())
        .bind(ask.reference.clone().unwrap_or_else(|| id.to_string()))
        .bind(&ask.note)
        .bind(asked.why)
        .bind(by.operator.as_deref().unwrap_or_default())
        .bind(by.trace.map(|trace| trace.to_uuid()))
        .bind(ask.claimed().map(|key| key.hash.to_uuid()))
        .bind(Json(asked.before))
        .bind(Json(asked.after))
        .bind(i64::from(self.approval.approval_ttl_seconds))
        .bind(asked.undoes)
        .fetch_one(tx)
        .await?;
        row.read()
    }
}

/// What the event of an approved change says beside its operator, who asked for it.
fn agreed(id: Uuid, person: &str, note: Option<&str>) -> Value {
    let mut agreed = json!({"approvalId": id.to_string(), "approvedBy": person});
    if let Some(note) = note {
        agreed["decisionNote"] = json!(note);
    }
    agreed
}
