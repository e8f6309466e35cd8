//! Adjustments: stock that comes in, breaks, gets lost or was counted wrong.
//!
//! An adjustment happens once under its key and answers with the balance before and after. It never takes units that
//! are reserved or damaged. What a sale has set aside and nobody holds it takes from the sale, whose allocation shrinks
//! with it in the same transaction; where such units lie in lanes, the caller calls them back first, and where the sale
//! is being stopped, it waits until they are back. Changes that one person may not make alone wait as an approval.

use chrono::TimeDelta;
use sqlx::types::Json;
use uuid::Uuid;

use super::approval::{Approval, Asked, read_approval};
use super::balance::{ensure_balance, location_is_known, lock_balance, sku_is_known};
use super::connection::Connection;
use super::once::{By, Claim, Key, claim};
use super::post::{Movement, apply, post};
pub use super::reason::{Reason, Sign};
use super::retry::retried;
use super::sale::{Locked, lock_sale_of};
use super::sale_patch::{lower, set_allocation};
use super::{Ledger, LedgerError};
use crate::domain::balance::Balance;
use crate::domain::id::{Item, SaleId};
use crate::domain::key::{Fingerprint, KeyHash};

/// An event lies at most this far from its adjustment's row: a transaction takes seconds.
pub(super) const NEAR: TimeDelta = TimeDelta::hours(1);

/// An adjustment as asked for. Its delta has the sign that its reason takes.
#[derive(Clone, Debug)]
pub struct Adjust {
    /// What and where.
    pub item: Item,
    /// Units.
    pub delta: i64,
    /// Why.
    pub reason: Reason,
    /// What it refers to outside; none: a fresh one is made.
    pub reference: Option<String>,
    /// In the operator's words.
    pub note: Option<String>,
    /// The client's key; none: reference, reason and item are the key.
    pub key: Option<KeyHash>,
}

/// An adjustment as it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adjustment {
    /// Its id.
    pub id: Uuid,
    /// Of its event.
    pub event_id: i64,
    /// What it refers to outside.
    pub reference: String,
    /// The balance before it.
    pub before: Balance,
    /// The balance after it.
    pub after: Balance,
}

/// What came of an adjustment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adjusted {
    /// Done now.
    Done(Adjustment),
    /// Done before; this was the answer.
    Replayed(Adjustment),
    /// The key belongs to another adjustment.
    KeyReused,
    /// No such SKU.
    UnknownSku,
    /// No such location.
    UnknownLocation,
    /// Too few units are there that are not reserved or damaged, or that a sale would give back.
    Insufficient(Balance),
    /// Units must come back from a sale's lanes first: [`Ledger::take_back`], then again.
    Short(CallBack),
    /// A sale has set units aside that it needs and gives none at this moment, for it is being stopped: again, soon.
    SetAside,
    /// A second person has to agree.
    Pending {
        /// What waits.
        approval: Box<Approval>,
        /// It was asked before.
        replayed: bool,
    },
}

/// Units that a correction needs back from a sale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallBack {
    /// Whose.
    pub sale: SaleId,
    /// All that the sale may keep, sold ones included.
    pub allocation: i64,
    /// The balance meanwhile.
    pub found: Balance,
}

#[derive(sqlx::FromRow)]
pub(super) struct AdjustmentRow {
    adjustment_id: Uuid,
    event_id: i64,
    reference_id: String,
    before: Json<Balance>,
    after: Json<Balance>,
}

