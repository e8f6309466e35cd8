//! Undo: an adjustment that takes a wrong one back, by an event of its own that names the other.
//!
//! Nothing is taken out of the ledger. An adjustment is undone once, and asking again gives the first answer. An undo
//! takes no units that a reservation, damage or a sale has been promised meanwhile, and is not undone itself: adjust.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::adjust::{Adjustment, AdjustmentRow, Reason};
use super::balance::lock_balance;
use super::once::By;
use super::post::{Deltas, EventType, Movement, post};
use super::retry::retried;
use super::sale_row::read_item;
use super::{Ledger, LedgerError};
use crate::domain::balance::Balance;

/// An event lies at most this far from its adjustment's row: a transaction takes seconds.
const NEAR: TimeDelta = TimeDelta::hours(1);

/// What came of an undo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undone {
    /// Done now.
    Done(Adjustment),
    /// Done before; this was the answer.
    Replayed(Adjustment),
    /// No such event.
    UnknownEvent,
    /// It is no adjustment, or an undo.
    NotUndoable,
    /// Units that it brought are promised by now, or gone.
    Insufficient {
        /// Units that it would take.
        wanted: i64,
        /// What is there.
        found: Balance,
    },
}

#[derive(sqlx::FromRow)]
struct Wrong {
    sku_id: String,
    location_id: String,
    delta: i64,
    reference_id: String,
    created_at: DateTime<Utc>,
    is_undo: bool,
}

#[derive(sqlx::FromRow)]
struct EventDeltas {
    on_hand_delta: i64,
    reserved_delta: i64,
    unavailable_delta: i64,
    escrowed_delta: i64,
    sold_delta: i64,
    damaged_delta: i64,
    returned_delta: i64,
}

impl Ledger {
    /// Takes back the adjustment of this event, once.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn undo(&self, event_id: i64, note: Option<&str>, by: &By) -> Result<Undone, LedgerError> {
        retried!(self, self.undo_once(event_id, note, by))
    }

    async fn undo_once(&self, event_id: i64, note: Option<&str>, by: &By) -> Result<Undone, LedgerError> {
        let mut tx = self.begin().await?;
        let Some(wrong) = lock_adjustment(&mut tx, event_id).await? else {
            return Ok(if event_is_known(&mut tx, event_id).await? {
                Undone::NotUndoable
            } else {
                Undone::UnknownEvent
            });
        };
        if wrong.is_undo {
            return Ok(Undone::NotUndoable);
        }
        if let Some(first) = first_undo(&mut tx, event_id).await? {
            return Ok(Undone::Replayed(first));
        }
        let item = read_item(&wrong.sku_id, &wrong.location_id)?;
        let deltas = read_deltas(&mut tx, event_id, wrong.created_at).await?.reversed();
        let found = lock_balance(&mut tx, &item).await?;
        if !fits(&found, &deltas) {
            let wanted = wrong.delta.abs();
            return Ok(Undone::Insufficient { wanted, found });
        }
        let movement = Movement {
            item,
            event: EventType::Adjusted,
            quantity_delta: -wrong.delta,
            deltas,
            reason: Some(Reason::ManualCorrection.as_str().to_owned()),
            reference_id: Some(wrong.reference_id.clone()),
            reservation_id: None,
            order_id: None,
            operator: by.operator.clone(),
            trace_id: by.trace.map(|trace| trace.to_uuid()),
            metadata: Some(note.map_or_else(
                || json!({"undoes": event_id}),
                |note| json!({"undoes": event_id, "note": note}),
            )),
        };
        let posted = post(&mut tx, &[movement]).await?[0];
        let undo = Adjustment {
            id: Uuid::new_v4(),
            event_id: posted.event_id,
            reference: wrong.reference_id.clone(),
            before: posted.before,
            after: posted.after,
        };
        insert(&mut tx, &undo, &wrong, event_id, note, by).await?;
        tx.commit().await?;
        Ok(Undone::Done(undo))
    }
}

/// The adjustment of an event; two undos of it wait for each other here.
async fn lock_adjustment(tx: &mut PgConnection, event_id: i64) -> Result<Option<Wrong>, LedgerError> {
    Ok(sqlx::query_as(
        "-- undo.lock
         SELECT sku_id, location_id, delta, reference_id, created_at, undoes IS NOT NULL AS is_undo
         FROM adjustment WHERE event_id = $1 FOR NO KEY UPDATE",
    )
    .bind(event_id)
    .fetch_optional(tx)
    .await?)
}

async fn event_is_known(tx: &mut PgConnection, event_id: i64) -> Result<bool, LedgerError> {
    Ok(
        sqlx::query_scalar("-- undo.event\nSELECT EXISTS (SELECT 1 FROM inventory_event WHERE event_id = $1)")
            .bind(event_id)
            .fetch_one(tx)
            .await?,
    )
}

async fn first_undo(tx: &mut PgConnection, event_id: i64) -> Result<Option<Adjustment>, LedgerError> {
    let row: Option<AdjustmentRow> = sqlx::query_as(
        "-- undo.first_answer
         SELECT adjustment_id, event_id, reference_id, before, after FROM adjustment WHERE undoes = $1",
    )
    .bind(event_id)
    .fetch_optional(tx)
    .await?;
    Ok(row.map(Adjustment::from))
}

async fn read_deltas(tx: &mut PgConnection, event_id: i64, near: DateTime<Utc>) -> Result<EventDeltas, LedgerError> {
    Ok(sqlx::query_as(
        "-- undo.deltas
         SELECT on_hand_delta, reserved_delta, unavailable_delta, escrowed_delta, sold_delta, damaged_delta,
             returned_delta
         FROM inventory_event WHERE event_id = $1 AND created_at BETWEEN $2 AND $3",
    )
    .bind(event_id)
    .bind(near - NEAR)
    .bind(near + NEAR)
    .fetch_one(tx)
    .await?)
}

async fn insert(
    tx: &mut PgConnection,
    undo: &Adjustment,
    wrong: &Wrong,
    undoes: i64,
    note: Option<&str>,
    by: &By,
) -> Result<(), LedgerError> {
    sqlx::query(
        "-- undo.insert
         INSERT INTO adjustment (adjustment_id, event_id, sku_id, location_id, delta, reason, reference_id, note,
             operator, before, after, undoes)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind(undo.id)
    .bind(undo.event_id)
    .bind(&wrong.sku_id)
    .bind(&wrong.location_id)
    .bind(-wrong.delta)
    .bind(Reason::ManualCorrection.as_str())
    .bind(&undo.reference)
    .bind(note)
    .bind(by.operator.as_deref().unwrap_or_default())
    .bind(Json(undo.before))
    .bind(Json(undo.after))
    .bind(undoes)
    .execute(tx)
    .await?;
    Ok(())
}

impl EventDeltas {
    fn reversed(&self) -> Deltas {
        Deltas {
            on_hand: -self.on_hand_delta,
            reserved: -self.reserved_delta,
            unavailable: -self.unavailable_delta,
            escrowed: -self.escrowed_delta,
            sold: -self.sold_delta,
            damaged: -self.damaged_delta,
            returned: -self.returned_delta,
        }
    }
}

/// Whether every promise is still covered, and nothing is below 0.
fn fits(found: &Balance, deltas: &Deltas) -> bool {
    let unavailable = found.unavailable + deltas.unavailable;
    let promised = found.reserved + deltas.reserved + unavailable + found.escrowed + deltas.escrowed;
    unavailable >= 0
        && found.on_hand + deltas.on_hand >= promised
        && found.damaged + deltas.damaged >= 0
        && found.returned + deltas.returned >= 0
}
