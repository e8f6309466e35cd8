//! What was reserved of an item before its sale: a lane knows the keys of its own sale, and who repeats an older request
//! must get its first answer, however the lane would refuse it.
//!
//! No refusal costs a look into the ledger. While a sale is open nothing of its item is reserved elsewhere, so the keys
//! from before are a set that only shrinks: each gateway reads it once a sale, 8 bytes a key, and asks the ledger for
//! those alone that are in it. Only as a sale begins a transaction of the ledger engine may still be under way; for as
//! long as one can take, the set is read again. Until then nobody is refused by a set that is older than two such reads
//! are apart: where they fail, or nobody asked, who needs it waits for a read of his own, and is told where it fails too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::domain::key::KeyHash;
use crate::domain::sale::Sale;
use crate::http::batch::ANSWER_WITHIN;
use crate::http::code::Code;
use crate::http::problem::Problem;
use crate::ledger::Ledger;

/// As long as a statement may take where nobody set another time.
const SETTLED_AFTER: Duration = Duration::from_secs(30);
/// How often the set is read until then.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How old the set may be until then, where it refuses anybody.
const STALE_AFTER: Duration = Duration::from_secs(2);
/// Reservations of one item, beyond which each refusal is looked up: 4 MB at two keys each.
const ROWS_MAX: u32 = 250_000;
/// Keys of all sales, 32 MB; beyond, all are forgotten and read anew.
const KEYS_MAX: usize = 4_000_000;

/// The keys from before each sale, as far as this gateway has met it.
#[derive(Clone, Debug)]
pub(in crate::http) struct Earlier {
    ledger: Ledger,
    kept: Arc<RwLock<HashMap<i32, Kept>>>,
    /// Sales of which a read is under way, or was in vain.
    reading: Arc<Mutex<HashMap<i32, Arc<Reading>>>>,
}

/// When a read was in vain, and why. Whoever reads holds it, so that a crowd reads a set once.
type Reading = tokio::sync::Mutex<Option<(Instant, Problem)>>;

#[derive(Clone, Debug)]
struct Kept {
    keys: Arc<Keys>,
    first_at: Instant,
    read_at: Instant,
    /// When somebody last began to read it.
    tried_at: Instant,
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
    fn have(&self, key: KeyHash) -> bool {
        match self {
            Keys::These(heads) => heads.binary_search(&key.head()).is_ok(),
            Keys::Any => true,
        }
    }

    fn len(&self) -> usize {
        match self {
            Keys::These(heads) => heads.len(),
            Keys::Any => 0,
        }
    }
}

impl Kept {
    /// What it lacked when it was read can't have come since.
    fn is_settled(&self) -> bool {
        // Of too many, none is missing.
        *self.keys == Keys::Any || self.read_at.duration_since(self.first_at) >= SETTLED_AFTER
    }

    fn is_due(&self) -> bool {
        !self.is_settled() && self.tried_at.elapsed() >= AGAIN_AFTER
    }

    /// For who came at that time: a read that began after it will do, however long it took.
    fn is_stale(&self, came: Instant) -> bool {
        !self.is_settled() && came.saturating_duration_since(self.read_at) >= STALE_AFTER
    }
}

impl Earlier {
    pub(in crate::http) fn new(ledger: Ledger) -> Self {
        Earlier {
            ledger,
            kept: Arc::default(),
            reading: Arc::default(),
        }
    }

    /// Whether one of these keys may belong to a reservation from before the sale.
    ///
    /// # Errors
    /// `LEDGER_UNAVAILABLE` where that was never read, or not for too long, and can't be: the request could be a repeat.
    pub(super) async fn may_have(&self, sale: &Sale, keys: [KeyHash; 2]) -> Result<bool, Problem> {
        let came = Instant::now();
        let known = match self.known(sale) {
            Some(kept) if !kept.is_stale(came) => {
                if kept.is_due() && self.is_mine(sale) {
                    let (earlier, sale) = (self.clone(), sale.clone());
                    // In vain, it is told to whoever needs it when it is too old.
                    tokio::spawn(async move {
                        let done = |kept: &Kept| kept.read_at.elapsed() < AGAIN_AFTER;
                        earlier.read_once(&sale, done).await.ok()
                    });
                }
                kept.keys
            }
            _ => self.read_once(sale, |kept| !kept.is_stale(came)).await?,
        };
        Ok(keys.into_iter().any(|key| known.have(key)))
    }

