//! Sold out is answered here, without a script call, to those who surely hold nothing.
//!
//! A flag is set when every bucket of a sale is empty. It keeps each lane's (epoch, grant number, seq) and the set of
//! buyers with a record. Counters rise only by grants, and at a counter of 0 nobody new can get a record, so while the
//! grant numbers stand, the flag is right for everyone outside the set. Whether they stand is read from Redis for every
//! answer, in a read begun after the request arrived; one read serves all who wait.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use tokio::sync::{mpsc, oneshot};

use super::error::FlashError;
use super::lane::Lane;
use super::redis::Redis;
use super::reply::{array, bytes, count, number, text};
use crate::clock::Clock;
use crate::domain::lane::{Epoch, LaneNo, Seq};
use crate::domain::time::Millis;

/// Requests that may wait for one read.
const WAITING_MAX: usize = 65_536;
/// A flag that nobody asked for this long is dropped.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// After an attempt to set a flag, the next waits this long.
const MARK_EVERY: Duration = Duration::from_millis(50);
/// Buyers read per step while a flag is set; each step blocks Redis for well under a millisecond.
const SCAN_STEP: u32 = 500;

/// Where a lane stood when it had nothing left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Which lane.
    pub lane: LaneNo,
    /// Its generation.
    pub epoch: Epoch,
    /// Its last grant.
    pub grant_no: i64,
    /// Its last entry.
    pub seq: Seq,
}

/// What decides whether a request may be answered locally.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want<'a> {
    pub(crate) sale_no: i32,
    pub(crate) buyer: &'a str,
    pub(crate) names_user: bool,
    pub(crate) units: u32,
    pub(crate) ttl_ms: u32,
}

#[derive(Debug)]
struct Flag {
    holders: HashSet<u64>,
    limit: u32,
    hold_max_ms: u32,
    ends_at_ms: i64,
    asks: mpsc::Sender<oneshot::Sender<bool>>,
}

/// The flags of this gateway.
#[derive(Debug, Default)]
pub(crate) struct SoldOut {
    flags: Mutex<HashMap<i32, Arc<Flag>>>,
    /// When the last attempt to set a flag ended; none while it lasts.
    tried: Mutex<HashMap<i32, Option<Instant>>>,
}

impl SoldOut {
    /// Whether the sale has nothing left for this request, as of a moment after the call began.
    pub(crate) async fn refuses(&self, want: Want<'_>, clock: &Clock) -> bool {
        let flag = self
            .flags
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&want.sale_no)
            .cloned();
        let Some(flag) = flag else { return false };
        let over = flag.ends_at_ms > 0 && clock.now().is_none_or(|now| now >= Millis(flag.ends_at_ms));
        let other_answer = flag.limit > 0 && (want.units > flag.limit || !want.names_user);
        if over || other_answer || want.ttl_ms > flag.hold_max_ms || flag.holders.contains(&hash(want.buyer)) {
            return false;
        }
        let (tx, rx) = oneshot::channel();
        flag.asks.try_send(tx).is_ok() && rx.await.unwrap_or(false)
    }

    /// Whether an attempt to set a flag is due, which then is on: one at a time per sale, for the set of holders may be
    /// large, and with a pause between two.
    pub(crate) fn may_mark(&self, sale_no: i32) -> bool {
        if self
            .flags
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(&sale_no)
        {
            return false;
        }
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        tried.retain(|_, ended| ended.is_none_or(|at| at.elapsed() < MARK_EVERY));
        let due = !tried.contains_key(&sale_no);
        if due {
            tried.insert(sale_no, None);
        }
        due
    }

    /// Sets the flag of a sale whose lanes are all empty; `known` are the lanes' places at a verdict that nothing is on
    /// its way between them, needed where there are several. For whoever was told that this is due.
    pub(crate) async fn mark(
        self: Arc<Self>,
        redis: Redis,
        sale_no: i32,
        lanes: Vec<Arc<Lane>>,
        known: Option<Vec<Mark>>,
    ) -> Result<(), FlashError> {
        let marked = Arc::clone(&self).try_mark(redis, sale_no, lanes, known).await;
        self.tried
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(sale_no, Some(Instant::now()));
        marked
    }

    async fn try_mark(
        self: Arc<Self>,
        redis: Redis,
        sale_no: i32,
        lanes: Vec<Arc<Lane>>,
        known: Option<Vec<Mark>>,
    ) -> Result<(), FlashError> {
        let before = try_join_all(lanes.iter().map(|lane| read_empty(&redis, lane, sale_no))).await?;
        let Some(before) = before.into_iter().collect::<Option<Vec<Empty>>>() else {
            return Ok(());
        };
        let marks: Vec<Mark> = before.iter().map(|empty| empty.mark).collect();
        let same_grants = |known: &[Mark]| {
            known.len() == marks.len()
                && marks.iter().all(|m| {
                    known
                        .iter()
                        .any(|k| (k.lane, k.epoch, k.grant_no) == (m.lane, m.epoch, m.grant_no))
                })
        };
        if (lanes.len() > 1 && known.is_none()) || known.is_some_and(|known| !same_grants(&known)) {
            return Ok(());
        }
        let mut holders = HashSet::new();
        for lane in &lanes {
            scan_buyers(&redis, &lane.keys.buyers(sale_no), &mut holders).await?;
        }
        // The set is complete only if no grant came while it was read.
        if !stand(&redis, &lanes, &marks).await? {
            return Ok(());
        }
        let (tx, rx) = mpsc::channel(WAITING_MAX);
        let Empty {
            limit,
            hold_max_ms,
            ends_at_ms,
            ..
        } = before[0];
        let flag = Arc::new(Flag {
            holders,
            limit,
            hold_max_ms,
            ends_at_ms,
            asks: tx,
        });
        self.flags
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(sale_no, flag);
        tokio::spawn(async move {
            serve(&redis, &lanes, &marks, rx).await;
            self.flags
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&sale_no);
        });
        Ok(())
    }
}

