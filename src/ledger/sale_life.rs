//! The life of a sale: start, pause, resume, freeze, unfreeze and stop, by an operator or by the clock
//! ([`super::sale_clock`]).
//!
//! A change of state and the grants that carry it to the sale's lanes are one transaction; it is in force when they
//! are delivered. A stop is over when every unsold unit is back in the balance ([`Ledger::finish_drain`]). At every
//! commit the balance's escrow equals what is in counters, on the way there, or recalled.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::connection::Connection;
use super::grants::{NewGrant, add_grants};
use super::once::{By, Claim, Key, claim};
use super::post::post;
use super::recon::keeps_frozen;
use super::retry::retried;
use super::sale::{Acted, Locked, LockedRow, escrow_movement, lock_sale, locked_columns};
use super::sale_row::sale_columns;
use super::stall::record_freeze_end;
use super::{GrantTicket, Ledger, LedgerError};
use crate::domain::grant::Grant;
use crate::domain::id::SaleId;
use crate::domain::lane::LaneNo;
use crate::domain::sale::{Sale, SaleAction, SaleState, SaleStep, step};
use crate::domain::trace::TraceId;

/// More than any counter holds, and within the 32 bits that a lane reads.
const EVERYTHING: u32 = i32::MAX.cast_unsigned();

/// What came of an action.
#[derive(Clone, Debug, PartialEq)]
pub enum ActAnswer {
    /// It is done, or was in force.
    Done(Box<Acted>),
    /// No such sale.
    Unknown,
    /// It does not fit the sale's state.
    Invalid(SaleState),
    /// An unfreeze has to wait for a person who settles what stands in these reports.
    Unreconciled(Vec<Uuid>),
    /// The key belongs to another request.
    KeyReused,
}

impl Ledger {
    /// Does `action` to a sale.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn act(
        &self,
        id: &SaleId,
        action: SaleAction,
        by: &By,
        key: Option<&Key>,
    ) -> Result<ActAnswer, LedgerError> {
        retried!(self, self.act_once(id, action, by, key))
    }

    async fn act_once(
        &self,
        id: &SaleId,
        action: SaleAction,
        by: &By,
        key: Option<&Key>,
    ) -> Result<ActAnswer, LedgerError> {
        let mut tx = self.begin().await?;
        let claimed = match key {
            Some(key) => claim(&mut tx, key, false, Uuid::new_v4()).await?,
            None => Claim::New,
        };
        if claimed == Claim::Reused {
            return Ok(ActAnswer::KeyReused);
        }
        let Some(mut kept) = lock_sale(&mut tx, id).await? else {
            return Ok(ActAnswer::Unknown);
        };
        let replayed = claimed != Claim::New;
        if let Some(reports) = keeps_frozen(&mut tx, &kept.sale, action).await?.filter(|_| !replayed) {
            return Ok(ActAnswer::Unreconciled(reports));
        }
        let grants = match step(kept.sale.state, kept.sale.thaws_to, action) {
            _ if replayed => in_motion(&mut tx, kept.sale.no).await?,
            SaleStep::InForce => in_motion(&mut tx, kept.sale.no).await?,
            SaleStep::To(state) => enter(&mut tx, &mut kept, state, by).await?,
            SaleStep::Invalid => return Ok(ActAnswer::Invalid(kept.sale.state)),
        };
        tx.commit().await?;
        Ok(ActAnswer::Done(Box::new(Acted {
            sale: kept.sale,
            grants,
            replayed,
        })))
    }

    /// Sales that have ended and whose units are not all back: [`Ledger::finish_drain`] them.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn draining(&self) -> Result<Vec<i32>, LedgerError> {
        Ok(sqlx::query_scalar(
            "-- sale.draining\nSELECT sale_no FROM sale WHERE state = 'ended' AND NOT drained ORDER BY sale_no",
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// Gives an ended sale's units back to the balance when all have come in from the lanes. `true`: it is done;
    /// `false`: some are still in a lane or on the way, and whatever was left behind is on its way now.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn finish_drain(&self, sale_no: i32) -> Result<bool, LedgerError> {
        let mut tx = self.begin_in_haste().await?;
        let row: Option<LockedRow> = sqlx::query_as(concat!(
            "-- sale.lock_ended\nSELECT ",
            locked_columns!(),
            " FROM sale s WHERE sale_no = $1 AND state = 'ended' FOR NO KEY UPDATE"
        ))
        .bind(sale_no)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(false) };
        let mut kept = row.read()?;
        let done = kept.sale.drained || {
            let by = ended_by(&mut tx, sale_no).await?;
            drain(&mut tx, &mut kept, &by).await?
        };
        tx.commit().await?;
        Ok(done)
    }
}

