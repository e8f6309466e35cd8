//! What a buyer's record must be: the reservations that the ledger has at a cursor, plus what the queue did since.

use std::collections::HashMap;

use crate::domain::entry::{Body, Entry, SlipKeys};
use crate::domain::grant::{Delivered, Grant};
use crate::domain::record::{Live, RECORD_MAX, Record, Tombstone};
use crate::domain::reservation::Status;
use crate::domain::reservation_id::Place;
use crate::ledger::audit::BuyerRow;

/// What a record must hold, and what it may.
#[derive(Clone, Debug, Default)]
pub(super) struct Expected {
    live: Vec<Expectation>,
    /// Key of each reservation that was ever there: what a tombstone may tell.
    keys: HashMap<Place, [u8; 8]>,
    /// Reservations that have ended, and how.
    ended: HashMap<Place, Status>,
}

#[derive(Clone, Copy, Debug)]
struct Expectation {
    live: Live,
    /// Else the lane may have been told of its end already, or not any more.
    must: bool,
}

/// What is wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It can't be read.
    Unreadable,
    /// It lacks a reservation.
    Missing(Live),
    /// It holds one that has ended so, or, `None`, that is not.
    Unknown(Place, Option<Status>),
    /// It remembers the end of one that never was.
    Tombstone(Place),
    /// It tells one wrongly.
    Differs { expected: Live, found: Live },
    /// What it tells of this one is not what was written: its checksum is wrong.
    Altered(Place),
}

impl Expected {
    /// By the ledger. Of a sale that has ended, what ends is not told to the lane any more.
    pub(super) fn of(rows: &[&BuyerRow], sale_ended: bool) -> Self {
        let mut expected = Expected::default();
        for row in rows {
            let place = row.live.place;
            expected.keys.insert(place, row.live.key);
            let must = matches!(row.status, Status::Reserved | Status::Committed);
            if must || row.ending || sale_ended {
                expected.live.push(Expectation { live: row.live, must });
            } else {
                expected.ended.insert(place, row.status);
            }
        }
        expected
    }

    /// Lets the record hold these too: they have ended, their ends are on the way, and the ledger could not store whose
    /// they were.
    pub(super) fn allow(&mut self, ending: &[&BuyerRow]) {
        for row in ending {
            self.add(row.live, false);
        }
    }

    fn add(&mut self, live: Live, must: bool) {
        self.keys.insert(live.place, live.key);
        self.live.push(Expectation { live, must });
    }

    fn end(&mut self, place: Place, status: Status) {
        self.live.retain(|expectation| expectation.live.place != place);
        self.ended.insert(place, status);
    }

    /// What is wrong with the buyer's record, and the record as it should be.
    pub(super) fn judge(&self, buyer: &str, bytes: &[u8]) -> (Vec<Fault>, Record) {
        let (record, mut faults) = match Record::unpack(bytes) {
            Ok(record) => (record, Vec::new()),
            Err(_) => (Record::default(), vec![Fault::Unreadable]),
        };
        let mut right = Record::default();
        for found in &record.live {
            if !found.is_sound(buyer) {
                faults.push(Fault::Altered(found.place));
            }
            match self.live.iter().find(|e| e.live.place == found.place) {
                Some(Expectation { live, .. }) => {
                    if live != found && found.is_sound(buyer) {
                        faults.push(Fault::Differs {
                            expected: *live,
                            found: *found,
                        });
                    }
                    right.live.push(*live);
                }
                None => faults.push(Fault::Unknown(found.place, self.ended.get(&found.place).copied())),
            }
        }
        // The ledger may hold more than a record does only where recovery found forks; the newest are in the record.
        let room = RECORD_MAX.saturating_sub(right.live.len());
        let lacks = |e: &&Expectation| e.must && !record.live.iter().any(|found| found.place == e.live.place);
        for Expectation { live, .. } in self.live.iter().filter(lacks).take(room) {
            faults.push(Fault::Missing(*live));
            right.live.push(*live);
        }
        for tombstone in &record.tombstones {
            if self.keys.get(&tombstone.place) == Some(&tombstone.key) {
                right.tombstones.push(*tombstone);
            } else {
                faults.push(Fault::Tombstone(tombstone.place));
            }
        }
        self.bury(&record, &mut right);
        (faults, right)
    }

