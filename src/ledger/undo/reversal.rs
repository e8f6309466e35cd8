//! What an undo does to the balance, what stands in its way, and its rows.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::types::Json;
use uuid::Uuid;

use super::Undone;
use crate::domain::balance::{Balance, Image};
use crate::domain::id::Item;
use crate::domain::time::Millis;
use crate::ledger::LedgerError;
use crate::ledger::adjust::{Adjust, Adjustment, AdjustmentRow, NEAR, Reason, Refused, take_from_sale};
use crate::ledger::balance::lock_balance;
use crate::ledger::connection::Connection;
use crate::ledger::image::DeltaRow;
use crate::ledger::once::By;
use crate::ledger::post::{Deltas, EventType, Movement, apply, post};
use crate::ledger::sale::Locked;
use crate::ledger::sale_row::read_item;

/// An undo that may be.
pub(super) struct Reversal {
    event_id: i64,
    item: Item,
    wrong: Wrong,
    deltas: Deltas,
    /// The balance before it.
    pub(super) found: Balance,
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

/// What it did, and when.
#[derive(sqlx::FromRow)]
struct WrongEvent {
    #[sqlx(flatten)]
    delta: DeltaRow,
    created_at: DateTime<Utc>,
}

/// What an undo of this event would do, with its balance locked; or why there is none.
pub(super) async fn look(tx: &mut Connection, event_id: i64) -> Result<Result<Reversal, Undone>, LedgerError> {
    let Some(wrong) = lock_adjustment(tx, event_id).await? else {
        return Ok(Err(if event_is_known(tx, event_id).await? {
            Undone::NotUndoable
        } else {
            Undone::UnknownEvent
        }));
    };
    if wrong.is_undo {
        return Ok(Err(Undone::NotUndoable));
    }
    if let Some(first) = first_undo(tx, event_id).await? {
        return Ok(Err(Undone::Replayed(first)));
    }
    let item = read_item(&wrong.sku_id, &wrong.location_id)?;
    let WrongEvent { delta, created_at } = read_event(tx, event_id, wrong.created_at).await?;
    let deltas = reversed(&delta.read());
    let found = lock_balance(tx, &item).await?;
    if deltas.on_hand != 0
        && let Some(counted_at) = counted_after(tx, &item, created_at).await?
    {
        return Ok(Err(Undone::Counted(counted_at)));
    }
    Ok(Ok(Reversal {
        event_id,
        item,
        wrong,
        deltas,
        found,
    }))
}

impl Reversal {
    /// The answer where units that it would take are promised by now, and by no sale that could give them, or gone.
    pub(super) fn stands_in_the_way(&self) -> Option<Undone> {
        let after = self.foresee();
        let is_there = after.unavailable >= 0 && after.damaged >= 0 && after.returned >= 0;
        (!is_there || self.missing() > self.found.escrowed).then(|| self.insufficient())
    }

    /// Units that it moves.
    pub(super) fn delta(&self) -> i64 {
        -self.wrong.delta
    }

    fn insufficient(&self) -> Undone {
        Undone::Insufficient {
            wanted: self.delta().abs(),
            found: self.found,
        }
    }

    /// Units that it takes beyond those that are free of promises; below 0 where some of those are left.
    fn missing(&self) -> i64 {
        let after = self.foresee();
        after.reserved + after.unavailable + after.escrowed - after.on_hand
    }

    /// The balance after it.
    pub(super) fn foresee(&self) -> Balance {
        let mut after = self.found;
        apply(&mut after, &self.deltas);
        after
    }

    /// As a second person is shown it.
    pub(super) fn ask(&self, note: Option<&str>) -> Adjust {
        Adjust {
            item: self.item.clone(),
            delta: self.delta(),
            reason: Reason::ManualCorrection,
            reference: Some(self.wrong.reference_id.clone()),
            note: note.map(str::to_owned),
            key: None,
        }
    }