/// Its lanes know the sale.
pub(super) fn is_opened(sale: &Sale) -> bool {
    let awake = match sale.state {
        SaleState::Frozen => sale.thaws_to,
        state => Some(state),
    };
    matches!(awake, Some(SaleState::Live | SaleState::Paused))
}

/// Brings the locked sale into another state, along the table of [`step`]. Returns what is on the way to its lanes.
pub(super) async fn enter(
    tx: &mut Connection,
    kept: &mut Locked,
    to: SaleState,
    by: &By,
) -> Result<Vec<GrantTicket>, LedgerError> {
    let (from, opened) = (kept.sale.state, is_opened(&kept.sale));
    set_state(tx, &mut kept.sale, to, by).await?;
    if from == SaleState::Frozen && opened {
        end_freeze(tx, kept).await?;
    }
    match (to, opened) {
        (SaleState::Live, false) => open(tx, kept).await?,
        (SaleState::Ended, false) => {
            drain(tx, kept, by).await?;
        }
        (SaleState::Ended, true) => {
            tell_lanes(tx, &kept.sale).await?;
            take_all(tx, &kept.sale, &kept.sale.lanes).await?;
        }
        (_, true) => tell_lanes(tx, &kept.sale).await?,
        (_, false) => {}
    }
    in_motion(tx, kept.sale.no).await
}

async fn set_state(tx: &mut Connection, sale: &mut Sale, to: SaleState, by: &By) -> Result<(), LedgerError> {
    sale.thaws_to = (to == SaleState::Frozen).then_some(sale.state);
    sale.state = to;
    sqlx::query(
        "-- sale.set_state
         UPDATE sale SET state = $2::sale_state, thaws_to = $3::sale_state, frozen_for = NULL,
             frozen_at = CASE WHEN $2 = 'frozen' THEN clock_timestamp() END, updated_at = clock_timestamp(),
             ended_by = CASE WHEN $2 = 'ended' THEN $4 END, ended_trace = CASE WHEN $2 = 'ended' THEN $5::uuid END
         WHERE sale_no = $1",
    )
    .bind(sale.no)
    .bind(to.as_str())
    .bind(sale.thaws_to.map(SaleState::as_str))
    .bind(by.operator.as_deref())
    .bind(by.trace.map(|trace| trace.to_uuid()))
    .execute(tx)
    .await?;
    Ok(())
}

/// Who ended the sale.
async fn ended_by(tx: &mut Connection, sale_no: i32) -> Result<By, LedgerError> {
    let (operator, trace): (Option<String>, Option<Uuid>) =
        sqlx::query_as("-- sale.ended_by\nSELECT ended_by, ended_trace FROM sale WHERE sale_no = $1")
            .bind(sale_no)
            .fetch_one(tx)
            .await?;
    Ok(By {
        operator,
        trace: trace.map(TraceId::from_uuid),
    })
}

/// Sends the sale's settings to each of its lanes.
pub(super) async fn tell_lanes(tx: &mut Connection, sale: &Sale) -> Result<(), LedgerError> {
    let settings = sale.settings();
    grant(
        tx,
        sale,
        sale.lanes.iter().map(|lane| (*lane, Grant::Settings(settings))),
    )
    .await
}

/// Appends messages to lanes, in this order.
pub(super) async fn grant(
    tx: &mut Connection,
    sale: &Sale,
    messages: impl Iterator<Item = (LaneNo, Grant)>,
) -> Result<(), LedgerError> {
    let grants: Vec<NewGrant> = messages
        .map(|(lane, grant)| NewGrant {
            lane,
            sale_no: sale.no,
            grant,
            reservation_id: None,
        })
        .collect();
    add_grants(tx, &grants).await?;
    Ok(())
}

/// `units` spread evenly over the sale's lanes, the first ones taking the odd units; lanes that get none are left out.
pub(super) fn spread(sale: &Sale, units: i64) -> Result<Vec<(LaneNo, u32)>, LedgerError> {
    let units = u32::try_from(units).map_err(|_| LedgerError::Broken(format!("{units} units to grant")))?;
    let buckets = u32::try_from(sale.lanes.len()).expect("a sale has at most 512 buckets");
    let share = |bucket: u32| units / buckets + u32::from(bucket < units % buckets);
    let shares = (0..).zip(&sale.lanes).map(|(bucket, lane)| (*lane, share(bucket)));
    Ok(shares.filter(|(_, share)| *share > 0).collect())
}