    /// An entry that has to go although its reservation is known leaves what its end would have left; the key is that of
    /// the reservation, for the entry's may be what was altered.
    fn bury(&self, found: &Record, right: &mut Record) {
        for Live { place, .. } in found.live.iter().filter(|live| live.explicit_key).copied() {
            let ended = self.ended.get(&place);
            let known = right.tombstones.iter().any(|t| t.place == place);
            if let (Some(Status::Released | Status::Expired), Some(key), false) = (ended, self.keys.get(&place), known)
            {
                right.tombstones.push(Tombstone { key: *key, place });
            }
        }
    }
}

/// What the queue did to the buyers of one sale.
#[derive(Debug, Default)]
pub(super) struct Changes {
    of: HashMap<String, Vec<Change>>,
    /// The lane has forgotten the sale.
    pub(super) dropped: bool,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Reserved(Live),
    /// Taken anew; the ledger may still refuse it.
    Retaken(Live),
    Ended(Place, Status),
}

impl Changes {
    /// Adds what an entry did to buyers of `sale_no`. A record that was replaced by us changes no expectation.
    pub(super) fn add(&mut self, sale_no: i32, entry: &Entry) {
        let ours = |sale: usize| entry.touched[sale].sale_no == sale_no;
        match &entry.body {
            Body::Reserve(slips) => {
                for (index, slip) in (0u8..).zip(slips) {
                    let Some(taken) = slip.as_ref().ok().filter(|taken| ours(taken.sale)) else {
                        continue;
                    };
                    let place = Place::new(entry.epoch, entry.seq, index, entry.nonce);
                    self.push(taken.slip.buyer(), Change::Reserved(Live::of(&taken.slip, place)));
                }
            }
            Body::Grant { delivered, .. } => {
                delivered.iter().filter(|d| ours(d.sale)).for_each(|d| self.deliver(d));
            }
        }
    }

    fn deliver(&mut self, delivered: &Delivered) {
        match &delivered.grant {
            Grant::End {
                place, status, buyer, ..
            } => self.push(buyer.clone(), Change::Ended(*place, *status)),
            Grant::Retake {
                place,
                quantity,
                explicit_key,
                key,
                fingerprint,
                line,
                buyer,
            } if delivered.outcome == 1 => {
                let keys = SlipKeys {
                    explicit: *explicit_key,
                    key: *key,
                    line: *line,
                    fingerprint: *fingerprint,
                };
                let live = Live::new(buyer, &keys, *quantity, *place);
                self.push(buyer.clone(), Change::Retaken(live));
            }
            Grant::Drop => self.dropped = true,
            _ => {}
        }
    }

    /// Whose records changed.
    pub(super) fn buyers(self) -> Vec<String> {
        self.of.into_keys().collect()
    }

    fn push(&mut self, buyer: String, change: Change) {
        self.of.entry(buyer).or_default().push(change);
    }

