//! Who waits for a call to become durable, and what was told lately to those who come too late to wait.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::notice::{Notice, SettledCall};
use crate::domain::lane::{Epoch, Seq};
use crate::domain::outcome::Durability;
use crate::domain::reservation_id::Place;

/// Calls that are remembered after their notice: some seconds' worth at the highest rate.
const RECENT_CALLS_MAX: usize = 8_192;
/// Calls that may be waited for; the queue's bound keeps real ones below it.
const WAITED_CALLS_MAX: usize = 200_000;

/// One call that somebody waits for.
#[derive(Debug)]
pub(crate) struct CallWatch {
    told: OnceLock<Vec<(u8, Durability)>>,
    bell: Notify,
    /// When this gateway made the call, if it did.
    made: OnceLock<Instant>,
}

impl CallWatch {
    fn new() -> Self {
        CallWatch {
            told: OnceLock::new(),
            bell: Notify::new(),
            made: OnceLock::new(),
        }
    }

    fn tell(&self, refused: &[(u8, Durability)]) {
        let _ = self.told.set(refused.to_vec());
        self.bell.notify_waiters();
    }

    /// What became of the call's reservation at `index`; ends when it is known.
    async fn wait(&self, index: u8) -> Durability {
        loop {
            let bell = self.bell.notified();
            tokio::pin!(bell);
            bell.as_mut().enable();
            if let Some(refused) = self.told.get() {
                return find(refused, index);
            }
            bell.await;
        }
    }
}

fn find(refused: &[(u8, Durability)], index: u8) -> Durability {
    refused
        .iter()
        .find(|(at, _)| *at == index)
        .map_or(Durability::Durable, |(_, durability)| *durability)
}

/// A call's name: epoch, seq and the tail of its nonce, as reservation ids carry it.
pub(crate) type CallName = (Epoch, Seq, [u8; 3]);

/// A reservation's way into the ledger, to be waited for.
#[derive(Debug)]
pub struct DurableWatch {
    // None only while it is dropped.
    call: Option<Arc<CallWatch>>,
    index: u8,
    /// Where to give it up; nowhere for a call that this gateway made, which is remembered until the
    /// ledger is past it.
    asked: Option<(Arc<Waiters>, CallName)>,
}

impl DurableWatch {
    /// On a reservation of a call that this gateway made.
    pub(crate) fn made(call: Arc<CallWatch>, index: u8) -> Self {
        DurableWatch {
            call: Some(call),
            index,
            asked: None,
        }
    }

    /// On a reservation that somebody asks about.
    pub(crate) fn asked(waiters: &Arc<Waiters>, place: Place) -> Self {
        let name = (place.epoch, place.seq, place.nonce);
        DurableWatch {
            call: Some(waiters.watch(name)),
            index: place.index,
            asked: Some((Arc::clone(waiters), name)),
        }
    }

    /// What became of it; none when that is not known `within`.
    pub async fn wait(&self, within: Duration) -> Option<Durability> {
        let call = self.call.as_ref()?;
        tokio::time::timeout(within, call.wait(self.index)).await.ok()
    }
}

impl Drop for DurableWatch {
    fn drop(&mut self) {
        if let (Some(call), Some((waiters, name))) = (self.call.take(), &self.asked) {
            waiters.give_up(*name, call);
        }
    }
}

/// The waiters of one lane.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// In order, so that the first has waited longest.
    waited: BTreeMap<CallName, Arc<CallWatch>>,
    recent: VecDeque<CallName>,
    told: HashMap<CallName, Vec<(u8, Durability)>>,
    /// The furthest call that was told. The ledger is past everything before it, even where that notice was missed.
    furthest: (Epoch, Seq),
}

impl Waiters {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A watch on a call that this gateway made just now.
    pub(crate) fn made(&self, call: CallName) -> Arc<CallWatch> {
        let watch = self.watch(call);
        let _ = watch.made.set(Instant::now());
        watch
    }

    /// A watch on this call; one that was told already answers at once.
    fn watch(&self, call: CallName) -> Arc<CallWatch> {
        let mut inner = self.lock();
        if let Some(refused) = inner.told.get(&call) {
            let watch = CallWatch::new();
            watch.tell(refused);
            return Arc::new(watch);
        }
        if inner.waited.len() >= WAITED_CALLS_MAX {
            // Nobody is told through a watch that is not kept: those callers ask the ledger when their wait ends.
            return Arc::new(CallWatch::new());
        }
        inner
            .waited
            .entry(call)
            .or_insert_with(|| Arc::new(CallWatch::new()))
            .clone()
    }

    /// Tells what became durable.
    pub(crate) fn tell(&self, notice: &Notice) {
        let mut inner = self.lock();
        for SettledCall { seq, nonce, refused } in &notice.calls {
            let name = (notice.epoch, *seq, nonce.tail());
            if let Some(watch) = inner.waited.remove(&name) {
                watch.tell(refused);
            }
            if inner.told.insert(name, refused.clone()).is_none() {
                inner.recent.push_back(name);
            }
            inner.furthest = inner.furthest.max((notice.epoch, *seq));
        }
        let (epoch, seq) = inner.furthest;
        let passed = inner.waited.range(..(epoch, seq + 1, [0; 3]));
        let alone = passed.filter(|(_, watch)| Arc::strong_count(watch) == 1);
        let missed: Vec<CallName> = alone.map(|(name, _)| *name).collect();
        for name in missed {
            inner.waited.remove(&name);
        }
        while inner.recent.len() > RECENT_CALLS_MAX {
            if let Some(oldest) = inner.recent.pop_front() {
                inner.told.remove(&oldest);
            }
        }
    }

    /// Forgets calls of epochs before `epoch`: what the ledger lacks of them is lost, and asking it says so.
    pub(crate) fn forget_before(&self, epoch: Epoch) {
        self.lock().waited.retain(|(of, _, _), _| *of >= epoch);
    }

    /// When the earliest call was made here that is watched and that the ledger is not known to be past. Calls that are
    /// only asked about do not count: what was settled long ago is never told again.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        let inner = self.lock();
        let (epoch, seq) = inner.furthest;
        let ahead = inner.waited.range((epoch, seq + 1, [0; 3])..);
        ahead.filter_map(|(_, watch)| watch.made.get().copied()).next()
    }

    /// Gives up a watch. A call made here is remembered until the ledger is past it, any other while somebody asks.
    fn give_up(&self, call: CallName, watch: Arc<CallWatch>) {
        let mut inner = self.lock();
        drop(watch);
        let done = |kept: &Arc<CallWatch>| Arc::strong_count(kept) == 1 && kept.made.get().is_none();
        if inner.waited.get(&call).is_some_and(done) {
            inner.waited.remove(&call);
        }
    }
}
