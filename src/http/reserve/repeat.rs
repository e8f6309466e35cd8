//! Repeats: what the ledger has under a request's key, or for its order, when no lane knows of it.

use std::time::Duration;

use super::answer::Answered;
use super::earlier::Before;
use super::request::Asked;
use super::settle::{key_reused, order_holds, tell};
use crate::domain::key::KeyHash;
use crate::domain::reservation_id::ReservationId;
use crate::domain::sale::Sale;
use crate::http::Gateway;
use crate::http::code::Code;
use crate::http::problem::Problem;

/// Who has the request's key in the ledger.
pub(super) enum Found {
    None,
    Same(ReservationId),
    Other,
}

pub(super) async fn find_key(gateway: &Gateway, asked: &Asked) -> Result<Found, Problem> {
    Ok(match gateway.calls.key.ask(asked.key).await? {
        None => Found::None,
        // An order's line that another key holds is not this request's.
        Some(found) if found.derived == asked.explicit => Found::None,
        Some(found) if found.fingerprint == asked.fingerprint => Found::Same(found.reservation),
        Some(_) => Found::Other,
    })
}

/// The reservation that the ledger knows under this key of our own making.
pub(super) async fn holder(gateway: &Gateway, key: KeyHash) -> Result<Option<ReservationId>, Problem> {
    Ok(gateway.calls.key.ask(key).await?.map(|found| found.reservation))
}

/// The first answer again, where the ledger knows the key.
pub(super) async fn replay(gateway: &Gateway, asked: &Asked) -> Result<Option<Answered>, Problem> {
    match find_key(gateway, asked).await? {
        Found::None => Ok(None),
        Found::Same(id) => Ok(Some(Answered {
            told: tell(gateway, id, Duration::ZERO).await?,
            replayed: true,
        })),
        Found::Other => Err(key_reused()),
    }
}

/// The same, whatever else would be answered: a replay comes first.
pub(super) async fn replay_or(gateway: &Gateway, asked: &Asked, problem: Problem) -> Result<Answered, Problem> {
    replay(gateway, asked).await?.ok_or(problem)
}

/// What was made of a request before the sale that its lane has accepted as new, and the ledger may yet refuse: its first
/// answer, or that the order holds the item.
pub(super) async fn made_before(
    gateway: &Gateway,
    asked: &Asked,
    sale: &Sale,
    new: ReservationId,
) -> Result<Option<Answered>, Problem> {
    let line = asked.line(&sale.item);
    let before = gateway.earlier.look(sale, || [asked.key, line]);
    if before == Before::No {
        return Ok(None);
    }
    // By now the ledger may have come to the new one.
    let found = async {
        match find_key(gateway, asked).await? {
            Found::Other => return Err(key_reused()),
            Found::Same(first) if first != new => {
                return Ok(Some(Answered {
                    told: tell(gateway, first, Duration::ZERO).await?,
                    replayed: true,
                }));
            }
            Found::Same(_) | Found::None => {}
        }
        match holder(gateway, line).await? {
            Some(first) if first != new => Err(order_holds(gateway, first).await),
            _ => Ok(None),
        }
    };
    match found.await {
        // That it is a repeat is no more than possible, and while the ledger is away lanes serve all the same.
        Err(problem) if before == Before::Unknown && problem.code() == Code::LedgerUnavailable => Ok(None),
        found => found,
    }
}
