//! Where a line comes from when its caller names no location and the SKU lies at several.
//!
//! Eligible are active locations; of those with enough stock the cheapest by the weights is taken (`domain::choice`), and
//! where it has just run out or can't answer, the next. A sale that seems to have too few is asked last, for only its
//! lanes know.

use std::sync::Arc;
use std::time::Instant;

use axum::http::StatusCode;

use super::answer::{Answered, not_live};
use super::parcels::{Counts, Parcels};
use super::request::{Asked, Wish};
use super::{at, cart, repeat, settle};
use crate::domain::choice::{Facts, Weights, rank};
use crate::domain::id::Sku;
use crate::http::Gateway;
use crate::http::code::Code;
use crate::http::prefer::Prefer;
use crate::http::problem::Problem;
use crate::ledger::places::{Place, Served};

/// How this gateway chooses.
#[derive(Debug, Default)]
pub(in crate::http) struct Choice {
    weights: Weights,
    parcels: Arc<Parcels>,
}

impl Choice {
    pub(in crate::http) fn new(weights: Weights) -> Self {
        Choice {
            weights,
            parcels: Arc::default(),
        }
    }

    async fn parcels(&self, gateway: &Gateway) -> Counts {
        let count = || {
            let ledger = gateway.ledger.clone();
            async move { ledger.parcels_today().await }
        };
        self.parcels.counts(count).await
    }
}

/// The active locations of a SKU, best first.
pub(super) async fn ranked(gateway: &Gateway, asked: &Asked, sku: &Sku) -> Result<Vec<Place>, Problem> {
    let mut places = gateway.calls.places.ask(sku.clone()).await?;
    if places.len() > 1 && places.iter().any(|place| place.facts.capacity.is_some()) {
        let parcels = gateway.choice.parcels(gateway).await;
        for facts in places.iter_mut().map(|place| &mut place.facts) {
            if let Some(capacity) = &mut facts.capacity {
                capacity.used = parcels.get(&facts.location).copied().unwrap_or(0);
            }
        }
    }
    let facts: Vec<Facts> = places.iter().map(|place| place.facts.clone()).collect();
    let order = rank(&facts, asked.ship_to.as_ref(), &gateway.choice.weights);
    Ok(order.into_iter().map(|at| places[at].clone()).collect())
}

/// Whether a place that seems to have too few may have more: only its lanes know.
pub(super) fn may_have_more(place: &Place) -> bool {
    matches!(place.served, Served::Sale(_) | Served::Draining(_))
}

/// Takes the wish at the best place that has enough; where none has and the caller allows it, from several.
pub(super) async fn take(
    gateway: &Gateway,
    asked: &Asked,
    wish: &Wish,
    prefer: Prefer,
    started: Instant,
) -> Result<Answered, Problem> {
    // Another place may be best by now: what the first attempt took is found by its key, not by its place.
    if let Some(answered) = repeat::replay(gateway, asked).await? {
        return Ok(answered);
    }
    let places = ranked(gateway, asked, &wish.sku).await?;
    let units = i64::from(wish.quantity);
    let (mut most, mut unanswered) = (0, None);
    let (enough, few): (Vec<&Place>, Vec<&Place>) = places.iter().partition(|place| place.served.free() >= units);
    let worth_asking = few.iter().filter(|place| may_have_more(place));
    // Where it is plain that none has enough, one is asked all the same: other refusals come before that.
    let off_sale = |place: &&&Place| matches!(place.served, Served::Ledger(_));
    let one = few.iter().filter(off_sale).take(usize::from(enough.is_empty()));
    for place in enough.iter().chain(worth_asking).chain(one) {
        let here = Wish {
            location: Some(place.item.location.clone()),
            ..wish.clone()
        };
        match at::take(gateway, asked, &here, prefer, started).await {
            Ok(Some(answered)) => return Ok(answered),
            Ok(None) => return Err(Problem::internal("a location was named, and several were found")),
            Err(problem) if problem.code() == Code::InsufficientStock => most = most.max(available(&problem)),
            Err(problem) if problem.code() == Code::SaleNotLive => {}
            // The next one serves. What this one may have taken all the same falls to the key, as where a client comes
            // back and another place is best by then: the ledger keeps one of the two.
            Err(problem) if is_unanswered(&problem) => unanswered = unanswered.or(Some(problem)),
            Err(problem) => return Err(problem),
        }
    }
    if asked.allow_split && places.len() > 1 {
        return cart::take(gateway, asked, std::slice::from_ref(wish), started).await;
    }
    let unasked = few.iter().filter(|place| !may_have_more(place));
    let most = unasked.map(|place| place.served.free()).fold(most, i64::max);
    Err(unanswered.unwrap_or_else(|| none_has(&places, most)))
}

/// Whether a place could not say what it has.
pub(super) fn is_unanswered(problem: &Problem) -> bool {
    problem.code().status() == StatusCode::SERVICE_UNAVAILABLE
}

/// What `INSUFFICIENT_STOCK` says was available.
pub(super) fn available(problem: &Problem) -> i64 {
    problem
        .field("available")
        .and_then(serde_json::Value::as_i64)
        .unwrap_or(0)
}

/// Why none of these places serves, which have at most so many units for it.
pub(super) fn none_has(places: &[Place], most: i64) -> Problem {
    let waiting = places.iter().find_map(|place| match place.served {
        Served::NotLive(state, starts_at) => Some((state, starts_at)),
        _ => None,
    });
    match waiting {
        Some((state, starts_at)) if places.iter().all(|place| matches!(place.served, Served::NotLive(..))) => {
            not_live(state, starts_at)
        }
        _ => settle::insufficient(most),
    }
}
