//! Late payment: a reservation that had expired takes its units anew under its old id, where the ledger engine serves
//! its items, all of them or none.
//!
//! The row is locked, its keys are claimed again and its balances are locked, so it never gets what the order or
//! somebody else holds by now. It is `RESERVED` again when this returns, and the commit that asked for it goes on.

use std::collections::HashSet;

use sqlx::PgConnection;
use uuid::Uuid;

use super::stock::Stocks;
use crate::domain::key::KeyHash;
use crate::domain::reservation::Status;
use crate::ledger::LedgerError;
use crate::ledger::claims::{Claimant, Keys};
use crate::ledger::endings::EndAsk;
use crate::ledger::post::{Deltas, EventType, Movement, post};
use crate::ledger::reservation::{Locked, ReservationRow};

/// Takes anew what these asks want to commit; returns the ids, as clients know them, of what is reserved again.
pub(in crate::ledger) async fn rescue(
    tx: &mut PgConnection,
    rows: &mut Locked,
    late: Vec<&EndAsk>,
) -> Result<HashSet<Uuid>, LedgerError> {
    let mut rescued = HashSet::new();
    if late.is_empty() {
        return Ok(rescued);
    }
    let mut seen = HashSet::new();
    let mut candidates: Vec<(&EndAsk, Vec<Uuid>)> = Vec::new();
    for ask in late {
        let parts = rows.rows_of(ask.id.0);
        if parts.first().is_some_and(|part| seen.insert(*part)) {
            candidates.push((ask, parts));
        }
    }
    let claimants: Vec<Vec<Claimant>> = candidates
        .iter()
        .map(|(_, parts)| parts.iter().map(|part| claimant(rows.get(part))).collect())
        .collect();
    let all: Vec<Claimant> = claimants.iter().flatten().copied().collect();
    let mut keys = Keys::claim(tx, &all).await?;
    let items = candidates
        .iter()
        .flat_map(|(_, parts)| parts.iter().map(|part| rows.get(part).item()))
        .collect::<Result<Vec<_>, _>>()?;
    let mut stocks = Stocks::lock(tx, items.iter()).await?;
    let (mut anew, mut movements) = (Vec::new(), Vec::new());
    for ((ask, parts), claimants) in candidates.iter().zip(&claimants) {
        let lines = parts.iter().map(|part| rows.get(part)).collect::<Vec<_>>();
        if !fits(&lines, claimants, &keys, &stocks)? {
            claimants.iter().for_each(|claimant| keys.refuse(claimant));
            continue;
        }
        for (row, claimant) in lines.into_iter().zip(claimants) {
            stocks.take(&row.item()?, row.quantity);
            keys.give(claimant);
            movements.push(movement(row, ask)?);
            anew.push(row.reservation_id);
            rescued.insert(row.public_id());
        }
    }
    keys.settle(tx).await?;
    update(tx, &anew).await?;
    post(tx, &movements).await?;
    for part in anew {
        rows.get_mut(&part).set_status(Status::Reserved);
    }
    Ok(rescued)
}

fn fits(lines: &[&ReservationRow], claimants: &[Claimant], keys: &Keys, stocks: &Stocks) -> Result<bool, LedgerError> {
    for row in lines {
        let item = row.item()?;
        if stocks.is_on_sale(&item) || stocks.available(&item) < row.quantity {
            return Ok(false);
        }
    }
    Ok(claimants.iter().all(|claimant| keys.against(claimant).is_none()))
}

/// The order's line, which protects it from being reserved twice; whoever chose a key has it still.
fn claimant(row: &ReservationRow) -> Claimant {
    let line = KeyHash::order_line(&row.order_id, &row.sku_id, &row.location_id);
    Claimant {
        id: row.reservation_id,
        key: if row.explicit_key {
            line
        } else {
            KeyHash::from_uuid(row.key_hash)
        },
        line,
        fingerprint: row.fingerprint,
        explicit: row.explicit_key,
    }
}

fn movement(row: &ReservationRow, ask: &EndAsk) -> Result<Movement, LedgerError> {
    Ok(Movement {
        item: row.item()?,
        event: EventType::Reserved,
        quantity_delta: -row.quantity,
        deltas: Deltas {
            reserved: row.quantity,
            ..Deltas::default()
        },
        reason: Some("late_payment".to_owned()),
        reference_id: ask.detail.clone(),
        reservation_id: Some(row.reservation_id),
        order_id: Some(row.order_id.clone()),
        operator: ask.operator.clone(),
        trace_id: Some(ask.trace.to_uuid()),
        metadata: None,
    })
}

async fn update(tx: &mut PgConnection, anew: &[Uuid]) -> Result<(), LedgerError> {
    if anew.is_empty() {
        return Ok(());
    }
    let done = sqlx::query(
        "-- rescue.update: a sale's bucket tells each taking, also this one
         WITH r AS (
             UPDATE inventory_reservation SET status = 'RESERVED', updated_at = clock_timestamp()
             WHERE reservation_id = ANY($1) AND status = 'EXPIRED' RETURNING sale_no, lane, quantity
         ), b AS (
             UPDATE sale_bucket b SET durable = b.durable + t.units
             FROM (SELECT sale_no, lane, sum(quantity) AS units FROM r WHERE sale_no IS NOT NULL GROUP BY 1, 2) t
             WHERE b.sale_no = t.sale_no AND b.lane = t.lane
         )
         SELECT 1 FROM r",
    )
    .bind(anew)
    .execute(tx)
    .await?;
    if usize::try_from(done.rows_affected()) != Ok(anew.len()) {
        return Err(LedgerError::Broken(
            "a locked reservation could not be taken anew".into(),
        ));
    }
    Ok(())
}
