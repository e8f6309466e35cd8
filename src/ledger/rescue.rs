//! Late payments for what a sale sells: the units of an expired reservation are taken anew in its own lane, under its own
//! id, as a replay from quarantine takes them.
//!
//! A `Retake` grant asks the lane; the writer makes the reservation `RESERVED` where the lane had the units and neither
//! limit nor order stands against it, and from then on it is committed like any other. Where nobody commits it after
//! all, it expires again, soon. A cart's parts are asked for at once, each in its lane; the commit finds those that were
//! had, takes from the balances what no sale sells, and counts only where it has all. Else [`Ledger::give_up_rescue`]
//! lets go of them.

use std::collections::HashMap;

use uuid::Uuid;

use super::connection::Connection;
use super::endings::{Ended, GrantTicket, record};
use super::grants::{NewGrant, add_grants};
use super::reservation::{Locked, ReservationRow, lock};
use super::retry::retried;
use super::sale_row::{SaleRow, sale_columns};
use super::{Ledger, LedgerError};
use crate::domain::grant::Grant;
use crate::domain::key::{Fingerprint, KeyHash};
use crate::domain::lane::LaneNo;
use crate::domain::reservation::Status;
use crate::domain::reservation_id::ReservationId;
use crate::domain::sale::{Sale, SaleState};
use crate::domain::trace::TraceId;

/// Units of an expired reservation that lie in several buckets of their sale.
#[derive(Clone, Debug, PartialEq)]
pub struct Scattered {
    /// Of which sale.
    pub sale: Sale,
    /// The lane that will be asked for them.
    pub lane: LaneNo,
    /// How many it needs.
    pub units: u32,
}

#[derive(sqlx::FromRow)]
struct ScatteredRow {
    #[sqlx(flatten)]
    sale: SaleRow,
    lane: i16,
    quantity: i64,
}

/// What came of asking lanes for the units of an expired reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaneRescue {
    /// When these grants are delivered, its parts are `RESERVED`, or still `EXPIRED` where the units could not be had.
    Asked(Vec<GrantTicket>),
    /// It is not `EXPIRED` any more: look again.
    Changed,
    /// A sale of one of its items is being stopped, and its units are on their way to the balance: look again.
    Draining,
    /// No lane has units for it: none of its sales is open.
    NoLane,
}

impl Ledger {
    /// What an expired reservation needs of sales with several buckets: a lane gives what it has, so who asks for that
    /// brings it there before.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn scattered(&self, id: ReservationId) -> Result<Vec<Scattered>, LedgerError> {
        let rows: Vec<ScatteredRow> = sqlx::query_as(concat!(
            "-- rescue.scattered\nSELECT ",
            sale_columns!(),
            ", r.lane, r.quantity
             FROM inventory_reservation r JOIN sale s USING (sale_no)
             WHERE (r.reservation_id = $1 OR r.cart_id = $1) AND r.status = 'EXPIRED' AND s.state IN ('live', 'paused')
                 AND cardinality(s.lanes) > 1"
        ))
        .bind(id.0)
        .fetch_all(&self.pool)
        .await?;
        let read = |row: ScatteredRow| {
            Ok(Scattered {
                sale: row.sale.read()?,
                lane: LaneNo::from_i16(row.lane),
                units: units(row.quantity)?,
            })
        };
        rows.into_iter().map(read).collect()
    }

    /// Asks the lanes of an expired reservation for its units.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn rescue_in_lane(&self, id: ReservationId) -> Result<LaneRescue, LedgerError> {
        retried!(self, self.rescue_in_lane_once(id))
    }

    async fn rescue_in_lane_once(&self, id: ReservationId) -> Result<LaneRescue, LedgerError> {
        let mut tx = self.begin().await?;
        hold_sales(&mut tx, id).await?;
        let rows = lock(&mut tx, [id].into_iter()).await?;
        let expired = with_status(&rows, id, Status::Expired)?;
        if expired.is_empty() && !rows.rows_of(id.0).is_empty() {
            return Ok(LaneRescue::Changed);
        }
        if is_draining(&mut tx, &expired).await? {
            return Ok(LaneRescue::Draining);
        }
        let mut in_lanes = Vec::with_capacity(expired.len());
        for row in expired {
            let is_open = matches!(row.sale_state()?, Some(SaleState::Live | SaleState::Paused));
            if let Some(of) = row
                .lane
                .zip(row.sale_no)
                .filter(|_| is_open && !rows.is_cold(&row.reservation_id))
            {
                in_lanes.push((row, of));
            }
        }
        if in_lanes.is_empty() {
            return Ok(LaneRescue::NoLane);
        }
        let asked: Vec<(Uuid, i64)> = sqlx::query_as(
            "-- rescue.asked: a statement of its own, so that who waited for the lock sees what its holder asked
             SELECT reservation_id, grant_id FROM lane_grant
             WHERE lane = ANY($1) AND reservation_id = ANY($2) AND kind = 'retake'",
        )
        .bind(in_lanes.iter().map(|(_, (lane, _))| *lane).collect::<Vec<_>>())
        .bind(in_lanes.iter().map(|(row, _)| row.reservation_id).collect::<Vec<_>>())
        .fetch_all(&mut *tx)
        .await?;
        let asked: HashMap<Uuid, i64> = asked.into_iter().collect();
        let (before, anew): (Vec<_>, Vec<_>) = in_lanes
            .iter()
            .partition(|(row, _)| asked.contains_key(&row.reservation_id));
        let mut tickets: Vec<GrantTicket> = before
            .iter()
            .map(|(row, (lane, _))| ticket(asked[&row.reservation_id], *lane))
            .collect();
        let retakes = anew.iter().map(|(row, (lane, sale_no))| retake(row, *lane, *sale_no));
        let ids = add_grants(&mut tx, &retakes.collect::<Result<Vec<_>, _>>()?).await?;
        tickets.extend(ids.into_iter().zip(&anew).map(|(id, (_, (lane, _)))| ticket(id, *lane)));
        tx.commit().await?;
        Ok(LaneRescue::Asked(tickets))
    }

    /// Gives back what lanes took for a late payment of a cart that can't have all of it. The units are usable again when
    /// these grants are delivered.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn give_up_rescue(&self, id: ReservationId) -> Result<Vec<GrantTicket>, LedgerError> {
        retried!(self, self.give_up_rescue_once(id))
    }

    async fn give_up_rescue_once(&self, id: ReservationId) -> Result<Vec<GrantTicket>, LedgerError> {
        let mut tx = self.begin().await?;
        let rows = lock(&mut tx, [id].into_iter()).await?;
        let held = with_status(&rows, id, Status::Reserved)?;
        if held.is_empty() || with_status(&rows, id, Status::Expired)?.is_empty() {
            return Ok(Vec::new());
        }
        let ended: Vec<Ended> = held
            .into_iter()
            .map(|row| Ended {
                row: row.clone(),
                status: Status::Expired,
                detail: None,
                trace: TraceId::from_uuid(row.trace_id),
                operator: None,
            })
            .collect();
        let recorded = record(&mut tx, &ended).await?;
        tx.commit().await?;
        ended.iter().for_each(Ended::log);
        let given = recorded.given.into_iter();
        Ok(given
            .map(|given| GrantTicket {
                grant_id: given.grant_id,
                lane: given.lane,
            })
            .collect())
    }
}