impl Ledger {
    /// Adjusts a balance, once; or leaves it to a second person, where the policy wants one. What a sale has set aside
    /// is taken from the sale, where nothing else is left.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn adjust(&self, ask: &Adjust, by: &By) -> Result<Adjusted, LedgerError> {
        loop {
            match retried!(self, self.adjust_once(ask, by, false))? {
                // The sale is locked before the balance, so it starts over.
                Adjusted::SetAside => return retried!(self, self.adjust_once(ask, by, true)),
                Adjusted::Pending { approval, .. } if approval.is_overdue => {
                    self.expire_approvals().await?;
                }
                adjusted => return Ok(adjusted),
            }
        }
    }

    async fn adjust_once(&self, ask: &Adjust, by: &By, from_sale: bool) -> Result<Adjusted, LedgerError> {
        let id = Uuid::new_v4();
        let mut tx = self.begin().await?;
        let sale = match from_sale {
            true => lock_sale_of(&mut tx, &ask.item).await?,
            false => None,
        };
        if let Some(key) = ask.claimed() {
            match claim(&mut tx, &key, ask.key.is_none(), id).await? {
                Claim::New => {}
                Claim::Reused => return Ok(Adjusted::KeyReused),
                Claim::Replay(first) => return first_answer(&mut tx, first).await,
            }
        }
        if !sku_is_known(&mut tx, &ask.item.sku).await? {
            return Ok(Adjusted::UnknownSku);
        }
        if !location_is_known(&mut tx, &ask.item.location).await? {
            return Ok(Adjusted::UnknownLocation);
        }
        ensure_balance(&mut tx, &ask.item, by).await?;
        let found = lock_balance(&mut tx, &ask.item).await?;
        if ask.missing(&found) > found.escrowed {
            return Ok(Adjusted::Insufficient(found));
        }
        let after = ask.foresee(&found);
        let wants = || self.approval.wants(ask.delta, &after);
        let answer = match ask.reason.is_manual().then(wants).flatten() {
            Some(why) => {
                let asked = Asked {
                    ask,
                    undoes: None,
                    why,
                    before: &found,
                    after: &after,
                };
                Adjusted::Pending {
                    approval: Box::new(self.insert_approval(&mut tx, id, asked, by).await?),
                    replayed: false,
                }
            }
            None => match carry_out(&mut tx, id, ask, found, sale, by, None).await? {
                Ok(adjustment) => Adjusted::Done(adjustment),
                Err(Refused::Insufficient) => return Ok(Adjusted::Insufficient(found)),
                Err(Refused::Short(short)) => return Ok(Adjusted::Short(short)),
                Err(Refused::SetAside) => return Ok(Adjusted::SetAside),
            },
        };
        tx.commit().await?;
        Ok(answer)
    }
}

/// The adjustment of this id, where it was carried out.
pub(super) async fn read_adjustment(tx: &mut Connection, id: Uuid) -> Result<Option<Adjustment>, LedgerError> {
    let row: Option<AdjustmentRow> = sqlx::query_as(
        "-- adjustment.first_answer
         SELECT adjustment_id, event_id, reference_id, before, after FROM adjustment WHERE adjustment_id = $1",
    )
    .bind(id)
    .fetch_optional(tx)
    .await?;
    Ok(row.map(Adjustment::from))
}

async fn first_answer(tx: &mut Connection, id: Uuid) -> Result<Adjusted, LedgerError> {
    if let Some(adjustment) = read_adjustment(tx, id).await? {
        return Ok(Adjusted::Replayed(adjustment));
    }
    match read_approval(tx, id).await? {
        Some(approval) => Ok(Adjusted::Pending {
            approval: Box::new(approval),
            replayed: true,
        }),
        None => Err(LedgerError::Broken(format!(
            "a key names adjustment {id}, which is not there"
        ))),
    }
}

/// Why a correction is not carried out.
pub(super) enum Refused {
    /// Too few units are there, those of sales included.
    Insufficient,
    /// They lie in the sale's lanes.
    Short(CallBack),
    /// The item's sale is not locked, or there is none that gives units.
    SetAside,
}

/// Adjusts the balance that is locked and was found like this; of the item's sale, which is locked too where it may
/// give units, takes what is missing. `metadata` goes with the event.
pub(super) async fn carry_out(
    tx: &mut Connection,
    id: Uuid,
    ask: &Adjust,
    found: Balance,
    sale: Option<Locked>,
    by: &By,
    metadata: Option<serde_json::Value>,
) -> Result<Result<Adjustment, Refused>, LedgerError> {
    if let Some(refused) = take_from_sale(tx, ask.missing(&found), found, sale, by).await? {
        return Ok(Err(refused));
    }
    let reference = ask.reference.clone().unwrap_or_else(|| id.to_string());
    let posted = post(tx, &[ask.movement(&reference, by, metadata)]).await?[0];
    let adjustment = Adjustment {
        id,
        event_id: posted.event_id,
        reference,
        before: posted.before,
        after: posted.after,
    };
    insert(tx, ask, &adjustment, by).await?;
    Ok(Ok(adjustment))
}

