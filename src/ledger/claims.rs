//! Idempotency keys and order lines: who has which.
//!
//! All hashes of a batch are claimed at once, in order of the hash, so that two lanes that claim the same can't
//! deadlock. From then on nobody else can get them until we commit, and who in the batch has a hash that several want
//! is decided in memory, in order; [`Keys::settle`] makes the rows say so.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::connection::Connection;
use crate::domain::key::KeyHash;
use crate::domain::reservation::Cause;
use crate::ledger::LedgerError;

/// A row that goes between our insert and our look costs a round; nobody loses that race so often.
const ROUNDS_MAX: usize = 5;

/// Who claims a key and an order's line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claimant {
    pub(super) id: Uuid,
    pub(super) key: KeyHash,
    pub(super) line: KeyHash,
    pub(super) fingerprint: i64,
    pub(super) explicit: bool,
}

impl Claimant {
    fn owner(&self, hash: KeyHash) -> Owner {
        Owner {
            id: self.id,
            fingerprint: self.fingerprint,
            derived: hash == self.key && !self.explicit,
        }
    }

    fn hashes(&self) -> impl Iterator<Item = KeyHash> + use<> {
        [Some(self.key), Some(self.line).filter(|line| *line != self.key)]
            .into_iter()
            .flatten()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    id: Uuid,
    fingerprint: i64,
    derived: bool,
}

/// A hash that several want, or that somebody had before.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Whom the row names.
    row: Owner,
    /// Who has it.
    now: Option<Owner>,
}

/// The hashes of a batch.
#[derive(Debug, Default)]
pub(super) struct Keys {
    contended: HashMap<KeyHash, Slot>,
    /// Rows that named their claimant before this transaction: an explicit key outlives its reservation's end.
    kept: HashSet<KeyHash>,
    /// Rows to go, and why they may: whom they name.
    gone: Vec<(KeyHash, Uuid)>,
}

impl Keys {
    /// Claims all hashes of the claimants, the first of them first.
    pub(super) async fn claim(tx: &mut Connection, claimants: &[Claimant]) -> Result<Self, LedgerError> {
        let claiming = Claiming::of(claimants);
        if claiming.firsts.is_empty() {
            return Ok(claiming.keys);
        }
        let inserted = insert(tx, &claiming.firsts).await?;
        claiming.look(tx, inserted).await
    }

    /// What stands against a claimant: the cause, and who came first.
    pub(super) fn against(&self, claimant: &Claimant) -> Option<(Cause, Uuid)> {
        let other = |hash: KeyHash| {
            let owner = self.contended.get(&hash)?.now?;
            (owner.id != claimant.id).then_some(owner)
        };
        if let Some(owner) = other(claimant.key) {
            let same = owner.fingerprint == claimant.fingerprint;
            let cause = match (claimant.explicit || owner.derived, same) {
                (true, true) => Cause::Replay,
                (true, false) => Cause::KeyReused,
                (false, _) => Cause::OrderAlreadyReserved,
            };
            return Some((cause, owner.id));
        }
        other(claimant.line).map(|owner| (Cause::OrderAlreadyReserved, owner.id))
    }

    /// The claimant has its hashes now.
    pub(super) fn give(&mut self, claimant: &Claimant) {
        for hash in claimant.hashes() {
            if let Some(slot) = self.contended.get_mut(&hash) {
                slot.now = Some(claimant.owner(hash));
            }
        }
    }

    /// The claimant was refused: what was inserted for it goes.
    pub(super) fn refuse(&mut self, claimant: &Claimant) {
        for hash in claimant.hashes() {
            if !self.contended.contains_key(&hash) && !self.kept.contains(&hash) {
                self.gone.push((hash, claimant.id));
            }
        }
    }

    /// A reservation has ended: these hashes are free, as far as they were its.
    pub(super) fn free(&mut self, id: Uuid, hashes: &[KeyHash]) {
        for hash in hashes {
            match self.contended.get_mut(hash) {
                Some(slot) if slot.now.is_some_and(|owner| owner.id == id) => slot.now = None,
                Some(_) => {}
                None => self.gone.push((*hash, id)),
            }
        }
    }

    /// Makes the rows say what was decided.
    pub(super) async fn settle(self, tx: &mut Connection) -> Result<(), LedgerError> {
        let mut gone = self.gone;
        let mut new = Vec::new();
        for (hash, slot) in self.contended {
            if slot.now.is_none_or(|now| now.id != slot.row.id) {
                gone.push((hash, slot.row.id));
                new.extend(slot.now.map(|now| (hash, now)));
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "-- key.free
             DELETE FROM inventory_key k USING UNNEST($1::uuid[], $2::uuid[]) AS g(key_hash, subject_id)
             WHERE k.key_hash = g.key_hash AND k.subject_id = g.subject_id",
        )
        .bind(gone.iter().map(|(hash, _)| hash.to_uuid()).collect::<Vec<_>>())
        .bind(gone.iter().map(|(_, id)| *id).collect::<Vec<_>>())
        .execute(&mut *tx)
        .await?;
        new.sort_unstable_by_key(|(hash, _)| *hash);
        if !new.is_empty() && insert(tx, &new).await? != new.len() {
            return Err(LedgerError::Broken("a key that was ours is another's".into()));
        }
        Ok(())
    }
}

/// Hashes on the way to being claimed, for whoever has more to ask of Postgres at once: first insert
/// [`columns`](Self::columns) as `claim_keys!` does, then [`look`](Self::look).
pub(super) struct Claiming {
    keys: Keys,
    /// Sorted by hash, each once.
    firsts: Vec<(KeyHash, Owner)>,
}

impl Claiming {
    pub(super) fn of(claimants: &[Claimant]) -> Self {
        let mut claims: Vec<(KeyHash, usize)> = Vec::with_capacity(claimants.len() * 2);
        for (at, claimant) in claimants.iter().enumerate() {
            claims.extend(claimant.hashes().map(|hash| (hash, at)));
        }
        claims.sort_unstable();
        let mut keys = Keys::default();
        let mut firsts: Vec<(KeyHash, Owner)> = Vec::with_capacity(claims.len());
        for (hash, at) in claims {
            match firsts.last() {
                Some((last, owner)) if *last == hash => {
                    keys.contended.insert(hash, Slot { row: *owner, now: None });
                }
                _ => firsts.push((hash, claimants[at].owner(hash))),
            }
        }
        Claiming { keys, firsts }
    }

