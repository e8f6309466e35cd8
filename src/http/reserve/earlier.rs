//! What was reserved of an item before its sale: a lane knows the keys of its own sale, and who repeats an older request
//! must get its first answer, whatever the lane would say.
//!
//! No answer of a lane costs a look into the ledger. While a sale is open nothing of its item is reserved elsewhere, so the
//! keys from before are a set that only shrinks: each gateway reads it once a sale, 8 bytes a key, and asks the ledger for
//! those alone that are in it. Only as a sale begins a transaction of the ledger engine may still be under way; for as
//! long as one can take, the set is read again. It is read beside the requests, for an item may have a long past: for who
//! comes before it is there, or when it is too old, the ledger is asked for his keys.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::{Duration, Instant};

use crate::domain::key::KeyHash;
use crate::domain::sale::Sale;
use crate::ledger::Ledger;

/// As long as a statement may take where nobody set another time.
const SETTLED_AFTER: Duration = Duration::from_secs(30);
/// How often the set is read until then …
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// … and no sooner than so many times as long as the last read took.
const REST: u32 = 10;
/// How old the set may be until then, where it is relied on.
const STALE_AFTER: Duration = Duration::from_secs(2);
/// Reservations of one item, beyond which the ledger is asked each time: 4 MB at two keys each.
const ROWS_MAX: u32 = 250_000;
/// Keys of all sales, 32 MB; beyond, all are forgotten and read anew.
const KEYS_MAX: usize = 4_000_000;

/// The keys from before each sale, as far as this gateway has met it.
#[derive(Clone, Debug)]
pub(in crate::http) struct Earlier {
    ledger: Ledger,
    kept: Arc<RwLock<HashMap<i32, Kept>>>,
}

/// Whether a request may have been made before the sale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// No: none of its keys was there.
    No,
    /// The ledger has to be asked.
    Unknown,
    /// One of its keys was there. It may be free by now.
    Listed,
}

/// The set of a sale.
#[derive(Clone, Debug, Default)]
struct Kept {
    read: Option<Read>,
    /// When it is to be read again; `None`: it is being read.
    due: Option<Instant>,
}

/// What was read.
#[derive(Clone, Debug)]
struct Read {
    keys: Arc<Keys>,
    /// When the first read began that was not in vain.
    first_at: Instant,
    /// When this one did.
    at: Instant,
}

/// First bytes of keys.
#[derive(Debug, PartialEq, Eq)]
enum Keys {
    /// In order.
    These(Vec<[u8; 8]>),
    /// Too many to keep.
    Any,
}

impl Keys {
    fn of(keys: Option<Vec<KeyHash>>) -> Self {
        keys.map_or(Keys::Any, |keys| {
            let mut heads: Vec<[u8; 8]> = keys.into_iter().map(KeyHash::head).collect();
            heads.sort_unstable();
            heads.dedup();
            Keys::These(heads)
        })
    }

    fn len(&self) -> usize {
        match self {
            Keys::These(heads) => heads.len(),
            Keys::Any => 0,
        }
    }
}

impl Read {
    /// What it lacked when it was read can't have come since.
    fn is_settled(&self) -> bool {
        // Of too many, none is missing.
        *self.keys == Keys::Any || self.at.duration_since(self.first_at) >= SETTLED_AFTER
    }

    fn is_stale(&self, now: Instant) -> bool {
        !self.is_settled() && now.saturating_duration_since(self.at) >= STALE_AFTER
    }
}

impl Kept {
    fn is_due(&self, now: Instant) -> bool {
        !self.read.as_ref().is_some_and(Read::is_settled) && self.due.is_some_and(|due| due <= now)
    }

    fn look<const N: usize>(&self, now: Instant, keys: impl FnOnce() -> [KeyHash; N]) -> Before {
        let known = self.read.as_ref().filter(|read| !read.is_stale(now));
        match known.map(|read| &*read.keys) {
            None | Some(Keys::Any) => Before::Unknown,
            Some(Keys::These(heads)) if heads.is_empty() => Before::No,
            Some(Keys::These(heads)) => match keys().iter().any(|key| heads.binary_search(&key.head()).is_ok()) {
                true => Before::Listed,
                false => Before::No,
            },
        }
    }
}

