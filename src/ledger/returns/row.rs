//! Returns as rows: what came back, and what is still out.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Condition, ReturnAnswer, ReturnAsk, Returned};
use crate::domain::id::{Item, ReturnId};
use crate::domain::reservation::Line;
use crate::domain::reservation_id::ReservationId;
use crate::domain::time::Millis;
use crate::ledger::LedgerError;
use crate::ledger::balance::lock_balances;
use crate::ledger::connection::Connection;
use crate::ledger::once::By;
use crate::ledger::reservation::Locked;
use crate::ledger::sale_row::read_item;

/// A row of the reservation, and what of it is still out.
pub(super) struct Out {
    pub(super) row: Uuid,
    pub(super) item: Item,
    pub(super) left: i64,
}

impl ReturnAsk {
    /// Writes the return down; returns when.
    pub(super) async fn insert(
        &self,
        tx: &mut Connection,
        reservation: ReservationId,
        order: &str,
        returnable: i64,
        by: &By,
    ) -> Result<Millis, LedgerError> {
        let created_at: DateTime<Utc> = sqlx::query_scalar(
            "-- return.insert
             INSERT INTO inventory_return (return_id, reservation_id, order_id, condition, reason, fingerprint,
                 returnable, operator, trace_id)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING created_at",
        )
        .bind(self.id.as_str())
        .bind(reservation.0)
        .bind(order)
        .bind(self.condition.as_str())
        .bind(&self.reason)
        .bind(self.fingerprint().to_i64())
        .bind(returnable)
        .bind(&by.operator)
        .bind(by.trace.map(|trace| trace.to_uuid()))
        .fetch_one(tx)
        .await?;
        Ok(created_at.into())
    }
}

#[derive(sqlx::FromRow)]
struct ReturnRow {
    reservation_id: Uuid,
    condition: String,
    fingerprint: i64,
    returnable: i64,
    created_at: DateTime<Utc>,
}

/// The return of this id, where there is one.
pub(super) async fn read(tx: &mut Connection, ask: &ReturnAsk) -> Result<Option<ReturnAnswer>, LedgerError> {
    let row: Option<ReturnRow> = sqlx::query_as(
        "-- return.read
         SELECT reservation_id, condition, fingerprint, returnable, created_at FROM inventory_return
         WHERE return_id = $1",
    )
    .bind(ask.id.as_str())
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    if row.fingerprint != ask.fingerprint().to_i64() {
        return Ok(Some(ReturnAnswer::Reused));
    }
    let lines: Vec<(String, String, i64)> = sqlx::query_as(
        "-- return.read_lines
         SELECT sku_id, location_id, quantity FROM inventory_return_line WHERE return_id = $1
         ORDER BY sku_id COLLATE \"C\", location_id COLLATE \"C\"",
    )
    .bind(ask.id.as_str())
    .fetch_all(tx)
    .await?;
    let line = |(sku, location, quantity): (String, String, i64)| {
        let item = read_item(&sku, &location)?;
        Ok(Line { item, quantity })
    };
    Ok(Some(ReturnAnswer::Replayed(Returned {
        id: ask.id.clone(),
        reservation: ReservationId(row.reservation_id),
        lines: lines.into_iter().map(line).collect::<Result<_, LedgerError>>()?,
        condition: if row.condition == "damaged" {
            Condition::Damaged
        } else {
            Condition::Sellable
        },
        returnable: row.returnable,
        created_at: row.created_at.into(),
    })))
}

/// What of each row is still out, with the balances locked: rows in the cold tier can't be.
pub(super) async fn still_out(tx: &mut Connection, locked: &Locked, rows: &[Uuid]) -> Result<Vec<Out>, LedgerError> {
    let mut out = Vec::with_capacity(rows.len());
    for row in rows.iter().map(|row| locked.get(row)) {
        out.push(Out {
            row: row.reservation_id,
            item: row.item()?,
            left: row.quantity,
        });
    }
    lock_balances(tx, out.iter().map(|out| &out.item)).await?;
    let back: Vec<(Uuid, i64)> = sqlx::query_as(
        "-- return.came_back
         SELECT reservation_id, sum(quantity)::int8 FROM inventory_return_line WHERE reservation_id = ANY($1)
         GROUP BY reservation_id",
    )
    .bind(rows)
    .fetch_all(tx)
    .await?;
    let back: HashMap<Uuid, i64> = back.into_iter().collect();
    for out in &mut out {
        out.left -= back.get(&out.row).copied().unwrap_or_default();
    }
    Ok(out)
}

pub(super) async fn insert_lines(
    tx: &mut Connection,
    id: &ReturnId,
    lines: &[(Uuid, Line)],
    events: &[i64],
) -> Result<(), LedgerError> {
    sqlx::query(
        "-- return.insert_lines
         INSERT INTO inventory_return_line (return_id, reservation_id, sku_id, location_id, quantity, event_id)
         SELECT $1, * FROM UNNEST($2::uuid[], $3::text[], $4::text[], $5::int8[], $6::int8[])",
    )
    .bind(id.as_str())
    .bind(lines.iter().map(|(row, _)| *row).collect::<Vec<_>>())
    .bind(lines.iter().map(|(_, line)| line.item.sku.as_str()).collect::<Vec<_>>())
    .bind(
        lines
            .iter()
            .map(|(_, line)| line.item.location.as_str())
            .collect::<Vec<_>>(),
    )
    .bind(lines.iter().map(|(_, line)| line.quantity).collect::<Vec<_>>())
    .bind(events)
    .execute(tx)
    .await?;
    Ok(())
}
