//! Buyer records: what a lane knows of one buyer of one sale. The layout is that of `lua/record.lua`.
//!
//! Each live entry bears a sum that the gateway computed, over the buyer and all of the entry but its place, which the
//! script adds. Tombstones have none: what a tombstone tells, key and place, is compared with the reservation itself.

use super::bytes::{Malformed, Reader, put_uint};
use super::entry::{Slip, SlipKeys};
use super::reservation_id::Place;
use super::sum::{Sum, sum};

/// Most live entries, and most tombstones, of a record.
pub const RECORD_MAX: usize = 64;

/// A reservation that counts: reserved, bought, or ended without the lane knowing yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// First 8 bytes of the key's hash.
    pub key: [u8; 8],
    /// Of the request.
    pub fingerprint: [u8; 8],
    /// First 8 bytes of the order line's hash.
    pub line: [u8; 8],
    /// The client sent a key of its own.
    pub explicit_key: bool,
    /// Units.
    pub units: u32,
    /// Where it was made.
    pub place: Place,
    /// Of the buyer and all of this but the place.
    pub sum: Sum,
}

impl Live {
    /// Of this buyer.
    #[must_use]
    pub fn new(buyer: &str, keys: &SlipKeys, units: u32, place: Place) -> Self {
        Live {
            key: keys.key.head(),
            fingerprint: keys.fingerprint.0,
            line: keys.line.head(),
            explicit_key: keys.explicit,
            units,
            place,
            sum: record_sum(buyer, keys, units),
        }
    }

    /// What was asked for, accepted at this place.
    #[must_use]
    pub fn of(slip: &Slip, place: Place) -> Self {
        Live::new(&slip.buyer(), &slip.keys(), slip.quantity, place)
    }

    /// Whether it is as it was written for this buyer, but for its place.
    #[must_use]
    pub fn is_sound(&self, buyer: &str) -> bool {
        let mut head = Vec::with_capacity(HEAD_BYTES);
        self.put_head(&mut head);
        self.sum == sum(&[&head, buyer.as_bytes()])
    }

    fn put_head(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.key);
        out.extend_from_slice(&self.fingerprint);
        out.extend_from_slice(&self.line);
        out.push(u8::from(self.explicit_key));
        put_uint(out, self.units.into(), 3);
    }
}

/// Bytes of a live entry before its place.
const HEAD_BYTES: usize = 28;

/// The sum of a live entry of this buyer.
pub(crate) fn record_sum(buyer: &str, keys: &SlipKeys, units: u32) -> Sum {
    let [_, a, b, c] = units.to_be_bytes();
    let (key, line) = (keys.key.head(), keys.line.head());
    let rest = [u8::from(keys.explicit), a, b, c];
    sum(&[&key, &keys.fingerprint.0, &line, &rest, buyer.as_bytes()])
}

/// A reservation with a key of its own that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// First 8 bytes of the key's hash.
    pub key: [u8; 8],
    /// Where it was made.
    pub place: Place,
}

/// One buyer's record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// At most [`RECORD_MAX`].
    pub live: Vec<Live>,
    /// At most [`RECORD_MAX`], oldest first.
    pub tombstones: Vec<Tombstone>,
}

impl Record {
    /// As the lane has it; the newest are kept where there are too many.
    #[must_use]
    pub fn pack(&self) -> Vec<u8> {
        let live = &self.live[self.live.len().saturating_sub(RECORD_MAX)..];
        let tombstones = &self.tombstones[self.tombstones.len().saturating_sub(RECORD_MAX)..];
        let count = |n: usize| u8::try_from(n).expect("at most 64");
        let mut out = vec![count(live.len()), count(tombstones.len())];
        for entry in live {
            entry.put_head(&mut out);
            out.extend_from_slice(&entry.place.pack());
            out.extend_from_slice(&entry.sum);
        }
        for tombstone in tombstones {
            out.extend_from_slice(&tombstone.key);
            out.extend_from_slice(&tombstone.place.pack());
        }
        out
    }

    /// The reverse of [`Record::pack`]; empty bytes are an empty record.
    ///
    /// # Errors
    /// The bytes are no record.
    pub fn unpack(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.is_empty() {
            return Ok(Record::default());
        }
        let mut r = Reader(bytes);
        let (lives, tombs) = (r.byte()?, r.byte()?);
        let mut record = Record::default();
        for _ in 0..lives {
            record.live.push(Live {
                key: r.array()?,
                fingerprint: r.array()?,
                line: r.array()?,
                explicit_key: match r.byte()? {
                    0 => false,
                    1 => true,
                    _ => return Err(Malformed),
                },
                units: r.uint32(3)?,
                place: Place::unpack(r.array()?),
                sum: r.array()?,
            });
        }
        for _ in 0..tombs {
            record.tombstones.push(Tombstone {
                key: r.array()?,
                place: Place::unpack(r.array()?),
            });
        }
        if r.is_empty() { Ok(record) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::key::{Fingerprint, KeyHash};

    const PLACE: Place = Place {
        epoch: 1,
        seq: 2,
        index: 3,
        nonce: [4; 3],
    };

    fn live(explicit: bool) -> Live {
        let keys = SlipKeys {
            explicit,
            key: KeyHash([1; 16]),
            line: KeyHash([3; 16]),
            fingerprint: Fingerprint([2; 8]),
        };
        Live::new("u:a", &keys, 70_000, PLACE)
    }

    #[test]
    fn a_record_survives_its_journey() {
        let tombstone = Tombstone {
            key: [5; 8],
            place: PLACE,
        };
        let record = Record {
            live: vec![live(true), live(false)],
            tombstones: vec![tombstone],
        };
        assert_eq!(Record::unpack(&record.pack()), Ok(record));
        assert_eq!(Record::unpack(&[1, 0]), Err(Malformed));
        let full = Record {
            live: vec![live(true); 65],
            tombstones: vec![],
        };
        assert_eq!(full.pack().len(), 2 + 64 * 44);
    }

    #[test]
    fn an_altered_bit_of_a_live_entry_is_found() {
        assert!(live(true).is_sound("u:a") && live(false).is_sound("u:a"));
        assert!(!live(true).is_sound("u:b"), "of another buyer");
        let good = Record {
            live: vec![live(false)],
            tombstones: vec![],
        };
        let (packed, place) = (good.pack(), 2 + HEAD_BYTES..2 + HEAD_BYTES + 12);
        for at in (0..packed.len()).filter(|at| !place.contains(at)) {
            for bit in 0..8 {
                let mut bad = packed.clone();
                bad[at] ^= 1 << bit;
                let sound = |record: Record| record.live.iter().all(|live| live.is_sound("u:a"));
                assert!(!Record::unpack(&bad).is_ok_and(sound), "bit {bit} of byte {at}");
            }
        }
    }
}
