//! Late payments for what is on another sale by now than when it was reserved: the newer sale gives the units.
//!
//! Its lanes are asked for them ([`Ledger::call_back`]); each takes what it has off its counter, in one step with the
//! queue entry that says so. They lie with the sale until the commit takes them: in one transaction they leave its
//! allocation and its escrow, and are sold under the old id. The reservation stays one of the sale in which it was made,
//! as one that the shelf saves ([`super::take`]), so its lane, its place in a record and its limit are what they were,
//! and the newer sale's limits do not count it. Units for which nobody comes are granted again.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::connection::Connection;
use super::endings::GrantTicket;
use super::once::By;
use super::post::Movement;
use super::recall::{ask_lanes, held, regrant};
use super::reservation::lock;
use super::retry::retried;
use super::sale::{Locked, LockedRow, escrow_movement, locked_columns};
use super::sale_life::is_opened;
use super::sale_row::sale_columns;
use super::{Ledger, LedgerError};
use crate::domain::id::Item;
use crate::domain::lane::LaneNo;
use crate::domain::reservation::Status;
use crate::domain::reservation_id::ReservationId;
use crate::domain::sale::SaleState;

/// What came of calling units back for a late payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallBack {
    /// When these are durable, the sales have what their lanes could give: commit again.
    Asked(Vec<GrantTicket>),
    /// Nothing more need be asked for: commit again.
    Ready,
    /// Buyers hold so much of a sale that it can't give the units, or it is frozen. What came back is granted again.
    Refused,
}

/// Sales that have not ended, locked: of items that reservations hold which were made before.
#[derive(Debug, Default)]
pub(super) struct NewerSales {
    sales: BTreeMap<i32, Locked>,
    /// Units that each gives.
    given: BTreeMap<i32, i64>,
}

impl NewerSales {
    /// Locks the sales of what these reservations hold. Before the reservations' rows, for sales come first; what a
    /// reservation holds never changes.
    pub(super) async fn lock(tx: &mut Connection, ids: &[Uuid]) -> Result<Self, LedgerError> {
        if ids.is_empty() {
            return Ok(NewerSales::default());
        }
        let rows: Vec<LockedRow> = sqlx::query_as(concat!(
            "-- newer_sale.lock
             WITH parts AS (
                 SELECT sku_id, location_id, sale_no FROM inventory_reservation WHERE reservation_id = ANY($1)
                 UNION ALL
                 SELECT sku_id, location_id, sale_no FROM inventory_reservation
                 WHERE cart_id = ANY($1 || ARRAY(SELECT cart_id FROM inventory_reservation
                                                 WHERE reservation_id = ANY($1) AND cart_id IS NOT NULL))
             )
             SELECT ",
            locked_columns!(),
            " FROM sale s
             WHERE s.state IN ('scheduled', 'live', 'paused', 'frozen')
                 AND EXISTS (SELECT 1 FROM parts p WHERE p.sku_id = s.sku_id AND p.location_id = s.location_id
                                 AND p.sale_no IS DISTINCT FROM s.sale_no)
             ORDER BY s.sale_no FOR NO KEY UPDATE OF s"
        ))
        .bind(ids)
        .fetch_all(tx)
        .await?;
        let mut newer = NewerSales::default();
        for row in rows {
            let kept = row.read()?;
            newer.sales.insert(kept.sale.no, kept);
        }
        Ok(newer)
    }

    /// Units that this sale can still give.
    pub(super) fn left(&self, sale_no: i32) -> i64 {
        let kept = self.sales.get(&sale_no).filter(|kept| gives(kept));
        kept.map_or(0, |kept| kept.recalled - self.given.get(&sale_no).unwrap_or(&0))
    }

    /// Has the sale give units; the movement that takes them out of what is set aside for it.
    pub(super) fn give(&mut self, sale_no: i32, units: i64, by: &By) -> Result<Movement, LedgerError> {
        if self.left(sale_no) < units {
            return Err(LedgerError::Broken(format!("sale {sale_no} can't give {units} units")));
        }
        *self.given.entry(sale_no).or_default() += units;
        Ok(escrow_movement(
            &self.sales[&sale_no].sale,
            -units,
            "escrow_returned",
            by,
        ))
    }

