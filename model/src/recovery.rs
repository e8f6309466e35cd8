//! Adopting lanes and recovering them (`worker/recovery.rs`), each call of a recovery a step of its own, so that
//! anything may come between: another recovery, a woken owner, another loss.

use crate::Protocol;
use crate::config::{Bound, Defence};
use crate::ledger::settle_lane;
use crate::step::Step;
use crate::world::{Cache, LaneNo, Phase, Recovery, World};

type Steps = Vec<(Step, World)>;

/// A recovery that is superseded more often gives up.
const ROUNDS_MAX: u8 = 2;

impl Protocol {
    /// Everything about lanes that are suspect.
    pub(crate) fn recovery_steps(&self, world: &World, out: &mut Steps) {
        for gateway in 0..self.config.gateways {
            for lane in 0..self.config.lanes {
                if world.view(gateway, lane).health.is_none() && self.adoptable(world, gateway, lane) {
                    let mut next = world.clone();
                    self.adopt(&mut next, gateway, lane);
                    out.push((Step::Adopt { gateway, lane }, next));
                }
            }
            match &world.gateways[usize::from(gateway)].recovery {
                None => self.recover(world, gateway, out),
                Some(recovery) => {
                    let mut next = world.clone();
                    let to = self.go_on(&mut next, gateway, recovery.clone());
                    out.push((Step::Recovering { gateway, to }, next));
                }
            }
        }
    }

    /// `worker/recovery.rs::adopt`: the lane is where the ledger saw it or further on, no less than this gateway has
    /// seen of it, has no grants that the ledger has not given, was not found forked at this epoch, and its node has the witness.
    fn adoptable(&self, world: &World, gateway: u8, lane: LaneNo) -> bool {
        let (row, view) = (world.row(lane), world.view(gateway, lane));
        let Some(meta) = world.lane(lane).filter(|_| world.redis.cache == Cache::Witness) else {
            return false;
        };
        let at_least = if view.epoch == row.epoch { view.seen } else { 0 };
        let same = meta.seq == row.cursor.seq && (meta.nonce == row.cursor.nonce || !self.config.has(Defence::Nonces));
        let goes_on = meta.open && row.open && meta.epoch == row.epoch && (meta.seq > row.cursor.seq || same);
        meta.seq >= at_least && goes_on && view.forked != row.epoch && meta.grant <= row.grant_no
    }

    fn adopt(&self, world: &mut World, gateway: u8, lane: LaneNo) {
        let at = world.lane(lane).map(|meta| (meta.epoch, meta.seq));
        if let Some((epoch, seq)) = at {
            world.adopt(gateway, lane, epoch, seq);
        }
    }

    /// `worker/recovery.rs::under_lock`: whoever gets the lock looks again which lanes are lost.
    fn recover(&self, world: &World, gateway: u8, out: &mut Steps) {
        if world.lock.is_some() {
            return;
        }
        let all: Vec<LaneNo> = (0..self.config.lanes).collect();
        let lost =
            |lane: &LaneNo| world.view(gateway, *lane).health.is_none() && !self.adoptable(world, gateway, *lane);
        let lost: Vec<LaneNo> = all.iter().copied().filter(lost).collect();
        let called_for = !lost.is_empty();
        if !called_for && !world.may(Bound::Recoveries) {
            return;
        }
        let mut next = world.clone();
        if !called_for {
            next.spend(Bound::Recoveries);
        }
        let lanes = if called_for && world.redis.cache == Cache::Witness {
            lost
        } else {
            all
        };
        let above = lanes
            .iter()
            .filter_map(|lane| world.lane(*lane))
            .map(|meta| meta.epoch)
            .max()
            .unwrap_or(0);
        next.lock = Some(gateway);
        next.gateway(gateway).recovery = Some(Recovery {
            phase: Phase::Raise,
            lanes,
            at: 0,
            rounds: 0,
            above,
            epoch: 0,
            nonce: 0,
            survivors: vec![],
            image: (0, 0),
        });
        out.push((Step::Recover { gateway, called_for }, next));
    }

