//! Carts: several lines, all or nothing, wherever they lie.
//!
//! Lines on live sales are held in their lanes first ([`part`]); when all of them are durable, one transaction of the
//! ledger engine takes the other lines and makes the cart of all. Whatever fails before leaves at most parts behind,
//! which are given back, or expire within seconds where the gateway died. The cart's key decides: two gateways with
//! the same cart find the same parts, and one of their transactions makes it.

mod plan;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};

use self::plan::{By, Need, plan};
use super::answer::Answered;
use super::part::{Part, give_back, hold, is_of};
use super::request::{Asked, LINES_MAX, Wish, together};
use super::route::Way;
use super::{CHANGE_LOOK, at, changing, choose, repeat, settle};
use crate::domain::id::Item;
use crate::domain::reservation::Line;
use crate::domain::reservation_id::{Kind, ReservationId};
use crate::http::Gateway;
use crate::http::code::Code;
use crate::http::problem::Problem;
use crate::ledger::route::RouteAsk;
use crate::ledger::{Short, TakeAnswer};

/// How long a cart is tried while its items change hands: well within the time for which its parts are held.
const CART_WITHIN: Duration = Duration::from_secs(2);

/// A line that failed, and why.
pub(super) struct Failure {
    pub(super) sku: String,
    pub(super) location: Option<String>,
    pub(super) units: i64,
    pub(super) problem: Problem,
}

/// What this request has found out and taken so far.
#[derive(Default)]
struct Progress {
    /// Items that had too few: what they had.
    short: HashMap<Item, i64>,
    /// Parts that are held, with their units.
    held: BTreeMap<Item, (ReservationId, i64)>,
    /// Why the first of the chosen places that could not answer did not.
    unanswered: Option<Problem>,
}

/// Makes a cart, or finds it.
pub(super) async fn take(
    gateway: &Gateway,
    asked: &Asked,
    wishes: &[Wish],
    started: Instant,
) -> Result<Answered, Problem> {
    let mut progress = Progress::default();
    let failed = loop {
        match attempt(gateway, asked, wishes, &mut progress, started).await {
            Ok(Some(answered)) => return Ok(answered),
            Ok(None) if started.elapsed() < CART_WITHIN => tokio::time::sleep(CHANGE_LOOK).await,
            Ok(None) => break changing("sales of the cart's items are beginning or ending"),
            Err(problem) if problem.code() == Code::InsufficientStock => {
                break progress.unanswered.take().unwrap_or(problem);
            }
            Err(problem) => break problem,
        }
    };
    join_all(progress.held.values().map(|(id, _)| give_back(gateway, asked, *id))).await;
    Err(failed)
}

/// `None`: something changed hands meanwhile.
async fn attempt(
    gateway: &Gateway,
    asked: &Asked,
    wishes: &[Wish],
    progress: &mut Progress,
    started: Instant,
) -> Result<Option<Answered>, Problem> {
    if let Some(answered) = repeat::replay(gateway, asked).await? {
        return Ok(Some(answered));
    }
    let mut needs = plan(gateway, asked, wishes, &progress.short).await.map_err(worst)?;
    if needs.len() > LINES_MAX {
        let what = format!("would come from more than {LINES_MAX} items and locations");
        return Err(Problem::invalid("lines", what));
    }
    for need in &needs {
        together(need.units)?;
    }
    drop_unplanned(gateway, asked, &needs, progress).await;
    if !hold_parts(gateway, asked, &mut needs, progress, started).await? {
        return Ok(None);
    }
    loop {
        let (lines, parts) = sorted(&needs, progress);
        let kind = Kind::Cart;
        let answer = gateway
            .calls
            .take
            .ask(at::take_ask(gateway, asked, kind, lines, parts)?)
            .await?;
        return match answer {
            TakeAnswer::Insufficient(short) => unless_changed(gateway, &needs, short, progress).await,
            TakeAnswer::OnSale(item) => {
                gateway.routes.forget(&ask_of(&item));
                Ok(None)
            }
            TakeAnswer::PartEnded(id) => {
                progress.held.retain(|_, (held, _)| *held != id);
                Ok(None)
            }
            TakeAnswer::OrderAlreadyReserved(id) => match adopt(gateway, asked, &needs, id, progress).await? {
                Adopted::Held => continue,
                Adopted::GivenBack => Ok(None),
                Adopted::NotOurs => Err(order_holds(gateway, asked, &needs, progress, id).await),
            },
            answer => settle::taken(gateway, answer, started).await.map(Some),
        };
    }
}

