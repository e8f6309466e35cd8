//! Late payment: a reservation that had expired takes its units anew under its old id, where the ledger engine serves
//! its items, or newer sales that gave units for it, all of them or none.
//!
//! The row is locked, its keys are claimed again and its balances are locked, so it never gets what the order or
//! somebody else holds by now. It is `RESERVED` again when this returns, and the commit that asked for it goes on.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::stock::Stocks;
use crate::domain::id::Item;
use crate::domain::key::KeyHash;
use crate::domain::reservation::Status;
use crate::ledger::LedgerError;
use crate::ledger::claims::{Claimant, Keys};
use crate::ledger::connection::Connection;
use crate::ledger::endings::EndAsk;
use crate::ledger::newer_sale::NewerSales;
use crate::ledger::once::By;
use crate::ledger::post::{Deltas, EventType, Movement, post};
use crate::ledger::reservation::{Locked, ReservationRow};

/// The reason of such an event.
pub(in crate::ledger) const LATE_PAYMENT: &str = "late_payment";

/// Takes anew what these asks want to commit. Of a cart, parts may be held already: its lanes took them again for this.
/// Returns a row of each reservation that lacks nothing but units of newer sales.
pub(in crate::ledger) async fn rescue(
    tx: &mut Connection,
    rows: &mut Locked,
    late: Vec<&EndAsk>,
    mut newer: NewerSales,
) -> Result<HashSet<Uuid>, LedgerError> {
    let mut short = HashSet::new();
    if late.is_empty() {
        return Ok(short);
    }
    let mut seen = HashSet::new();
    let mut candidates = Vec::new();
    for ask in late {
        let parts = rows.rows_of(ask.id.0);
        if parts.first().is_some_and(|part| seen.insert(*part)) {
            candidates.push(Late::new(ask, parts, rows)?);
        }
    }
    let all: Vec<Claimant> = candidates.iter().flat_map(Late::claimants).copied().collect();
    let mut keys = Keys::claim(tx, &all).await?;
    // Of every ask: the endings that are not late take their balances after these, and all in one order.
    let items = rows.items()?;
    let mut stocks = Stocks::lock(tx, items.iter()).await?;
    let (mut anew, mut movements) = (Vec::new(), Vec::new());
    for late in &candidates {
        let fit = late.fit(rows, &keys, &stocks, &newer);
        if fit != Fit::All {
            short.extend(late.expired.first().filter(|_| fit == Fit::Short));
            late.claimants().for_each(|claimant| keys.refuse(claimant));
            continue;
        }
        for ((part, item), claimant) in late.expired.iter().zip(&late.items).zip(&late.lines) {
            let row = rows.get(part);
            match stocks.sale_of(item) {
                None => stocks.take(item, row.quantity),
                Some(sale_no) => movements.push(newer.give(sale_no, row.quantity, &late.by())?),
            }
            keys.give(claimant);
            movements.push(movement(row, late.ask)?);
            anew.push(row.reservation_id);
        }
        // A newer cart of the order may have it; that takes nothing from this one.
        if let Some(own) = &late.own {
            match keys.against(own) {
                None => keys.give(own),
                Some(_) => keys.refuse(own),
            }
        }
    }
    keys.settle(tx).await?;
    newer.settle(tx).await?;
    let at = update(tx, &anew).await?;
    post(tx, &movements).await?;
    for part in anew {
        let row = rows.get_mut(&part);
        row.set_status(Status::Reserved);
        row.rescued_at = at;
    }
    Ok(short)
}

/// Whether a late payment can have what it needs, from worst to best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// No.
    None,
    /// Where newer sales give more units.
    Short,
    /// Yes.
    All,
}

/// A reservation that is paid for after it had expired.
struct Late<'a> {
    ask: &'a EndAsk,
    /// Its rows that are to be taken from the balances.
    expired: Vec<Uuid>,
    /// Of each of these.
    items: Vec<Item>,
    lines: Vec<Claimant>,
    /// A cart's own key, where it was derived.
    own: Option<Claimant>,
}

