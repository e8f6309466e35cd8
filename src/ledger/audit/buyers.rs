//! Buyers of a sale in a lane as the ledger has them, with the foothold of the same snapshot: together with the queue
//! from there on, all that the lane's records are made of.

use uuid::Uuid;

use super::foothold::{Foothold, foothold};
use crate::domain::entry::SlipKeys;
use crate::domain::key::{Fingerprint, KeyHash};
use crate::domain::lane::LaneNo;
use crate::domain::record::Live;
use crate::domain::reservation::Status;
use crate::domain::reservation_id::ReservationId;
use crate::ledger::{Ledger, LedgerError};

/// Some buyers at one instant.
#[derive(Clone, Debug)]
pub struct BuyersView {
    /// Where the lane's queue goes on from.
    pub foothold: Foothold,
    /// The sale is over: what ends is not told to its lanes any more.
    pub ended: bool,
    /// Every unsold unit is back: the lane forgets the sale.
    pub drained: bool,
    /// Their reservations, whatever became of them, oldest first.
    pub rows: Vec<BuyerRow>,
}

/// A reservation of a buyer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuyerRow {
    /// Whose, as records are named.
    pub buyer: String,
    /// Its id.
    pub id: ReservationId,
    /// Where it stands.
    pub status: Status,
    /// The lane has still to be told that it ended.
    pub ending: bool,
    /// As a record has it while it counts.
    pub live: Live,
}

/// A step along the buyers of a sale in a lane.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct BuyersStep {
    /// Those with a reservation that is held or sold, and the last one whatever became of his.
    pub buyers: Vec<String>,
    /// Where the next step begins. None: there are no more.
    pub last: Option<String>,
    /// Reservations that were read.
    pub walked: i64,
}

#[derive(sqlx::FromRow)]
struct Row {
    buyer: String,
    reservation_id: Uuid,
    status: String,
    ending: bool,
    order_id: String,
    sku_id: String,
    location_id: String,
    quantity: i64,
    key_hash: Uuid,
    fingerprint: i64,
    explicit_key: bool,
}

