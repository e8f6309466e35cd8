//! Random queues against a small model that decides one reservation at a time.

use std::collections::{HashMap, VecDeque};

use flashgate::domain::entry::{Body, Entry, Slip};
use flashgate::domain::grant::Grant;
use flashgate::domain::key::{Fingerprint, KeyHash};
use flashgate::domain::outcome::Durability;
use flashgate::domain::reservation::Cause;
use flashgate::domain::reservation_id::{Place, ReservationId};
use flashgate::domain::sale::Sale;
use flashgate::ledger::EndAnswer;
use flashgate::ledger::apply::Refused;
use proptest::prelude::*;

use crate::support::ledger::{Desk, Lane, fresh, of_user, slip, with_key};
use crate::support::shop::{commit, release};

const LIMIT: i64 = 5;
const UNITS: i64 = 12;

/// A request, by small numbers that meet often.
#[derive(Clone, Debug)]
struct Wish {
    order: u8,
    user: Option<u8>,
    key: Option<u8>,
    units: u32,
    other_request: bool,
}

#[derive(Clone, Debug)]
enum Op {
    /// A call of the script.
    Reserve(Vec<Wish>),
    /// Gives back the n-th of the reservations that are held.
    Release(usize),
    /// Pays it.
    Commit(usize),
    /// Takes units that come back by another grant.
    Move(u32),
    /// Numbers and delivers what waits.
    Deliver,
    /// Redis' counter goes wrong.
    Drift(i64),
    /// The writer takes what is queued.
    Write,
}

fn wish() -> impl Strategy<Value = Wish> {
    let parts = (
        0..6u8,
        prop::option::weighted(0.8, 0..3u8),
        prop::option::weighted(0.5, 0..5u8),
        1..4u32,
        prop::bool::weighted(0.2),
    );
    parts.prop_map(|(order, user, key, units, other_request)| Wish {
        order,
        user,
        key,
        units,
        other_request,
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => prop::collection::vec(wish(), 1..6).prop_map(Op::Reserve),
        3 => (0..8usize).prop_map(Op::Release),
        1 => (0..8usize).prop_map(Op::Commit),
        1 => (1..4u32).prop_map(Op::Move),
        3 => Just(Op::Deliver),
        1 => (-2..4i64).prop_map(Op::Drift),
        4 => Just(Op::Write),
    ]
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Held,
    Bought,
    Gone,
}

struct Kept {
    id: ReservationId,
    slip: Slip,
    state: State,
}

/// What the ledger should know, decided one by one.
struct Model {
    counter: i64,
    drift: i64,
    keys: HashMap<KeyHash, (ReservationId, Fingerprint, bool)>,
    kept: Vec<Kept>,
    refused: Vec<Refused>,
}

impl Model {
    fn read(&mut self, desk: &Desk, lane: &Lane, entry: &Entry) {
        match &entry.body {
            Body::Reserve(slips) => {
                for (index, accepted) in (0u8..).zip(slips) {
                    let slip = &accepted.as_ref().expect("readable").slip;
                    let place = Place::new(entry.epoch, entry.seq, index, entry.nonce);
                    let id = desk.id_key.seal(lane.road.lane, place);
                    if let Some((cause, first)) = self.reserve(id, slip) {
                        let durability = Durability::Rejected { cause, first };
                        let seq = entry.seq;
                        self.refused.push(Refused { seq, index, durability });
                    }
                }
            }
            Body::Grant { delivered, .. } => {
                for delivered in delivered {
                    match delivered.grant {
                        Grant::Units(units) => self.counter += i64::from(units),
                        Grant::End { quantity, .. } => self.counter += i64::from(quantity),
                        Grant::Take { .. } => self.counter -= i64::from(delivered.outcome).min(self.counter),
                        _ => {}
                    }
                }
            }
        }
        self.drift = entry.touched[0].free - self.counter;
    }

    fn reserve(&mut self, id: ReservationId, slip: &Slip) -> Option<(Cause, Option<ReservationId>)> {
        let units = i64::from(slip.quantity);
        let against = self.against(slip, units);
        match against {
            Some((Cause::Surplus, _)) => {}
            Some(_) if units > self.counter => {}
            // Off our counter either way; what is refused comes back by a grant.
            _ => self.counter -= units,
        }
        if against.is_none() {
            self.keys.insert(slip.line, (id, slip.fingerprint, !slip.explicit_key));
            self.keys.insert(slip.key, (id, slip.fingerprint, !slip.explicit_key));
            self.kept.push(Kept {
                id,
                slip: slip.clone(),
                state: State::Held,
            });
        }
        against
    }

    fn against(&self, slip: &Slip, units: i64) -> Option<(Cause, Option<ReservationId>)> {
        if let Some((first, fingerprint, derived)) = self.keys.get(&slip.key) {
            return Some(
                match (slip.explicit_key || *derived, *fingerprint == slip.fingerprint) {
                    (false, _) => (Cause::OrderAlreadyReserved, Some(*first)),
                    (true, true) => (Cause::Replay, Some(*first)),
                    (true, false) => (Cause::KeyReused, Some(*first)),
                },
            );
        }
        if let Some((first, ..)) = self.keys.get(&slip.line) {
            return Some((Cause::OrderAlreadyReserved, Some(*first)));
        }
        let same = |kept: &&Kept| kept.state != State::Gone && kept.slip.user == slip.user;
        let has: i64 = self
            .kept
            .iter()
            .filter(same)
            .map(|kept| i64::from(kept.slip.quantity))
            .sum();
        if slip.user.is_some() && has + units > LIMIT {
            return Some((Cause::UserLimit, None));
        }
        (units > self.counter).then_some((Cause::Surplus, None))
    }

    fn release(&mut self, at: usize) {
        let Kept { slip, state, .. } = &mut self.kept[at];
        *state = State::Gone;
        self.keys.remove(&slip.line);
    }
}

struct Run<'d> {
    desk: &'d Desk,
    sale: Sale,
    lane: Lane,
    /// Not durable yet.
    queue: VecDeque<Entry>,
    model: Model,
    case: String,
}

