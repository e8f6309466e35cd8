//! Carts: all parts are there, and stand alike. A part that a late payment has taken again is, until the commit, as expired
//! as those that it could not get yet.

use uuid::Uuid;

use super::{Audit, rows_max};
use crate::domain::difference::{Difference, Kind, Site};
use crate::domain::reservation_id::ReservationId;
use crate::ledger::LedgerError;
use crate::ledger::connection::Connection;

#[derive(sqlx::FromRow)]
struct Torn {
    cart_id: Uuid,
    parts: i64,
    told: i64,
    statuses: String,
    alike: bool,
}

pub(super) async fn check(tx: &mut Connection, audit: &mut Audit) -> Result<(), LedgerError> {
    let torn: Vec<Torn> = sqlx::query_as(
        "-- audit.carts
         SELECT cart_id, parts, told, statuses, alike FROM (
             SELECT cart_id, count(*) AS parts, max(cart_parts)::int8 AS told,
                 string_agg(DISTINCT status::text, ', ') AS statuses,
                 count(DISTINCT (stands, order_id, user_id, payment_id)) = 1 AND count(DISTINCT cart_parts) = 1 AS alike
             FROM (SELECT *, CASE WHEN status = 'RESERVED' AND rescued_at IS NOT NULL THEN 'EXPIRED'
                                  ELSE status END AS stands
                   FROM (SELECT cart_id, cart_parts, status, order_id, user_id, payment_id, rescued_at
                         FROM inventory_reservation
                         UNION ALL
                         SELECT cart_id, cart_parts, status, order_id, user_id, payment_id, rescued_at
                         FROM inventory_reservation_cold) both_tiers) r
             WHERE cart_id IS NOT NULL GROUP BY cart_id
         ) c WHERE parts <> told OR NOT alike ORDER BY cart_id LIMIT $1",
    )
    .bind(rows_max())
    .fetch_all(tx)
    .await?;
    audit.take(torn.iter().map(Torn::difference).collect());
    Ok(())
}

impl Torn {
    fn difference(&self) -> Difference {
        let site = Site::default().with_reservation(ReservationId(self.cart_id));
        if self.alike {
            return Difference::new(Kind::Cart, site, "parts of a cart", self.told, self.parts);
        }
        let says = "parts of a cart that stand alike: status, order, user and payment";
        Difference::new(Kind::Cart, site, says, "one of each", self.statuses.as_str())
    }
}