/// Gives back what is held where the cart does not take from any more.
async fn drop_unplanned(gateway: &Gateway, asked: &Asked, needs: &[Need], progress: &mut Progress) {
    let planned = |item: &Item, units: i64| needs.iter().any(|need| need.item == *item && need.units == units);
    let (kept, left): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut progress.held)
        .into_iter()
        .partition(|(item, (_, units))| planned(item, *units));
    progress.held = kept;
    join_all(left.values().map(|(id, _)| give_back(gateway, asked, *id))).await;
}

/// Holds every line on sale; `false`: something changed. An item whose sale has just ended goes to the ledger engine.
async fn hold_parts(
    gateway: &Gateway,
    asked: &Asked,
    needs: &mut [Need],
    progress: &mut Progress,
    started: Instant,
) -> Result<bool, Problem> {
    let held = &progress.held;
    let asks = needs.iter().map(async |need| match &need.by {
        By::Lane { routed, .. } if !held.contains_key(&need.item) => {
            let quantity = together(need.units).ok()?;
            Some(hold(gateway, asked, &routed.sale, routed.fresh, quantity, started).await)
        }
        _ => None,
    });
    let parts = join_all(asks).await;
    let mut all = true;
    let mut failures = Vec::new();
    for (need, part) in needs.iter_mut().zip(parts) {
        match part {
            None => {}
            Some(Part::Held(id)) => {
                progress.held.insert(need.item.clone(), (id, need.units));
            }
            Some(Part::Elsewhere) => match need.by.over() {
                Some(off_sale) => need.by = By::Ledger(off_sale),
                None => {
                    gateway.routes.forget(&ask_of(&need.item));
                    all = false;
                }
            },
            Some(Part::Again) => all = false,
            Some(Part::Failed(problem)) if need.chosen && problem.code() == Code::InsufficientStock => {
                progress.short.insert(need.item.clone(), choose::available(&problem));
                all = false;
            }
            // What it may hold all the same expires with its part of a cart that never is.
            Some(Part::Failed(problem)) if need.chosen && choose::is_unanswered(&problem) => {
                progress.short.insert(need.item.clone(), 0);
                progress.unanswered.get_or_insert(problem);
                all = false;
            }
            Some(Part::Failed(problem)) => failures.push(need.failure(problem)),
        }
    }
    if failures.is_empty() {
        Ok(all)
    } else {
        Err(worst(failures))
    }
}

/// What the transaction is to take, and what it is to make the cart of besides.
fn sorted(needs: &[Need], progress: &Progress) -> (Vec<Line>, Vec<ReservationId>) {
    let (mut lines, mut parts) = (Vec::new(), Vec::new());
    for need in needs {
        match progress.held.get(&need.item) {
            Some((id, _)) => parts.push(*id),
            None => lines.push(Line {
                item: need.item.clone(),
                quantity: need.units,
            }),
        }
    }
    lines.sort_by(|a, b| a.item.cmp(&b.item));
    (lines, parts)
}

