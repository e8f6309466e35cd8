//! Who has a key: what answers replays once the buyer's record in the lane has forgotten them, or never knew them.

use uuid::Uuid;

use super::{Ledger, LedgerError};
use crate::domain::key::{Fingerprint, KeyHash};
use crate::domain::reservation_id::ReservationId;
use crate::domain::sale::Sale;

/// A key, or an order's line, that a reservation has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyFound {
    /// Its hash.
    pub key: KeyHash,
    /// Whose it is.
    pub reservation: ReservationId,
    /// Of that reservation's request.
    pub fingerprint: Fingerprint,
    /// That request had no key of its own.
    pub derived: bool,
}

impl Ledger {
    /// Those of these keys that somebody has.
    ///
    /// # Errors
    /// Postgres could not be asked.
    pub async fn find_keys(&self, keys: &[KeyHash]) -> Result<Vec<KeyFound>, LedgerError> {
        let rows: Vec<(Uuid, Uuid, i64, bool)> = sqlx::query_as(
            "-- key.find
             SELECT key_hash, subject_id, fingerprint, derived FROM inventory_key WHERE key_hash = ANY($1)",
        )
        .bind(keys.iter().map(|key| key.to_uuid()).collect::<Vec<_>>())
        .fetch_all(&self.pool)
        .await?;
        let found = |(key, subject, fingerprint, derived)| KeyFound {
            key: KeyHash::from_uuid(key),
            reservation: ReservationId(subject),
            fingerprint: Fingerprint::from_i64(fingerprint),
            derived,
        };
        Ok(rows.into_iter().map(found).collect())
    }

    /// Every key and order's line of the sale's item that somebody else than this sale may have: of reservations that
    /// the ledger engine or an earlier sale made, as far as a key of theirs is kept. Some are free by now. `None`: there
    /// are more than `rows_max` such reservations.
    ///
    /// # Errors
    /// Postgres could not be asked.
    pub async fn earlier_keys(&self, sale: &Sale, rows_max: u32) -> Result<Option<Vec<KeyHash>>, LedgerError> {
        let mut connection = self.pool.acquire().await?;
        let rows: Vec<(String, Uuid, bool)> = sqlx::query_as(
            "-- key.earlier: a key is kept for 72 h after the last change of its reservation, and then until it is purged.
             -- No hold is longer than 30 days, and a late payment comes while its day is hot, so older partitions need not be read.
             -- The item's sales come first, by their index: beside many sales a join was planned to scan them all
             WITH earlier AS MATERIALIZED (
                 SELECT sale_no FROM sale WHERE sku_id = $1 AND location_id = $2 AND sale_no <> $3
             ), r AS (
                 SELECT order_id, key_hash, cart_id, status, updated_at FROM inventory_reservation
                 WHERE sku_id = $1 AND location_id = $2 AND sale_no IS NULL
                     AND created_at > now() - interval '45 days'
                 UNION ALL
                 SELECT order_id, key_hash, cart_id, status, updated_at FROM inventory_reservation_cold
                 WHERE sku_id = $1 AND location_id = $2 AND sale_no IS NULL
                     AND created_at > now() - interval '45 days'
                 UNION ALL
                 SELECT r.* FROM earlier CROSS JOIN LATERAL (
                     SELECT order_id, key_hash, cart_id, status, updated_at FROM inventory_reservation r
                     WHERE r.sale_no = earlier.sale_no AND r.created_at > now() - interval '45 days' OFFSET 0) r
                 UNION ALL
                 SELECT r.* FROM earlier CROSS JOIN LATERAL (
                     SELECT order_id, key_hash, cart_id, status, updated_at FROM inventory_reservation_cold r
                     WHERE r.sale_no = earlier.sale_no AND r.created_at > now() - interval '45 days' OFFSET 0) r
             )
             SELECT order_id, key_hash, cart_id IS NOT NULL FROM r
             WHERE status = 'RESERVED' OR status <> 'REJECTED' AND updated_at > now() - interval '96 hours'
             LIMIT $4",
        )
        .bind(sale.item.sku.as_str())
        .bind(sale.item.location.as_str())
        .bind(sale.no)
        .bind(i64::from(rows_max) + 1)
        .fetch_all(&mut connection)
        .await?;
        connection.keep();
        if usize::try_from(rows_max).is_ok_and(|max| rows.len() > max) {
            return Ok(None);
        }
        let mut keys = Vec::with_capacity(rows.len() * 2);
        let (sku, location) = (sale.item.sku.as_str(), sale.item.location.as_str());
        for (order, key, in_cart) in rows {
            let line = KeyHash::order_line(&order, sku, location);
            keys.push(line);
            let key = KeyHash::from_uuid(key);
            if key != line {
                keys.push(key);
            }
            if in_cart {
                // A line without a location becomes a cart where it is split.
                keys.push(KeyHash::order_line(&order, sku, ""));
            }
        }
        Ok(Some(keys))
    }
}
