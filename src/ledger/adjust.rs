//! Adjustments: stock that comes in, breaks, gets lost or was counted wrong.
//!
//! An adjustment happens once under its key and answers with the balance before and after. It never takes units that
//! a reservation, damage or a sale has promised away.

use sqlx::types::Json;
use uuid::Uuid;

use super::balance::{ensure_balance, location_is_known, lock_balance, sku_is_known};
use super::once::{By, Claim, Key, claim};
use super::post::{Deltas, EventType, Movement, post};
use super::retry::retried;
use super::{Ledger, LedgerError};
use crate::domain::balance::Balance;
use crate::domain::id::Item;
use crate::domain::key::{Fingerprint, KeyHash};

/// Why stock is adjusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Units came in.
    StockReceived,
    /// Someone knows better.
    ManualCorrection,
    /// Units are there, but can't be sold any more.
    Damaged,
    /// Units are gone.
    Lost,
    /// A customer sent units back, and they can be sold.
    ReturnProcessed,
    /// Counting found more or fewer.
    CycleCountCorrection,
    /// The supplier had sent more or fewer than said.
    SupplierShipmentCorrection,
}

/// Which deltas a reason takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// Above 0.
    Positive,
    /// Below 0.
    Negative,
    /// Anything but 0.
    Either,
}

impl Reason {
    /// The word in requests, rows and events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::StockReceived => "stock_received",
            Reason::ManualCorrection => "manual_correction",
            Reason::Damaged => "damaged",
            Reason::Lost => "lost",
            Reason::ReturnProcessed => "return_processed",
            Reason::CycleCountCorrection => "cycle_count_correction",
            Reason::SupplierShipmentCorrection => "supplier_shipment_correction",
        }
    }

    /// Which deltas it takes.
    #[must_use]
    pub fn sign(self) -> Sign {
        match self {
            Reason::StockReceived | Reason::ReturnProcessed => Sign::Positive,
            Reason::Damaged | Reason::Lost => Sign::Negative,
            Reason::ManualCorrection | Reason::CycleCountCorrection | Reason::SupplierShipmentCorrection => {
                Sign::Either
            }
        }
    }

    fn event(self) -> EventType {
        match self {
            Reason::StockReceived => EventType::Received,
            Reason::Damaged => EventType::Damaged,
            Reason::ReturnProcessed => EventType::Returned,
            Reason::Lost
            | Reason::ManualCorrection
            | Reason::CycleCountCorrection
            | Reason::SupplierShipmentCorrection => EventType::Adjusted,
        }
    }

    /// What `delta` units do to the balance: damage moves units from sellable to unavailable, all else moves on_hand.
    fn deltas(self, delta: i64) -> Deltas {
        match self {
            Reason::Damaged => Deltas {
                unavailable: -delta,
                damaged: -delta,
                ..Deltas::default()
            },
            Reason::ReturnProcessed => Deltas {
                on_hand: delta,
                returned: delta,
                ..Deltas::default()
            },
            _ => Deltas {
                on_hand: delta,
                ..Deltas::default()
            },
        }
    }
}

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
    /// Too few units are free of promises.
    Insufficient(Balance),
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
    /// Adjusts a balance, once.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn adjust(&self, ask: &Adjust, by: &By) -> Result<Adjusted, LedgerError> {
        retried!(self, self.adjust_once(ask, by))
    }

    async fn adjust_once(&self, ask: &Adjust, by: &By) -> Result<Adjusted, LedgerError> {
        let id = Uuid::new_v4();
        let mut tx = self.begin().await?;
        if let Some(key) = ask.key() {
            match claim(&mut tx, &key, ask.key.is_none(), id).await? {
                Claim::New => {}
                Claim::Reused => return Ok(Adjusted::KeyReused),
                Claim::Replay(first) => {
                    let row: AdjustmentRow = sqlx::query_as(
                        "-- adjustment.first_answer
                         SELECT adjustment_id, event_id, reference_id, before, after FROM adjustment
                         WHERE adjustment_id = $1",
                    )
                    .bind(first)
                    .fetch_one(&mut *tx)
                    .await?;
                    return Ok(Adjusted::Replayed(row.into()));
                }
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
        if -ask.delta > found.unpromised() {
            return Ok(Adjusted::Insufficient(found));
        }
        let reference = ask.reference.clone().unwrap_or_else(|| id.to_string());
        let posted = post(&mut tx, &[ask.movement(&reference, by)]).await?[0];
        let adjustment = Adjustment {
            id,
            event_id: posted.event_id,
            reference,
            before: posted.before,
            after: posted.after,
        };
        sqlx::query(
            "-- adjustment.insert
             INSERT INTO adjustment (adjustment_id, event_id, sku_id, location_id, delta, reason, reference_id, note,
                 operator, before, after)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(id)
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
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Adjusted::Done(adjustment))
    }
}

impl Adjust {
    /// The client's key, else the derived one; none where nothing could repeat it.
    fn key(&self) -> Option<Key> {
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

    fn movement(&self, reference: &str, by: &By) -> Movement {
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
            metadata: None,
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
