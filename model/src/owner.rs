//! What a gateway does as the owner of a lane: its writer and its granter (`worker/{owner,writer,granter}.rs`).

use crate::Protocol;
use crate::apply::{Applied, apply};
use crate::config::{Bound, Defence};
use crate::request::replies;
use crate::script::{Fence, Granted};
use crate::step::Step;
use crate::world::{Cursor, Lane, LaneNo, Status, Task, Waiter, World};

type Steps = Vec<(Step, World)>;

impl Protocol {
    /// Everything that owners do.
    pub(crate) fn owner_steps(&self, world: &World, out: &mut Steps) {
        for gateway in 0..self.config.gateways {
            for lane in 0..self.config.lanes {
                self.claim(world, gateway, lane, out);
                let Some(task) = &world.gateways[usize::from(gateway)].tasks[usize::from(lane)] else {
                    self.serve(world, gateway, lane, out);
                    continue;
                };
                self.read(world, gateway, lane, task, out);
                if !task.batch.is_empty() {
                    for reply in replies(world) {
                        self.write(world, gateway, lane, reply, out);
                    }
                }
                if !task.told.is_empty() {
                    let mut next = world.clone();
                    self.tell(&mut next, gateway, lane);
                    out.push((Step::Tell { gateway, lane }, next));
                }
                self.number(world, gateway, lane, task, out);
                self.pick(world, gateway, lane, task, out);
                if task.parcel.is_some() {
                    for reply in replies(world) {
                        self.deliver(world, gateway, lane, reply, out);
                    }
                }
            }
        }
    }

    fn claim(&self, world: &World, gateway: u8, lane: LaneNo, out: &mut Steps) {
        let owner = world.row(lane).owner;
        if owner == Some(gateway) || (owner.is_some() && !world.may(Bound::Claims)) {
            return;
        }
        let mut next = world.clone();
        if owner.is_some() {
            next.spend(Bound::Claims);
        }
        next.ledger.lanes[usize::from(lane)].owner = Some(gateway);
        out.push((Step::Claim { gateway, lane }, next));
    }

    /// `worker/owner.rs::serve_epoch`.
    fn serve(&self, world: &World, gateway: u8, lane: LaneNo, out: &mut Steps) {
        let row = world.row(lane);
        let Some(epoch) = world.view(gateway, lane).health.filter(|_| row.owner == Some(gateway)) else {
            return;
        };
        let mut next = world.clone();
        match world.lane(lane).filter(|_| row.epoch == epoch && row.open) {
            None if world.lane(lane).is_none() && !self.config.has(Defence::GoneNoticed) => return,
            None => next.suspect(gateway, lane, epoch),
            Some(meta) => {
                let (cursor, in_force) = (row.cursor, meta.grant);
                *next.task(gateway, lane) = Some(Task {
                    cursor,
                    batch: vec![],
                    told: vec![],
                    in_force,
                    parcel: None,
                });
            }
        }
        out.push((Step::Serve { gateway, lane }, next));
    }

    /// `worker/writer.rs::decode` and `check_lane`: a queue that does not continue the cursor is a fork.
    fn read(&self, world: &World, gateway: u8, lane: LaneNo, task: &Task, out: &mut Steps) {
        if !task.batch.is_empty() || !task.told.is_empty() {
            return;
        }
        let nonces = self.config.has(Defence::Nonces);
        let at = task.cursor;
        let batch = world.lane(lane).map_or(vec![], |lane| lane.after(at.epoch, at.seq));
        let fork = if batch.is_empty() {
            let stands = |lane: &Lane| {
                let other = lane.seq == at.seq && lane.nonce != at.nonce && nonces;
                lane.open && lane.epoch == at.epoch && lane.seq >= at.seq && !other
            };
            let moved = world.row(lane).cursor != at && self.config.has(Defence::IdleLedgerAsked);
            match world.lane(lane).is_some_and(stands) {
                true if moved => return self.start_over(world, gateway, lane, out),
                true => return,
                false => true,
            }
        } else {
            let (mut seq, mut nonce) = (at.seq, at.nonce);
            !batch.iter().all(|entry| {
                let follows = entry.epoch == at.epoch && entry.seq == seq + 1 && (entry.prev == nonce || !nonces);
                (seq, nonce) = (entry.seq, entry.nonce);
                follows
            })
        };
        let mut next = world.clone();
        match next.task(gateway, lane) {
            Some(task) if !fork => task.batch = batch,
            _ => self.fork(&mut next, gateway, lane, at),
        }
        out.push((Step::Read { gateway, lane }, next));
    }

