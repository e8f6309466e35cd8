//! Faults: what servers, processes and sessions do to us.

use std::rc::Rc;

use crate::Protocol;
use crate::config::Bound;
use crate::step::Step;
use crate::world::{Cache, Gateway, LaneNo, View, World};

type Steps = Vec<(Step, World)>;

impl Protocol {
    /// Every fault that may still happen.
    pub(crate) fn fault_steps(&self, world: &World, out: &mut Steps) {
        let mut fault = |what: Bound, step: Step, does: &dyn Fn(&mut World)| {
            if world.may(what) {
                let mut next = world.clone();
                next.spend(what);
                does(&mut next);
                out.push((step, next));
            }
        };
        fault(Bound::Saves, Step::Save, &|next| {
            next.redis_copy = Some(Rc::new(next.redis.clone()))
        });
        fault(Bound::LedgerSaves, Step::SaveLedger, &|next| {
            next.ledger_copy = Some(Rc::new(next.ledger.clone()))
        });
        for cache in [true, false] {
            fault(Bound::Flushes, Step::Flush { cache }, &|next| {
                next.redis.lanes.iter_mut().for_each(|lane| *lane = None);
                self.lose(next, cache);
            });
            if world.redis_copy.is_some() {
                fault(Bound::StepsBack, Step::StepBack { cache }, &|next| {
                    if let Some(copy) = next.redis_copy.take() {
                        next.redis.lanes.clone_from(&copy.lanes);
                    }
                    self.lose(next, cache);
                });
            }
        }
        fault(Bound::Restarts, Step::Restart, &|next| next.redis.cache = Cache::Empty);
        if world.ledger_copy.is_some() {
            fault(Bound::LedgerFalls, Step::FallBack, &|next| {
                if let Some(copy) = next.ledger_copy.take() {
                    next.ledger = (*copy).clone();
                }
                (next.lock, next.endings) = (None, vec![]);
            });
        }
        if world.lock.is_some() {
            fault(Bound::LostLocks, Step::LoseLock, &|next| next.lock = None);
        }
        for gateway in 0..self.config.gateways {
            fault(Bound::Crashes, Step::Crash { gateway }, &|next| {
                self.crash(next, gateway)
            });
        }
    }

    /// Redis has lost what it had acknowledged: what is not durable may be lost.
    fn lose(&self, world: &mut World, cache: bool) {
        if !cache {
            world.redis.cache = Cache::Empty;
        }
        world.lossy.iter_mut().for_each(|lossy| *lossy = true);
        for at in 0..world.fates.len() {
            let id = world.fates[at].id;
            world.fates[at].excused |= !world.ledger.rows.iter().any(|row| row.id == id);
        }
    }

    /// The gateway that comes back is another one to the ledger, and owns nothing.
    fn crash(&self, world: &mut World, gateway: u8) {
        let lanes = usize::from(self.config.lanes);
        *world.gateway(gateway) = Gateway {
            lanes: vec![View::default(); lanes],
            tasks: vec![None; lanes],
            ..Gateway::default()
        };
        world.calls.retain(|call| call.gateway != gateway);
        for lane in 0..self.config.lanes {
            self.disown(world, gateway, lane);
        }
        if world.lock == Some(gateway) {
            world.lock = None;
        }
    }

    fn disown(&self, world: &mut World, gateway: u8, lane: LaneNo) {
        let owner = &mut world.ledger.lanes[usize::from(lane)].owner;
        if *owner == Some(gateway) {
            *owner = None;
        }
    }
}
