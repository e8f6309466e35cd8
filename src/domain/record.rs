//! Buyer records: what a lane knows of one buyer of one sale. The layout is that of `lua/record.lua`.

use super::bytes::{Malformed, Reader, put_uint};
use super::reservation_id::Place;

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
            out.extend_from_slice(&entry.key);
            out.extend_from_slice(&entry.fingerprint);
            out.extend_from_slice(&entry.line);
            out.push(u8::from(entry.explicit_key));
            put_uint(&mut out, entry.units.into(), 3);
            out.extend_from_slice(&entry.place.pack());
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
                explicit_key: r.byte()? == 1,
                units: r.uint32(3)?,
                place: Place::unpack(r.array()?),
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

    #[test]
    fn a_record_survives_its_journey() {
        let place = Place {
            epoch: 1,
            seq: 2,
            index: 3,
            nonce: [4; 3],
        };
        let live = Live {
            key: [1; 8],
            fingerprint: [2; 8],
            line: [3; 8],
            explicit_key: true,
            units: 70_000,
            place,
        };
        let record = Record {
            live: vec![
                live,
                Live {
                    explicit_key: false,
                    ..live
                },
            ],
            tombstones: vec![Tombstone { key: [5; 8], place }],
        };
        assert_eq!(Record::unpack(&record.pack()), Ok(record));
        assert_eq!(Record::unpack(&[1, 0]), Err(Malformed));
        assert_eq!(
            Record {
                live: vec![live; 65],
                tombstones: vec![]
            }
            .pack()
            .len(),
            2 + 64 * 40
        );
    }
}