/// Has the item's sale, which is locked where it may give units, give those that are missing from the balance that was
/// found like this. Answers with what keeps it from that.
pub(super) async fn take_from_sale(
    tx: &mut Connection,
    missing: i64,
    found: Balance,
    sale: Option<Locked>,
    by: &By,
) -> Result<Option<Refused>, LedgerError> {
    if missing <= 0 {
        return Ok(None);
    }
    if missing > found.escrowed {
        return Ok(Some(Refused::Insufficient));
    }
    let Some(mut kept) = sale else {
        return Ok(Some(Refused::SetAside));
    };
    kept.sale.allocation -= missing;
    if lower(tx, &kept.sale, kept.recalled, missing, by).await?.is_some() {
        return Ok(Some(Refused::Short(CallBack {
            sale: kept.sale.id,
            allocation: kept.sale.allocation,
            found,
        })));
    }
    set_allocation(tx, &kept.sale).await?;
    Ok(None)
}

async fn insert(tx: &mut Connection, ask: &Adjust, adjustment: &Adjustment, by: &By) -> Result<(), LedgerError> {
    sqlx::query(
        "-- adjustment.insert
         INSERT INTO adjustment (adjustment_id, event_id, sku_id, location_id, delta, reason, reference_id, note,
             operator, before, after)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(adjustment.id)
    .bind(adjustment.event_id)
    .bind(ask.item.sku.as_str())
    .bind(ask.item.location.as_str())
    .bind(ask.delta)
    .bind(ask.reason.as_str())
    .bind(&adjustment.reference)
    .bind(&ask.note)
    .bind(by.operator.as_deref().unwrap_or_default())
    .bind(Json(adjustment.before))
    .bind(Json(adjustment.after))
    .execute(tx)
    .await?;
    Ok(())
}

impl Adjust {
    /// Units that it takes beyond those that are free of promises; below 0 where some of those are left.
    pub(super) fn missing(&self, found: &Balance) -> i64 {
        -self.delta - found.unpromised()
    }

    /// The balance after it.
    pub(super) fn foresee(&self, found: &Balance) -> Balance {
        let mut after = *found;
        apply(&mut after, &self.reason.deltas(self.delta));
        after
    }

    /// The client's key, else the derived one; none where nothing could repeat it.
    pub(super) fn claimed(&self) -> Option<Key> {
        let delta = self.delta.to_string();
        let (sku, location) = (self.item.sku.as_str(), self.item.location.as_str());
        let reference = self.reference.as_deref().unwrap_or_default();
        if let Some(hash) = self.key {
            let note = self.note.as_deref().unwrap_or_default();
            return Some(Key {
                hash,
                fingerprint: Fingerprint::of(&[sku, location, &delta, self.reason.as_str(), reference, note]),
            });
        }
        self.reference.as_ref()?;
        // No id holds a line feed, so no two lists of parts read alike.
        let parts = [sku, location, self.reason.as_str(), reference].join("\n");
        Some(Key {
            hash: KeyHash::explicit("adjustment by reference", &parts),
            fingerprint: Fingerprint::of(&[&delta]),
        })
    }

    fn movement(&self, reference: &str, by: &By, metadata: Option<serde_json::Value>) -> Movement {
        Movement {
            item: self.item.clone(),
            event: self.reason.event(),
            quantity_delta: self.delta,
            deltas: self.reason.deltas(self.delta),
            reason: Some(self.reason.as_str().to_owned()),
            reference_id: Some(reference.to_owned()),
            reservation_id: None,
            order_id: None,
            operator: by.operator.clone(),
            trace_id: by.trace.map(|trace| trace.to_uuid()),
            metadata,
        }
    }
}

impl From<AdjustmentRow> for Adjustment {
    fn from(row: AdjustmentRow) -> Self {
        Adjustment {
            id: row.adjustment_id,
            event_id: row.event_id,
            reference: row.reference_id,
            before: row.before.0,
            after: row.after.0,
        }
    }
}
