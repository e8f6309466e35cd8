//! Units on their way back from a sale's lanes, for an allocation that shrinks.
//!
//! The caller of [`Ledger::patch_sale`] asks ([`Ledger::take_back`]), waits, and patches again. What came back and is
//! not needed is granted again, by the next call or, where the caller died, by [`Ledger::regrant_recalled`].

use uuid::Uuid;

use super::connection::Connection;
use super::grants::{NewGrant, add_grants};
use super::sale::{Locked, LockedRow, lock_sale, locked_columns};
use super::sale_life::{grant, is_opened, set_recalled};
use super::sale_row::sale_columns;
use super::{GrantTicket, Ledger, LedgerError, OfOneSale};
use crate::domain::grant::Grant;
use crate::domain::id::SaleId;
use crate::domain::lane::LaneNo;
use crate::domain::sale::Sale;

/// How far the taking back of units is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TakeBack {
    /// Lanes were asked now.
    Asked(Vec<GrantTicket>),
    /// Lanes were asked before and have not all answered.
    Waiting(Vec<GrantTicket>),
    /// Enough are back, or the sale is over: patch again.
    Ready,
    /// They are not to be had; what came back is granted again.
    Refused {
        /// Units reserved and sold, as far as the ledger knows: no allocation can be less.
        held: i64,
    },
}

/// The sale has units that no patch waits for; recalled_at is set anew by every take-back that becomes durable.
macro_rules! is_forgotten {
    () => {
        "recalled > 0 AND NOT drained AND coalesce(thaws_to, state) IN ('live', 'paused')
             AND recalled_at < clock_timestamp() - interval '10 seconds'"
    };
}

impl Ledger {
    /// Asks the lanes of a sale for the units that keep it from an allocation of only `allocation`; `may_ask` says
    /// whether they may be asked (again).
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn take_back(&self, id: &SaleId, allocation: i64, may_ask: bool) -> Result<TakeBack, LedgerError> {
        let mut tx = self.begin().await?;
        let Some(kept) = lock_sale(&mut tx, id).await? else {
            return Ok(TakeBack::Ready);
        };
        let sale = &kept.sale;
        let needed = sale.allocation - allocation - kept.recalled;
        if needed <= 0 || !is_opened(sale) {
            return Ok(TakeBack::Ready);
        }
        let asked = recalls(&mut tx, sale.no).await?;
        if !asked.is_empty() {
            return Ok(TakeBack::Waiting(asked));
        }
        let held = held(&mut tx, sale.no).await?;
        if !may_ask || held > allocation {
            regrant(&mut tx, &kept).await?;
            tx.commit().await?;
            return Ok(TakeBack::Refused { held });
        }
        let asked = ask_lanes(&mut tx, sale, needed, None).await?;
        tx.commit().await?;
        Ok(TakeBack::Asked(asked))
    }

    /// Grants again what was taken back from running sales 10 s ago or longer and is still nobody's: the patch that
    /// wanted it is not coming any more. Returns the lanes that get units.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn regrant_recalled(&self) -> Result<Vec<LaneNo>, LedgerError> {
        let forgotten: Vec<i32> = sqlx::query_scalar(concat!(
            "-- sale.forgotten\nSELECT sale_no FROM sale s WHERE ",
            is_forgotten!(),
            " ORDER BY sale_no"
        ))
        .fetch_all(&self.pool)
        .await?;
        let mut lanes = Vec::new();
        for sale_no in forgotten {
            let regranted = self.regrant_forgotten(sale_no).await;
            lanes.extend(regranted.of_one_sale(sale_no, "grant again")?.flatten());
        }
        Ok(lanes)
    }

    async fn regrant_forgotten(&self, sale_no: i32) -> Result<Option<LaneNo>, LedgerError> {
        let mut tx = self.begin_in_haste().await?;
        let row: Option<LockedRow> = sqlx::query_as(concat!(
            "-- sale.lock_forgotten: what another gateway is at is left to it
             SELECT ",
            locked_columns!(),
            " FROM sale s WHERE sale_no = $1 AND ",
            is_forgotten!(),
            " FOR NO KEY UPDATE SKIP LOCKED"
        ))
        .bind(sale_no)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let lane = regrant(&mut tx, &row.read()?).await?;
        tx.commit().await?;
        Ok(lane)
    }
}

