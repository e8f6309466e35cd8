//! What is sold in a round: live sales that differ in what can go wrong with them.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::DrillError;
use super::history::{Action, Kind, Operation, Outcome};
use super::stack::pause;
use super::web::{Ask, Web};
use crate::domain::id::{Item, LocationId, SaleId, Sku};

/// Longest wait for an admin's call: between rounds everything is well.
const ADMIN_MAX: Duration = Duration::from_secs(30);
const PLACE: &str = "wh1";
/// Who the admin is in the history.
pub(super) const ADMIN: u32 = 1_000;

/// A sale, as its buyers know it.
#[derive(Clone, Debug)]
pub(super) struct Shelf {
    pub(super) sale: SaleId,
    pub(super) item: Item,
    /// Most units of a user; none: it does not ask who buys.
    pub(super) limit: Option<i64>,
    pub(super) allocation: i64,
    /// More than that is in stock.
    pub(super) stock: i64,
    pub(super) hold_seconds: u64,
    pub(super) buckets: u16,
}

/// The sales of a round: a large one over all lanes whose users are limited, a small one that runs out, one in a single
/// lane.
pub(super) fn shelves(round: u32) -> Result<Vec<Shelf>, DrillError> {
    let shelf = |name: &str, limit, allocation, hold_seconds, buckets| {
        let sku = format!("r{round}-{name}");
        Ok::<_, DrillError>(Shelf {
            sale: SaleId::try_from(sku.as_str())?,
            item: Item {
                sku: Sku::try_from(sku.as_str())?,
                location: LocationId::try_from(PLACE)?,
            },
            limit,
            allocation,
            stock: allocation * 2,
            hold_seconds,
            buckets,
        })
    };
    Ok(vec![
        shelf("wide", Some(4), 20_000, 5, 4)?,
        shelf("small", None, 60, 3, 2)?,
        shelf("single", None, 5_000, 4, 1)?,
    ])
}

/// Puts them on sale.
///
/// # Errors
/// No gateway does it in time.
pub(super) async fn open(web: &Web, shelves: &[Shelf]) -> Result<(), DrillError> {
    let place = json!({"name": "One", "kind": "warehouse", "region": "eu", "active": true});
    insist(web, Method::PUT, &format!("/admin/locations/{PLACE}"), place).await?;
    for shelf in shelves {
        let sku = shelf.item.sku.as_str();
        let shown = json!({"display": "exact"});
        insist(web, Method::PUT, &format!("/admin/skus/{sku}"), shown).await?;
        let received = json!({"skuId": sku, "locationId": PLACE, "delta": shelf.stock, "reason": "stock_received",
                              "referenceId": sku});
        insist(web, Method::POST, "/api/inventory/adjustments", received).await?;
        let mut sale = json!({
            "saleId": shelf.sale.as_str(), "skuId": sku, "locationId": PLACE, "allocation": shelf.allocation,
            "holdSeconds": shelf.hold_seconds, "maxHoldSeconds": 120, "buckets": shelf.buckets,
        });
        if let Some(limit) = shelf.limit {
            sale["perUserLimit"] = limit.into();
        }
        insist(web, Method::POST, "/admin/sales", sale).await?;
        act(web, shelf, Action::Start, shelf.allocation).await?;
    }
    Ok(())
}

/// Ends the sales of a round that is over.
///
/// # Errors
/// No gateway does it in time.
pub(super) async fn close(web: &Web, shelves: &[Shelf]) -> Result<(), DrillError> {
    for shelf in shelves {
        act(web, shelf, Action::Stop, shelf.allocation).await?;
    }
    Ok(())
}

/// Does this to a sale, again until it is done: each of them can be repeated.
///
/// # Errors
/// No gateway does it in time.
pub(super) async fn act(web: &Web, shelf: &Shelf, action: Action, allocation: i64) -> Result<Operation, DrillError> {
    let ask = ask(shelf, action, allocation);
    let since = Instant::now();
    for turn in 0.. {
        let told = web.ask(turn % web.gateways(), &ask).await?;
        match told.outcome {
            Outcome::Ok => return Ok(told),
            Outcome::Unknown if since.elapsed() < ADMIN_MAX => pause(100).await,
            _ => {
                return Err(DrillError::Stack(format!(
                    "{action:?} of {} got {:?} {:?}",
                    shelf.sale.as_str(),
                    told.status,
                    told.code
                )));
            }
        }
    }
    unreachable!("the loop has no end but the returns")
}

fn ask(shelf: &Shelf, action: Action, allocation: i64) -> Ask {
    let path = format!("/admin/sales/{}", shelf.sale.as_str());
    let (path, body) = match action {
        Action::Start => (format!("{path}/start"), json!({})),
        Action::Stop => (format!("{path}/stop"), json!({})),
        Action::Patch => (path, json!({"allocation": allocation})),
    };
    let mut ask = Ask::of(Kind::Sale, path, body);
    ask.operation.client = ADMIN;
    ask.operation.action = Some(action);
    ask.operation.sale_id = Some(shelf.sale.clone());
    ask.operation.sku_id = Some(shelf.item.sku.clone());
    ask.operation.location_id = Some(shelf.item.location.clone());
    ask.operation.allocation = (action != Action::Stop).then_some(allocation);
    ask
}

async fn insist(web: &Web, method: Method, path: &str, body: Value) -> Result<Value, DrillError> {
    let since = Instant::now();
    loop {
        if let Some(told) = web.admin(0, method.clone(), path, Some(body.clone())).await {
            return Ok(told);
        }
        if since.elapsed() > ADMIN_MAX {
            return Err(DrillError::Stack(format!("{method} {path} is refused")));
        }
        pause(100).await;
    }
}
