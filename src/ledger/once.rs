//! Writes that happen once: an administrator's write under an idempotency key, and who makes it.
//!
//! The key's row stands in the transaction of the write, so a refused write leaves none and is judged anew; a
//! concurrent repeat waits for the first to end. Keys of reservations and their endings are not claimed here.

use uuid::Uuid;

use super::LedgerError;
use super::connection::Connection;
use crate::domain::key::{Fingerprint, KeyHash};
use crate::domain::trace::TraceId;

/// A key and the request that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Of the key, with its operation.
    pub hash: KeyHash,
    /// Of the request.
    pub fingerprint: Fingerprint,
}

/// Who changes something, as events tell it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct By {
    /// The person; none: the clock, or a call of checkout.
    pub operator: Option<String>,
    /// The request's trace.
    pub trace: Option<TraceId>,
}

/// What a person decides about something that waits: an approval, or a case of the quarantine.
#[derive(Clone, Copy, Debug)]
pub struct Resolution<'a> {
    /// Who.
    pub person: &'a str,
    /// Kept with it.
    pub note: Option<&'a str>,
    /// Of the request.
    pub key: Option<&'a Key>,
}

impl<'a> Resolution<'a> {
    /// By this person, with nothing to say about it.
    #[must_use]
    pub fn of(person: &'a str) -> Self {
        Resolution {
            person,
            note: None,
            key: None,
        }
    }

    /// Whether its key is its own. That it was decided so before, what waits tells by itself.
    pub(super) async fn claim(self, tx: &mut Connection) -> Result<bool, LedgerError> {
        Ok(match self.key {
            Some(key) => claim(tx, key, false, Uuid::new_v4()).await? != Claim::Reused,
            None => true,
        })
    }
}

/// What a claim finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// The key was free and is ours when the transaction commits.
    New,
    /// The same request used it, for this subject.
    Replay(Uuid),
    /// Another request used it.
    Reused,
}

/// Claims `key` for `subject`, which nobody else names. Waits while another transaction holds it.
pub(super) async fn claim(tx: &mut Connection, key: &Key, derived: bool, subject: Uuid) -> Result<Claim, LedgerError> {
    let (holder, fingerprint): (Uuid, i64) = sqlx::query_as(
        "-- key.claim: the update changes nothing; it makes the row of the first comer visible to the second
         INSERT INTO inventory_key AS k (key_hash, subject_id, fingerprint, derived) VALUES ($1, $2, $3, $4)
         ON CONFLICT (key_hash) DO UPDATE SET subject_id = k.subject_id
         RETURNING subject_id, fingerprint",
    )
    .bind(key.hash.to_uuid())
    .bind(subject)
    .bind(key.fingerprint.to_i64())
    .bind(derived)
    .fetch_one(tx)
    .await?;
    Ok(if holder == subject {
        Claim::New
    } else if fingerprint == key.fingerprint.to_i64() {
        Claim::Replay(holder)
    } else {
        Claim::Reused
    })
}
