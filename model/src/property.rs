//! What must hold: in every state, and in those where nothing is under way.

use crate::config::{Bound, Config};
use crate::world::{Fate, Grant, GrantRow, Row, Status, World};

/// No more is reserved and sold than there was, and no counter is negative.
pub const NO_OVERSELL: &str = "no oversell in the ledger";
/// Every unit is in one place: a counter, a reservation, a grant, recalled, or in the balance.
pub const CONSERVATION: &str = "every unit is in exactly one place";
/// A durable answer stands.
pub const DURABLE: &str = "no durable answer is lost";
/// So does an accepted one, unless Redis lost what it had acknowledged.
pub const ACCEPTED: &str = "no accepted answer is lost while Redis keeps what it acknowledged";
/// One live reservation a key.
pub const ONCE: &str = "one reservation a key";
/// One ending a reservation.
pub const ONE_ENDING: &str = "a reservation ends once";
/// What an entry says of its counter is what the ledger has (invariant 2).
pub const NO_DRIFT: &str = "no drift without a fault";
/// Sold out only if at some instant since the request came nothing was free, wherever it was.
pub const NO_FALSE_SOLD_OUT: &str = "no false sold-out";
/// A deadline that passes in a silence costs nobody his units.
pub const NO_ROBBERY: &str = "nothing expires for a deadline within a silence";
/// At rest Redis is what the ledger says.
pub const SAME: &str = "at rest a lane is what the ledger says";

fn lives(row: &&Row) -> bool {
    matches!(row.status, Status::Reserved | Status::Committed)
}

/// The property that a state breaks.
pub(crate) fn broken(config: &Config, world: &World) -> Option<&'static str> {
    if world.flaw.is_some() {
        return world.flaw;
    }
    let ledger = &world.ledger;
    let all: i8 = config.units.iter().sum();
    let live = i8::try_from(ledger.rows.iter().filter(lives).count()).unwrap_or(i8::MAX);
    let counters: i8 = ledger.lanes.iter().map(|row| row.counter).sum();
    let units = |row: &GrantRow| match row.grant {
        Grant::Units(units) | Grant::End { units, .. } => units,
        Grant::Take { .. } | Grant::Stop => 0,
    };
    let moving: i8 = ledger.grants.iter().map(units).sum();
    if live > all || ledger.lanes.iter().any(|row| row.counter < 0) || ledger.home < 0 {
        return Some(NO_OVERSELL);
    }
    if live + counters + moving + ledger.recalled + ledger.home != all {
        return Some(CONSERVATION);
    }
    for buyer in 0..config.buyers {
        if ledger
            .rows
            .iter()
            .filter(lives)
            .filter(|row| row.buyer == buyer)
            .count()
            > 1
        {
            return Some(ONCE);
        }
    }
    if ledger.rows.iter().any(|row| row.ends > 1) {
        return Some(ONE_ENDING);
    }
    let falls = config.bounds[Bound::LedgerFalls as usize] > 0;
    world
        .fates
        .iter()
        .find_map(|fate| answer_lost(config, world, fate, falls))
}

/// Where Postgres may fall back, an answer may be missing until the queue was written again.
fn answer_lost(config: &Config, world: &World, fate: &Fate, falls: bool) -> Option<&'static str> {
    let row = world.ledger.rows.iter().find(|row| row.id == fate.id);
    let rejected = row.is_some_and(|row| row.status == Status::Rejected);
    let missing = row.is_none() && at_rest(config, world);
    if fate.durable && (rejected || missing || (row.is_none() && !falls)) {
        return Some(DURABLE);
    }
    (fate.accepted && !fate.excused && (rejected || missing)).then_some(ACCEPTED)
}

/// Nothing is under way: no request, no recovery, no grant, nothing in the queue that is not in the ledger, and an ended
/// sale's units are home.
pub(crate) fn at_rest(config: &Config, world: &World) -> bool {
    let ledger = &world.ledger;
    let still = |lane: u8| {
        let row = world.row(lane);
        world.lane(lane).is_some_and(|meta| {
            let cursor = row.cursor;
            meta.open
                && row.open
                && (meta.epoch, meta.seq, meta.nonce) == (cursor.epoch, cursor.seq, cursor.nonce)
                && row.epoch == meta.epoch
        })
    };
    world.calls.is_empty()
        && world.endings.is_empty()
        && world.gateways.iter().all(|gateway| gateway.recovery.is_none())
        && ledger.grants.is_empty()
        && (0..config.lanes).all(still)
        && (!ledger.ended || (ledger.drained && ledger.lanes.iter().all(|row| row.counter == 0)))
}

/// At rest, and Redis is what the ledger says.
pub(crate) fn same(config: &Config, world: &World) -> bool {
    (0..config.lanes).all(|lane| {
        let row = world.row(lane);
        world.lane(lane).is_some_and(|meta| {
            let free = row.drift == 0 && meta.free == row.counter;
            free && (meta.holders == world.ledger.holders(lane) || world.ledger.drained)
        })
    })
}
