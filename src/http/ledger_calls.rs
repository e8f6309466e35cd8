//! The ledger's calls of the hot paths, each in batches, on a [thread of their own](crate::thread).

use std::collections::HashMap;
use std::sync::Arc;

use super::batch::Batcher;
use crate::domain::id::Sku;
use crate::domain::key::KeyHash;
use crate::domain::lane::LaneNo;
use crate::domain::reservation::Reservation;
use crate::domain::reservation_id::{Kind, ReservationId};
use crate::ledger::fallback::{FallbackAnswer, FallbackAsk};
use crate::ledger::lane::LaneRow;
use crate::ledger::places::Place;
use crate::ledger::route::{Route, RouteAsk};
use crate::ledger::{
    EndAnswer, EndAsk, ExtendAnswer, ExtendAsk, KeyFound, Ledger, LedgerError, Pace, TakeAnswer, TakeAsk,
};
use crate::thread::Thread;

/// One for each kind of call but takings and endings.
const CONNECTIONS_MAX: u32 = 5;
/// Takings, of which there is one at a time: to a Postgres process that always does the same a statement costs a tenth less
/// than to two that take turns.
const TAKE_CONNECTIONS_MAX: u32 = 1;
/// Commit and release, extend, and how far lanes are: whatever else wants a connection, they have theirs.
const ENDING_CONNECTIONS_MAX: u32 = 3;

/// The calls that are batched.
#[derive(Clone, Debug)]
pub struct LedgerCalls {
    /// Commit and release.
    pub end: Batcher<EndAsk, EndAnswer>,
    /// Extend.
    pub extend: Batcher<ExtendAsk, ExtendAnswer>,
    /// How far lanes are, of which endings may come before what they end.
    pub(super) lane: Batcher<LaneNo, LaneRow>,
    /// Reads of single reservations.
    pub read: Batcher<ReservationId, Option<Reservation>>,
    /// Reservations without a live sale, and carts.
    pub take: Batcher<TakeAsk, TakeAnswer>,
    /// Reservations of live sales while Redis is away.
    pub fallback: Batcher<FallbackAsk, FallbackAnswer>,
    /// Which sale an item has.
    pub(super) route: Batcher<RouteAsk, Route>,
    /// Where a SKU lies.
    pub(super) places: Batcher<Sku, Vec<Place>>,
    /// Who has a key.
    pub(super) key: Batcher<KeyHash, Option<KeyFound>>,
    connections: [Ledger; 3],
    _thread: Arc<Thread>,
}

impl LedgerCalls {
    /// Batches calls to this ledger, over connections of their own.
    #[must_use]
    pub fn start(ledger: &Ledger) -> Self {
        let thread = Thread::start("ledger");
        let on = thread.handle();
        let (own, takes) = (
            ledger.apart(CONNECTIONS_MAX, Pace::Waited),
            ledger.apart(TAKE_CONNECTIONS_MAX, Pace::Waited),
        );
        let endings = ledger.apart(ENDING_CONNECTIONS_MAX, Pace::Waited);
        let (end, extend, lane) = (endings.clone(), endings.clone(), endings.clone());
        let (read, take, route) = (own.clone(), takes.clone(), own.clone());
        let (places, key, fallback) = (own.clone(), own.clone(), own.clone());
        LedgerCalls {
            end: Batcher::start(on, "end", move |asks: Arc<[EndAsk]>| {
                let ledger = end.clone();
                async move { ledger.end(&asks).await }
            }),
            extend: Batcher::start(on, "extend", move |asks: Arc<[ExtendAsk]>| {
                let ledger = extend.clone();
                async move { ledger.extend(&asks).await }
            }),
            lane: Batcher::start(on, "lane", move |lanes: Arc<[LaneNo]>| {
                let ledger = lane.clone();
                async move { lanes_of(&ledger, &lanes).await }
            }),
            read: Batcher::start(on, "read", move |ids: Arc<[ReservationId]>| {
                let ledger = read.clone();
                async move { reservations_of(&ledger, &ids).await }
            }),
            take: Batcher::start(on, "take", move |asks: Arc<[TakeAsk]>| {
                let ledger = take.clone();
                async move { ledger.take(&asks).await }
            }),
            fallback: Batcher::start(on, "fallback", move |asks: Arc<[FallbackAsk]>| {
                let ledger = fallback.clone();
                async move { ledger.take_aside(&asks).await }
            }),
            route: Batcher::start(on, "route", move |asks: Arc<[RouteAsk]>| {
                let ledger = route.clone();
                async move { routes_of(&ledger, &asks).await }
            }),
            places: Batcher::start(on, "places", move |skus: Arc<[Sku]>| {
                let ledger = places.clone();
                async move { places_of(&ledger, &skus).await }
            }),
            key: Batcher::start(on, "key", move |keys: Arc<[KeyHash]>| {
                let ledger = key.clone();
                async move {
                    let found = ledger.find_keys(&keys).await?;
                    let of = |key: &KeyHash| found.iter().find(|known| known.key == *key).copied();
                    Ok(keys.iter().map(of).collect())
                }
            }),
            connections: [own, takes, endings],
            _thread: Arc::new(thread),
        }
    }

    /// Gives back the connections; later calls fail.
    pub async fn close(&self) {
        for ledger in &self.connections {
            ledger.close().await;
        }
    }
}

/// One read for all.
async fn lanes_of(ledger: &Ledger, lanes: &[LaneNo]) -> Result<Vec<LaneRow>, LedgerError> {
    let known = ledger.lanes().await?;
    let of = |lane: &LaneNo| {
        let row = known.iter().find(|row| row.lane == *lane);
        row.cloned()
            .ok_or_else(|| LedgerError::Broken(format!("there is no lane {lane}")))
    };
    lanes.iter().map(of).collect()
}

/// One read for all. The id of a part of a cart reads as its cart: which, only a read of its own can tell.
async fn reservations_of(ledger: &Ledger, ids: &[ReservationId]) -> Result<Vec<Option<Reservation>>, LedgerError> {
    let found = ledger.reservations(ids).await?;
    let has_carts = found.iter().any(|found| found.id.kind() == Some(Kind::Cart));
    let mut reservations = Vec::with_capacity(ids.len());
    for id in ids {
        let named = found.iter().find(|found| found.id == *id).cloned();
        reservations.push(match named {
            None if has_carts => ledger.reservation(*id).await?,
            named => named,
        });
    }
    Ok(reservations)
}

/// One read for all.
async fn places_of(ledger: &Ledger, skus: &[Sku]) -> Result<Vec<Vec<Place>>, LedgerError> {
    let mut wanted = skus.to_vec();
    wanted.sort_unstable();
    wanted.dedup();
    let found = ledger.places(&wanted).await?;
    let of = |sku: &Sku| found.iter().filter(|place| place.item.sku == *sku).cloned().collect();
    Ok(skus.iter().map(of).collect())
}

/// Two reads for all.
async fn routes_of(ledger: &Ledger, asks: &[RouteAsk]) -> Result<Vec<Route>, LedgerError> {
    let mut wanted = asks.to_vec();
    wanted.sort_unstable();
    wanted.dedup();
    let found = ledger.routes(&wanted).await?;
    let known: HashMap<&RouteAsk, &Route> = wanted.iter().zip(&found).collect();
    let of = |ask: &RouteAsk| known.get(ask).map(|route| Route::clone(route));
    let told: Option<Vec<Route>> = asks.iter().map(of).collect();
    told.ok_or_else(|| LedgerError::Broken("a request was not routed".into()))
}
