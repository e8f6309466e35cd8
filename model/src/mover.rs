//! The mover (`worker/mover.rs`): brings units to a dry home, or says that no bucket has any.

use crate::Protocol;
use crate::config::{Bound, Defence};
use crate::property::NO_FALSE_SOLD_OUT;
use crate::step::Step;
use crate::world::{Grant, GrantRow, LaneNo, Look, World};

type Steps = Vec<(Step, World)>;

impl Protocol {
    /// Everything about requests that wait at a dry home.
    pub(crate) fn mover_steps(&self, world: &World, out: &mut Steps) {
        for (at, call) in world.calls.iter().enumerate().filter(|(_, call)| call.asks) {
            let mut next = world.clone();
            next.calls.remove(at);
            out.push((Step::GiveUp { buyer: call.buyer }, next));
        }
        for gateway in 0..self.config.gateways {
            let asked = world.calls.iter().any(|call| call.asks && call.gateway == gateway);
            match &world.gateways[usize::from(gateway)].look {
                None if asked => {
                    let mut next = world.clone();
                    next.gateway(gateway).look = Some(Look {
                        at: 0,
                        before: vec![],
                        free: vec![],
                        motion: vec![],
                        ended: false,
                        after: vec![],
                    });
                    self.look_on(&mut next, gateway);
                    out.push((Step::Look { gateway }, next));
                }
                None => {}
                Some(look) if look.at > 3 * self.config.lanes => {
                    let mut next = world.clone();
                    self.decide(&mut next, gateway);
                    out.push((Step::Verdict { gateway }, next));
                }
                Some(_) => {
                    let mut next = world.clone();
                    self.look_on(&mut next, gateway);
                    out.push((Step::Looking { gateway }, next));
                }
            }
        }
    }

    /// `worker/mover.rs::look`: the marks of all lanes, their counters, what is in motion, the marks again. A lane that is
    /// not open ends the look, and nobody is answered.
    fn look_on(&self, world: &mut World, gateway: u8) {
        let Some(mut look) = world.gateway(gateway).look.take() else {
            return;
        };
        let lanes = self.config.lanes;
        let mark = |lane: LaneNo| {
            world
                .lane(lane)
                .filter(|lane| lane.open)
                .map(|lane| (lane.epoch, lane.grant))
        };
        match look.at {
            at if at < lanes => match mark(at) {
                Some(mark) => look.before.push(mark),
                None => return self.undecided(world, gateway),
            },
            at if at < 2 * lanes => look.free.push(world.lane(at - lanes).map_or(0, |lane| lane.free)),
            at if at == 2 * lanes => {
                look.ended = world.ledger.ended;
                if self.config.has(Defence::MotionAsked) {
                    look.motion.clone_from(&world.ledger.grants);
                }
            }
            at => match mark(at - 2 * lanes - 1) {
                Some(mark) => look.after.push(mark),
                None => return self.undecided(world, gateway),
            },
        }
        look.at += 1;
        world.gateway(gateway).look = Some(look);
    }

    fn undecided(&self, world: &mut World, gateway: u8) {
        world.calls.retain(|call| !(call.asks && call.gateway == gateway));
    }

    /// `worker/mover.rs::run_once`, after the look.
    fn decide(&self, world: &mut World, gateway: u8) {
        let Some(mut look) = world.gateway(gateway).look.take() else {
            return;
        };
        if !self.config.has(Defence::ReadTwice) {
            look.after.clone_from(&look.before);
        }
        let arrived = |row: &GrantRow| {
            let take = matches!(row.grant, Grant::Take { .. } | Grant::Stop);
            !take && row.no.is_some_and(|no| no <= look.after[usize::from(row.lane)].1)
        };
        let steady = look.before == look.after && look.motion.iter().all(arrived);
        let total: i8 = look.free.iter().sum();
        let (waiting, mut calls): (Vec<_>, Vec<_>) = world
            .calls
            .iter()
            .copied()
            .partition(|call| call.asks && call.gateway == gateway);
        // What a server forgot may be anywhere.
        let excused = world.lossy.contains(&true) || self.config.bounds[Bound::LedgerFalls as usize] > 0;
        let mut wanted: Option<LaneNo> = None;
        for mut call in waiting {
            let lane = self.home(call.buyer);
            let view = world.view(gateway, lane);
            let free = &mut look.free[usize::from(lane)];
            if *free > 0 || (look.ended && steady) {
                *free -= (*free).min(1);
                if let Some(epoch) = view.health {
                    (call.asks, call.epoch, call.seen) = (false, epoch, view.seen);
                    calls.push(call);
                }
            } else if look.ended {
                calls.push(call);
            } else if total < 1 && steady {
                if !call.dry && !excused {
                    world.flaw = Some(NO_FALSE_SOLD_OUT);
                }
            } else {
                wanted = Some(lane);
                calls.push(call);
            }
        }
        world.calls = calls;
        let moving = |row: &GrantRow| matches!(row.grant, Grant::Take { .. } | Grant::Stop | Grant::Units(_));
        if look.motion.iter().any(moving) {
            return;
        }
        let richest = (0..self.config.lanes).max_by_key(|lane| look.free[usize::from(*lane)]);
        let Some((to, lane)) = wanted.zip(richest) else { return };
        if look.free[usize::from(lane)] > 0 && world.spend(Bound::Moves) {
            world.ledger.grants.push(GrantRow {
                lane,
                no: None,
                grant: Grant::Take { to },
            });
        }
    }
}
