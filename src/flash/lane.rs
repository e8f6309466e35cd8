//! A lane as this gateway knows it: its epoch, how far it has seen it, who waits for it, and its batcher.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};

use super::batcher::Ask;
use super::error::FlashError;
use super::keys::LaneKeys;
use super::waiters::Waiters;
use crate::domain::lane::{Epoch, LaneNo, Seq};

/// Whether a lane can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Its epoch is not known yet, or something about it was wrong: the recovery task must look.
    Suspect,
    /// Open at this epoch.
    Open(Epoch),
}

/// One lane.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) no: LaneNo,
    pub(crate) keys: LaneKeys,
    pub(crate) health: watch::Sender<Health>,
    /// The epoch that it was adopted at last, also while it is suspect.
    epoch: AtomicU32,
    /// Highest seq of that epoch that this gateway or the ledger has seen.
    seen: AtomicU64,
    /// At this epoch its queue was found not to continue the ledger; 0: at none.
    forked: AtomicU32,
    pub(crate) waiters: Arc<Waiters>,
    /// Rings when grants wait to be numbered or delivered.
    pub(crate) grants: Notify,
    pub(crate) asks: mpsc::Sender<Ask>,
    /// The ledger decides for the lane, as far as we know.
    aside: AtomicBool,
    /// Since when it has not answered.
    away_since: Mutex<Option<Instant>>,
}

impl Lane {
    pub(crate) fn new(no: LaneNo, keys: LaneKeys, asks: mpsc::Sender<Ask>) -> Self {
        Lane {
            no,
            keys,
            health: watch::Sender::new(Health::Suspect),
            epoch: AtomicU32::new(0),
            seen: AtomicU64::new(0),
            forked: AtomicU32::new(0),
            waiters: Arc::default(),
            grants: Notify::new(),
            asks,
            aside: AtomicBool::new(false),
            away_since: Mutex::default(),
        }
    }

    pub(crate) fn is_aside(&self) -> bool {
        self.aside.load(Ordering::Relaxed)
    }

    pub(crate) fn set_aside(&self, aside: bool) {
        self.aside.store(aside, Ordering::Relaxed);
    }

    /// When the lane answered last, or failed to for the first time since.
    pub(crate) fn set_reached(&self, reached: bool, now: Instant) {
        let mut away = self.away_since.lock().unwrap_or_else(PoisonError::into_inner);
        *away = if reached { None } else { away.or(Some(now)) };
    }

    pub(crate) fn away_since(&self) -> Option<Instant> {
        *self.away_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn seen(&self) -> Seq {
        self.seen.load(Ordering::Acquire)
    }

    /// How far the lane has been seen at this epoch.
    pub(crate) fn seen_at(&self, epoch: Epoch) -> Seq {
        // Held, so that the two are of one adoption.
        let _health = self.health.borrow();
        let known = self.epoch.load(Ordering::Acquire) == epoch;
        if known { self.seen() } else { 0 }
    }

    /// Remembers that the lane, at this epoch, has got as far as `seq`.
    pub(crate) fn saw(&self, epoch: Epoch, seq: Seq) {
        // Held while it counts, so that no newer epoch can begin in between and take over this seq.
        let health = self.health.borrow();
        if *health == Health::Open(epoch) {
            self.seen.fetch_max(seq, Ordering::AcqRel);
        }
    }

    /// Takes the lane into use at this epoch. What was seen of the same epoch before still counts.
    pub(crate) fn adopt(&self, epoch: Epoch, seen: Seq) {
        self.health.send_modify(|health| {
            if *health != Health::Open(epoch) {
                if self.epoch.swap(epoch, Ordering::AcqRel) != epoch {
                    self.seen.store(seen, Ordering::Release);
                }
                *health = Health::Open(epoch);
                self.set_aside(false);
                self.waiters.forget_before(epoch);
            }
        });
        self.seen.fetch_max(seen, Ordering::AcqRel);
    }

    /// Reports that the lane, at `epoch`, did not answer as an open one would. A newer epoch is left alone.
    pub(crate) fn suspect(&self, epoch: Epoch) {
        self.health.send_if_modified(|health| {
            let now_suspect = *health == Health::Open(epoch);
            if now_suspect {
                *health = Health::Suspect;
            }
            now_suspect
        });
    }

    /// Reports that the queue, at `epoch`, does not continue the ledger. A lane can look sound all the same, when it went
    /// on after it had stepped back: so this is remembered, and only a newer epoch makes up for it.
    pub(crate) fn fork(&self, epoch: Epoch) {
        self.forked.fetch_max(epoch, Ordering::AcqRel);
        self.suspect(epoch);
    }

    /// Whether the queue was found not to continue the ledger at this epoch.
    pub(crate) fn forked_at(&self, epoch: Epoch) -> bool {
        self.forked.load(Ordering::Acquire) == epoch
    }

    /// The epoch of the lane, waiting up to `within` for it to be open.
    pub(crate) async fn open_epoch(&self, within: Duration) -> Result<Epoch, FlashError> {
        if let Health::Open(epoch) = *self.health.borrow() {
            return Ok(epoch);
        }
        let mut health = self.health.subscribe();
        let open = health.wait_for(|health| matches!(health, Health::Open(_)));
        match tokio::time::timeout(within, open).await {
            Ok(Ok(health)) => match *health {
                Health::Open(epoch) => Ok(epoch),
                Health::Suspect => Err(FlashError::Stale),
            },
            _ => Err(FlashError::Stale),
        }
    }
}
