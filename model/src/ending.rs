//! Endings by clients, by time, and the end of the sale.

use crate::Protocol;
use crate::config::{Bound, Defence};
use crate::property::NO_ROBBERY;
use crate::step::Step;
use crate::world::{Ending, Row, Status, World};

type Steps = Vec<(Step, World)>;

impl Protocol {
    /// Everything that ends something.
    pub(crate) fn ending_steps(&self, world: &World, out: &mut Steps) {
        for row in &world.ledger.rows {
            let known = world.fates.iter().any(|fate| fate.id == row.id && fate.accepted);
            for commit in [false, true] {
                let what = if commit { Bound::Commits } else { Bound::Releases };
                if known && self.may_end(world, row) && world.may(what) {
                    let mut next = world.clone();
                    next.spend(what);
                    let to = if commit { Status::Committed } else { Status::Released };
                    next.endings.push(Ending {
                        id: row.id,
                        to,
                        live: !world.ledger.ended,
                    });
                    if !self.config.slow_endings {
                        self.write_ending(&mut next, 0);
                    }
                    out.push((Step::End { id: row.id, commit }, next));
                }
            }
        }
        for at in 0..world.endings.len() {
            let mut next = world.clone();
            self.write_ending(&mut next, at);
            out.push((
                Step::Ended {
                    id: world.endings[at].id,
                },
                next,
            ));
        }
        if !world.ledger.ended && world.may(Bound::Stops) {
            let mut next = world.clone();
            next.spend(Bound::Stops);
            next.ledger.stop();
            out.push((Step::Stop, next));
        }
        if world.ledger.ended && !world.ledger.drained && world.ledger.grants.is_empty() {
            let mut next = world.clone();
            next.ledger.drain();
            out.push((Step::Drain, next));
        }
        self.time_steps(world, out);
    }

    /// `ledger/endings/mod.rs`: it is reserved, and nobody else holds the row's lock.
    fn may_end(&self, world: &World, row: &Row) -> bool {
        let locked = world.endings.iter().any(|ending| ending.id == row.id) && self.config.has(Defence::StatusAsked);
        row.status == Status::Reserved && !locked
    }

    fn write_ending(&self, world: &mut World, at: usize) {
        let Ending { id, to, live } = world.endings.remove(at);
        world.ledger.end(id, to, live);
    }

    fn time_steps(&self, world: &World, out: &mut Steps) {
        for silent in [false, true] {
            let what = if silent { Bound::SilentHours } else { Bound::Hours };
            if world.may(what) {
                let mut next = world.clone();
                next.spend(what);
                next.now += 1;
                if !silent {
                    next.ledger.pulse(next.now - 1);
                    next.ledger.beat = next.now;
                    next.fates.iter_mut().for_each(|fate| fate.served += 1);
                }
                out.push((Step::Hour { silent }, next));
            }
        }
        let timed = self.config.bounds[Bound::Hours as usize] + self.config.bounds[Bound::SilentHours as usize] > 0;
        for gateway in (0..self.config.gateways).filter(|_| timed) {
            let due = |row: &&Row, by: u8| row.status == Status::Reserved && world.ledger.deadline(row) <= by;
            if !world.gateways[usize::from(gateway)].expiring {
                if world.ledger.rows.iter().any(|row| row.status == Status::Reserved) {
                    let mut next = world.clone();
                    next.ledger.pulse(world.now);
                    next.gateway(gateway).expiring = true;
                    out.push((Step::Beat { gateway }, next));
                }
                continue;
            }
            let by = if self.config.has(Defence::PulseFirst) {
                world.ledger.beat
            } else {
                world.now
            };
            let mut next = world.clone();
            next.gateway(gateway).expiring = false;
            for row in world
                .ledger
                .rows
                .iter()
                .filter(|row| due(row, by) && self.may_end(world, row))
            {
                next.ledger.end(row.id, Status::Expired, !world.ledger.ended);
                if next.fate(row.id).is_some_and(|fate| fate.served == 0) {
                    next.flaw = Some(NO_ROBBERY);
                }
            }
            out.push((Step::Expire { gateway }, next));
        }
    }
}