fn with_status(rows: &Locked, id: ReservationId, status: Status) -> Result<Vec<&ReservationRow>, LedgerError> {
    let mut found = Vec::new();
    for part in rows.rows_of(id.0) {
        let row = rows.get(&part);
        if row.status()? == status {
            found.push(row);
        }
    }
    Ok(found)
}

/// Keeps the sales of a reservation as they are until the end of the transaction. A stop that came between the look at
/// them and the grants would take the units home before the lane is asked for them, and nobody would wait for that.
/// Before the reservation's rows, for sales come first.
async fn hold_sales(tx: &mut Connection, id: ReservationId) -> Result<(), LedgerError> {
    sqlx::query(
        "-- rescue.hold_sales
         SELECT FROM sale s WHERE s.sale_no IN (
             SELECT sale_no FROM inventory_reservation WHERE reservation_id = $1 OR cart_id = $1
             UNION ALL
             SELECT sale_no FROM inventory_reservation
             WHERE cart_id IN (SELECT cart_id FROM inventory_reservation WHERE reservation_id = $1 AND cart_id IS NOT NULL))
         ORDER BY s.sale_no FOR SHARE OF s",
    )
    .bind(id.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// Whether a sale of one of these items, be it another one than theirs, still has units on their way home.
async fn is_draining(tx: &mut Connection, rows: &[&ReservationRow]) -> Result<bool, LedgerError> {
    Ok(sqlx::query_scalar(
        "-- rescue.draining
         SELECT EXISTS (
             SELECT 1 FROM sale s JOIN UNNEST($1::text[], $2::text[]) AS i(sku_id, location_id) USING (sku_id, location_id)
             WHERE s.state = 'ended' AND NOT s.drained)",
    )
    .bind(rows.iter().map(|row| row.sku_id.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.location_id.as_str()).collect::<Vec<_>>())
    .fetch_one(tx)
    .await?)
}

fn ticket(grant_id: i64, lane: i16) -> GrantTicket {
    GrantTicket {
        grant_id,
        lane: LaneNo::from_i16(lane),
    }
}

fn units(quantity: i64) -> Result<u32, LedgerError> {
    u32::try_from(quantity).map_err(|_| LedgerError::Broken(format!("a reservation of {quantity} units")))
}

fn retake(row: &ReservationRow, lane: i16, sale_no: i32) -> Result<NewGrant, LedgerError> {
    Ok(NewGrant {
        lane: LaneNo::from_i16(lane),
        sale_no,
        grant: Grant::Retake {
            place: ReservationId(row.reservation_id).place(),
            quantity: units(row.quantity)?,
            explicit_key: row.explicit_key,
            key: KeyHash::from_uuid(row.key_hash),
            fingerprint: Fingerprint::from_i64(row.fingerprint),
            line: KeyHash::order_line(&row.order_id, &row.sku_id, &row.location_id),
            buyer: row.buyer(),
        },
        reservation_id: Some(row.reservation_id),
    })
}