    /// The ledger is not where the writer left it: it begins anew from there.
    fn start_over(&self, world: &World, gateway: u8, lane: LaneNo, out: &mut Steps) {
        let mut next = world.clone();
        *next.task(gateway, lane) = None;
        out.push((Step::Read { gateway, lane }, next));
    }

    /// The gateway suspects the lane, and starts over.
    fn give_up(&self, world: &mut World, gateway: u8, lane: LaneNo, epoch: u8) {
        world.suspect(gateway, lane, epoch);
        *world.task(gateway, lane) = None;
    }

    /// `worker/writer.rs::fork`: what the ledger has at this very cursor is not what the lane has. It takes a recovery.
    fn fork(&self, world: &mut World, gateway: u8, lane: LaneNo, at: Cursor) {
        let row = world.row(lane);
        if row.cursor == at && row.owner == Some(gateway) && self.config.has(Defence::ForkRemembered) {
            world.gateway(gateway).lanes[usize::from(lane)].forked = at.epoch;
        }
        self.give_up(world, gateway, lane, at.epoch);
    }

    /// `worker/writer.rs::apply` and `already_durable`.
    fn write(&self, world: &World, gateway: u8, lane: LaneNo, reply: bool, out: &mut Steps) {
        let mut next = world.clone();
        let Some(Task { cursor, batch, .. }) = next.task(gateway, lane).clone() else {
            return;
        };
        let Some(last) = batch.last() else { return };
        let to = Cursor {
            epoch: last.epoch,
            seq: last.seq,
            nonce: last.nonce,
        };
        let applied = apply(&self.config, &mut next, lane, gateway, cursor, &batch);
        if !reply {
            next.spend(Bound::LostReplies);
        }
        if !reply && !matches!(applied, Applied::Done(_)) {
            return;
        }
        let told = match applied {
            Applied::Done(told) => Some(told),
            Applied::NotOwner => {
                let row = next.row(lane);
                let ours = row.owner == Some(gateway) && row.cursor == to;
                ours.then(|| {
                    batch
                        .iter()
                        .map(|entry| (entry.seq, entry.nonce, self.is_kept(&next, entry.nonce)))
                        .collect()
                })
            }
            Applied::GrantsAhead => {
                self.fork(&mut next, gateway, lane, cursor);
                None
            }
        };
        match (next.task(gateway, lane), told) {
            (Some(_), Some(_)) if !reply => {}
            (Some(task), Some(told)) => (task.cursor, task.batch, task.told) = (to, vec![], told),
            (task, _) => *task = None,
        }
        out.push((Step::Apply { gateway, lane, reply }, next));
    }

    fn is_kept(&self, world: &World, id: u8) -> bool {
        !world
            .ledger
            .rows
            .iter()
            .any(|row| row.id == id && row.status == Status::Rejected)
    }

    /// `worker/telling.rs`: notices go to every gateway's waiters.
    fn tell(&self, world: &mut World, gateway: u8, lane: LaneNo) {
        let Some(task) = world.task(gateway, lane) else { return };
        let (cursor, told) = (task.cursor, std::mem::take(&mut task.told));
        world.saw(gateway, lane, cursor.epoch, cursor.seq);
        for (seq, nonce, durable) in told {
            let meant = |waiter: &Waiter| {
                let same = waiter.id == nonce || !self.config.has(Defence::Nonces);
                (waiter.lane, waiter.epoch, waiter.seq) == (lane, cursor.epoch, seq) && same
            };
            let woken: Vec<u8> = world
                .waiters
                .iter()
                .filter(|waiter| meant(waiter))
                .map(|waiter| waiter.id)
                .collect();
            world.waiters.retain(|waiter| !meant(waiter));
            for id in woken {
                if let Some(fate) = world.fate(id) {
                    fate.durable |= durable;
                }
            }
        }
    }