/// `INSUFFICIENT_STOCK` of the ledger engine is believed where no sale of the item came or went around it.
async fn unless_changed(
    gateway: &Gateway,
    needs: &[Need],
    short: Vec<Short>,
    progress: &mut Progress,
) -> Result<Option<Answered>, Problem> {
    let mut failures = Vec::new();
    let mut again = false;
    for Short { item, available } in short {
        let Some(need) = needs.iter().find(|need| need.item == item) else {
            return Err(Problem::internal("an item is short that was not asked for"));
        };
        gateway.routes.forget(&ask_of(&item));
        let now = gateway.routes.find(&gateway.calls, &ask_of(&item)).await?;
        let same = matches!((&now, &need.by), (Way::Ledger(now), By::Ledger(then)) if now == then);
        if !same {
            again = true;
        } else if need.chosen {
            progress.short.insert(item, available);
            again = true;
        } else {
            failures.push(need.failure(settle::insufficient(available)));
        }
    }
    if failures.is_empty() && again {
        return Ok(None);
    }
    Err(worst(failures))
}

/// What a reservation is that holds the order's line of an item.
enum Adopted {
    /// A part of this cart, made while its item was on sale; it counts as held from now on.
    Held,
    /// A part of this cart with other units; it is gone.
    GivenBack,
    NotOurs,
}

async fn adopt(
    gateway: &Gateway,
    asked: &Asked,
    needs: &[Need],
    id: ReservationId,
    progress: &mut Progress,
) -> Result<Adopted, Problem> {
    for need in needs.iter().filter(|need| !progress.held.contains_key(&need.item)) {
        if repeat::holder(gateway, asked.part_key(&need.item)).await? != Some(id) {
            continue;
        }
        let part = gateway.calls.read.ask(id).await?;
        if part.is_some_and(|part| is_of(&part, need.units)) {
            progress.held.insert(need.item.clone(), (id, need.units));
            return Ok(Adopted::Held);
        }
        give_back(gateway, asked, id).await;
        return Ok(Adopted::GivenBack);
    }
    Ok(Adopted::NotOurs)
}

/// The lines that the order holds already, `first` one of them.
async fn order_holds(
    gateway: &Gateway,
    asked: &Asked,
    needs: &[Need],
    progress: &Progress,
    first: ReservationId,
) -> Problem {
    let mut failures = Vec::new();
    for need in needs.iter().filter(|need| !progress.held.contains_key(&need.item)) {
        match repeat::holder(gateway, asked.line(&need.item)).await {
            Ok(Some(id)) => failures.push(need.failure(settle::order_holds(gateway, id).await)),
            Ok(None) => {}
            Err(problem) => return problem,
        }
    }
    if failures.is_empty() {
        // It was given back meanwhile.
        return settle::order_holds(gateway, first).await;
    }
    worst(failures)
}

fn ask_of(item: &Item) -> RouteAsk {
    RouteAsk {
        sku: item.sku.clone(),
        location: Some(item.location.clone()),
    }
}

/// The failure that wins by the contract's order, with all lines that failed.
fn worst(failures: Vec<Failure>) -> Problem {
    let rank = |failure: &Failure| match failure.problem.code() {
        Code::UnknownSku | Code::UnknownLocation => 1,
        Code::SaleNotLive => 2,
        Code::UserRequired | Code::InvalidRequest => 3,
        Code::OrderAlreadyReserved => 4,
        Code::RateLimited => 5,
        Code::UserLimitExceeded => 6,
        Code::InsufficientStock => 7,
        // What could not be found out can't be outranked by what was.
        _ => 0,
    };
    let lines: Vec<Value> = failures.iter().map(Failure::line).collect();
    match failures.into_iter().min_by_key(rank) {
        Some(failure) => failure.problem.with("lines", lines),
        None => Problem::internal("a cart failed without a reason"),
    }
}

impl Failure {
    fn line(&self) -> Value {
        let mut line = json!({
            "skuId": self.sku,
            "quantity": self.units,
            "code": self.problem.code().as_str(),
        });
        if let Some(location) = &self.location {
            line["locationId"] = json!(location);
        }
        for field in ["available", "state", "startsAt", "limit", "held", "reservationId"] {
            if let Some(value) = self.problem.field(field) {
                line[field] = value.clone();
            }
        }
        line
    }
}