impl<'a> Late<'a> {
    fn new(ask: &'a EndAsk, parts: Vec<Uuid>, rows: &Locked) -> Result<Self, LedgerError> {
        let own = parts.first().and_then(|part| derived(rows.get(part)));
        let mut expired = Vec::with_capacity(parts.len());
        for part in parts {
            if rows.get(&part).status()? == Status::Expired {
                expired.push(part);
            }
        }
        let items = expired.iter().map(|part| rows.get(part).item());
        Ok(Late {
            ask,
            own,
            items: items.collect::<Result<_, _>>()?,
            lines: expired.iter().map(|part| claimant(rows.get(part))).collect(),
            expired,
        })
    }

    fn claimants(&self) -> impl Iterator<Item = &Claimant> {
        self.lines.iter().chain(&self.own)
    }

    fn by(&self) -> By {
        By {
            operator: self.ask.operator.clone(),
            trace: Some(self.ask.trace),
        }
    }

    fn fit(&self, rows: &Locked, keys: &Keys, stocks: &Stocks, newer: &NewerSales) -> Fit {
        if self.lines.iter().any(|claimant| keys.against(claimant).is_some()) {
            return Fit::None;
        }
        let free = |(part, item): (&Uuid, &Item)| {
            let row = rows.get(part);
            match stocks.sale_of(item) {
                _ if rows.is_cold(part) => Fit::None,
                None if stocks.available(item) >= row.quantity => Fit::All,
                None => Fit::None,
                // Its own lane would have taken it again.
                own if own == row.sale_no => Fit::None,
                Some(sale_no) if newer.left(sale_no) >= row.quantity => Fit::All,
                Some(_) => Fit::Short,
            }
        };
        let fits = self.expired.iter().zip(&self.items).map(free);
        fits.min().unwrap_or(Fit::All)
    }
}

/// The key of the cart that the row is a part of, where the client chose none: it was freed when the cart expired. A part's
/// own key tells which it was.
fn derived(row: &ReservationRow) -> Option<Claimant> {
    let (sku, location) = (row.sku_id.as_str(), row.location_id.as_str());
    let line_without_location = KeyHash::order_line(&row.order_id, sku, "");
    let key = [KeyHash::cart(&row.order_id), line_without_location]
        .into_iter()
        .find(|key| KeyHash::part(*key, sku, location).to_uuid() == row.key_hash)?;
    Some(Claimant {
        id: row.cart_id?,
        key,
        line: key,
        fingerprint: row.fingerprint,
        explicit: false,
    })
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
        reason: Some(LATE_PAYMENT.to_owned()),
        reference_id: ask.detail.clone(),
        reservation_id: Some(row.reservation_id),
        order_id: Some(row.order_id.clone()),
        operator: ask.operator.clone(),
        trace_id: Some(ask.trace.to_uuid()),
        metadata: None,
    })
}

async fn update(tx: &mut Connection, anew: &[Uuid]) -> Result<Option<DateTime<Utc>>, LedgerError> {
    if anew.is_empty() {
        return Ok(None);
    }
    let at: Vec<DateTime<Utc>> = sqlx::query_scalar(
        "-- rescue.update: a sale's bucket tells each taking, also this one
         WITH r AS (
             UPDATE inventory_reservation SET status = 'RESERVED', rescued_at = clock_timestamp(),
                 updated_at = clock_timestamp()
             WHERE reservation_id = ANY($1) AND status = 'EXPIRED' RETURNING sale_no, lane, quantity, rescued_at
         ), b AS (
             UPDATE sale_bucket b SET durable = b.durable + t.units
             FROM (SELECT sale_no, lane, sum(quantity) AS units FROM r WHERE sale_no IS NOT NULL GROUP BY 1, 2) t
             WHERE b.sale_no = t.sale_no AND b.lane = t.lane
         )
         SELECT rescued_at FROM r",
    )
    .bind(anew)
    .fetch_all(tx)
    .await?;
    if at.len() != anew.len() {
        return Err(LedgerError::Broken(
            "a locked reservation could not be taken anew".into(),
        ));
    }
    Ok(at.first().copied())
}