    fn number(&self, world: &World, gateway: u8, lane: LaneNo, task: &Task, out: &mut Steps) {
        if !world
            .ledger
            .grants
            .iter()
            .any(|row| row.lane == lane && row.no.is_none())
        {
            return;
        }
        let mut next = world.clone();
        if !next
            .ledger
            .number_grants(&self.config, lane, gateway, task.cursor.epoch)
        {
            *next.task(gateway, lane) = None;
        }
        out.push((Step::Number { gateway, lane }, next));
    }

    /// `worker/granter.rs::run_once`, as far as it looks for the next grant.
    fn pick(&self, world: &World, gateway: u8, lane: LaneNo, task: &Task, out: &mut Steps) {
        let first = world.ledger.undelivered(lane, task.in_force);
        if task.parcel.is_some() {
            return;
        }
        let Some((no, grant)) = first else {
            return self.look_again(world, gateway, lane, task, out);
        };
        let mut next = world.clone();
        if let Some(task) = next.task(gateway, lane).as_mut().filter(|_| no == task.in_force + 1) {
            task.parcel = Some((no, grant));
        } else {
            self.give_up(&mut next, gateway, lane, task.cursor.epoch);
        }
        out.push((Step::Pick { gateway, lane }, next));
    }

    /// `worker/granter.rs::look_again`: the lane may have fewer grants than its granter believes.
    fn look_again(&self, world: &World, gateway: u8, lane: LaneNo, task: &Task, out: &mut Steps) {
        let has = world
            .lane(lane)
            .filter(|lane| lane.epoch == task.cursor.epoch)
            .map(|lane| lane.grant);
        let Some(has) = has.filter(|has| *has < task.in_force && self.config.has(Defence::InForceAsked)) else {
            return;
        };
        let mut next = world.clone();
        if let Some(task) = next.task(gateway, lane) {
            task.in_force = has;
        }
        out.push((Step::Pick { gateway, lane }, next));
    }

    /// `flash/deliver.rs::deliver`.
    fn deliver(&self, world: &World, gateway: u8, lane: LaneNo, reply: bool, out: &mut Steps) {
        let mut next = world.clone();
        let seen = world.view(gateway, lane).seen;
        let Some(task) = next.task(gateway, lane).clone() else {
            return;
        };
        let Some((no, grant)) = task.parcel else { return };
        let before = world.lane(lane).map(|lane| lane.seq);
        let fence = Fence {
            epoch: task.cursor.epoch,
            seen: seen.max(task.cursor.seq),
            nonce: next.next_nonce,
            now: next.now,
        };
        let answer = next.redis.grant(&self.config, lane, &fence, no, grant);
        let done = next.lane(lane).map(|lane| lane.seq) != before;
        if done {
            next.draw();
        }
        if !reply {
            next.spend(Bound::LostReplies);
        }
        if !reply && !done {
            return;
        }
        match (answer, next.task(gateway, lane)) {
            (Granted::Stale, _) => self.give_up(&mut next, gateway, lane, task.cursor.epoch),
            _ if !reply => *next.task(gateway, lane) = None,
            (Granted::Gap(last), Some(task)) => (task.in_force, task.parcel) = (last, None),
            (Granted::InForce(last, seq), Some(of)) => {
                (of.in_force, of.parcel) = (last, None);
                next.saw(gateway, lane, task.cursor.epoch, seq);
            }
            (_, None) => return,
        }
        out.push((Step::Deliver { gateway, lane, reply }, next));
    }
}