    /// Done, or why not; the item's sale is locked where it may give units. `metadata`, an object, gets what an undo
    /// tells.
    pub(super) async fn carry_out(
        &self,
        tx: &mut Connection,
        id: Uuid,
        sale: Option<Locked>,
        note: Option<&str>,
        by: &By,
        mut metadata: Value,
    ) -> Result<Undone, LedgerError> {
        match take_from_sale(tx, self.missing(), self.found, sale, by).await? {
            None => {}
            Some(Refused::Insufficient) => return Ok(self.insufficient()),
            Some(Refused::SetAside) => return Ok(Undone::SetAside(self.item.clone())),
            Some(Refused::Short(short)) => {
                let wanted = self.delta().abs();
                return Ok(Undone::Short { wanted, short });
            }
        }
        let event_id = self.event_id;
        metadata["undoes"] = json!(event_id);
        if let Some(note) = note {
            metadata["note"] = json!(note);
        }
        let movement = Movement {
            item: self.item.clone(),
            event: EventType::Adjusted,
            quantity_delta: self.delta(),
            deltas: self.deltas,
            reason: Some(Reason::ManualCorrection.as_str().to_owned()),
            reference_id: Some(self.wrong.reference_id.clone()),
            reservation_id: None,
            order_id: None,
            operator: by.operator.clone(),
            trace_id: by.trace.map(|trace| trace.to_uuid()),
            metadata: Some(metadata),
        };
        let posted = post(tx, &[movement]).await?[0];
        let undo = Adjustment {
            id,
            event_id: posted.event_id,
            reference: self.wrong.reference_id.clone(),
            before: posted.before,
            after: posted.after,
        };
        insert(tx, &undo, &self.wrong, event_id, note, by).await?;
        Ok(Undone::Done(undo))
    }
}

/// The adjustment of an event; two undos of it wait for each other here.
async fn lock_adjustment(tx: &mut Connection, event_id: i64) -> Result<Option<Wrong>, LedgerError> {
    Ok(sqlx::query_as(
        "-- undo.lock
         SELECT sku_id, location_id, delta, reference_id, created_at, undoes IS NOT NULL AS is_undo
         FROM adjustment WHERE event_id = $1 FOR NO KEY UPDATE",
    )
    .bind(event_id)
    .fetch_optional(tx)
    .await?)
}

async fn event_is_known(tx: &mut Connection, event_id: i64) -> Result<bool, LedgerError> {
    Ok(
        sqlx::query_scalar("-- undo.event\nSELECT EXISTS (SELECT 1 FROM inventory_movement WHERE event_id = $1)")
            .bind(event_id)
            .fetch_one(tx)
            .await?,
    )
}

async fn first_undo(tx: &mut Connection, event_id: i64) -> Result<Option<Adjustment>, LedgerError> {
    let row: Option<AdjustmentRow> = sqlx::query_as(
        "-- undo.first_answer
         SELECT adjustment_id, event_id, reference_id, before, after FROM adjustment WHERE undoes = $1",
    )
    .bind(event_id)
    .fetch_optional(tx)
    .await?;
    Ok(row.map(Adjustment::from))
}

async fn read_event(tx: &mut Connection, event_id: i64, near: DateTime<Utc>) -> Result<WrongEvent, LedgerError> {
    Ok(sqlx::query_as(
        "-- undo.event_of
         SELECT on_hand_delta, reserved_delta, unavailable_delta, escrowed_delta, sold_delta, damaged_delta,
             returned_delta, created_at
         FROM inventory_movement WHERE event_id = $1 AND created_at BETWEEN $2 AND $3",
    )
    .bind(event_id)
    .bind(near - NEAR)
    .bind(near + NEAR)
    .fetch_one(tx)
    .await?)
}

/// When the item was counted, where that is in its balance and was after the event. Its balance is locked.
async fn counted_after(
    tx: &mut Connection,
    item: &Item,
    created_at: DateTime<Utc>,
) -> Result<Option<Millis>, LedgerError> {
    let counted_at: Option<DateTime<Utc>> = sqlx::query_scalar(
        "-- undo.counted: everything of a count's millisecond was before it
         SELECT counted_at FROM count_mark
         WHERE sku_id = $1 AND location_id = $2 AND counted_at + interval '1 millisecond' > $3",
    )
    .bind(item.sku.as_str())
    .bind(item.location.as_str())
    .bind(created_at)
    .fetch_optional(tx)
    .await?;
    Ok(counted_at.map(Millis::from))
}

async fn insert(
    tx: &mut Connection,
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

fn reversed(delta: &Image) -> Deltas {
    Deltas {
        on_hand: -delta.on_hand,
        reserved: -delta.reserved,
        unavailable: -delta.unavailable,
        escrowed: -delta.escrowed,
        sold: -delta.sold,
        damaged: -delta.damaged,
        returned: -delta.returned,
    }
}
