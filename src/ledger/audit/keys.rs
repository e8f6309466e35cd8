//! Idempotency keys against reservations: an open one is protected by its key and its order's line, an ended one keeps
//! no order from reserving again.

use uuid::Uuid;

use super::{Audit, rows_max};
use crate::domain::difference::{Difference, Kind, Site};
use crate::domain::reservation_id::ReservationId;
use crate::ledger::LedgerError;
use crate::ledger::connection::Connection;

#[derive(sqlx::FromRow)]
struct Missing {
    reservation_id: Uuid,
    sku_id: String,
    location_id: String,
    explicit_key: bool,
    rows: i64,
    own: i64,
}

#[derive(sqlx::FromRow)]
struct Left {
    subject_id: Uuid,
    sku_id: Option<String>,
    location_id: Option<String>,
    status: Option<String>,
    rows: i64,
}

pub(super) async fn check(tx: &mut Connection, audit: &mut Audit) -> Result<(), LedgerError> {
    let missing = missing(tx).await?;
    audit.take(missing.iter().map(Missing::difference).collect());
    let left = left(tx).await?;
    audit.take(left.iter().map(Left::difference).collect());
    Ok(())
}

async fn missing(tx: &mut Connection) -> Result<Vec<Missing>, LedgerError> {
    Ok(sqlx::query_as(
        "-- audit.keys_missing: its key, and where the client chose that, the order's line as well
         SELECT r.reservation_id, sku_id, location_id, explicit_key, count(k.key_hash) AS rows,
             count(k.key_hash) FILTER (WHERE k.key_hash = r.key_hash) AS own
         FROM inventory_reservation r LEFT JOIN inventory_key k ON k.subject_id = r.reservation_id
         WHERE status = 'RESERVED'
         GROUP BY r.reservation_id, r.created_at
         HAVING count(k.key_hash) FILTER (WHERE k.key_hash = r.key_hash) = 0
             OR explicit_key AND count(k.key_hash) < 2
         ORDER BY r.reservation_id LIMIT $1",
    )
    .bind(rows_max())
    .fetch_all(tx)
    .await?)
}

impl Missing {
    fn difference(&self) -> Difference {
        let site = Site::item(&self.sku_id, &self.location_id).with_reservation(ReservationId(self.reservation_id));
        if self.own == 0 {
            let says = "rows of the idempotency key of an open reservation";
            return Difference::new(Kind::KeyMissing, site, says, 1, 0);
        }
        let says = "keys of an open reservation: its own and its order's line";
        let expected = if self.explicit_key { 2 } else { 1 };
        Difference::new(Kind::KeyMissing, site, says, expected, self.rows)
    }
}

async fn left(tx: &mut Connection) -> Result<Vec<Left>, LedgerError> {
    Ok(sqlx::query_as(
        "-- audit.keys_left: derived keys of reservations that ended otherwise than by a commit, or are not there;
         -- carts and adjustments and approvals have derived keys too
         SELECT k.subject_id, min(sku_id) AS sku_id, min(location_id) AS location_id, min(status::text) AS status,
             count(*) AS rows
         FROM inventory_key k
         LEFT JOIN (SELECT reservation_id, sku_id, location_id, status FROM inventory_reservation
                    UNION ALL
                    SELECT reservation_id, sku_id, location_id, status FROM inventory_reservation_cold
                    UNION ALL
                    SELECT cart_id, sku_id, location_id, status FROM inventory_reservation WHERE cart_id IS NOT NULL
                    UNION ALL
                    SELECT cart_id, sku_id, location_id, status FROM inventory_reservation_cold
                    WHERE cart_id IS NOT NULL) r
             ON r.reservation_id = k.subject_id
         WHERE k.derived AND coalesce(status NOT IN ('RESERVED', 'COMMITTED'), true)
           AND NOT EXISTS (SELECT 1 FROM adjustment a WHERE a.adjustment_id = k.subject_id)
           AND NOT EXISTS (SELECT 1 FROM approval a WHERE a.approval_id = k.subject_id)
         GROUP BY k.subject_id ORDER BY k.subject_id LIMIT $1",
    )
    .bind(rows_max())
    .fetch_all(tx)
    .await?)
}

impl Left {
    fn difference(&self) -> Difference {
        let mut site = Site::default().with_reservation(ReservationId(self.subject_id));
        site.sku_id.clone_from(&self.sku_id);
        site.location_id.clone_from(&self.location_id);
        let says = match &self.status {
            Some(status) => format!("derived keys left by a reservation that is {status}"),
            None => "derived keys of a reservation that is not in the ledger".to_owned(),
        };
        Difference::new(Kind::KeyLeft, site, &says, 0, self.rows)
    }
}
