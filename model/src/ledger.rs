//! The other transactions of Postgres: numbers of grants, endings, the end of a sale, and recovery's half.

use crate::apply::{Carry, Part};
use crate::config::{Config, Defence};
use crate::world::{Body, Cursor, Entry, Epoch, Grant, GrantRow, LaneNo, Ledger, Nonce, Row, Status, World};

/// How long a reservation holds, in hours.
const HOLD: u8 = 1;

impl Ledger {
    /// `ledger/grants/mod.rs::number_grants`; false where the lane is not the caller's.
    pub(crate) fn number_grants(&mut self, config: &Config, lane: LaneNo, owner: u8, epoch: Epoch) -> bool {
        let row = &mut self.lanes[usize::from(lane)];
        if row.owner != Some(owner) || row.epoch != epoch || !row.open {
            return false;
        }
        let over = self.ended && config.has(Defence::NumberedLate);
        let mut home = 0;
        self.grants.retain_mut(|grant| {
            if grant.lane != lane || grant.no.is_some() {
                return true;
            }
            let units = match grant.grant {
                Grant::Units(units) | Grant::End { units, .. } => Some(units),
                Grant::Take { .. } | Grant::Stop => None,
            };
            if let Some(units) = units.filter(|_| over) {
                home += units;
                return false;
            }
            row.grant_no += 1;
            grant.no = Some(row.grant_no);
            true
        });
        self.home += home;
        true
    }

    /// `ledger/grants/look.rs::undelivered`: the first grant of the lane above `above`.
    pub(crate) fn undelivered(&self, lane: LaneNo, above: u8) -> Option<(u8, Grant)> {
        let of_lane = self.grants.iter().filter(|row| row.lane == lane);
        of_lane
            .filter_map(|row| Some((row.no.filter(|no| *no > above)?, row.grant)))
            .min_by_key(|(no, _)| *no)
    }

    /// `ledger/endings/record.rs`: a reservation's row, and its unit: to its lane while the sale was live as the ending
    /// saw it, else to the balance.
    pub(crate) fn end(&mut self, id: Nonce, to: Status, live: bool) {
        let Some(row) = self.rows.iter_mut().find(|row| row.id == id) else {
            return;
        };
        row.status = to;
        row.ends += 1;
        let (lane, buyer) = (row.lane, row.buyer);
        if to == Status::Committed {
            return;
        }
        match live {
            true => self.grants.push(GrantRow {
                lane,
                no: None,
                grant: Grant::End {
                    id,
                    buyer,
                    units: 1,
                    refused: false,
                },
            }),
            false => self.home += 1,
        }
    }

    /// `ledger/sale_life.rs::enter`: the sale is over.
    pub(crate) fn stop(&mut self) {
        self.ended = true;
        self.stop_lanes(|_| true);
    }

    fn stop_lanes(&mut self, which: impl Fn(i8) -> bool) {
        for (lane, _) in (0..).zip(&self.lanes).filter(|(_, row)| which(row.counter)) {
            self.grants.push(GrantRow {
                lane,
                no: None,
                grant: Grant::Stop,
            });
        }
    }

    /// `ledger/sale_life.rs::drain`: when nothing is on its way, the units go home; what was left in a lane is asked
    /// for again.
    pub(crate) fn drain(&mut self) {
        if self.lanes.iter().any(|row| row.counter > 0) {
            return self.stop_lanes(|counter| counter > 0);
        }
        self.home += std::mem::take(&mut self.recalled);
        self.drained = true;
    }

    /// `ledger/stall.rs::pulse`: a beat; a silence that it ends is written down.
    pub(crate) fn pulse(&mut self, now: u8) {
        if now > self.beat {
            self.stalls.push((self.beat, now));
        }
        self.beat = now;
    }

    /// The function `deadline` of the migrations, with an hour for its 30 s.
    pub(crate) fn deadline(&self, row: &Row) -> u8 {
        let shift = |due: u8, stall: &(u8, u8)| match stall.0 < due && stall.1 > row.at {
            true => due + (stall.1 - stall.0.max(row.at)) + 1,
            false => due,
        };
        self.stalls.iter().fold(row.at + HOLD, shift)
    }

    /// `ledger/recovery.rs::raise_epoch`.
    pub(crate) fn raise_epoch(&mut self, config: &Config, lanes: &[LaneNo], above: Epoch) -> Epoch {
        let highest = self.lanes.iter().map(|row| row.epoch).max().unwrap_or(0);
        if !config.has(Defence::EpochFirst) {
            return highest.max(above) + 1;
        }
        self.last_epoch = (self.last_epoch + 1).max(above + 1).max(highest + 1);
        for lane in lanes {
            let row = &mut self.lanes[usize::from(*lane)];
            (row.epoch, row.open) = (self.last_epoch, false);
        }
        self.last_epoch
    }