/// Take-backs to the sale that are not durable yet; moves between its lanes are another matter.
pub(super) async fn recalls(tx: &mut Connection, sale_no: i32) -> Result<Vec<GrantTicket>, LedgerError> {
    let rows: Vec<(i64, i16)> = sqlx::query_as(
        "-- grant.recalls
         SELECT grant_id, lane FROM lane_grant WHERE sale_no = $1 AND kind = 'take' AND target_lane IS NULL
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

/// Units of the sale that are reserved or sold in the ledger.
pub(super) async fn held(tx: &mut Connection, sale_no: i32) -> Result<i64, LedgerError> {
    Ok(sqlx::query_scalar(
        "-- sale.held
         SELECT coalesce((SELECT sum(durable) FROM sale_bucket WHERE sale_no = $1), 0)::int8 - released - expired
         FROM sale_tally WHERE sale_no = $1",
    )
    .bind(sale_no)
    .fetch_one(tx)
    .await?)
}

/// Asks for `needed` units in all, most from where most are; the fullest lane is asked for what none is known to have.
/// `late`: the reservation whose late payment needs them.
pub(super) async fn ask_lanes(
    tx: &mut Connection,
    sale: &Sale,
    needed: i64,
    late: Option<Uuid>,
) -> Result<Vec<GrantTicket>, LedgerError> {
    let lanes: Vec<(i16, i64)> = sqlx::query_as(
        "-- sale.fullest_lanes: a counter, and what is on the way to it, less what others have asked for
         SELECT lane, greatest(0,
             coalesce((SELECT counter FROM sale_bucket b WHERE b.sale_no = s.sale_no AND b.lane = l.lane), 0)
             + coalesce((SELECT sum(CASE WHEN kind IN ('units', 'end') THEN units ELSE -units END) FROM lane_grant g
                         WHERE g.sale_no = s.sale_no AND g.lane = l.lane
                             AND kind IN ('units', 'end', 'take', 'retake')), 0)::int8) AS units
         FROM sale s, UNNEST(s.lanes) AS l(lane) WHERE sale_no = $1 ORDER BY units DESC, lane",
    )
    .bind(sale.no)
    .fetch_all(&mut *tx)
    .await?;
    let mut rest = needed;
    let mut asks: Vec<i64> = Vec::with_capacity(lanes.len());
    for (_, units) in &lanes {
        asks.push(rest.min(*units));
        rest -= rest.min(*units);
    }
    asks[0] += rest;
    let alone = lanes.len() == 1;
    let takes = lanes.iter().zip(asks).filter(|(_, units)| *units > 0);
    let takes: Vec<NewGrant> = takes
        .map(|((lane, _), units)| {
            let units = u32::try_from(units).expect("no more than an allocation, at most a million");
            NewGrant {
                lane: LaneNo::from_i16(*lane),
                sale_no: sale.no,
                // Too few would help nobody, and a lane alone is believed when it says that it has none.
                grant: match late {
                    Some(_) if alone => Grant::TakeWhole(units),
                    _ => Grant::Take { units, target: None },
                },
                reservation_id: late,
            }
        })
        .collect();
    let ids = add_grants(tx, &takes).await?;
    let ticket = |(grant_id, take): (i64, &NewGrant)| GrantTicket {
        grant_id,
        lane: take.lane,
    };
    Ok(ids.into_iter().zip(&takes).map(ticket).collect())
}

/// Grants what was taken back again, unless more is still coming. Returns the lane that gets it.
pub(super) async fn regrant(tx: &mut Connection, kept: &Locked) -> Result<Option<LaneNo>, LedgerError> {
    let sale = &kept.sale;
    if kept.recalled == 0 || !recalls(tx, sale.no).await?.is_empty() {
        return Ok(None);
    }
    grant_first(tx, sale, kept.recalled).await?;
    set_recalled(tx, sale.no, 0).await?;
    Ok(Some(sale.lanes[0]))
}

/// Grants units to the sale's first lane; dry ones get theirs from it.
pub(super) async fn grant_first(tx: &mut Connection, sale: &Sale, units: i64) -> Result<(), LedgerError> {
    let units = u32::try_from(units).map_err(|_| LedgerError::Broken(format!("{units} units to grant")))?;
    grant(tx, sale, std::iter::once((sale.lanes[0], Grant::Units(units)))).await
}