    /// Reads the set of a sale that was just found in the ledger, so that it is there when the ledger is not.
    pub(super) fn prepare(&self, sale: &Arc<Sale>) {
        if self.known(sale).is_none() {
            let (earlier, sale) = (self.clone(), Arc::clone(sale));
            // Whoever needs it asks again.
            tokio::spawn(async move { earlier.read_once(&sale, |_| true).await.ok() });
        }
    }

    fn known(&self, sale: &Sale) -> Option<Kept> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        kept.get(&sale.no).cloned()
    }

    /// Of all who find that the set is due, one is to read it.
    fn is_mine(&self, sale: &Sale) -> bool {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        let due = kept.get_mut(&sale.no).filter(|kept| kept.is_due());
        due.map(|kept| kept.tried_at = Instant::now()).is_some()
    }

    /// The set as it is kept, where that will do; else as it is read, once for all who wait.
    async fn read_once(&self, sale: &Sale, will_do: impl Fn(&Kept) -> bool) -> Result<Arc<Keys>, Problem> {
        let reading = Arc::clone(self.reading().entry(sale.no).or_default());
        let mut in_vain = reading.lock().await;
        if let Some(kept) = self.known(sale).filter(will_do) {
            return Ok(kept.keys);
        }
        // Whoever waited for a read that failed need not wait for another.
        if let Some((_, problem)) = in_vain.as_ref().filter(|(at, _)| at.elapsed() < AGAIN_AFTER) {
            return Err(problem.clone());
        }
        let read = self.read(sale).await;
        match &read {
            Ok(_) => {
                self.reading().remove(&sale.no);
            }
            Err(problem) => *in_vain = Some((Instant::now(), problem.clone())),
        }
        read
    }

    fn reading(&self) -> MutexGuard<'_, HashMap<i32, Arc<Reading>>> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(&self, sale: &Sale) -> Result<Arc<Keys>, Problem> {
        let read_at = Instant::now();
        let read = tokio::time::timeout(ANSWER_WITHIN, self.ledger.earlier_keys(sale, ROWS_MAX));
        let found = read.await.map_err(|_| {
            let what = "whether the request was made before the sale could not be found out in time";
            Problem::new(Code::LedgerUnavailable, what)
        })??;
        let keys = Arc::new(found.map_or(Keys::Any, |keys| {
            let mut heads: Vec<[u8; 8]> = keys.into_iter().map(KeyHash::head).collect();
            heads.sort_unstable();
            heads.dedup();
            Keys::These(heads)
        }));
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        let first_at = kept.get(&sale.no).map_or(read_at, |kept| kept.first_at);
        if kept.values().map(|kept| kept.keys.len()).sum::<usize>() + keys.len() > KEYS_MAX {
            kept.clear();
        }
        let now = Kept {
            keys: Arc::clone(&keys),
            first_at,
            read_at,
            tried_at: read_at,
        };
        kept.insert(sale.no, now);
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(keys: Keys, read: Instant) -> Kept {
        Kept {
            keys: Arc::new(keys),
            first_at: read,
            read_at: read,
            tried_at: read,
        }
    }

    #[test]
    fn a_read_that_began_after_the_caller_came_will_do_however_long_it_took() {
        let read = Instant::now();
        let kept = kept(Keys::These(Vec::new()), read);
        assert!(!kept.is_stale(read));
        assert!(!kept.is_stale(read + STALE_AFTER - Duration::from_millis(1)));
        assert!(kept.is_stale(read + STALE_AFTER), "who comes later needs another");
    }

    #[test]
    fn from_a_set_that_is_too_large_to_keep_nothing_is_missing() {
        let read = Instant::now();
        let kept = kept(Keys::Any, read);
        assert!(!kept.is_stale(read + SETTLED_AFTER) && kept.is_settled());
    }
}