impl Ledger {
    /// The reservations of these buyers, and those of these ids whosever they are.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn buyers_view(
        &self,
        lane: LaneNo,
        sale_no: i32,
        buyers: &[String],
        ids: &[ReservationId],
    ) -> Result<BuyersView, LedgerError> {
        let mut tx = self.snapshot_of_few().await?;
        let (foothold, _) = foothold(&mut tx, lane).await?;
        let (ended, drained): (bool, bool) =
            sqlx::query_as("-- audit.sale_state\n SELECT state = 'ended', drained FROM sale WHERE sale_no = $1")
                .bind(sale_no)
                .fetch_one(&mut *tx)
                .await?;
        let rows: Vec<Row> = sqlx::query_as(
            "-- audit.buyers: one probe of reservation_by_buyer per buyer and partition; OFFSET 0 keeps it so
             WITH r AS (
                 SELECT own.* FROM UNNEST($3::text[]) AS w(buyer), LATERAL (
                     SELECT * FROM inventory_reservation
                     WHERE sale_no = $1 AND lane = $2
                       AND coalesce('u:' || user_id, 'o:' || order_id) COLLATE \"C\" = w.buyer
                     UNION ALL
                     SELECT * FROM inventory_reservation_cold
                     WHERE sale_no = $1 AND lane = $2
                       AND coalesce('u:' || user_id, 'o:' || order_id) COLLATE \"C\" = w.buyer
                     OFFSET 0) own
                 UNION ALL SELECT * FROM inventory_reservation
                 WHERE reservation_id = ANY($4)
                   AND coalesce('u:' || user_id, 'o:' || order_id) COLLATE \"C\" <> ALL($3)
                 UNION ALL SELECT * FROM inventory_reservation_cold
                 WHERE reservation_id = ANY($4)
                   AND coalesce('u:' || user_id, 'o:' || order_id) COLLATE \"C\" <> ALL($3)
             )
             SELECT coalesce('u:' || user_id, 'o:' || order_id) AS buyer, reservation_id, status::text AS status,
                 EXISTS (SELECT 1 FROM lane_grant g
                         WHERE g.reservation_id = r.reservation_id AND g.kind = 'end') AS ending,
                 order_id, sku_id, location_id, quantity, key_hash, fingerprint, explicit_key
             FROM r ORDER BY created_at, reservation_id",
        )
        .bind(sale_no)
        .bind(lane.to_i16())
        .bind(buyers)
        .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
        .fetch_all(&mut *tx)
        .await?;
        tx.rollback().await?;
        Ok(BuyersView {
            foothold,
            ended,
            drained,
            rows: rows.into_iter().map(Row::read).collect::<Result<_, _>>()?,
        })
    }

    /// Buyers after `after` who have reserved or bought in a lane: those of the next `limit` reservations, ended ones
    /// among them. In order.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn buyers_after(
        &self,
        lane: LaneNo,
        sale_no: i32,
        after: &str,
        limit: i64,
    ) -> Result<BuyersStep, LedgerError> {
        let step = sqlx::query_as(
            "-- audit.buyers_after: a walk along reservation_by_buyer in each partition, merged; limited by what is walked
             -- past, for a sale may have millions that ended. Of the last buyer there may be more
             WITH walked AS MATERIALIZED (
                 SELECT buyer, status FROM (
                     SELECT coalesce('u:' || user_id, 'o:' || order_id) COLLATE \"C\" AS buyer, sale_no, lane, status
                     FROM inventory_reservation
                     UNION ALL
                     SELECT coalesce('u:' || user_id, 'o:' || order_id) COLLATE \"C\", sale_no, lane, status
                     FROM inventory_reservation_cold
                 ) r WHERE sale_no = $1 AND lane = $2 AND buyer > $3
                 ORDER BY buyer LIMIT $4
             )
             SELECT count(*) AS walked, max(buyer) AS last, coalesce(array_agg(DISTINCT buyer ORDER BY buyer) FILTER (
                 WHERE status IN ('RESERVED', 'COMMITTED') OR buyer = (SELECT max(buyer) FROM walked)), '{}') AS buyers
             FROM walked",
        )
        .bind(sale_no)
        .bind(lane.to_i16())
        .bind(after)
        .bind(limit)
        .fetch_one(&self.pool)
        .await?;
        Ok(step)
    }

    /// Those of these ids that events tell of although there is no such reservation.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn told_and_missing(&self, ids: &[ReservationId]) -> Result<Vec<ReservationId>, LedgerError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let found: Vec<Uuid> = sqlx::query_scalar(
            "-- audit.told_and_missing
             SELECT DISTINCT reservation_id FROM inventory_movement e WHERE reservation_id = ANY($1)
                 AND NOT EXISTS (SELECT 1 FROM inventory_reservation r WHERE r.reservation_id = e.reservation_id)
                 AND NOT EXISTS (SELECT 1 FROM inventory_reservation_cold r
                                 WHERE r.reservation_id = e.reservation_id)",
        )
        .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
        .fetch_all(&self.pool)
        .await?;
        Ok(found.into_iter().map(ReservationId).collect())
    }
}

impl Row {
    fn read(self) -> Result<BuyerRow, LedgerError> {
        let id = ReservationId(self.reservation_id);
        let broken = |what: &str| LedgerError::Broken(format!("{what} of reservation {id}"));
        let line = KeyHash::order_line(&self.order_id, &self.sku_id, &self.location_id);
        let keys = SlipKeys {
            explicit: self.explicit_key,
            key: KeyHash::from_uuid(self.key_hash),
            line,
            fingerprint: Fingerprint::from_i64(self.fingerprint),
        };
        let units = u32::try_from(self.quantity).map_err(|_| broken("quantity"))?;
        Ok(BuyerRow {
            status: Status::parse(&self.status).ok_or_else(|| broken("status"))?,
            ending: self.ending,
            live: Live::new(&self.buyer, &keys, units, id.place()),
            buyer: self.buyer,
            id,
        })
    }
}
