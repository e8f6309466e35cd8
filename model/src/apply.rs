//! The writer's half in Postgres (`ledger/apply/`): carries entries into the ledger, for the writer and for recovery.

use crate::config::{Config, Defence};
use crate::property::NO_DRIFT;
use crate::world::{Body, Cursor, Entry, Grant, GrantRow, LaneNo, Ledger, Nonce, Row, Seq, Status, World};

/// An entry and whether its grants count too (`ledger/apply/carry.rs::Part`).
pub(crate) type Part = (Entry, bool);

/// What came of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    /// It is durable: each call, and whether its reservation is.
    Done(Vec<(Seq, Nonce, bool)>),
    /// The lane is another's, closed, of another epoch, or its cursor is elsewhere.
    NotOwner,
    /// The entries deliver grants that the ledger has not numbered so.
    GrantsAhead,
}

/// `ledger/apply/mod.rs::apply`: one transaction. None where nothing is committed.
pub(crate) fn apply(
    config: &Config,
    world: &mut World,
    lane: LaneNo,
    owner: u8,
    from: Cursor,
    batch: &[Entry],
) -> Applied {
    let row = &mut world.ledger.lanes[usize::from(lane)];
    let same = |here: Cursor| {
        let nonce = here.nonce == from.nonce || !config.has(Defence::Nonces);
        here.epoch == from.epoch && ((here.seq == from.seq && nonce) || !config.has(Defence::CursorCompared))
    };
    let Some(last) = batch
        .last()
        .filter(|_| row.owner == Some(owner) && row.epoch == from.epoch && row.open)
    else {
        return Applied::NotOwner;
    };
    if !same(row.cursor) {
        return Applied::NotOwner;
    }
    let before = row.cursor;
    row.cursor = Cursor {
        epoch: last.epoch,
        seq: last.seq,
        nonce: last.nonce,
    };
    let parts: Vec<Part> = batch.iter().map(|entry| (*entry, true)).collect();
    let mut carry = Carry {
        config,
        world,
        lane,
        rebuild: false,
        told: vec![],
    };
    if carry.run(&parts) {
        return Applied::Done(carry.told);
    }
    world.ledger.lanes[usize::from(lane)].cursor = before;
    Applied::GrantsAhead
}

/// `ledger/apply/carry.rs`, inside a transaction that holds the lane.
pub(crate) struct Carry<'w> {
    pub(crate) config: &'w Config,
    pub(crate) world: &'w mut World,
    pub(crate) lane: LaneNo,
    /// The lane will be rebuilt from the ledger.
    pub(crate) rebuild: bool,
    pub(crate) told: Vec<(Seq, Nonce, bool)>,
}