    /// Writes what the sales have given. What they have left is for whoever asked for it too.
    pub(super) async fn settle(&self, tx: &mut Connection) -> Result<(), LedgerError> {
        if self.given.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "-- newer_sale.give
             UPDATE sale s SET allocation = s.allocation - g.units, recalled = s.recalled - g.units,
                 updated_at = clock_timestamp()
             FROM UNNEST($1::int4[], $2::int8[]) AS g(sale_no, units) WHERE s.sale_no = g.sale_no",
        )
        .bind(self.given.keys().copied().collect::<Vec<_>>())
        .bind(self.given.values().copied().collect::<Vec<_>>())
        .execute(tx)
        .await?;
        Ok(())
    }

    fn of(&self, item: &Item) -> Option<&Locked> {
        self.sales.values().find(|kept| kept.sale.item == *item)
    }
}

fn gives(kept: &Locked) -> bool {
    kept.sale.state != SaleState::Frozen
}

impl Ledger {
    /// Calls back from the lanes of newer sales what a late payment of this reservation needs of them. Who asks for the
    /// same reservation meanwhile waits for the same units; who asks for another one asks for units of its own.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn call_back(&self, id: ReservationId) -> Result<CallBack, LedgerError> {
        retried!(self, self.call_back_once(id))
    }

    async fn call_back_once(&self, id: ReservationId) -> Result<CallBack, LedgerError> {
        let mut tx = self.begin().await?;
        let newer = NewerSales::lock(&mut tx, &[id.0]).await?;
        let rows = lock(&mut tx, [id].into_iter()).await?;
        let mut needs: Vec<(&Locked, Uuid, i64)> = Vec::new();
        for part in rows.rows_of(id.0) {
            let row = rows.get(&part);
            if let Some(kept) = newer.of(&row.item()?).filter(|kept| row.sale_no != Some(kept.sale.no))
                && row.status()? == Status::Expired
            {
                needs.push((kept, part, row.quantity));
            }
        }
        let parts: Vec<Uuid> = needs.iter().map(|(_, part, _)| *part).collect();
        let asked = asked(&mut tx, &parts).await?;
        let mut short = Vec::new();
        for (kept, part, units) in &needs {
            let missing = units - kept.recalled;
            let has_them = gives(kept)
                && (missing <= 0
                    || is_opened(&kept.sale) && held(&mut tx, kept.sale.no).await? + units <= kept.sale.allocation);
            if !has_them {
                for (kept, ..) in &needs {
                    if is_opened(&kept.sale) {
                        regrant(&mut tx, kept).await?;
                    }
                }
                tx.commit().await?;
                return Ok(CallBack::Refused);
            }
            if missing > 0 && asked.iter().all(|(of, _)| of != part) {
                short.push((*kept, *part, missing));
            }
        }
        let mut tickets: Vec<GrantTicket> = asked.into_iter().map(|(_, ticket)| ticket).collect();
        for (kept, part, missing) in short {
            tickets.extend(ask_lanes(&mut tx, &kept.sale, missing, Some(part)).await?);
        }
        tx.commit().await?;
        Ok(match tickets.is_empty() {
            true => CallBack::Ready,
            false => CallBack::Asked(tickets),
        })
    }
}

/// The take-backs for these reservations that are not durable yet.
async fn asked(tx: &mut Connection, parts: &[Uuid]) -> Result<Vec<(Uuid, GrantTicket)>, LedgerError> {
    let rows: Vec<(Uuid, i64, i16)> = sqlx::query_as(
        "-- newer_sale.asked: a statement of its own, so that who waited for the lock sees what its holder asked
         SELECT reservation_id, grant_id, lane FROM lane_grant WHERE reservation_id = ANY($1) AND kind = 'take'",
    )
    .bind(parts)
    .fetch_all(tx)
    .await?;
    let ticket = |(part, grant_id, lane)| {
        let lane = LaneNo::from_i16(lane);
        (part, GrantTicket { grant_id, lane })
    };
    Ok(rows.into_iter().map(ticket).collect())
}
