//! Changes of a sale: more or fewer units, another limit, rate, hold or end.
//!
//! More units are set aside and granted in one transaction. Fewer must first come back from the lanes, which is the
//! business of [`super::recall`]; then they leave the sale here, in one transaction too.

use std::num::NonZeroU32;

use uuid::Uuid;

use super::balance::lock_balance;
use super::connection::Connection;
use super::once::{By, Claim, Key, claim};
use super::post::post;
use super::recall::{grant_first, recalls};
use super::retry::retried;
use super::sale::{Acted, ends_too_early, escrow_movement, lock_sale};
use super::sale_life::{grant, in_motion, is_opened, set_recalled, spread, tell_lanes};
use super::{Ledger, LedgerError};
use crate::domain::balance::Balance;
use crate::domain::grant::Grant;
use crate::domain::id::SaleId;
use crate::domain::sale::{RedisDown, Sale, SaleState, UserRate};
use crate::domain::time::Millis;

/// What is to change; `None` stays, `Some(None)` is cleared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SalePatch {
    /// Units of the sale, sold ones included.
    pub allocation: Option<i64>,
    /// Units a user may hold and have bought.
    pub per_user_limit: Option<Option<u32>>,
    /// Attempts that one user may make.
    pub user_rate: Option<Option<UserRate>>,
    /// Default time to pay, in ms.
    pub hold_ms: Option<u32>,
    /// When it ends by itself.
    pub ends_at: Option<Option<Millis>>,
    /// How long a reserve waits for durable by default, in ms.
    pub ack_wait_ms: Option<u32>,
    /// What serves it while Redis is away.
    pub redis_down: Option<RedisDown>,
    /// Requests a second that a gateway has the ledger decide then.
    pub redis_down_rate: Option<u32>,
    /// Units that may be accepted and not durable.
    pub undurable_max: Option<Option<u32>>,
}

/// What came of a patch.
#[derive(Clone, Debug, PartialEq)]
pub enum Patched {
    /// Done.
    Done(Acted),
    /// No such sale.
    Unknown,
    /// It is over.
    Invalid(SaleState),
    /// The time to pay would exceed the sale's longest, in ms.
    HoldTooLong(u32),
    /// It would end before it starts, or before now.
    EndsTooEarly,
    /// The balance has fewer units free than are to be added.
    Insufficient {
        /// Units to be added.
        added: i64,
        /// The balance as it was.
        found: Balance,
    },
    /// Units must come back from the lanes first: [`Ledger::take_back`], then again.
    Short,
    /// The key belongs to another request.
    KeyReused,
}

impl Ledger {
    /// Changes a sale, all or nothing.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn patch_sale(
        &self,
        id: &SaleId,
        patch: &SalePatch,
        by: &By,
        key: Option<&Key>,
    ) -> Result<Patched, LedgerError> {
        retried!(self, self.patch_sale_once(id, patch, by, key))
    }

    async fn patch_sale_once(
        &self,
        id: &SaleId,
        patch: &SalePatch,
        by: &By,
        key: Option<&Key>,
    ) -> Result<Patched, LedgerError> {
        let mut tx = self.begin().await?;
        let claimed = match key {
            Some(key) => claim(&mut tx, key, false, Uuid::new_v4()).await?,
            None => Claim::New,
        };
        if claimed == Claim::Reused {
            return Ok(Patched::KeyReused);
        }
        let Some(kept) = lock_sale(&mut tx, id).await? else {
            return Ok(Patched::Unknown);
        };
        let (mut sale, recalled) = (kept.sale, kept.recalled);
        let replayed = claimed != Claim::New;
        if !replayed {
            // Before any unit moves, and before those that live lanes have are called back.
            if ends_too_early(&mut tx, sale.starts_at, patch.ends_at.flatten()).await? {
                return Ok(Patched::EndsTooEarly);
            }
            let before = sale.clone();
            if let Some(refused) = patch.apply(&mut sale) {
                return Ok(refused);
            }
            if sale.state == SaleState::Ended {
                return Ok(Patched::Invalid(sale.state));
            }
            let added = sale.allocation - before.allocation;
            let moved = match added {
                0 => None,
                1.. => raise(&mut tx, &sale, recalled, added, by).await?,
                _ => lower(&mut tx, &sale, recalled, -added, by).await?,
            };
            if let Some(refused) = moved {
                return Ok(refused);
            }
            store(&mut tx, &sale).await?;
            // What only gateways follow travels too: the number that the lane gives it tells them to read it anew.
            let followed = |sale: &Sale| (sale.settings(), sale.ack_wait_ms, sale.redis_down_rate);
            if is_opened(&sale) && followed(&before) != followed(&sale) {
                tell_lanes(&mut tx, &sale).await?;
            }
        }
        let grants = in_motion(&mut tx, sale.no).await?;
        tx.commit().await?;
        Ok(Patched::Done(Acted { sale, grants, replayed }))
    }
}

