//! What becomes of a request, while everything it names is locked: no I/O.

use std::collections::HashSet;

use uuid::Uuid;

use super::stock::Stocks;
use super::{Claims, HOLD_MS, Short, TakeAnswer, TakeAsk};
use crate::domain::reservation::{Cause, Status};
use crate::domain::reservation_id::ReservationId;
use crate::ledger::LedgerError;
use crate::ledger::claims::{Claimant, Keys};
use crate::ledger::extend::HOLD_MAX_MS;
use crate::ledger::reservation::Locked;

pub(super) enum Fate {
    /// Its units are taken in the books of this batch.
    Takes {
        hold_ms: i64,
    },
    Refused(TakeAnswer),
}

/// `joined`: parts that a request before it in this batch has taken into its cart.
pub(super) fn decide(
    ask: &TakeAsk,
    claims: &Claims,
    parts: &Locked,
    joined: &mut HashSet<Uuid>,
    keys: &Keys,
    stocks: &mut Stocks,
) -> Result<Fate, LedgerError> {
    let refused = |answer| Ok(Fate::Refused(answer));
    // By the contract's order: a replay, the sale, the time to pay, and only then the order's line.
    let whole = against(keys, &claims.whole);
    if let Some(answer @ (TakeAnswer::Replayed(_) | TakeAnswer::KeyReused)) = whole {
        return refused(answer);
    }
    let (mut hold_ms, mut hold_max_ms) = (HOLD_MS, HOLD_MAX_MS);
    if ask.lines.is_empty() {
        (hold_ms, hold_max_ms) = (i64::MAX, i64::MAX);
    }
    for part in &ask.parts {
        let [row] = parts.rows_of(part.0)[..] else {
            return refused(TakeAnswer::PartEnded(*part));
        };
        let row = parts.get(&row);
        if row.status()? != Status::Reserved || row.cart_id.is_some() || joined.contains(&part.0) {
            return refused(TakeAnswer::PartEnded(*part));
        }
        hold_ms = hold_ms.min(row.hold_ms.unwrap_or(HOLD_MS));
        hold_max_ms = hold_max_ms.min(row.hold_max_ms.unwrap_or(HOLD_MAX_MS));
    }
    if let Some(line) = ask.lines.iter().find(|line| stocks.is_on_sale(&line.item)) {
        return refused(TakeAnswer::OnSale(line.item.clone()));
    }
    if ask.ttl_ms.is_some_and(|ttl_ms| ttl_ms > hold_max_ms) {
        return refused(TakeAnswer::TtlTooLong { hold_max_ms });
    }
    if let Some(answer) = whole {
        return refused(answer);
    }
    for claimant in &claims.lines {
        match against(keys, claimant) {
            None => {}
            // Its key is of this very cart: the line was held before, in a lane.
            Some(TakeAnswer::Replayed(id)) => return refused(TakeAnswer::OrderAlreadyReserved(id)),
            Some(answer) => return refused(answer),
        }
    }
    let short: Vec<Short> = ask
        .lines
        .iter()
        .filter(|line| stocks.available(&line.item) < line.quantity)
        .map(|line| Short {
            item: line.item.clone(),
            available: stocks.available(&line.item).max(0),
        })
        .collect();
    if !short.is_empty() {
        return refused(TakeAnswer::Insufficient(short));
    }
    for line in &ask.lines {
        stocks.take(&line.item, line.quantity);
    }
    joined.extend(ask.parts.iter().map(|part| part.0));
    Ok(Fate::Takes {
        hold_ms: ask.ttl_ms.unwrap_or(hold_ms.min(hold_max_ms)),
    })
}

/// The time to pay of what is taken from balances alone, where nothing stands against it; none where the ask is not
/// such, or wants too much.
pub(super) fn plain_hold_ms(ask: &TakeAsk) -> Option<i64> {
    let hold_ms = ask.ttl_ms.unwrap_or(HOLD_MS.min(HOLD_MAX_MS));
    Some(hold_ms).filter(|hold_ms| ask.parts.is_empty() && !ask.lines.is_empty() && *hold_ms <= HOLD_MAX_MS)
}

fn against(keys: &Keys, claimant: &Claimant) -> Option<TakeAnswer> {
    let (cause, first) = keys.against(claimant)?;
    let first = ReservationId(first);
    Some(match cause {
        Cause::Replay => TakeAnswer::Replayed(first),
        Cause::KeyReused => TakeAnswer::KeyReused,
        _ => TakeAnswer::OrderAlreadyReserved(first),
    })
}
