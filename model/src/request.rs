//! Requests: what a gateway sends, what `lua/reserve.lua` makes of it, and what the client hears.

use crate::Protocol;
use crate::config::Bound;
use crate::script::{Fence, Reserved};
use crate::step::Step;
use crate::world::{Call, Entry, Fate, Status, Waiter, World};

type Steps = Vec<(Step, World)>;

/// Whether a reply may come: it does, or it gets lost.
pub(crate) fn replies(world: &World) -> impl Iterator<Item = bool> + use<> {
    [true].into_iter().chain(world.may(Bound::LostReplies).then_some(false))
}

impl Protocol {
    /// Clients and their requests.
    pub(crate) fn request_steps(&self, world: &World, out: &mut Steps) {
        for gateway in 0..self.config.gateways {
            for buyer in 0..self.config.buyers {
                self.send(world, gateway, buyer, out);
            }
        }
        for at in (0..world.calls.len()).filter(|at| !world.calls[*at].asks) {
            let call = world.calls[at];
            for reply in replies(world) {
                let mut next = world.clone();
                if self.reserve(&mut next, at, reply) {
                    out.push((
                        Step::Reserve {
                            gateway: call.gateway,
                            buyer: call.buyer,
                            reply,
                        },
                        next,
                    ));
                }
            }
        }
    }

    fn send(&self, world: &World, gateway: u8, buyer: u8, out: &mut Steps) {
        let view = world.view(gateway, self.home(buyer));
        let over = |fate: &Fate| {
            let row = world.ledger.rows.iter().find(|row| row.id == fate.id);
            !fate.accepted || row.is_some_and(|row| !matches!(row.status, Status::Reserved | Status::Committed))
        };
        let wants = world.fates.iter().filter(|fate| fate.buyer == buyer).all(over)
            && world.calls.iter().all(|call| call.buyer != buyer);
        let Some(epoch) = view.health.filter(|_| wants && world.may(Bound::Sends)) else {
            return;
        };
        let mut next = world.clone();
        next.spend(Bound::Sends);
        next.calls.push(Call {
            gateway,
            buyer,
            epoch,
            seen: view.seen,
            asks: false,
            dry: false,
        });
        out.push((Step::Send { gateway, buyer }, next));
    }

    /// Runs the script for a request; false where this can't happen.
    fn reserve(&self, world: &mut World, at: usize, reply: bool) -> bool {
        let call = world.calls[at];
        let lane = self.home(call.buyer);
        let fence = Fence {
            epoch: call.epoch,
            seen: call.seen,
            nonce: world.next_nonce,
            now: world.now,
        };
        let answer = world.redis.reserve(&self.config, lane, &fence, call.buyer);
        if !reply {
            world.spend(Bound::LostReplies);
        }
        // The loss of any other reply changes nothing.
        if !reply && !matches!(answer, Reserved::Taken(_)) {
            return false;
        }
        let asks = answer == Reserved::Insufficient && self.config.lanes > 1;
        match asks {
            true => world.calls[at].asks = true,
            false => drop(world.calls.remove(at)),
        }
        let lossy = world.lossy[usize::from(lane)];
        match answer {
            Reserved::Stale => world.suspect(call.gateway, lane, call.epoch),
            Reserved::Insufficient | Reserved::NotLive => {}
            Reserved::Taken(seq) => {
                let id = world.draw();
                let excused = lossy && call.seen < seq;
                world.fates.push(Fate {
                    id,
                    buyer: call.buyer,
                    accepted: reply,
                    durable: false,
                    excused,
                    served: 0,
                });
                if reply {
                    world.saw(call.gateway, lane, call.epoch, seq);
                    world.waiters.push(Waiter {
                        lane,
                        epoch: call.epoch,
                        seq,
                        id,
                    });
                }
            }
            Reserved::Replayed(id) => {
                let durable = world
                    .ledger
                    .rows
                    .iter()
                    .any(|row| row.id == id && row.status != Status::Rejected);
                if let Some(fate) = world.fate(id) {
                    fate.accepted = true;
                    fate.durable |= durable;
                    fate.excused |= lossy;
                }
                let entry = world
                    .lane(lane)
                    .and_then(|lane| lane.queue.iter().find(|entry| entry.nonce == id));
                if let Some(Entry { epoch, seq, .. }) = entry.copied().filter(|_| !durable) {
                    world.waiters.push(Waiter { lane, epoch, seq, id });
                }
            }
        }
        true
    }
}
