//! Which engine serves a request: asked of the ledger once, and kept while it stays true.
//!
//! Only the way is kept. A sale's lane says whether it sells; the ledger engine says when the item is on sale by now.
//! What refuses a request (no such SKU, a sale that waits) is read from the ledger after the request arrived, one read
//! for all who wait, so a change is in force on every gateway as soon as it is made.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::answer::not_live;
use super::request::Wish;
use crate::domain::entry::Slip;
use crate::domain::id::Item;
use crate::domain::lane::LaneNo;
use crate::domain::sale::{Sale, SaleState};
use crate::http::code::Code;
use crate::http::ledger_calls::LedgerCalls;
use crate::http::problem::Problem;
use crate::ledger::route::{Route, RouteAsk};

/// Ways that are kept; beyond, all are forgotten and asked anew.
const KEPT_MAX: usize = 100_000;
/// How long the way to the ledger engine is kept: shorter than any sale, for while one drains its lanes are asked first
/// about what was accepted there.
const LEDGER_FOR: Duration = Duration::from_millis(200);
/// How long a SKU without a location goes where it went: it may lie at another by then.
const ONLY_PLACE_FOR: Duration = Duration::from_secs(1);

impl From<&Wish> for RouteAsk {
    fn from(wish: &Wish) -> Self {
        RouteAsk {
            sku: wish.sku.clone(),
            location: wish.location.clone(),
        }
    }
}

/// The ways known to this gateway.
#[derive(Debug, Default)]
pub(in crate::http) struct Routes {
    kept: Mutex<HashMap<RouteAsk, Kept>>,
    /// The settings of a sale that this gateway has read, by lane: the number the lane gave them.
    sets: Mutex<HashMap<(i32, LaneNo), i64>>,
}

#[derive(Clone, Debug)]
struct Kept {
    to: KeptTo,
    at: Instant,
}

#[derive(Clone, Debug)]
enum KeptTo {
    Sale(Arc<Sale>),
    Ledger(OffSale),
}

/// A way, and whether it was read for this request.
#[derive(Clone, Debug)]
pub(super) struct Routed {
    pub(super) sale: Arc<Sale>,
    pub(super) fresh: bool,
}

/// An item that the ledger engine serves. Two that are equal had no sale in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OffSale {
    pub(super) item: Item,
    /// Its newest sale, a draft or over.
    pub(super) last: Option<(i32, SaleState)>,
    /// All units of that sale are home.
    pub(super) settled: bool,
}

impl OffSale {
    /// An item whose sale is being stopped.
    pub(super) fn draining(sale: &Sale) -> Self {
        OffSale {
            item: sale.item.clone(),
            last: Some((sale.no, sale.state)),
            settled: false,
        }
    }
}

/// What the ledger says.
#[derive(Debug)]
pub(super) enum Way {
    /// To this sale; its lane decides.
    Sale(Routed),
    /// The item's sale is being stopped; in a moment it is over. Its lanes still know who holds what.
    Draining(Arc<Sale>),
    /// To the ledger engine.
    Ledger(OffSale),
    /// To one of several places.
    Several,
    /// To nowhere.
    Refused(Problem),
}

impl Routes {
    /// The way that is known, else the ledger's.
    pub(super) async fn way(&self, calls: &LedgerCalls, ask: &RouteAsk) -> Result<Way, Problem> {
        let (way, is_due) = match self.known(ask) {
            Some((way, is_due)) => (way, is_due),
            None => return self.find(calls, ask).await,
        };
        if !is_due {
            return Ok(way);
        }
        match self.find(calls, ask).await {
            // The old way is as good as it was: Redis sells while the ledger is away.
            Err(problem) if problem.code() == Code::LedgerUnavailable => Ok(way),
            found => found,
        }
    }

    /// The way that is kept, and whether whoever asks should look again; only one at a time is told to.
    fn known(&self, ask: &RouteAsk) -> Option<(Way, bool)> {
        let mut kept = lock(&self.kept);
        let known = kept.get_mut(ask)?;
        let sale = match &known.to {
            KeptTo::Ledger(off_sale) => {
                return (known.at.elapsed() < LEDGER_FOR).then(|| (Way::Ledger(off_sale.clone()), false));
            }
            KeptTo::Sale(sale) => Arc::clone(sale),
        };
        let is_due = ask.location.is_none() && known.at.elapsed() >= ONLY_PLACE_FOR;
        if is_due {
            known.at = Instant::now();
        }
        Some((Way::Sale(Routed { sale, fresh: false }), is_due))
    }

    /// The way, from the ledger.
    pub(super) async fn find(&self, calls: &LedgerCalls, ask: &RouteAsk) -> Result<Way, Problem> {
        let refuse = |problem| Ok(Way::Refused(problem));
        let (item, sale) = match calls.route.ask(ask.clone()).await? {
            Route::UnknownSku => {
                return refuse(Problem::new(Code::UnknownSku, "no such SKU").with("skuId", ask.sku.as_str()));
            }
            Route::UnknownLocation => return refuse(Problem::new(Code::UnknownLocation, "no such location")),
            Route::Several => {
                self.forget(ask);
                return Ok(Way::Several);
            }
            Route::Item { item, sale } => (item, sale),
        };
        let off_sale = |last| {
            let off_sale = OffSale {
                item,
                last,
                settled: true,
            };
            self.keep(ask, KeptTo::Ledger(off_sale.clone()));
            Ok(Way::Ledger(off_sale))
        };
        let Some(sale) = sale else { return off_sale(None) };
        match sale.state {
            SaleState::Ended if !sale.drained => Ok(Way::Draining(Arc::from(sale))),
            SaleState::Draft | SaleState::Ended => off_sale(Some((sale.no, sale.state))),
            SaleState::Live | SaleState::Paused | SaleState::Frozen if in_lanes(&sale) => {
                let sale: Arc<Sale> = Arc::from(sale);
                self.keep(ask, KeptTo::Sale(Arc::clone(&sale)));
                Ok(Way::Sale(Routed { sale, fresh: true }))
            }
            state => refuse(not_live(state, sale.starts_at)),
        }
    }

    fn keep(&self, ask: &RouteAsk, to: KeptTo) {
        let mut kept = lock(&self.kept);
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        let at = Instant::now();
        kept.insert(ask.clone(), Kept { to, at });
    }

    /// Forgets this way.
    pub(super) fn forget(&self, ask: &RouteAsk) {
        lock(&self.kept).remove(ask);
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