impl Carry<'_> {
    fn ledger(&mut self) -> &mut Ledger {
        &mut self.world.ledger
    }

    fn counter(&mut self) -> &mut i8 {
        &mut self.world.ledger.lanes[usize::from(self.lane)].counter
    }

    fn drift(&mut self) -> &mut i8 {
        &mut self.world.ledger.lanes[usize::from(self.lane)].drift
    }

    /// Carries the entries in order; false where they deliver what the ledger does not know, and nothing was done.
    pub(crate) fn run(&mut self, parts: &[Part]) -> bool {
        let Some(known) = self.take_rows(parts) else {
            return false;
        };
        let mut known = known.into_iter();
        for (entry, whole) in parts {
            match entry.body {
                Body::Reserve { buyer, at } => {
                    let made = self.reserve(Row {
                        id: entry.nonce,
                        buyer,
                        lane: self.lane,
                        status: Status::Reserved,
                        at,
                        ends: 0,
                    });
                    self.told.push((entry.seq, entry.nonce, made));
                }
                Body::Grant { grant, took, .. } if *whole => match known.next() {
                    Some(true) => self.deliver(grant, took),
                    _ => self.end_by_content(grant),
                },
                Body::Grant { .. } => {}
            }
            if !self.rebuild {
                self.compare(entry);
            }
        }
        true
    }

    /// `ledger/apply/delivered.rs::take_rows`: which of the delivered grants the ledger knows: those that are the lane's
    /// oldest, and, for a recovery, those that say what one without a number says. None where the writer must stop.
    fn take_rows(&mut self, parts: &[Part]) -> Option<Vec<bool>> {
        let delivered: Vec<(u8, Grant)> = parts
            .iter()
            .filter(|(_, whole)| *whole)
            .filter_map(|(entry, _)| match entry.body {
                Body::Grant { no, grant, .. } => Some((no, grant)),
                Body::Reserve { .. } => None,
            })
            .collect();
        let lane = self.lane;
        let numbered = |row: &&GrantRow| row.lane == lane && row.no.is_some();
        let mut rows: Vec<(u8, Grant)> = self
            .world
            .ledger
            .grants
            .iter()
            .filter(numbered)
            .filter_map(|row| Some((row.no?, row.grant)))
            .collect();
        rows.sort_by_key(|(no, _)| *no);
        let known = match self.config.has(Defence::GapsRefused) {
            true => rows
                .iter()
                .zip(&delivered)
                .take_while(|(row, delivered)| row == delivered)
                .count(),
            false => delivered
                .iter()
                .take_while(|delivered| rows.contains(delivered))
                .count(),
        };
        let last = self.world.ledger.lanes[usize::from(lane)].grant_no;
        if !self.rebuild && (known < delivered.len() || delivered.iter().any(|(no, _)| *no > last)) {
            return None;
        }
        let (taken, rest) = delivered.split_at(known);
        let grants = &mut self.world.ledger.grants;
        grants.retain(|row| row.lane != lane || !taken.iter().any(|(no, _)| row.no == Some(*no)));
        let mut all = vec![true; known];
        for (_, grant) in rest {
            let same = |row: &GrantRow| row.lane == lane && row.no.is_none() && row.grant == *grant;
            let found = grants
                .iter()
                .position(same)
                .filter(|_| self.config.has(Defence::KnownByContent));
            found.map(|at| grants.remove(at));
            all.push(found.is_some());
        }
        Some(all)
    }

    /// `ledger/apply/decide.rs::reserve`; whether the ledger takes it.
    fn reserve(&mut self, row: Row) -> bool {
        let lives = |of: &&Row| matches!(of.status, Status::Reserved | Status::Committed);
        let taken = self
            .world
            .ledger
            .rows
            .iter()
            .filter(lives)
            .any(|of| of.buyer == row.buyer);
        let refused = taken && self.config.has(Defence::KeysClaimed);
        let counted = !self.rebuild || self.config.has(Defence::UnitsSuffice);
        let surplus = *self.counter() < 1 && counted;
        let rows = &mut self.world.ledger.rows;
        rows.retain(|of| of.id != row.id);
        let status = if refused || surplus {
            Status::Rejected
        } else {
            row.status
        };
        rows.push(Row { status, ..row });
        rows.sort_by_key(|of| of.id);
        if status == Status::Reserved {
            *self.counter() -= 1;
        } else if !self.rebuild {
            let units = (*self.counter()).clamp(0, 1);
            *self.counter() -= units;
            *self.drift() -= 1 - units;
            let grant = Grant::End {
                id: row.id,
                buyer: row.buyer,
                units,
                refused: true,
            };
            let lane = self.lane;
            self.ledger().grants.push(GrantRow { lane, no: None, grant });
        }
        status == Status::Reserved
    }

    /// `ledger/apply/decide.rs::deliver`: a grant of the ledger's own.
    fn deliver(&mut self, grant: Grant, took: i8) {
        match grant {
            Grant::Units(units) | Grant::End { units, .. } => *self.counter() += units,
            Grant::Take { .. } | Grant::Stop => {
                let funded = took.min(*self.counter());
                *self.counter() -= funded;
                *self.drift() -= took - funded;
                match grant {
                    _ if funded == 0 => {}
                    Grant::Take { to } => {
                        self.ledger().grants.push(GrantRow {
                            lane: to,
                            no: None,
                            grant: Grant::Units(funded),
                        });
                    }
                    _ => self.ledger().recalled += funded,
                }
            }
        }
    }

    /// `ledger/apply/decide.rs::end_by_content`: the ledger fell back behind a grant; the ending happened all the same.
    fn end_by_content(&mut self, grant: Grant) {
        let Grant::End { id, refused: false, .. } = grant else {
            return;
        };
        let held = |row: &&mut Row| row.id == id && row.status == Status::Reserved;
        if let Some(row) = self.ledger().rows.iter_mut().find(held) {
            row.status = Status::Released;
            row.ends += 1;
            *self.counter() += 1;
        }
    }

    /// `ledger/apply/decide.rs::compare`: a counter that is not ours plus the drift that is known is told.
    fn compare(&mut self, entry: &Entry) {
        if *self.counter() + *self.drift() != entry.free {
            *self.drift() = entry.free - *self.counter();
            self.world.flaw = Some(NO_DRIFT);
        }
    }
}
