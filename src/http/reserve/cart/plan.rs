//! Which engine serves each item of a cart, and which location each line that names none comes from.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::future::join_all;

use super::{Failure, ask_of};
use crate::domain::choice::split;
use crate::domain::id::Item;
use crate::http::Gateway;
use crate::http::problem::Problem;
use crate::http::reserve::choose::{may_have_more, none_has, ranked};
use crate::http::reserve::request::{Asked, Wish};
use crate::http::reserve::route::{OffSale, Routed, Way};
use crate::ledger::places::{Place, Served};
use crate::ledger::route::RouteAsk;

/// Who takes an item's units.
pub(super) enum By {
    /// The lane of its sale; of one that is being stopped, only what it took before.
    Lane { routed: Routed, draining: bool },
    /// The transaction that makes the cart.
    Ledger(OffSale),
}

impl By {
    /// The item without its sale, where that is over.
    pub(super) fn over(&self) -> Option<OffSale> {
        match self {
            By::Lane { routed, draining: true } => Some(OffSale::draining(&routed.sale)),
            _ => None,
        }
    }
}

/// An item of a cart.
pub(super) struct Need {
    pub(super) item: Item,
    pub(super) units: i64,
    pub(super) by: By,
    /// The gateway chose the location, of a line at least.
    pub(super) chosen: bool,
}

impl Need {
    pub(super) fn failure(&self, problem: Problem) -> Failure {
        Failure {
            sku: self.item.sku.to_string(),
            location: Some(self.item.location.to_string()),
            units: self.units,
            problem,
        }
    }
}

fn failure(wish: &Wish, problem: Problem) -> Failure {
    Failure {
        sku: wish.sku.to_string(),
        location: wish.location.as_ref().map(ToString::to_string),
        units: wish.quantity.into(),
        problem,
    }
}

/// The items of these wishes, in order; `short`: items that had too few for this cart, and what they had.
pub(super) async fn plan(
    gateway: &Gateway,
    asked: &Asked,
    wishes: &[Wish],
    short: &HashMap<Item, i64>,
) -> Result<Vec<Need>, Vec<Failure>> {
    let asks: Vec<RouteAsk> = wishes.iter().map(RouteAsk::from).collect();
    let ways = join_all(asks.iter().map(|ask| gateway.routes.way(&gateway.calls, ask))).await;
    let mut needs: BTreeMap<Item, Need> = BTreeMap::new();
    let mut failures = Vec::new();
    let mut open = Vec::new();
    for (wish, way) in wishes.iter().zip(ways) {
        match way.map(by) {
            Ok(Ok(Some((item, by)))) => add(&mut needs, item, wish.quantity.into(), by, false),
            Ok(Ok(None)) => open.push(wish),
            Ok(Err(problem)) | Err(problem) => failures.push(failure(wish, problem)),
        }
    }
    for wish in open {
        let chosen = choose(gateway, asked, wish, &needs, short).await;
        let shares = match chosen {
            Ok(shares) => shares,
            Err(problem) => {
                failures.push(failure(wish, problem));
                continue;
            }
        };
        for (item, units) in shares {
            match gateway.routes.way(&gateway.calls, &ask_of(&item)).await.map(by) {
                Ok(Ok(Some((item, by)))) => add(&mut needs, item, units, by, true),
                Ok(Ok(None)) => failures.push(failure(wish, Problem::internal("a chosen location is not one"))),
                Ok(Err(problem)) | Err(problem) => failures.push(failure(wish, problem)),
            }
        }
    }
    if failures.is_empty() {
        Ok(needs.into_values().collect())
    } else {
        Err(failures)
    }
}

fn add(needs: &mut BTreeMap<Item, Need>, item: Item, units: i64, by: By, chosen: bool) {
    let need = needs.entry(item.clone()).or_insert(Need {
        item,
        units: 0,
        by,
        chosen: false,
    });
    need.units += units;
    need.chosen |= chosen;
}

/// `None`: a location is to be chosen.
fn by(way: Way) -> Result<Option<(Item, By)>, Problem> {
    Ok(match way {
        Way::Sale(routed) => Some((
            routed.sale.item.clone(),
            By::Lane {
                routed,
                draining: false,
            },
        )),
        Way::Draining(sale) => {
            let (item, fresh) = (sale.item.clone(), false);
            let sale = Arc::clone(&sale);
            let routed = Routed { sale, fresh };
            Some((item, By::Lane { routed, draining: true }))
        }
        Way::Ledger(off_sale) => Some((off_sale.item.clone(), By::Ledger(off_sale))),
        Way::Several => None,
        Way::Refused(problem) => return Err(problem),
    })
}

/// Where a wish comes from: from the best place that has enough, else from one that may have more than is seen, else,
/// where the caller allows it, from several.
async fn choose(
    gateway: &Gateway,
    asked: &Asked,
    wish: &Wish,
    needs: &BTreeMap<Item, Need>,
    short: &HashMap<Item, i64>,
) -> Result<Vec<(Item, i64)>, Problem> {
    let places = ranked(gateway, asked, &wish.sku).await?;
    let units = i64::from(wish.quantity);
    let free = |place: &Place| {
        let had = short.get(&place.item).copied();
        let taken = needs.get(&place.item).map_or(0, |need| need.units);
        had.unwrap_or_else(|| place.served.free()) - taken
    };
    let unseen = |place: &&Place| may_have_more(place) && !short.contains_key(&place.item);
    let enough = places.iter().find(|place| free(place) >= units);
    let best = match asked.allow_split {
        true => enough,
        false => enough.or_else(|| places.iter().find(unseen)),
    };
    if let Some(place) = best {
        return Ok(vec![(place.item.clone(), units)]);
    }
    let sells = |place: &&Place| !matches!(place.served, Served::NotLive(..));
    let selling: Vec<&Place> = places.iter().filter(sells).collect();
    if asked.allow_split
        && let Some(shares) = split(selling.iter().map(|place| free(place)), units)
    {
        return Ok(shares
            .into_iter()
            .map(|(at, units)| (selling[at].item.clone(), units))
            .collect());
    }
    let most = match asked.allow_split {
        true => selling.iter().map(|place| free(place).max(0)).sum(),
        false => selling.iter().map(|place| free(place)).max().unwrap_or(0).max(0),
    };
    Err(none_has(&places, most))
}
