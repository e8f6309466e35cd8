//! What a buyer's record must be: the reservations that the ledger has at a cursor, plus what the queue did since.

use std::collections::HashMap;

use crate::domain::entry::{Body, Entry};
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

    /// What is wrong with the record, and the record as it should be.
    pub(super) fn judge(&self, bytes: &[u8]) -> (Vec<Fault>, Record) {
        let (record, mut faults) = match Record::unpack(bytes) {
            Ok(record) => (record, Vec::new()),
            Err(_) => (Record::default(), vec![Fault::Unreadable]),
        };
        let mut right = Record::default();
        for found in &record.live {
            match self.live.iter().find(|e| e.live.place == found.place) {
                Some(Expectation { live, .. }) => {
                    if live != found {
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

    /// An entry that has to go although its reservation is known leaves what its end would have left.
    fn bury(&self, found: &Record, right: &mut Record) {
        for live in found.live.iter().filter(|live| live.explicit_key) {
            let ended = self.ended.get(&live.place);
            let known = right.tombstones.iter().any(|t| t.place == live.place);
            if matches!(ended, Some(Status::Released | Status::Expired)) && !known {
                right.tombstones.push(Tombstone {
                    key: live.key,
                    place: live.place,
                });
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
                    let slip = &taken.slip;
                    let live = Live {
                        key: slip.key.head(),
                        fingerprint: slip.fingerprint.0,
                        line: slip.line.head(),
                        explicit_key: slip.explicit_key,
                        units: slip.quantity,
                        place: Place::new(entry.epoch, entry.seq, index, entry.nonce),
                    };
                    self.push(slip.buyer(), Change::Reserved(live));
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
                let live = Live {
                    key: key.head(),
                    fingerprint: fingerprint.0,
                    line: line.head(),
                    explicit_key: *explicit_key,
                    units: *quantity,
                    place: *place,
                };
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
    use crate::domain::reservation_id::ReservationId;

    fn live(n: u8, explicit_key: bool) -> Live {
        Live {
            key: [n; 8],
            fingerprint: [1; 8],
            line: [2; 8],
            explicit_key,
            units: 2,
            place: Place {
                epoch: 1,
                seq: n.into(),
                index: 0,
                nonce: [n; 3],
            },
        }
    }

    fn row(n: u8, status: Status, ending: bool) -> BuyerRow {
        BuyerRow {
            buyer: "u:a".into(),
            id: ReservationId(uuid::Uuid::nil()),
            status,
            ending,
            live: live(n, true),
        }
    }

    fn judge(rows: &[BuyerRow], sale_ended: bool, record: &Record) -> (Vec<Fault>, Record) {
        Expected::of(&rows.iter().collect::<Vec<_>>(), sale_ended).judge(&record.pack())
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
            units: 9,
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
            Fault::Differs {
                expected: live(3, true),
                found: wrong,
            },
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
        let (faults, right) = Expected::default().judge(&[1, 0]);
        assert_eq!((faults, right), (vec![Fault::Unreadable], Record::default()));
    }
}