    /// Carries what the ledger has on to the end of the queue.
    pub(super) fn carry(&self, buyer: &str, expected: &mut Expected) {
        for change in self.of.get(buyer).into_iter().flatten() {
            match *change {
                Change::Reserved(live) => expected.add(live, true),
                Change::Retaken(live) => {
                    expected.ended.remove(&live.place);
                    expected.add(live, false);
                }
                Change::Ended(place, status) => expected.end(place, status),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::key::{Fingerprint, KeyHash};
    use crate::domain::reservation_id::ReservationId;

    const BUYER: &str = "u:a";

    fn live(n: u8, explicit: bool) -> Live {
        let keys = SlipKeys {
            explicit,
            key: KeyHash([n; 16]),
            line: KeyHash([2; 16]),
            fingerprint: Fingerprint([1; 8]),
        };
        let place = Place {
            epoch: 1,
            seq: n.into(),
            index: 0,
            nonce: [n; 3],
        };
        Live::new(BUYER, &keys, 2, place)
    }

    fn row(n: u8, status: Status, ending: bool) -> BuyerRow {
        BuyerRow {
            buyer: BUYER.into(),
            id: ReservationId(uuid::Uuid::nil()),
            status,
            ending,
            live: live(n, true),
        }
    }

    fn judge(rows: &[BuyerRow], sale_ended: bool, record: &Record) -> (Vec<Fault>, Record) {
        Expected::of(&rows.iter().collect::<Vec<_>>(), sale_ended).judge(BUYER, &record.pack())
    }

    #[test]
    fn a_record_is_what_the_ledger_has() {
        let rows = [
            row(1, Status::Reserved, false),
            row(2, Status::Committed, false),
            row(3, Status::Released, false),
            row(4, Status::Expired, true),
        ];
        let right = Record {
            live: vec![live(1, true), live(2, true)],
            tombstones: vec![Tombstone {
                key: [3; 8],
                place: live(3, true).place,
            }],
        };
        assert_eq!(judge(&rows, false, &right), (vec![], right.clone()));
        let mut early = right.clone();
        early.live.push(live(4, true));
        assert_eq!(
            judge(&rows, false, &early).0,
            [],
            "the lane has yet to be told of its end"
        );
    }

    #[test]
    fn each_fault_is_named_and_put_right() {
        let rows = [
            row(1, Status::Reserved, false),
            row(2, Status::Released, false),
            row(3, Status::Reserved, false),
        ];
        let wrong = Live {
            line: [9; 8],
            ..live(3, true)
        };
        let stray = Tombstone {
            key: [8; 8],
            place: live(8, true).place,
        };
        let found = Record {
            live: vec![wrong, live(2, true), live(7, true)],
            tombstones: vec![stray],
        };
        let (faults, right) = judge(&rows, false, &found);
        let expected = [
            Fault::Altered(wrong.place),
            Fault::Unknown(live(2, true).place, Some(Status::Released)),
            Fault::Unknown(live(7, true).place, None),
            Fault::Missing(live(1, true)),
            Fault::Tombstone(stray.place),
        ];
        assert_eq!(faults, expected);
        let tombstone = Tombstone {
            key: [2; 8],
            place: live(2, true).place,
        };
        assert_eq!(right.live, [live(3, true), live(1, true)]);
        assert_eq!(right.tombstones, [tombstone], "the spent key stays known");
        assert_eq!(judge(&rows, false, &right).0, []);
        assert_eq!(judge(&rows, true, &right).0, []);
        let (faults, right) = Expected::default().judge(BUYER, &[1, 0]);
        assert_eq!((faults, right), (vec![Fault::Unreadable], Record::default()));
    }

    /// One that was written so, and whole, is told by what it says; one that was altered by its checksum.
    #[test]
    fn what_was_written_and_what_was_altered_are_two_faults() {
        let rows = [row(1, Status::Reserved, false)];
        let keys = SlipKeys {
            explicit: true,
            key: KeyHash([1; 16]),
            line: KeyHash([2; 16]),
            fingerprint: Fingerprint([1; 8]),
        };
        let more = Live::new(BUYER, &keys, 3, live(1, true).place);
        let bare = Live {
            sum: [0; 4],
            ..live(1, true)
        };
        for (found, fault) in [
            (
                more,
                Fault::Differs {
                    expected: live(1, true),
                    found: more,
                },
            ),
            (bare, Fault::Altered(bare.place)),
        ] {
            let record = Record {
                live: vec![found],
                tombstones: vec![],
            };
            let (faults, right) = judge(&rows, false, &record);
            assert_eq!((faults, right.live), (vec![fault], vec![live(1, true)]));
        }
    }

    #[test]
    fn an_altered_key_is_not_remembered() {
        let ended = Live {
            key: [9; 8],
            ..live(2, true)
        };
        let record = Record {
            live: vec![ended],
            tombstones: vec![],
        };
        let (faults, right) = judge(&[row(2, Status::Released, false)], false, &record);
        let unknown = Fault::Unknown(ended.place, Some(Status::Released));
        assert_eq!(faults, [Fault::Altered(ended.place), unknown]);
        assert_eq!(right.tombstones[0].key, [2; 8]);
    }
}
