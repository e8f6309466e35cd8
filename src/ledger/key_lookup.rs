//! Who has a key: what answers replays once the buyer's record in the lane has forgotten them.

use uuid::Uuid;

use super::{Ledger, LedgerError};
use crate::domain::key::{Fingerprint, KeyHash};
use crate::domain::reservation_id::ReservationId;

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
}
