//! Waiting until a change of a sale is in force on every gateway.
//!
//! The ledger has decided; lanes learn of it by grants. Whoever asked learns no sooner than the lanes, and where they
//! can't be reached in time, that the change stands and takes effect later: repeating the call waits again.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::sale::{Sale, SaleState};
use crate::http::Gateway;
use crate::http::code::Code;
use crate::http::problem::Problem;
use crate::ledger::sale::Acted;
use crate::ledger::{GrantTicket, LedgerError};
use crate::recall::nudge;

/// Longest wait for lanes to take a change; a lane whose owner died has another by then.
pub(in crate::http) const IN_FORCE_MAX: Duration = Duration::from_secs(5);
/// Longest wait for a stop: the queue has to drain.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Notices can get lost, so the ledger is asked as well, this often.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A drain is finished by asking.
const DRAIN_EVERY: Duration = Duration::from_millis(20);

/// Waits until the change is in force; of a stop, until every unsold unit is back.
pub(super) async fn in_force(gateway: &Gateway, acted: &Acted) -> Result<(), Problem> {
    let deadline = Instant::now() + IN_FORCE_MAX;
    if acted.sale.state == SaleState::Ended {
        drained(gateway, &acted.sale).await
    } else if delivered(gateway, &acted.grants, deadline).await? {
        Ok(())
    } else {
        Err(late(
            gateway,
            "the change is decided and takes effect when the sale's lanes can be reached",
        ))
    }
}

/// Waits until none of these grants is on its way; false where the deadline came first.
pub(super) async fn delivered(gateway: &Gateway, grants: &[GrantTicket], deadline: Instant) -> Result<bool, Problem> {
    let mut left = grants.to_vec();
    while !left.is_empty() {
        nudge(&gateway.flash, &left);
        let within = LOOK_EVERY.min(deadline.saturating_duration_since(Instant::now()));
        let waits = left
            .iter()
            .map(|ticket| gateway.flash.wait_delivered(ticket.grant_id, within));
        let heard = futures::future::join_all(waits).await;
        let mut heard = heard.into_iter();
        left.retain(|_| !heard.next().unwrap_or(false));
        let ids: Vec<i64> = left.iter().map(|ticket| ticket.grant_id).collect();
        let rows = gateway.ledger.grants_not_in_force(&ids).await?;
        left.retain(|ticket| rows.contains(&ticket.grant_id));
        if !left.is_empty() && Instant::now() >= deadline {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn drained(gateway: &Gateway, sale: &Sale) -> Result<(), Problem> {
    let deadline = Instant::now() + DRAIN_MAX;
    loop {
        match gateway.ledger.finish_drain(sale.no).await {
            Ok(true) => break,
            // Somebody has the balance locked; the next look may find it free.
            Ok(false) | Err(LedgerError::Retry(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if Instant::now() >= deadline {
            return Err(late(gateway, "the sale has ended; its units are still coming back"));
        }
        for lane in &sale.lanes {
            gateway.flash.nudge_grants(*lane);
        }
        tokio::time::sleep(DRAIN_EVERY).await;
    }
    // The lanes forget the sale.
    for lane in &sale.lanes {
        gateway.flash.nudge_grants(*lane);
    }
    Ok(())
}

/// 503, by who keeps us waiting.
pub(in crate::http) fn late(gateway: &Gateway, what: &str) -> Problem {
    let code = if gateway.flash.is_complete() {
        Code::LedgerUnavailable
    } else {
        Code::StockUnavailable
    };
    Problem::new(code, what)
}
