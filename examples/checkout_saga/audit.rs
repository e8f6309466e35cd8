//! Looks at everybody's books when a checkout has ended: the gateway's, the payment service's, the order service's. They must
//! tell of one end, and of the one that the story has.

use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::orders::Standing;
use crate::payments::Account;
use crate::saga::End;
use crate::world::{Played, World};

/// Events show up when every transaction that was under way has ended.
const EVENTS_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What the books say of a checkout.
#[derive(Debug)]
pub(crate) struct Found {
    /// How its reservations stand, and which units left and came back.
    pub(crate) units: String,
    pub(crate) order: String,
    pub(crate) money: String,
    /// What contradicts the end; nothing where all is well.
    pub(crate) wrong: Vec<String>,
}

/// Compares the books with the end that the story has.
pub(crate) async fn look(world: &World, played: &Played) -> Result<Found, String> {
    let order = &played.checkout.order;
    let statuses = world.reservations(order).await?;
    let units = i64::from(played.checkout.quantity);
    let expected = match played.case.path().1 {
        End::Sold => (units, 0),
        // What was sold has come back.
        End::Undone if statuses.iter().any(|status| status == "COMMITTED") => (units, units),
        End::Undone => (0, 0),
    };
    let since = Instant::now();
    let (sold, returned) = loop {
        let moved = moved(world, order).await?;
        // Of one that has not ended there is nothing to wait for.
        if moved == expected || played.end.is_none() || since.elapsed() > EVENTS_WITHIN {
            break moved;
        }
        sleep(LOOK_EVERY).await;
    };
    let mut found = compare(world, played, &statuses);
    if (sold, returned) != expected {
        found
            .wrong
            .push(format!("{sold} units were sold and {returned} came back"));
    }
    if returned > 0 {
        found.units.push_str(", RETURNED");
    }
    Ok(found)
}

fn compare(world: &World, played: &Played, statuses: &[String]) -> Found {
    let (checkout, (_, expected)) = (&played.checkout, played.case.path());
    let money = world.payments.account(&checkout.saga);
    let order = world.orders.standing(&checkout.order);
    let mut wrong = Vec::new();
    let mut check = |holds: bool, what: &str| {
        if !holds {
            wrong.push(what.to_owned());
        }
    };
    check(played.end == Some(expected), "it did not end as the story does");
    check(
        played.case.crash.is_some() == played.crashed,
        "it did not crash where it was to",
    );
    check(
        !statuses.iter().any(|status| status == "RESERVED"),
        "units are still held",
    );
    check(money.held == 0, "money is still held");
    match expected {
        End::Sold => {
            check(statuses == ["COMMITTED"], "no committed reservation");
            check(order == Some(Standing::Placed), "no order");
            check((money.taken, money.refunded) == (checkout.cents, 0), "not the price");
        }
        End::Undone => {
            check(order != Some(Standing::Placed), "the order stands");
            check(money.taken == 0, "money is gone");
        }
    }
    Found {
        units: match statuses {
            [] => "none".to_owned(),
            statuses => statuses.join("+"),
        },
        order: match order {
            Some(Standing::Placed) => "placed",
            Some(Standing::Cancelled) => "cancelled",
            None => "none",
        }
        .to_owned(),
        money: say(&money),
        wrong,
    }
}

/// Units of an order that were sold and that came back, by the event ledger.
async fn moved(world: &World, order: &str) -> Result<(i64, i64), String> {
    let path = format!("/api/inventory/events?orderId={order}&limit=1000");
    let page = world.manage(Method::GET, &path, Value::Null).await?;
    let events = page["events"].as_array().ok_or("no events in a page")?;
    let sum = |kind: &str| {
        let of_kind = events.iter().filter(|event| event["eventType"] == kind);
        of_kind
            .map(|event| event["quantityDelta"].as_i64().unwrap_or(0).abs())
            .sum()
    };
    Ok((sum("inventory_committed"), sum("inventory_returned")))
}

fn say(money: &Account) -> String {
    let amount = |cents: u64, word: &str| (cents > 0).then(|| format!("{}.{:02} {word}", cents / 100, cents % 100));
    let parts = [
        amount(money.held, "held"),
        amount(money.taken, "taken"),
        amount(money.refunded, "refunded"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() {
        "none".to_owned()
    } else {
        parts.join(", ")
    }
}

/// After the last checkout: are all units somewhere, and does the gateway agree with the order service?
pub(crate) async fn close(world: &World, all: &[Played]) -> Result<Vec<String>, String> {
    let mut wrong = Vec::new();
    for stock in world.stock() {
        let is_sold = |played: &&Played| played.checkout.sku == stock.sku && played.case.path().1 == End::Sold;
        let sold: u32 = all.iter().filter(is_sold).map(|played| played.checkout.quantity).sum();
        let left = stock.received - stock.sold_to_others - i64::from(sold);
        let item = world.item(&stock.sku).await?;
        if item["onHand"] != left || item["available"] != left || item["reserved"] != 0 {
            wrong.push(format!(
                "{left} units of {} should be left, all free: {item}",
                stock.sku
            ));
        }
    }
    for played in all.iter().filter(|played| played.end.is_some()) {
        let state = match world.orders.standing(&played.checkout.order) {
            Some(Standing::Placed) => "paid",
            Some(Standing::Cancelled) | None => "cancelled",
        };
        let at = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let news = json!({"orderId": played.checkout.order, "state": state, "at": at});
        world.manage(Method::POST, "/api/inventory/order-states", news).await?;
    }
    let run = json!({"kind": "order_state"});
    let told = world.manage(Method::POST, "/admin/reconciliation/run", run).await?;
    let reports = told["reports"].as_array().into_iter().flatten();
    for found in reports.flat_map(|report| report["discrepancies"].as_array().into_iter().flatten()) {
        if all.iter().any(|played| found["orderId"] == played.checkout.order) {
            wrong.push(format!("the gateway's reconciliation: {found}"));
        }
    }
    Ok(wrong)
}
