//! A short local cache: what was read is kept for a second, and read once however many ask.
//!
//! Whoever asks for something that is not there waits for the one read of it that runs. What is asked for while it is
//! kept is read again before its time is over, so for hot keys nobody waits. The load is bounded by the number of
//! keys, not by that of requests.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};

use crate::http::problem::Problem;

/// How long something is kept.
const KEPT: Duration = Duration::from_secs(1);
/// From when on it is read again, where somebody asks.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Between two clearances of a cache that is full.
const CLEAR_EVERY: Duration = Duration::from_millis(250);

/// What is said where it can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnFailure {
    /// Why not.
    Fail,
    /// What was read last, however old.
    TellTheLast,
}

type Loading<V> = Shared<BoxFuture<'static, Result<V, Problem>>>;
type Load<K, V> = Box<dyn Fn(K) -> BoxFuture<'static, Result<V, Problem>> + Send + Sync>;

pub(super) struct Cache<K, V> {
    keys_max: usize,
    on_failure: OnFailure,
    load: Load<K, V>,
    slots: Mutex<Slots<K, V>>,
}

struct Slots<K, V> {
    by_key: HashMap<K, Slot<V>>,
    cleared_at: Instant,
}

struct Slot<V> {
    /// Since when, and what.
    kept: Option<(Instant, V)>,
    loading: Option<Loading<V>>,
}

/// What a look into the cache finds.
enum Look<V> {
    Kept(V),
    Wait {
        loading: Loading<V>,
        last: Option<V>,
    },
    /// No room for one more key.
    Full,
}

impl<K, V> fmt::Debug for Cache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("keys_max", &self.keys_max)
            .finish_non_exhaustive()
    }
}

impl<V: Clone> Slot<V> {
    fn fresh(&self, now: Instant) -> Option<&(Instant, V)> {
        self.kept
            .as_ref()
            .filter(|(since, _)| now.saturating_duration_since(*since) < KEPT)
    }

    /// The read that runs. One that ended without being put away has broken off.
    fn running(&self) -> Option<&Loading<V>> {
        self.loading.as_ref().filter(|loading| loading.peek().is_none())
    }
}

