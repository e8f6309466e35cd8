//! Which sale a request goes to: asked of the ledger once, and kept while the sale's lanes agree.
//!
//! Only the way to a sale is kept. Whether it sells is for its lane to say; and what refuses a request (no such SKU, no
//! sale) is read from the ledger after the request arrived, one read for all who wait, so a change is in force on every
//! gateway as soon as it is made.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::answer::not_live;
use super::request::Asked;
use crate::domain::entry::Slip;
use crate::domain::id::{LocationId, Sku};
use crate::domain::lane::LaneNo;
use crate::domain::sale::{Sale, SaleState};
use crate::http::batch::LedgerCalls;
use crate::http::code::Code;
use crate::http::problem::Problem;
use crate::ledger::route::Route;

/// Ways that are kept; beyond, all are forgotten and asked anew.
const KEPT_MAX: usize = 100_000;

/// What the ledger is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::http) struct RouteAsk {
    pub(in crate::http) sku: Sku,
    pub(in crate::http) location: Option<LocationId>,
}

/// The ways known to this gateway.
#[derive(Debug, Default)]
pub(in crate::http) struct Routes {
    kept: Mutex<HashMap<RouteAsk, Arc<Sale>>>,
    /// The settings of a sale that this gateway has read, by lane: the number the lane gave them.
    sets: Mutex<HashMap<(i32, LaneNo), i64>>,
}

/// A way, and whether it was read for this request.
#[derive(Clone, Debug)]
pub(super) struct Routed {
    pub(super) sale: Arc<Sale>,
    pub(super) fresh: bool,
}

/// What the ledger says.
#[derive(Debug)]
pub(super) enum Way {
    /// To this sale; its lane decides.
    Sale(Routed),
    /// The item's sale is being stopped; in a moment it is over. Its lanes still know who holds what.
    Draining(Arc<Sale>),
    /// To nowhere.
    Refused(Problem),
}

impl Routes {
    /// The way that is known.
    pub(super) fn known(&self, asked: &Asked) -> Option<Routed> {
        let sale = lock(&self.kept).get(&key(asked))?.clone();
        Some(Routed { sale, fresh: false })
    }

    /// The way, from the ledger.
    pub(super) async fn find(&self, calls: &LedgerCalls, asked: &Asked) -> Result<Way, Problem> {
        let ask = key(asked);
        let refuse = |problem| Ok(Way::Refused(problem));
        match calls.route.ask(ask.clone()).await? {
            Route::UnknownSku => refuse(Problem::new(Code::UnknownSku, "no such SKU").with("skuId", ask.sku.as_str())),
            Route::UnknownLocation => refuse(Problem::new(Code::UnknownLocation, "no such location")),
            Route::Ambiguous => refuse(Problem::invalid(
                "locationId",
                "is needed: the SKU does not lie at exactly one location, or on sale at exactly one",
            )),
            Route::Item { sale: None, .. } => refuse(
                Problem::new(Code::SaleNotLive, "the item is not on sale").with("state", serde_json::Value::Null),
            ),
            Route::Item { sale: Some(sale), .. } => match sale.state {
                SaleState::Ended if !sale.drained => Ok(Way::Draining(Arc::new(sale))),
                SaleState::Live | SaleState::Paused | SaleState::Frozen if in_lanes(&sale) => {
                    let sale = Arc::new(sale);
                    let mut kept = lock(&self.kept);
                    if kept.len() >= KEPT_MAX {
                        kept.clear();
                    }
                    kept.insert(ask, Arc::clone(&sale));
                    Ok(Way::Sale(Routed { sale, fresh: true }))
                }
                state => refuse(not_live(state, sale.starts_at)),
            },
        }
    }

    /// Forgets the way of this request.
    pub(super) fn forget(&self, asked: &Asked) {
        lock(&self.kept).remove(&key(asked));
    }

    /// Whether the lane has settings of the sale that came after those we read.
    pub(super) fn is_outdated(&self, sale: &Sale, slip: &Slip, set: Option<i64>) -> bool {
        let Some(set) = set else { return false };
        let lane = sale.home(&slip.buyer());
        let mut sets = lock(&self.sets);
        if sets.len() >= KEPT_MAX {
            sets.clear();
        }
        sets.insert((sale.no, lane), set) != Some(set)
    }
}

/// A sale that was frozen before it started is in no lane yet.
fn in_lanes(sale: &Sale) -> bool {
    let awake = if sale.state == SaleState::Frozen {
        sale.thaws_to
    } else {
        Some(sale.state)
    };
    matches!(awake, Some(SaleState::Live | SaleState::Paused))
}

fn key(asked: &Asked) -> RouteAsk {
    RouteAsk {
        sku: asked.sku.clone(),
        location: asked.location.clone(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
