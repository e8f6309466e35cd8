//! Late payments for what a sale sells: the units of an expired reservation are taken anew in its own lane, under its own
//! id, as a replay from quarantine takes them.
//!
//! A `Retake` grant asks the lane; the writer makes the reservation `RESERVED` where the lane had the units and neither
//! limit nor order stands against it, and from then on it is committed like any other. Where nobody commits it after
//! all, it expires again.

use uuid::Uuid;

use super::endings::GrantTicket;
use super::grants::{NewGrant, add_grants};
use super::{Ledger, LedgerError};
use crate::domain::grant::Grant;
use crate::domain::key::{Fingerprint, KeyHash};
use crate::domain::lane::LaneNo;
use crate::domain::reservation_id::ReservationId;

/// What came of asking a lane for the units of an expired reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneRescue {
    /// When this grant is delivered, it is `RESERVED`, or still `EXPIRED` where the units could not be had.
    Asked(GrantTicket),
    /// It is not `EXPIRED` any more: look again.
    Changed,
    /// No lane has its units: it is part of a cart, or its sale is not open.
    NoLane,
}

#[derive(sqlx::FromRow)]
struct Expired {
    has_expired: bool,
    has_lane: bool,
    order_id: String,
    user_id: Option<String>,
    sku_id: String,
    location_id: String,
    quantity: i64,
    sale_no: i32,
    lane: i16,
    key_hash: Uuid,
    fingerprint: i64,
    explicit_key: bool,
}

impl Ledger {
    /// Asks the lane of an expired reservation for its units.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn rescue_in_lane(&self, id: ReservationId) -> Result<LaneRescue, LedgerError> {
        let mut tx = self.begin().await?;
        let row: Option<Expired> = sqlx::query_as(
            "-- rescue.lock
             SELECT r.status = 'EXPIRED' AS has_expired,
                 r.cart_id IS NULL AND s.state IN ('live', 'paused') AS has_lane, r.order_id, r.user_id, r.sku_id, r.location_id, r.quantity, r.sale_no, r.lane, r.key_hash,
                 r.fingerprint, r.explicit_key
             FROM inventory_reservation r JOIN sale s USING (sale_no)
             WHERE r.reservation_id = $1 AND r.lane IS NOT NULL
             FOR NO KEY UPDATE OF r",
        )
        .bind(id.0)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(LaneRescue::NoLane) };
        if !row.has_expired {
            return Ok(LaneRescue::Changed);
        }
        if !row.has_lane {
            return Ok(LaneRescue::NoLane);
        }
        let lane = LaneNo::from_i16(row.lane);
        let asked: Option<i64> = sqlx::query_scalar(
            "-- rescue.asked: a statement of its own, so that who waited for the lock sees what its holder asked
             SELECT grant_id FROM lane_grant WHERE reservation_id = $1 AND kind = 'retake' LIMIT 1",
        )
        .bind(id.0)
        .fetch_optional(&mut *tx)
        .await?;
        let grant_id = match asked {
            Some(asked) => asked,
            None => {
                let retake = row.retake(id)?;
                add_grants(&mut tx, &[retake])
                    .await?
                    .first()
                    .copied()
                    .ok_or_else(|| LedgerError::Broken("a grant was inserted without an id".into()))?
            }
        };
        tx.commit().await?;
        Ok(LaneRescue::Asked(GrantTicket { grant_id, lane }))
    }
}

impl Expired {
    fn retake(&self, id: ReservationId) -> Result<NewGrant, LedgerError> {
        let buyer = match &self.user_id {
            Some(user) => format!("u:{user}"),
            None => format!("o:{}", self.order_id),
        };
        let quantity = u32::try_from(self.quantity)
            .map_err(|_| LedgerError::Broken(format!("a reservation of {} units", self.quantity)))?;
        Ok(NewGrant {
            lane: LaneNo::from_i16(self.lane),
            sale_no: self.sale_no,
            grant: Grant::Retake {
                place: id.place(),
                quantity,
                explicit_key: self.explicit_key,
                key: KeyHash::from_uuid(self.key_hash),
                fingerprint: Fingerprint::from_i64(self.fingerprint),
                line: KeyHash::order_line(&self.order_id, &self.sku_id, &self.location_id),
                buyer,
            },
            reservation_id: Some(id.0),
        })
    }
}
