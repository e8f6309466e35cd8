//! flashgate's protocol between Redis and Postgres as a model: small enough to try everything that can happen within
//! bounds, close enough that each step names the script or the transaction that it stands for.
//!
//! One item is on sale, a reservation is one unit, a script call makes one reservation, and time is in hours. All else
//! is as in the product: epochs, cursors with nonces, numbered grants, buckets and the mover, endings and expiry, the
//! stop of a sale, gateways that own lanes and lose them, recoveries that meet, and everything that a server or a
//! connection can do to them. What one process does between two calls is one step; between two steps anything else
//! may happen, for as long as it likes, so a paused process that wakes up needs no word of its own.
//!
//! `tests/` holds the bounds under which all properties hold, and the defences: with each of them left out, the
//! search finds a violation.

#![expect(
    missing_docs,
    reason = "fields and variants bear the names that they have in the product"
)]

mod apply;
mod begin;
mod checker;
mod config;
mod ending;
mod fault;
mod ledger;
mod mover;
mod owner;
mod property;
mod recovery;
mod request;
pub mod scenario;
mod script;
mod step;
mod world;

pub use checker::{Outcome, STUCK, Space, Violation, search};
pub use config::{BOUNDS, Bound, Config, Defence};
pub use property::{
    ACCEPTED, CONSERVATION, DURABLE, NO_DRIFT, NO_FALSE_SOLD_OUT, NO_OVERSELL, NO_ROBBERY, ONCE, ONE_ENDING, SAME,
};
pub use step::Step;
pub use world::World;

/// The protocol within bounds.
#[derive(Clone, Debug)]
pub struct Protocol {
    pub config: Config,
}

impl Protocol {
    /// The lane of a buyer's bucket (`domain/sale.rs::home`).
    fn home(&self, buyer: u8) -> u8 {
        buyer % self.config.lanes
    }
}

impl Space for Protocol {
    type State = World;
    type Step = Step;

    fn first(&self) -> World {
        World::new(&self.config)
    }

    fn next(&self, world: &World) -> Vec<(Step, World)> {
        let mut out = Vec::new();
        self.request_steps(world, &mut out);
        self.owner_steps(world, &mut out);
        self.recovery_steps(world, &mut out);
        self.mover_steps(world, &mut out);
        self.ending_steps(world, &mut out);
        self.fault_steps(world, &mut out);
        if self.config.lanes > 1 {
            for (_, next) in &mut out {
                let dry = next.free(&self.config) < 1;
                next.calls.iter_mut().for_each(|call| call.dry |= dry);
            }
        }
        out
    }

    fn broken(&self, world: &World) -> Option<&'static str> {
        property::broken(&self.config, world).or_else(|| {
            let differs = property::at_rest(&self.config, world) && !property::same(&self.config, world);
            differs.then_some(SAME)
        })
    }

    fn at_rest(&self, world: &World) -> bool {
        property::at_rest(&self.config, world)
    }

    fn own(&self, step: &Step) -> bool {
        step.own()
    }
}