impl Earlier {
    pub(in crate::http) fn new(ledger: Ledger) -> Self {
        Earlier {
            ledger,
            kept: Arc::default(),
        }
    }

    /// Whether one of these keys may belong to a reservation from before the sale.
    pub(super) fn look<const N: usize>(&self, sale: &Sale, keys: impl FnOnce() -> [KeyHash; N]) -> Before {
        let now = Instant::now();
        let (told, due) = {
            let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
            match kept.get(&sale.no) {
                Some(kept) => (kept.look(now, keys), kept.is_due(now)),
                None => (Before::Unknown, true),
            }
        };
        if due {
            self.begin(sale, now);
        }
        told
    }

    /// Reads the set of a sale that was just found in the ledger, so that it is there when the ledger is not.
    pub(super) fn prepare(&self, sale: &Sale) {
        self.look(sale, || []);
    }

    /// Of all who find that the set is due, one reads it, for all.
    fn begin(&self, sale: &Sale, now: Instant) {
        let mut kept = self.write();
        match kept.get_mut(&sale.no) {
            Some(kept) if !kept.is_due(now) => return,
            Some(kept) => kept.due = None,
            None => drop(kept.insert(sale.no, Kept::default())),
        }
        let (earlier, sale) = (self.clone(), sale.clone());
        tokio::spawn(async move { earlier.read(&sale, now).await });
    }

    async fn read(&self, sale: &Sale, began: Instant) {
        let found = self.ledger.earlier_keys(sale, ROWS_MAX).await;
        let rest = AGAIN_AFTER.max(began.elapsed() * REST);
        let mut all = self.write();
        let mut kept = all.remove(&sale.no).unwrap_or_default();
        kept.due = Some(Instant::now() + rest);
        match found {
            Ok(keys) => {
                let keys = Arc::new(Keys::of(keys));
                let kept_keys = all.values().filter_map(|kept| kept.read.as_ref());
                if kept_keys.map(|read| read.keys.len()).sum::<usize>() + keys.len() > KEYS_MAX {
                    all.clear();
                }
                kept.read = Some(Read {
                    keys,
                    first_at: kept.read.map_or(began, |read| read.first_at),
                    at: began,
                });
            }
            Err(error) => {
                tracing::warn!(sale = %sale.id, %error, "what was reserved before the sale could not be read: each who may repeat it is looked up");
            }
        }
        all.insert(sale.no, kept);
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<i32, Kept>> {
        self.kept.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(keys: Keys, first_at: Instant, at: Instant) -> Kept {
        Kept {
            read: Some(Read {
                keys: Arc::new(keys),
                first_at,
                at,
            }),
            due: Some(at + AGAIN_AFTER),
        }
    }

    #[test]
    fn until_it_is_settled_a_set_is_relied_on_for_two_seconds_and_read_each_second() {
        let first = Instant::now();
        let key = KeyHash::from_uuid(uuid::Uuid::from_u128(7));
        let other = KeyHash::from_uuid(uuid::Uuid::from_u128(8 << 64));
        let fresh = kept(Keys::of(Some(vec![key])), first, first);
        let just = first + STALE_AFTER - Duration::from_millis(1);
        assert_eq!(fresh.look(just, || [other, key]), Before::Listed);
        assert_eq!(fresh.look(just, || [other]), Before::No);
        assert_eq!(fresh.look(first + STALE_AFTER, || [other]), Before::Unknown);
        assert!(!fresh.is_due(first) && fresh.is_due(first + AGAIN_AFTER));
        let settled = kept(Keys::of(Some(vec![key])), first, first + SETTLED_AFTER);
        let late = first + SETTLED_AFTER * 100;
        assert_eq!(settled.look(late, || [other]), Before::No);
        assert!(!settled.is_due(late));
    }

    #[test]
    fn from_a_set_that_is_too_large_to_keep_nothing_is_missing() {
        let read = Instant::now();
        let kept = kept(Keys::Any, read, read);
        assert_eq!(kept.look(read, || []), Before::Unknown);
        assert!(!kept.is_due(read + SETTLED_AFTER));
    }

    #[test]
    fn a_set_that_is_being_read_is_not_due() {
        let kept = Kept::default();
        assert!(!kept.is_due(Instant::now() + SETTLED_AFTER));
        assert_eq!(kept.look(Instant::now(), || []), Before::Unknown);
    }
}