    /// The next step of a recovery; says what it did.
    fn go_on(&self, world: &mut World, gateway: u8, mut recovery: Recovery) -> &'static str {
        let close_first = self.config.has(Defence::CloseFirst);
        let lane = recovery.lanes[usize::from(recovery.at)];
        let epoch = recovery.epoch;
        let (phase, done) = match recovery.phase {
            Phase::Raise => {
                recovery.epoch = world.ledger.raise_epoch(&self.config, &recovery.lanes, recovery.above);
                (
                    if close_first { Phase::Close } else { Phase::Collect },
                    "raises the epoch in the ledger",
                )
            }
            Phase::Close => match world.redis.close(lane, epoch) {
                Some(_) if recovery.rounds == ROUNDS_MAX => return self.superseded(world, gateway),
                Some(by) => {
                    recovery.rounds += 1;
                    (recovery.above, recovery.at) = (recovery.above.max(by), 0);
                    (Phase::Raise, "is superseded and takes a newer epoch")
                }
                None if usize::from(recovery.at) + 1 < recovery.lanes.len() => {
                    recovery.at += 1;
                    (Phase::Close, "closes a lane")
                }
                None => {
                    recovery.at = 0;
                    world.redis.cache = world.redis.cache.max(Cache::Scripts);
                    (
                        if close_first { Phase::Collect } else { Phase::Settle },
                        "closes the lane and loads scripts",
                    )
                }
            },
            Phase::Collect => {
                recovery.survivors = self.survivors(world, lane);
                (
                    if close_first { Phase::Settle } else { Phase::Close },
                    "collects what the queue holds",
                )
            }
            Phase::Settle => {
                recovery.nonce = world.draw();
                let survivors = std::mem::take(&mut recovery.survivors);
                match settle_lane(&self.config, world, lane, epoch, recovery.nonce, &survivors) {
                    Some(image) => {
                        recovery.image = image;
                        (Phase::Rebuild, "settles it in the ledger")
                    }
                    None => return self.superseded(world, gateway),
                }
            }
            Phase::Rebuild => {
                // A drained sale is not rebuilt: whoever asks for it finds nothing.
                let live = !world.ledger.ended;
                let image = (recovery.image.0, live, world.ledger.holders(lane));
                if !world.redis.rebuild(&self.config, lane, epoch, image) {
                    return self.superseded(world, gateway);
                }
                (Phase::OpenLedger, "rebuilds the lane")
            }
            Phase::OpenLedger => {
                if !world.ledger.open_lane(&self.config, lane, epoch) {
                    return self.superseded(world, gateway);
                }
                (Phase::OpenLane, "opens it in the ledger")
            }
            Phase::OpenLane => {
                if !world
                    .redis
                    .open(&self.config, lane, epoch, recovery.nonce, recovery.image.1)
                {
                    return self.superseded(world, gateway);
                }
                world.lossy[usize::from(lane)] = false;
                world.adopt(gateway, lane, epoch, 0);
                if usize::from(recovery.at) + 1 < recovery.lanes.len() {
                    recovery.at += 1;
                    (Phase::Collect, "opens the lane")
                } else {
                    (Phase::Witness, "opens the lane")
                }
            }
            Phase::Witness => {
                world.redis.cache = Cache::Witness;
                self.stop_recovering(world, gateway);
                return "loads the witness";
            }
        };
        recovery.phase = phase;
        world.gateway(gateway).recovery = Some(recovery);
        done
    }

    /// `flash/queue.rs::read_survivors`.
    fn survivors(&self, world: &World, lane: LaneNo) -> Vec<crate::world::Entry> {
        let cursor = world.row(lane).cursor;
        let Some(lane) = world.lane(lane) else { return vec![] };
        let own = lane
            .queue
            .iter()
            .find(|entry| (entry.epoch, entry.seq) == (cursor.epoch, cursor.seq));
        let same = own.is_some_and(|entry| entry.nonce == cursor.nonce || !self.config.has(Defence::Nonces));
        let follows = cursor.seq == 0 || same;
        lane.after(cursor.epoch, if follows { cursor.seq } else { 0 })
    }

    fn superseded(&self, world: &mut World, gateway: u8) -> &'static str {
        self.stop_recovering(world, gateway);
        "is superseded"
    }

    fn stop_recovering(&self, world: &mut World, gateway: u8) {
        world.gateway(gateway).recovery = None;
        if world.lock == Some(gateway) {
            world.lock = None;
        }
    }
}
