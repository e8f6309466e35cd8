//! What becomes of a request, while everything it names is held: no I/O. The order is the contract's.

use std::collections::HashMap;

use super::stock::{Found, Stocks};
use super::take::{Asked, FallbackAnswer, OnSale};
use crate::domain::outcome::Decision;
use crate::domain::record::RECORD_MAX;
use crate::domain::reservation::Cause;
use crate::domain::reservation_id::ReservationId;
use crate::domain::sale::{RedisDown, SaleState};
use crate::ledger::claims::Keys;

/// What users hold and have bought: reservations and units, by sale and user.
pub(super) type Held<'a> = HashMap<(i32, &'a str), (i64, i64)>;

/// None: its units are taken.
pub(super) fn decide<'a>(
    asked: &Asked<'a>,
    on_sale: &OnSale,
    keys: &Keys,
    held: &mut Held<'a>,
    stocks: &mut Stocks,
) -> Option<FallbackAnswer> {
    let (slip, sale) = (&asked.ask.slip, &on_sale.sale);
    let against = keys.against(&asked.claimant);
    let decided = |decision| Some(FallbackAnswer::Decided(decision));
    match against {
        Some((Cause::Replay, first)) => return decided(Decision::Replayed(ReservationId(first))),
        Some((Cause::KeyReused, _)) => return decided(Decision::KeyReused),
        _ => {}
    }
    if sale.redis_down == RedisDown::Refuse {
        return Some(FallbackAnswer::Refuses);
    }
    let state = if on_sale.is_over { SaleState::Ended } else { sale.state };
    if state != SaleState::Live {
        return decided(Decision::NotLive(Some(state)));
    }
    if (sale.per_user_limit.is_some() || sale.user_rate.is_some()) && slip.user.is_none() {
        return decided(Decision::UserRequired);
    }
    if slip.ttl_ms > sale.hold_max_ms {
        let hold_max_ms = sale.hold_max_ms;
        return decided(Decision::TtlTooLong { hold_max_ms });
    }
    if let Some((_, first)) = against {
        return decided(Decision::OrderAlreadyReserved(ReservationId(first)));
    }
    if let Some(retry_after_ms) = asked.ask.rate_wait_ms {
        return decided(Decision::RateLimited { retry_after_ms });
    }
    let units = i64::from(slip.quantity);
    let user = slip.user.as_deref().and_then(|user| held.get_mut(&(sale.no, user)));
    if let Some((reservations, holds)) = &user {
        let limit = sale.per_user_limit;
        let full = usize::try_from(*reservations).is_ok_and(|count| count >= RECORD_MAX);
        if full || limit.is_some_and(|limit| *holds + units > i64::from(limit)) {
            let holds = u32::try_from(*holds).unwrap_or(u32::MAX);
            let limit = limit.unwrap_or(holds);
            return decided(Decision::UserLimit { limit, held: holds });
        }
    }
    match stocks.take(sale.no, asked.home, units) {
        Found::TooFew(available) => decided(Decision::Insufficient { available }),
        Found::KeptBack => Some(FallbackAnswer::KeptBack),
        Found::Units => {
            if let Some((reservations, holds)) = user {
                *reservations += 1;
                *holds += units;
            }
            None
        }
    }
}