impl Run<'_> {
    async fn step(&mut self, op: Op) {
        match op {
            Op::Reserve(wishes) => self.reserve(&wishes),
            Op::Release(n) => {
                if let Some(at) = self.held(n) {
                    let answer = self.desk.end(release(self.model.kept[at].id)).await;
                    assert!(matches!(answer, EndAnswer::Done { .. }));
                    self.model.release(at);
                }
            }
            Op::Commit(n) => {
                if let Some(at) = self.held(n) {
                    let answer = self.desk.end(commit(self.model.kept[at].id, "p")).await;
                    assert!(matches!(answer, EndAnswer::Done { .. }));
                    self.model.kept[at].state = State::Bought;
                }
            }
            Op::Move(units) => {
                let home = self.lane.road.lane;
                let asked = self.desk.ledger.request_move(self.sale.no, home, home, units).await;
                asked.expect("asks");
            }
            Op::Deliver => {
                self.desk.number(&self.lane).await;
                self.queue.extend(self.desk.deliver_only(&mut self.lane).await);
            }
            Op::Drift(units) => *self.free() += units,
            Op::Write => self.write().await,
        }
    }

    fn free(&mut self) -> &mut i64 {
        self.lane.road.free.get_mut(&self.sale.no).expect("it sells")
    }

    fn held(&self, n: usize) -> Option<usize> {
        let held = |at: &usize| self.model.kept[*at].state == State::Held;
        (0..self.model.kept.len()).filter(held).nth(n)
    }

    /// Redis accepts whatever its counter has units for.
    fn reserve(&mut self, wishes: &[Wish]) {
        let mut free = *self.free();
        let mut slips = Vec::new();
        for wish in wishes {
            if i64::from(wish.units) <= free {
                free -= i64::from(wish.units);
                slips.push(self.slip(wish));
            }
        }
        if !slips.is_empty() {
            let entry = self.lane.road.reserve(self.sale.no, slips);
            self.queue.push_back(entry);
        }
    }

    fn slip(&self, wish: &Wish) -> Slip {
        let mut slip = slip(&self.sale, &format!("{}-{}", self.case, wish.order), wish.units);
        if wish.other_request {
            slip.fingerprint = Fingerprint([1; 8]);
        }
        if let Some(key) = wish.key {
            slip = with_key(slip, &format!("{}-{key}", self.case));
        }
        match wish.user {
            Some(user) => of_user(slip, &format!("{}-{user}", self.case)),
            None => slip,
        }
    }

    async fn write(&mut self) {
        let entries: Vec<Entry> = self.queue.drain(..).collect();
        if entries.is_empty() {
            return;
        }
        for entry in &entries {
            self.model.read(self.desk, &self.lane, entry);
        }
        let queue = [(self.lane.clone(), entries)];
        let at_once = self.desk.at_once(&queue).await.expect("answers");
        let [(_, entries)] = queue;
        let was_plain = at_once.is_some();
        let done = match at_once {
            Some(mut done) => self.lane.note(done.remove(0)),
            None => self.desk.apply(&mut self.lane, &entries).await,
        };
        let reserves = |entry: &Entry| matches!(entry.body, Body::Reserve(_));
        let is_plain = done.refused.is_empty() && done.drift.is_empty() && entries.iter().all(reserves);
        assert_eq!(was_plain, is_plain, "{done:?}");
        assert_eq!(done.refused, std::mem::take(&mut self.model.refused));
        assert_eq!(self.desk.counter(&self.sale, &self.lane).await, self.model.counter);
        let drift: i64 = sqlx::query_scalar("SELECT drift FROM sale_bucket WHERE sale_no = $1")
            .bind(self.sale.no)
            .fetch_one(&self.desk.pool)
            .await
            .expect("reads");
        assert_eq!(drift, self.model.drift);
        self.desk.assert_books_balance().await;
    }

    /// At rest, everything is back or promised, and the keys are those of the model.
    async fn finish(&mut self) {
        for _ in 0..3 {
            self.step(Op::Deliver).await;
            self.write().await;
        }
        let promised = |kept: &&Kept| kept.state != State::Gone;
        let promised: i64 = self
            .model
            .kept
            .iter()
            .filter(promised)
            .map(|kept| i64::from(kept.slip.quantity))
            .sum();
        assert_eq!(self.desk.counter(&self.sale, &self.lane).await, UNITS - promised);
        let mut keys: Vec<(KeyHash, ReservationId)> =
            self.model.keys.iter().map(|(hash, owner)| (*hash, owner.0)).collect();
        keys.sort_unstable();
        let rows: Vec<(uuid::Uuid, uuid::Uuid)> = sqlx::query_as(
            "SELECT k.key_hash, k.subject_id FROM inventory_key k
             JOIN inventory_reservation r ON r.reservation_id = k.subject_id WHERE r.sale_no = $1 ORDER BY k.key_hash",
        )
        .bind(self.sale.no)
        .fetch_all(&self.desk.pool)
        .await
        .expect("reads");
        let rows = rows
            .into_iter()
            .map(|(hash, id)| (KeyHash::from_uuid(hash), ReservationId(id)));
        assert_eq!(rows.collect::<Vec<_>>(), keys);
    }
}

async fn run(desk: &Desk, ops: Vec<Op>) {
    let case = fresh("m");
    let (sale, lane) = desk.selling(&case, UNITS, Some(5)).await;
    let model = Model {
        counter: UNITS,
        drift: 0,
        keys: HashMap::new(),
        kept: Vec::new(),
        refused: Vec::new(),
    };
    let mut run = Run {
        desk,
        sale,
        lane,
        queue: VecDeque::new(),
        model,
        case,
    };
    for op in ops {
        run.step(op).await;
    }
    run.write().await;
    run.finish().await;
}

#[test]
fn a_random_queue_is_written_as_one_would_by_hand() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let desk = runtime.block_on(Desk::open());
    let config = ProptestConfig {
        cases: 32,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    };
    proptest!(config, |(ops in prop::collection::vec(op(), 5..40))| {
        runtime.block_on(run(&desk, ops));
    });
}