    pub(super) fn columns(&self) -> Columns {
        Columns::of(&self.firsts)
    }

    /// No two claimants want the same hash.
    pub(super) fn each_is_claimed_once(&self) -> bool {
        self.keys.contended.is_empty()
    }

    /// Finds who has what was not `inserted`.
    pub(super) async fn look(mut self, tx: &mut Connection, mut inserted: usize) -> Result<Keys, LedgerError> {
        for _ in 0..ROUNDS_MAX {
            if inserted == self.firsts.len() {
                return Ok(self.keys);
            }
            let rows = look(tx, &self.firsts).await?;
            for (hash, mine) in &self.firsts {
                match rows.get(hash) {
                    Some((row, _)) if row.id != mine.id => {
                        let now = Some(*row);
                        self.keys.contended.insert(*hash, Slot { row: *row, now });
                    }
                    Some((_, Age::Before)) => {
                        self.keys.kept.insert(*hash);
                    }
                    Some((_, Age::Ours)) | None => {}
                }
            }
            self.firsts.retain(|(hash, _)| !rows.contains_key(hash));
            if self.firsts.is_empty() {
                return Ok(self.keys);
            }
            inserted = insert(tx, &self.firsts).await?;
        }
        Err(LedgerError::Retry(sqlx::Error::Protocol("keys keep vanishing".into())))
    }
}

/// What `claim_keys!` takes.
#[derive(Default)]
pub(super) struct Columns {
    pub(super) hashes: Vec<Uuid>,
    pub(super) subjects: Vec<Uuid>,
    pub(super) fingerprints: Vec<i64>,
    pub(super) derived: Vec<bool>,
}

impl Columns {
    fn of(claims: &[(KeyHash, Owner)]) -> Self {
        Columns {
            hashes: claims.iter().map(|(hash, _)| hash.to_uuid()).collect(),
            subjects: claims.iter().map(|(_, owner)| owner.id).collect(),
            fingerprints: claims.iter().map(|(_, owner)| owner.fingerprint).collect(),
            derived: claims.iter().map(|(_, owner)| owner.derived).collect(),
        }
    }
}

/// The statement that claims keys, of four parameters as [`Columns`] has them, which are sorted by hash; nothing is done
/// for those that are another's.
macro_rules! claim_keys {
    ($hashes:literal, $subjects:literal, $fingerprints:literal, $derived:literal, $and:literal) => {
        concat!(
            "INSERT INTO inventory_key (key_hash, subject_id, fingerprint, derived)
             SELECT key.* FROM UNNEST(",
            $hashes,
            "::uuid[], ",
            $subjects,
            "::uuid[], ",
            $fingerprints,
            "::int8[], ",
            $derived,
            "::bool[]) AS key",
            $and,
            " ON CONFLICT (key_hash) DO NOTHING"
        )
    };
}
pub(super) use claim_keys;

/// Returns how many rows are new.
async fn insert(tx: &mut Connection, claims: &[(KeyHash, Owner)]) -> Result<usize, LedgerError> {
    let columns = Columns::of(claims);
    let done = sqlx::query(concat!("-- key.claim_all\n", claim_keys!("$1", "$2", "$3", "$4", "")))
        .bind(columns.hashes)
        .bind(columns.subjects)
        .bind(columns.fingerprints)
        .bind(columns.derived)
        .execute(&mut *tx)
        .await?;
    Ok(usize::try_from(done.rows_affected()).expect("no more rows than claims"))
}

/// Whether a row was there before this transaction.
#[derive(Clone, Copy, Debug)]
enum Age {
    Before,
    Ours,
}

async fn look(tx: &mut Connection, claims: &[(KeyHash, Owner)]) -> Result<HashMap<KeyHash, (Owner, Age)>, LedgerError> {
    let rows: Vec<(Uuid, Uuid, i64, bool, bool)> = sqlx::query_as(
        "-- apply.look_at_keys: now() is when this transaction began, and stands in the rows that it inserts
         SELECT key_hash, subject_id, fingerprint, derived, created_at = now()
         FROM inventory_key WHERE key_hash = ANY($1)",
    )
    .bind(claims.iter().map(|(hash, _)| hash.to_uuid()).collect::<Vec<_>>())
    .fetch_all(&mut *tx)
    .await?;
    let read = |(hash, id, fingerprint, derived, is_ours)| {
        let owner = Owner {
            id,
            fingerprint,
            derived,
        };
        let age = if is_ours { Age::Ours } else { Age::Before };
        (KeyHash::from_uuid(hash), (owner, age))
    };
    Ok(rows.into_iter().map(read).collect())
}
