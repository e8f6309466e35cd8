//! Whether the stack is well again: every living gateway serves, every lane is open and owned by one that lives, and,
//! when nobody asks for anything any more, nothing is left on its way.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::Value;

use super::DrillError;
use super::history::{Healed, Line, Moment, Settled};
use super::stack::{Stack, pause};
use super::web::Web;

/// Longest time for a stack to heal, by itself.
pub(super) const HEALS_WITHIN: Duration = Duration::from_secs(120);
/// Longest time from there until somebody who asks gets a durable answer; clients may first wait for older ones.
const GOES_ON_WITHIN: Duration = Duration::from_secs(30);
/// Longest time to catch up.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY_MS: u64 = 25;
/// A ledger that is further behind than this has not caught up with the load.
const LAG_MAX_MS: i64 = 1_000;

/// Waits until the stack serves again, which is written down; none where it does not in time.
///
/// # Errors
/// The history can't be written.
pub(super) async fn until_healed(web: &Web, stack: &Stack, round: u32) -> Result<Option<Healed>, DrillError> {
    if !until_serving(web, stack).await {
        return Ok(None);
    }
    let healed = Healed {
        healed: web.now(),
        round,
    };
    web.write(&Line::Healed(healed))?;
    Ok(Some(healed))
}

/// Waits until the stack serves; whether it does so in time.
pub(super) async fn until_serving(web: &Web, stack: &Stack) -> bool {
    let since = Instant::now();
    while since.elapsed() < HEALS_WITHIN {
        if serves(web, stack).await {
            return true;
        }
        pause(LOOK_EVERY_MS).await;
    }
    false
}

/// Waits until clients are served to the end again; whether they are in time.
pub(super) async fn until_going_on(web: &Web, after: Moment) -> bool {
    let since = Instant::now();
    while since.elapsed() < GOES_ON_WITHIN {
        if web.goes_on_after(after) {
            return true;
        }
        pause(LOOK_EVERY_MS).await;
    }
    false
}

/// Waits until nothing is on its way, and writes down how it stands then.
///
/// # Errors
/// The history can't be written.
pub(super) async fn until_settled(web: &Web, stack: &Stack, round: u32) -> Result<(), DrillError> {
    let since = Instant::now();
    loop {
        let lanes = match living(stack).next() {
            Some((gateway, _)) => lanes(web, gateway).await,
            None => None,
        };
        let still = |lane: &Value| {
            lane["state"] == "open" && lane["seq"] == lane["cursor"] && lane["granted"] == lane["lastGrant"]
        };
        let is_still = lanes.as_ref().is_some_and(|lanes| lanes.iter().all(still)) && serves(web, stack).await;
        if is_still || since.elapsed() > SETTLES_WITHIN {
            let depth = |lane: &Value| {
                let behind = lane["seq"]
                    .as_u64()
                    .unwrap_or(u64::MAX)
                    .abs_diff(lane["cursor"].as_u64().unwrap_or(0));
                if still(lane) { 0 } else { behind.max(1) }
            };
            let settled = Settled {
                settled: web.now(),
                round,
                backlog: lanes.map_or(u64::MAX, |lanes| lanes.iter().map(depth).fold(0, u64::saturating_add)),
                drift: drift(web, stack).await,
            };
            web.write(&Line::Settled(settled))?;
            return Ok(());
        }
        pause(LOOK_EVERY_MS).await;
    }
}

fn living(stack: &Stack) -> impl Iterator<Item = (u32, u32)> {
    let living = |gateway: &super::gateway::Gateway| Some((gateway.number, gateway.pid()?));
    stack.gateways.iter().filter_map(living)
}

async fn serves(web: &Web, stack: &Stack) -> bool {
    let mut pids = Vec::new();
    for (gateway, pid) in living(stack) {
        let Some(ready) = web.admin(gateway, Method::GET, "/readyz", None).await else {
            return false;
        };
        if ready["mode"] != "serving" || ready["lanes"]["closed"] != 0 || ready["lanes"]["open"] == 0 {
            return false;
        }
        pids.push(format!("-{pid}"));
    }
    let Some((gateway, _)) = living(stack).next() else {
        return false;
    };
    let Some(lanes) = lanes(web, gateway).await else {
        return false;
    };
    lanes.iter().all(|lane| {
        let owner = lane["owner"].as_str().unwrap_or_default();
        lane["state"] == "open"
            && lane["lagMs"].as_i64().is_some_and(|lag| lag < LAG_MAX_MS)
            && pids.iter().any(|pid| owner.ends_with(pid.as_str()))
    })
}

async fn lanes(web: &Web, gateway: u32) -> Option<Vec<Value>> {
    let told = web.admin(gateway, Method::GET, "/admin/lanes", None).await?;
    told["lanes"].as_array().cloned()
}

/// Units by which counters differ, over all sales; of what can't be told, the most.
async fn drift(web: &Web, stack: &Stack) -> u64 {
    let Some((gateway, _)) = living(stack).next() else {
        return u64::MAX;
    };
    let Some(told) = web.admin(gateway, Method::GET, "/admin/sales", None).await else {
        return u64::MAX;
    };
    let sales = told["sales"].as_array().cloned().unwrap_or_default();
    let of = |sale: &Value| sale["drift"].as_i64().unwrap_or_default().unsigned_abs();
    sales.iter().map(of).sum()
}
