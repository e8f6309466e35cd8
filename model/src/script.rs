//! The scripts of `lua/`, each one atomic step on one lane.

use crate::config::{Config, Defence};
use crate::world::{Body, Buyer, Cache, Entry, Epoch, Grant, Lane, Nonce, Redis, Seq};

/// What `lua/reserve.lua` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reserved {
    /// The script is not there, or the fence does not fit: nothing was done.
    Stale,
    /// A unit was taken, in this entry.
    Taken(Seq),
    /// The buyer has one already.
    Replayed(Nonce),
    /// Nothing is free here.
    Insufficient,
    /// The sale is over.
    NotLive,
}

/// What `lua/grant.lua` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Granted {
    /// The script is not there, or the fence does not fit: nothing was done.
    Stale,
    /// The lane lacks grants before this one; it has them up to that number.
    Gap(u8),
    /// In force up to that number; the lane stands at that entry.
    InForce(u8, Seq),
}

/// What a script call brings along (`flash/call.rs::Fence`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fence {
    pub(crate) epoch: Epoch,
    pub(crate) seen: Seq,
    pub(crate) nonce: Nonce,
    pub(crate) now: u8,
}

impl Redis {
    /// The lane, if scripts can be run and it is open at the caller's epoch and not behind what the caller has seen.
    fn fenced(&mut self, config: &Config, lane: u8, fence: &Fence) -> Option<&mut Lane> {
        let loaded = self.cache >= Cache::Scripts;
        let fits = |lane: &&mut Lane| {
            let behind = lane.seq < fence.seen && config.has(Defence::SeenFence);
            lane.epoch == fence.epoch && lane.open && !behind
        };
        self.lanes[usize::from(lane)].as_mut().filter(|_| loaded).filter(fits)
    }

    /// `lua/reserve.lua`, for one request.
    pub(crate) fn reserve(&mut self, config: &Config, lane: u8, fence: &Fence, buyer: Buyer) -> Reserved {
        let Some(lane) = self.fenced(config, lane, fence) else {
            return Reserved::Stale;
        };
        let holder = lane.holders.iter().find(|(holder, _)| *holder == buyer);
        if let Some((_, id)) = holder.filter(|_| config.has(Defence::BuyersRecorded)) {
            return Reserved::Replayed(*id);
        }
        if !lane.live {
            return Reserved::NotLive;
        }
        if lane.free < 1 {
            return Reserved::Insufficient;
        }
        if !lane.append(fence, Body::Reserve { buyer, at: fence.now }, lane.free - 1) {
            return Reserved::Stale;
        }
        lane.holders.push((buyer, fence.nonce));
        lane.holders.sort_unstable();
        Reserved::Taken(lane.seq)
    }

    /// `lua/grant.lua`, for one grant.
    pub(crate) fn grant(&mut self, config: &Config, lane: u8, fence: &Fence, no: u8, grant: Grant) -> Granted {
        let Some(lane) = self.fenced(config, lane, fence) else {
            return Granted::Stale;
        };
        if no > lane.grant + 1 && config.has(Defence::GapsRefused) {
            return Granted::Gap(lane.grant);
        }
        if no <= lane.grant && config.has(Defence::KnownGrantsSkipped) {
            return Granted::InForce(lane.grant, lane.seq);
        }
        let (free, took) = match grant {
            Grant::Units(units) => (lane.free + units, 0),
            Grant::End { units, .. } => (lane.free + units, 0),
            Grant::Take { .. } => (lane.free - lane.free.clamp(0, 1), lane.free.clamp(0, 1)),
            Grant::Stop => (lane.free.min(0), lane.free.max(0)),
        };
        if !lane.append(fence, Body::Grant { no, grant, took }, free) {
            return Granted::Stale;
        }
        lane.grant = lane.grant.max(no);
        match grant {
            Grant::End { id, .. } => lane.holders.retain(|(_, held)| *held != id),
            Grant::Stop => lane.live = false,
            Grant::Units(_) | Grant::Take { .. } => {}
        }
        Granted::InForce(lane.grant, lane.seq)
    }

    /// `lua/close.lua`; none, or the epoch by which it is superseded.
    pub(crate) fn close(&mut self, lane: u8, epoch: Epoch) -> Option<Epoch> {
        let lane = self.lanes[usize::from(lane)].get_or_insert_default();
        if lane.epoch >= epoch {
            return Some(lane.epoch);
        }
        (lane.epoch, lane.open) = (epoch, false);
        None
    }

    /// The lane, if a recovery may still write it: closed, at its epoch.
    fn closed(&mut self, config: &Config, lane: u8, epoch: Epoch) -> Option<&mut Lane> {
        let loaded = self.cache >= Cache::Scripts;
        let own = |lane: &&mut Lane| !config.has(Defence::RecheckedToOpen) || (lane.epoch == epoch && !lane.open);
        self.lanes[usize::from(lane)].as_mut().filter(|_| loaded).filter(own)
    }

    /// `lua/rebuild.lua`; false: superseded.
    pub(crate) fn rebuild(
        &mut self,
        config: &Config,
        lane: u8,
        epoch: Epoch,
        image: (i8, bool, Vec<(Buyer, Nonce)>),
    ) -> bool {
        let Some(lane) = self.closed(config, lane, epoch) else {
            return false;
        };
        (lane.free, lane.live, lane.holders) = image;
        true
    }

    /// `lua/open.lua`; false: superseded.
    pub(crate) fn open(&mut self, config: &Config, lane: u8, epoch: Epoch, nonce: Nonce, grant: u8) -> bool {
        let Some(lane) = self.closed(config, lane, epoch) else {
            return false;
        };
        (lane.open, lane.seq, lane.nonce, lane.grant) = (true, 0, nonce, grant);
        true
    }
}

impl Lane {
    /// `XADD`, and what every script writes beside it. False: Redis refuses an id that is not above the last.
    fn append(&mut self, fence: &Fence, body: Body, free: i8) -> bool {
        let seq = self.seq + 1;
        if self
            .queue
            .last()
            .is_some_and(|last| (last.epoch, last.seq) >= (self.epoch, seq))
        {
            return false;
        }
        let entry = Entry {
            epoch: self.epoch,
            seq,
            nonce: fence.nonce,
            prev: self.nonce,
            body,
            free,
        };
        self.queue.push(entry);
        (self.seq, self.nonce, self.free) = (seq, fence.nonce, free);
        true
    }

    /// The entries after an id, as `XRANGE` gives them.
    pub(crate) fn after(&self, epoch: Epoch, seq: Seq) -> Vec<Entry> {
        self.queue
            .iter()
            .filter(|entry| (entry.epoch, entry.seq) > (epoch, seq))
            .copied()
            .collect()
    }
}