/// Makes the sale known to its lanes and grants them all that it has.
async fn open(tx: &mut Connection, kept: &Locked) -> Result<(), LedgerError> {
    let sale = &kept.sale;
    let opened = sale.lanes.iter().map(|lane| (*lane, Grant::Open(sale.settings())));
    let shares = spread(sale, kept.recalled)?;
    let granted = shares.into_iter().map(|(lane, units)| (lane, Grant::Units(units)));
    grant(tx, sale, opened.chain(granted)).await?;
    set_recalled(tx, sale.no, 0).await
}

/// Takes all units back from these lanes.
async fn take_all(tx: &mut Connection, sale: &Sale, lanes: &[LaneNo]) -> Result<(), LedgerError> {
    let take = Grant::Take {
        units: EVERYTHING,
        target: None,
    };
    grant(tx, sale, lanes.iter().map(|lane| (*lane, take.clone()))).await
}

/// Sets the units that belong to the sale and are in no lane, nor on the way to one.
pub(super) async fn set_recalled(tx: &mut Connection, sale_no: i32, units: i64) -> Result<(), LedgerError> {
    sqlx::query("-- sale.set_recalled\nUPDATE sale SET recalled = $2 WHERE sale_no = $1")
        .bind(sale_no)
        .bind(units)
        .execute(tx)
        .await?;
    Ok(())
}

/// Commits were refused since the freeze: deadlines get that time back.
async fn end_freeze(tx: &mut Connection, kept: &Locked) -> Result<(), LedgerError> {
    let (Some(from), until): (Option<DateTime<Utc>>, DateTime<Utc>) = (
        kept.frozen_at,
        sqlx::query_scalar("-- sale.thaws_at\nSELECT clock_timestamp()")
            .fetch_one(&mut *tx)
            .await?,
    ) else {
        return Err(LedgerError::Broken(format!(
            "sale {} is frozen since no time",
            kept.sale.no
        )));
    };
    record_freeze_end(tx, kept.sale.no, from.into(), until.into()).await
}

/// Messages to the sale's lanes that change its settings or bring units, and are not durably delivered.
pub(super) async fn in_motion(tx: &mut Connection, sale_no: i32) -> Result<Vec<GrantTicket>, LedgerError> {
    let rows: Vec<(i64, i16)> = sqlx::query_as(
        "-- grant.of_sale
         SELECT grant_id, lane FROM lane_grant WHERE sale_no = $1 AND kind IN ('open', 'settings', 'units')
         ORDER BY grant_id",
    )
    .bind(sale_no)
    .fetch_all(tx)
    .await?;
    let ticket = |(grant_id, lane)| GrantTicket {
        grant_id,
        lane: LaneNo::from_i16(lane),
    };
    Ok(rows.into_iter().map(ticket).collect())
}

/// Returns the units of an ended, locked sale if all are in; see [`Ledger::finish_drain`].
async fn drain(tx: &mut Connection, kept: &mut Locked, by: &By) -> Result<bool, LedgerError> {
    let sale = &mut kept.sale;
    let (moving, left, known): (bool, Vec<i16>, Vec<i16>) = sqlx::query_as(
        "-- sale.drain_state: one statement, one snapshot: no unit can be seen in neither place
         SELECT EXISTS (SELECT 1 FROM lane_grant WHERE sale_no = $1),
             ARRAY(SELECT lane FROM sale_bucket WHERE sale_no = $1 AND counter > 0 ORDER BY lane),
             ARRAY(SELECT lane FROM sale_bucket WHERE sale_no = $1 ORDER BY lane)",
    )
    .bind(sale.no)
    .fetch_one(&mut *tx)
    .await?;
    if moving {
        return Ok(false);
    }
    let lanes = |numbers: Vec<i16>| numbers.into_iter().map(LaneNo::from_i16).collect::<Vec<_>>();
    if !left.is_empty() {
        take_all(tx, sale, &lanes(left)).await?;
        return Ok(false);
    }
    if kept.recalled > 0 {
        post(tx, &[escrow_movement(sale, -kept.recalled, "escrow_returned", by)]).await?;
    }
    sqlx::query(
        "-- sale.set_drained
         UPDATE sale SET recalled = 0, drained = true, updated_at = clock_timestamp() WHERE sale_no = $1",
    )
    .bind(sale.no)
    .execute(&mut *tx)
    .await?;
    grant(tx, sale, lanes(known).into_iter().map(|lane| (lane, Grant::Drop))).await?;
    sale.drained = true;
    Ok(true)
}
