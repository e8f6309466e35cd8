//! The buyers of a sale in a lane, as recovery writes them: what they hold and have bought, and which keys of theirs
//! are spent.

use sqlx::FromRow;
use uuid::Uuid;

use super::sale_row::read_item;
use super::{Ledger, LedgerError};
use crate::domain::entry::SlipKeys;
use crate::domain::key::{Fingerprint, KeyHash};
use crate::domain::lane::LaneNo;
use crate::domain::record::{Live, Record, Tombstone};
use crate::domain::reservation_id::ReservationId;

#[derive(FromRow)]
struct Row {
    buyer: String,
    reservation_id: Uuid,
    order_id: String,
    sku_id: String,
    location_id: String,
    quantity: i64,
    key_hash: Uuid,
    fingerprint: i64,
    explicit_key: bool,
    live: bool,
}

impl Ledger {
    /// The records of the buyers of a sale in a lane that come after `after`, in the order of the buyer, each oldest
    /// entry first, made of up to about `limit` reservations. A reservation is live while it is reserved or bought, and
    /// also when it has ended but its `end` grant is still to come, unless it was refused, for that never counted; a
    /// tombstone where it had a key of its own and was
    /// released or has expired. Buyers with neither are left out.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn lane_buyers(
        &self,
        lane: LaneNo,
        sale_no: i32,
        after: Option<&str>,
        limit: i64,
    ) -> Result<BuyerPage, LedgerError> {
        let mut limit = limit.max(1);
        loop {
            let rows = self.read_rows(lane, sale_no, after, limit).await?;
            let is_last = i64::try_from(rows.len()) != Ok(limit);
            let mut records = fold(rows)?;
            if is_last {
                return Ok(BuyerPage { records, next: None });
            }
            // The page may have ended in the middle of its last buyer.
            records.pop();
            if let Some((buyer, _)) = records.last() {
                let next = Some(buyer.clone());
                return Ok(BuyerPage { records, next });
            }
            limit *= 2;
        }
    }

    async fn read_rows(
        &self,
        lane: LaneNo,
        sale_no: i32,
        after: Option<&str>,
        limit: i64,
    ) -> Result<Vec<Row>, LedgerError> {
        Ok(sqlx::query_as(
            "-- snapshot.records: a walk along reservation_by_buyer in each partition since the sale was made, merged;
             -- limited by rows, not by buyers, for a GROUP BY would read and sort all that is left
             SELECT buyer, reservation_id, order_id, sku_id, location_id, quantity, key_hash, fingerprint, explicit_key,
                 live
             FROM (
                 SELECT r.*, coalesce('u:' || user_id, 'o:' || order_id) COLLATE \"C\" AS buyer,
                     status IN ('RESERVED', 'COMMITTED') OR status <> 'REJECTED' AND EXISTS (
                         SELECT 1 FROM lane_grant g
                         WHERE g.reservation_id = r.reservation_id AND g.lane = $2 AND g.kind = 'end') AS live
                 FROM (SELECT * FROM inventory_reservation UNION ALL SELECT * FROM inventory_reservation_cold) r
                 WHERE sale_no = $1 AND lane = $2
                   AND coalesce('u:' || user_id, 'o:' || order_id) COLLATE \"C\" > $3
                   AND created_at >= (SELECT created_at - interval '1 day' FROM sale WHERE sale_no = $1)
             ) r WHERE live OR explicit_key AND status IN ('RELEASED', 'EXPIRED')
             ORDER BY buyer, created_at, reservation_id LIMIT $4",
        )
        .bind(sale_no)
        .bind(lane.to_i16())
        .bind(after.unwrap_or(""))
        .bind(limit)
        .fetch_all(&self.pool)
        .await?)
    }
}

/// Some of a lane's buyers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuyerPage {
    /// Buyers and their records.
    pub records: Vec<(String, Record)>,
    /// Ask for those after this one; none: that is all.
    pub next: Option<String>,
}

/// One record per buyer, of rows in the buyers' order.
fn fold(rows: Vec<Row>) -> Result<Vec<(String, Record)>, LedgerError> {
    let mut records: Vec<(String, Record)> = Vec::new();
    for row in rows {
        if records.last().is_none_or(|(buyer, _)| *buyer != row.buyer) {
            records.push((row.buyer.clone(), Record::default()));
        }
        let (_, record) = records.last_mut().expect("one was just pushed");
        row.enter(record)?;
    }
    Ok(records)
}

impl Row {
    fn enter(self, record: &mut Record) -> Result<(), LedgerError> {
        let place = ReservationId(self.reservation_id).place();
        let key = KeyHash::from_uuid(self.key_hash);
        if !self.live {
            record.tombstones.push(Tombstone { key: key.head(), place });
            return Ok(());
        }
        let item = read_item(&self.sku_id, &self.location_id)?;
        let line = KeyHash::order_line(&self.order_id, item.sku.as_str(), item.location.as_str());
        let keys = SlipKeys {
            explicit: self.explicit_key,
            key,
            line,
            fingerprint: Fingerprint::from_i64(self.fingerprint),
        };
        let units = u32::try_from(self.quantity)
            .map_err(|_| LedgerError::Broken(format!("{} units are reserved", self.quantity)))?;
        record.live.push(Live::new(&self.buyer, &keys, units, place));
        Ok(())
    }
}