    /// `ledger/recovery.rs::open_lane`; false: superseded.
    pub(crate) fn open_lane(&mut self, config: &Config, lane: LaneNo, epoch: Epoch) -> bool {
        let row = &mut self.lanes[usize::from(lane)];
        if !config.has(Defence::EpochFirst) {
            row.epoch = row.epoch.max(epoch);
        } else if config.has(Defence::RecheckedToOpen) && (row.epoch != epoch || row.cursor.epoch != epoch) {
            return false;
        }
        row.open = true;
        true
    }

    /// Number of the last grant that counts as delivered (`ledger/recovery.rs::last_delivered`).
    fn last_delivered(&self, lane: LaneNo) -> u8 {
        let numbers = self
            .grants
            .iter()
            .filter(|row| row.lane == lane)
            .filter_map(|row| row.no);
        numbers
            .min()
            .map_or(self.lanes[usize::from(lane)].grant_no, |first| first - 1)
    }

    /// `ledger/audit`'s and recovery's view of who holds a place in a lane: also where the ending is on its way.
    pub(crate) fn holders(&self, lane: LaneNo) -> Vec<(u8, Nonce)> {
        let on_its_way = |id: Nonce| {
            let ends = |row: &GrantRow| matches!(row.grant, Grant::End { id: of, .. } if of == id);
            self.grants.iter().any(ends)
        };
        let holds = |row: &&Row| {
            let lives = matches!(row.status, Status::Reserved | Status::Committed);
            row.lane == lane && (lives || (row.status != Status::Rejected && on_its_way(row.id)))
        };
        let mut holders: Vec<(u8, Nonce)> = self.rows.iter().filter(holds).map(|row| (row.buyer, row.id)).collect();
        holders.sort_unstable();
        holders
    }
}

/// `ledger/recovery.rs::settle_lane`; none: superseded. Returns the image that the lane is rebuilt from.
pub(crate) fn settle_lane(
    config: &Config,
    world: &mut World,
    lane: LaneNo,
    epoch: Epoch,
    nonce: Nonce,
    survivors: &[Entry],
) -> Option<(i8, u8)> {
    let row = &world.ledger.lanes[usize::from(lane)];
    if config.has(Defence::EpochFirst) && (row.epoch != epoch || row.open) {
        return None;
    }
    let parts = sort(config, survivors, row.cursor);
    let known = |entry: &Entry| world.ledger.rows.iter().any(|row| row.id == entry.nonce);
    let lacks = |(entry, whole): &Part| *whole || !(matches!(entry.body, Body::Reserve { .. }) && known(entry));
    let parts: Vec<Part> = parts.into_iter().filter(lacks).collect();
    Carry {
        config,
        world,
        lane,
        rebuild: true,
        told: vec![],
    }
    .run(&parts);
    let ledger = &mut world.ledger;
    let row = &mut ledger.lanes[usize::from(lane)];
    row.cursor = Cursor { epoch, seq: 0, nonce };
    row.drift = 0;
    let counter = row.counter;
    Some((counter, ledger.last_delivered(lane)))
}

/// `ledger/recovery.rs::sort`: entries that follow the cursor, as wholes; then those of which it is not known whether
/// the ledger has them. Those back along the chain are in it.
fn sort(config: &Config, survivors: &[Entry], cursor: Cursor) -> Vec<Part> {
    let nonces = config.has(Defence::Nonces);
    let (mut at, mut seq, mut back) = (cursor.nonce, cursor.seq, cursor.nonce);
    let mut rest: Vec<Entry> = Vec::new();
    for entry in survivors.iter().rev() {
        let applied = match nonces {
            true => entry.nonce == back,
            false => (entry.epoch, entry.seq) <= (cursor.epoch, cursor.seq),
        };
        match applied {
            true => back = entry.prev,
            false => rest.insert(0, *entry),
        }
    }
    let (mut parts, mut doubtful) = (Vec::new(), Vec::new());
    for entry in rest {
        if (entry.prev == at || !nonces) && entry.seq == seq + 1 {
            (at, seq) = (entry.nonce, entry.seq);
            parts.push((entry, true));
        } else {
            doubtful.push((entry, false));
        }
    }
    parts.extend(doubtful);
    parts
}
