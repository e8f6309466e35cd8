//! The idempotency keys that clients send with their endings.
//!
//! All keys of a batch are taken before anything is decided, so of two requests with one key, in two gateways, one
//! waits for the other. Only an ending that is answered with success keeps its key: a refusal is judged anew.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use super::EndAsk;
use crate::domain::key::{Fingerprint, KeyHash};
use crate::domain::reservation_id::ReservationId;
use crate::ledger::LedgerError;
use crate::ledger::connection::Connection;

/// The request that a key belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    reservation: ReservationId,
    fingerprint: Fingerprint,
}

/// The keys of one batch.
pub(super) struct EndingKeys {
    /// Rows that this transaction made, as it made them.
    made: BTreeMap<KeyHash, Owner>,
    /// Who has each key by now; a made one belongs to nobody until it is claimed.
    owners: HashMap<KeyHash, Owner>,
}

impl EndingKeys {
    /// Takes the keys of these asks, waiting for whoever is taking the same ones now.
    pub(super) async fn take(tx: &mut Connection, asks: &[EndAsk]) -> Result<Self, LedgerError> {
        let mut wanted: BTreeMap<KeyHash, Owner> = BTreeMap::new();
        for ask in asks {
            if let Some((key, owner)) = owner_of(ask) {
                wanted.entry(key).or_insert(owner);
            }
        }
        if wanted.is_empty() {
            return Ok(EndingKeys {
                made: wanted,
                owners: HashMap::new(),
            });
        }
        let made = insert(tx, &wanted).await?;
        let taken: Vec<Uuid> = wanted
            .keys()
            .filter(|key| !made.contains(key))
            .map(|key| key.to_uuid())
            .collect();
        let owners = read(tx, &taken).await?;
        if owners.len() < taken.len() {
            // Purged between the two statements, so they are free.
            return Err(LedgerError::Retry(sqlx::Error::RowNotFound));
        }
        wanted.retain(|key, _| made.contains(key));
        Ok(EndingKeys { made: wanted, owners })
    }

    /// Who has the key of this ask: `None` where it has none, or nobody has it.
    pub(super) fn owner(&self, ask: &EndAsk) -> Option<Owner> {
        self.owners.get(&ask.key?.0).copied()
    }

    /// The ask was answered with success: its key is its own from now on.
    pub(super) fn claim(&mut self, ask: &EndAsk) {
        if let Some((key, owner)) = owner_of(ask) {
            self.owners.entry(key).or_insert(owner);
        }
    }

    /// Makes the rows say what was claimed.
    pub(super) async fn settle(self, tx: &mut Connection) -> Result<(), LedgerError> {
        let stale: Vec<Uuid> = self
            .made
            .iter()
            .filter(|(key, owner)| self.owners.get(key) != Some(owner))
            .map(|(key, _)| key.to_uuid())
            .collect();
        if stale.is_empty() {
            return Ok(());
        }
        sqlx::query("-- ending_key.give_back\nDELETE FROM inventory_key WHERE key_hash = ANY($1)")
            .bind(&stale)
            .execute(&mut *tx)
            .await?;
        let claimed_otherwise: BTreeMap<KeyHash, Owner> = stale
            .iter()
            .map(|key| KeyHash::from_uuid(*key))
            .filter_map(|key| self.owners.get(&key).map(|owner| (key, *owner)))
            .collect();
        insert(tx, &claimed_otherwise).await?;
        Ok(())
    }
}

impl Owner {
    /// Whether the ask is the request that this owner made.
    pub(super) fn made(self, ask: &EndAsk) -> bool {
        owner_of(ask).is_some_and(|(_, owner)| owner == self)
    }
}

fn owner_of(ask: &EndAsk) -> Option<(KeyHash, Owner)> {
    let (key, fingerprint) = ask.key?;
    let owner = Owner {
        reservation: ask.id,
        fingerprint,
    };
    Some((key, owner))
}

/// Returns the keys that were free.
async fn insert(tx: &mut Connection, keys: &BTreeMap<KeyHash, Owner>) -> Result<HashSet<KeyHash>, LedgerError> {
    let made: Vec<Uuid> = sqlx::query_scalar(
        "-- ending_key.take: in key order, so that two batches can't deadlock
         INSERT INTO inventory_key (key_hash, subject_id, fingerprint, derived)
         SELECT key_hash, subject_id, fingerprint, false
         FROM UNNEST($1::uuid[], $2::uuid[], $3::int8[]) AS k(key_hash, subject_id, fingerprint) ORDER BY key_hash
         ON CONFLICT (key_hash) DO NOTHING RETURNING key_hash",
    )
    .bind(keys.keys().map(|key| key.to_uuid()).collect::<Vec<_>>())
    .bind(keys.values().map(|owner| owner.reservation.0).collect::<Vec<_>>())
    .bind(
        keys.values()
            .map(|owner| owner.fingerprint.to_i64())
            .collect::<Vec<_>>(),
    )
    .fetch_all(&mut *tx)
    .await?;
    Ok(made.into_iter().map(KeyHash::from_uuid).collect())
}

async fn read(tx: &mut Connection, keys: &[Uuid]) -> Result<HashMap<KeyHash, Owner>, LedgerError> {
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<(Uuid, Uuid, i64)> = sqlx::query_as(
        "-- ending_key.read\nSELECT key_hash, subject_id, fingerprint FROM inventory_key WHERE key_hash = ANY($1)",
    )
    .bind(keys)
    .fetch_all(&mut *tx)
    .await?;
    let owner = |(key, subject, fingerprint)| {
        let owner = Owner {
            reservation: ReservationId(subject),
            fingerprint: Fingerprint::from_i64(fingerprint),
        };
        (KeyHash::from_uuid(key), owner)
    };
    Ok(rows.into_iter().map(owner).collect())
}