impl<K, V> Cache<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Keeps up to `keys_max` of what `load` reads.
    pub(super) fn new<F, Fut>(keys_max: usize, on_failure: OnFailure, load: F) -> Arc<Self>
    where
        F: Fn(K) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<V, Problem>> + Send + 'static,
    {
        Arc::new(Cache {
            keys_max,
            on_failure,
            load: Box::new(move |key| load(key).boxed()),
            slots: Mutex::new(Slots {
                by_key: HashMap::new(),
                cleared_at: Instant::now(),
            }),
        })
    }

    /// What is kept, else what is read now; and whether it was kept.
    ///
    /// # Errors
    /// It could not be read, and nothing may be told in its place.
    pub(super) async fn get(self: &Arc<Self>, key: &K) -> Result<(V, bool), Problem> {
        let (loading, last) = match self.look(key, Instant::now()) {
            Look::Kept(value) => return Ok((value, true)),
            Look::Full => return Ok(((self.load)(key.clone()).await?, false)),
            Look::Wait { loading, last } => (loading, last),
        };
        match (loading.await, last, self.on_failure) {
            (Err(_), Some(last), OnFailure::TellTheLast) => Ok((last, true)),
            (read, _, _) => read.map(|value| (value, false)),
        }
    }

    fn look(self: &Arc<Self>, key: &K, now: Instant) -> Look<V> {
        let mut slots = self.slots();
        if !slots.has_room(key, self.keys_max, now) {
            return Look::Full;
        }
        let slot = slots.by_key.entry(key.clone()).or_insert(Slot {
            kept: None,
            loading: None,
        });
        let running = slot.running().cloned();
        if let Some((since, value)) = slot.fresh(now) {
            let value = value.clone();
            if running.is_none() && now.saturating_duration_since(*since) >= AGAIN_AFTER {
                slot.loading = Some(self.read(key, now));
            }
            return Look::Kept(value);
        }
        let loading = running.unwrap_or_else(|| self.read(key, now));
        slot.loading = Some(loading.clone());
        let last = slot.kept.as_ref().map(|(_, value)| value.clone());
        Look::Wait { loading, last }
    }

    /// Keeps what was read elsewhere.
    pub(super) fn put(&self, key: &K, value: V) {
        let now = Instant::now();
        let mut slots = self.slots();
        if slots.has_room(key, self.keys_max, now) {
            slots.keep(key, now, value);
        }
    }

    /// Reads it in a task of its own, which goes on when whoever asked has gone away.
    fn read(self: &Arc<Self>, key: &K, asked: Instant) -> Loading<V> {
        let (cache, key) = (Arc::clone(self), key.clone());
        let task = tokio::spawn(async move {
            let read = (cache.load)(key.clone()).await;
            let mut slots = cache.slots();
            match &read {
                Ok(value) => slots.keep(&key, asked, value.clone()),
                Err(_) => slots.failed(&key),
            }
            drop(slots);
            read
        });
        async move { task.await.unwrap_or_else(|error| Err(Problem::internal(error))) }
            .boxed()
            .shared()
    }

    fn slots(&self) -> MutexGuard<'_, Slots<K, V>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Slots<K, V> {
    fn has_room(&mut self, key: &K, keys_max: usize, now: Instant) -> bool {
        if self.by_key.len() >= keys_max && now.saturating_duration_since(self.cleared_at) >= CLEAR_EVERY {
            self.cleared_at = now;
            self.by_key
                .retain(|_, slot| slot.fresh(now).is_some() || slot.running().is_some());
        }
        self.by_key.len() < keys_max || self.by_key.contains_key(key)
    }

    fn keep(&mut self, key: &K, since: Instant, value: V) {
        let slot = Slot {
            kept: Some((since, value)),
            loading: None,
        };
        self.by_key.insert(key.clone(), slot);
    }

    fn failed(&mut self, key: &K) {
        if let Some(slot) = self.by_key.get_mut(key) {
            slot.loading = None;
            if slot.kept.is_none() {
                self.by_key.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::code::Code;
    use futures::future::join_all;
    use std::sync::atomic::{AtomicU32, Ordering};

    type Counted = (Arc<Cache<u8, u32>>, Arc<AtomicU32>);

    /// Tells how often it was read; 0 is never to be had again after the first time.
    fn counted(keys_max: usize, on_failure: OnFailure) -> Counted {
        let reads = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&reads);
        let cache = Cache::new(keys_max, on_failure, move |key: u8| {
            let n = count.fetch_add(1, Ordering::SeqCst) + 1;
            async move {
                tokio::task::yield_now().await;
                if key == 0 && n > 1 {
                    return Err(Problem::new(Code::LedgerUnavailable, "away"));
                }
                Ok(n)
            }
        });
        (cache, reads)
    }

    fn age(cache: &Cache<u8, u32>, key: u8, by: Duration) {
        let mut slots = cache.slots();
        let kept = slots.by_key.get_mut(&key).and_then(|slot| slot.kept.as_mut());
        let (since, _) = kept.expect("it is kept");
        *since = since.checked_sub(by).expect("the machine has been up for longer");
    }

    #[tokio::test]
    async fn one_read_serves_all_who_ask() {
        let (cache, reads) = counted(10, OnFailure::Fail);
        let told = join_all((0..100).map(|_| cache.get(&7))).await;
        assert!(told.iter().all(|told| told.as_ref().is_ok_and(|(n, _)| *n == 1)));
        assert_eq!(reads.load(Ordering::SeqCst), 1);
        age(&cache, 7, AGAIN_AFTER);
        assert_eq!(cache.get(&7).await.expect("kept"), (1, true), "nobody waits");
        while cache.get(&7).await.expect("kept").0 == 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(reads.load(Ordering::SeqCst), 2, "it was read again meanwhile");
        age(&cache, 7, KEPT);
        assert_eq!(cache.get(&7).await.expect("read"), (3, false));
    }

    #[tokio::test]
    async fn what_can_not_be_read_is_told_only_where_that_helps() {
        for (on_failure, told) in [(OnFailure::Fail, None), (OnFailure::TellTheLast, Some((1, true)))] {
            let (cache, _) = counted(10, on_failure);
            assert_eq!(cache.get(&0).await.expect("read"), (1, false));
            age(&cache, 0, KEPT);
            assert_eq!(cache.get(&0).await.ok(), told);
            assert_eq!(cache.get(&0).await.ok(), told, "each time");
        }
    }

    #[tokio::test]
    async fn more_keys_than_fit_are_read_and_not_kept() {
        let (cache, reads) = counted(2, OnFailure::Fail);
        for key in 1..=3 {
            cache.get(&key).await.expect("read");
        }
        cache.get(&3).await.expect("read");
        assert_eq!((cache.slots().by_key.len(), reads.load(Ordering::SeqCst)), (2, 4));
        age(&cache, 1, KEPT);
        cache.slots().cleared_at -= CLEAR_EVERY;
        cache.get(&3).await.expect("read");
        assert_eq!(cache.get(&3).await.expect("kept"), (5, true));
    }
}