/// Answers whoever asks, all who wait with one read, until the flag does not stand any more.
async fn serve(redis: &Redis, lanes: &[Arc<Lane>], marks: &[Mark], mut asks: mpsc::Receiver<oneshot::Sender<bool>>) {
    let mut waiting = Vec::new();
    loop {
        match tokio::time::timeout(IDLE_MAX, asks.recv_many(&mut waiting, WAITING_MAX)).await {
            Ok(n) if n > 0 => {}
            _ => return,
        }
        let stands = stand(redis, lanes, marks).await.unwrap_or(false);
        for ask in waiting.drain(..) {
            let _ = ask.send(stands);
        }
        if !stands {
            return;
        }
    }
}

/// Whether every lane is where its mark says: same epoch, open, no grant since, and not stepped back.
async fn stand(redis: &Redis, lanes: &[Arc<Lane>], marks: &[Mark]) -> Result<bool, FlashError> {
    let now = try_join_all(lanes.iter().map(|lane| read_mark(redis, lane))).await?;
    Ok(now.iter().zip(marks).all(|(now, mark)| {
        now.is_some_and(|now| (now.epoch, now.grant_no) == (mark.epoch, mark.grant_no) && now.seq >= mark.seq)
    }))
}

/// Where an open lane stands; none where it is closed or gone.
pub(crate) async fn read_mark(redis: &Redis, lane: &Lane) -> Result<Option<Mark>, FlashError> {
    let args = vec![
        lane.keys.meta().into(),
        "epoch".into(),
        "state".into(),
        "grant".into(),
        "seq".into(),
    ];
    let values = array(redis.keyed("HMGET", args).await?, "a lane's meta")?;
    let [epoch, state, grant, seq] = values.as_slice() else {
        return Ok(None);
    };
    if text(state) != "open" {
        return Ok(None);
    }
    let epoch = u32::try_from(count(epoch)?).map_err(|_| FlashError::Broken("an epoch".into()))?;
    Ok(Some(Mark {
        lane: lane.no,
        epoch,
        grant_no: number(grant)?,
        seq: count(seq)?,
    }))
}

#[derive(Clone, Copy, Debug)]
struct Empty {
    mark: Mark,
    limit: u32,
    hold_max_ms: u32,
    ends_at_ms: i64,
}

/// The lane's place and settings, if the sale is live there, has no user rate and nothing left.
async fn read_empty(redis: &Redis, lane: &Lane, sale_no: i32) -> Result<Option<Empty>, FlashError> {
    // The mark first: units that come afterwards raise the grant number and are found by the read after the scan.
    let Some(mark) = read_mark(redis, lane).await? else {
        return Ok(None);
    };
    let wanted = ["state", "free", "rate", "limit", "hold_max", "ends"];
    let mut args = vec![lane.keys.sale(sale_no).into()];
    args.extend(wanted.map(Into::into));
    let values = array(redis.keyed("HMGET", args).await?, "a sale")?;
    let [state, free, rate, limit, hold_max, ends] = values.as_slice() else {
        return Ok(None);
    };
    if text(state) != "live" || number(free)? != 0 || number(rate)? != 0 {
        return Ok(None);
    }
    let small = |value| u32::try_from(count(value)?).map_err(|_| FlashError::Broken("a setting".into()));
    Ok(Some(Empty {
        mark,
        limit: small(limit)?,
        hold_max_ms: small(hold_max)?,
        ends_at_ms: number(ends)?,
    }))
}

async fn scan_buyers(redis: &Redis, key: &str, holders: &mut HashSet<u64>) -> Result<(), FlashError> {
    let mut at = "0".to_owned();
    loop {
        let args = vec![
            key.into(),
            at.as_str().into(),
            "COUNT".into(),
            SCAN_STEP.to_string().into(),
        ];
        let mut parts = array(redis.keyed("HSCAN", args).await?, "a scan")?;
        let (Some(pairs), Some(next)) = (parts.pop(), parts.pop()) else {
            return Err(FlashError::Broken("a short scan".into()));
        };
        let pairs = array(pairs, "a scan")?;
        holders.extend(pairs.iter().step_by(2).map(|buyer| hash_bytes(&bytes(buyer))));
        at = text(&next);
        if at == "0" {
            return Ok(());
        }
    }
}

fn hash(buyer: &str) -> u64 {
    hash_bytes(buyer.as_bytes())
}

fn hash_bytes(buyer: &[u8]) -> u64 {
    // Two buyers of one hash only send one of them to Redis for nothing.
    let mut hasher = DefaultHasher::new();
    buyer.hash(&mut hasher);
    hasher.finish()
}