impl SalePatch {
    /// Changes `sale`, or says what does not fit it.
    fn apply(&self, sale: &mut Sale) -> Option<Patched> {
        if let Some(allocation) = self.allocation {
            sale.allocation = allocation;
        }
        if let Some(limit) = self.per_user_limit {
            sale.per_user_limit = limit;
        }
        if let Some(rate) = self.user_rate {
            sale.user_rate = rate;
        }
        if let Some(wait) = self.ack_wait_ms {
            sale.ack_wait_ms = wait;
        }
        if let Some(hold) = self.hold_ms {
            sale.hold_ms = hold;
        }
        if let Some(end) = self.ends_at {
            sale.ends_at = end;
        }
        if let Some(choice) = self.redis_down {
            sale.redis_down = choice;
        }
        if let Some(rate) = self.redis_down_rate {
            sale.redis_down_rate = rate;
        }
        if let Some(max) = self.undurable_max {
            sale.undurable_max = max.and_then(NonZeroU32::new);
        }
        (sale.hold_ms > sale.hold_max_ms).then_some(Patched::HoldTooLong(sale.hold_max_ms))
    }
}

/// Sets units aside and grants them, or keeps them with a sale that has not started.
async fn raise(
    tx: &mut Connection,
    sale: &Sale,
    recalled: i64,
    units: i64,
    by: &By,
) -> Result<Option<Patched>, LedgerError> {
    let found = lock_balance(tx, &sale.item).await?;
    if units > found.free() {
        return Ok(Some(Patched::Insufficient { added: units, found }));
    }
    post(tx, &[escrow_movement(sale, units, "escrowed", by)]).await?;
    if is_opened(sale) {
        let shares = spread(sale, units)?;
        grant(
            tx,
            sale,
            shares.into_iter().map(|(lane, units)| (lane, Grant::Units(units))),
        )
        .await?;
    } else {
        set_recalled(tx, sale.no, recalled + units).await?;
    }
    Ok(None)
}

/// Gives units that are in no lane back to the balance, and what was taken back beyond them back to the lanes.
pub(super) async fn lower(
    tx: &mut Connection,
    sale: &Sale,
    recalled: i64,
    units: i64,
    by: &By,
) -> Result<Option<Patched>, LedgerError> {
    if recalled < units {
        return Ok(Some(Patched::Short));
    }
    post(tx, &[escrow_movement(sale, -units, "escrow_returned", by)]).await?;
    let left = recalled - units;
    if is_opened(sale) && left > 0 && recalls(tx, sale.no).await?.is_empty() {
        grant_first(tx, sale, left).await?;
        set_recalled(tx, sale.no, 0).await?;
    } else {
        set_recalled(tx, sale.no, left).await?;
    }
    Ok(None)
}

/// Writes the allocation alone.
pub(super) async fn set_allocation(tx: &mut Connection, sale: &Sale) -> Result<(), LedgerError> {
    sqlx::query(
        "-- sale.set_allocation
         UPDATE sale SET allocation = $2, updated_at = clock_timestamp() WHERE sale_no = $1",
    )
    .bind(sale.no)
    .bind(sale.allocation)
    .execute(tx)
    .await?;
    Ok(())
}

async fn store(tx: &mut Connection, sale: &Sale) -> Result<(), LedgerError> {
    sqlx::query(
        "-- sale.patch
         UPDATE sale SET allocation = $2, per_user_limit = $3, rate_per_second = $4, rate_burst = $5, hold_ms = $6,
             ends_at = $7, ack_wait_ms = $8, redis_down = $9, redis_down_rate = $10, undurable_max = $11, updated_at = clock_timestamp()
         WHERE sale_no = $1",
    )
    .bind(sale.no)
    .bind(sale.allocation)
    .bind(sale.per_user_limit.map(i64::from))
    .bind(sale.user_rate.map(|rate| rate.per_second))
    .bind(sale.user_rate.map(|rate| i64::from(rate.burst)))
    .bind(i64::from(sale.hold_ms))
    .bind(sale.ends_at.map(Millis::to_utc))
    .bind(i64::from(sale.ack_wait_ms))
    .bind(sale.redis_down.as_str())
    .bind(i64::from(sale.redis_down_rate))
    .bind(sale.undurable_max.map(|max| i64::from(max.get())))
    .execute(tx)
    .await?;
    Ok(())
}
