//! Grants: numbered messages from the ledger to a lane, delivered in order, once each.
//!
//! Everything that Postgres decides and Redis must know travels so: units, endings, settings, take-backs and
//! corrections. The bytes are what `lua/grant.lua` reads and what the queue entry repeats, each with its outcome, so a
//! Postgres that fell back can redo what it had delivered:
//!
//! ```text
//! length 2 | kind 1 | sale index 1 | … by kind (see [`Grant::pack`]) | outcome 4 (only in the entry)
//! ```
//! (The sale index stands at byte 2 and the kind at byte 3, as in a slip.)

use super::bytes::{Malformed, Reader, put_text, put_uint};
use super::entry::{SlipKeys, Touched, set_length, split_parts};
use super::key::{Fingerprint, KeyHash};
use super::lane::LaneNo;
use super::record::record_sum;
use super::reservation::Status;
use super::reservation_id::Place;
use super::sale::LaneSettings;
use super::settings::{put_settings, read_settings};
use super::sum::Sum;

const NO_LANE: u16 = u16::MAX;
const LEAVES_TOMBSTONE: u8 = 1;

/// One message to a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Adds units to the counter.
    Units(u32),
    /// Ends an entry of a buyer's record and adds its units to the counter.
    End {
        /// The reservation's place.
        place: Place,
        /// Units.
        quantity: u32,
        /// How it ended: `Released`, `Expired` or `Rejected`. The last leaves no tombstone.
        status: Status,
        /// Whose record ([`super::entry::Slip::buyer`]).
        buyer: String,
    },
    /// Makes the sale known to the lane, with a counter of 0.
    Open(LaneSettings),
    /// Changes its settings.
    Settings(LaneSettings),
    /// Forgets the sale.
    Drop,
    /// Takes back up to this many units; the outcome says how many.
    Take {
        /// Most units.
        units: u32,
        /// Where they go next; none: back to the sale.
        target: Option<LaneNo>,
    },
    /// Takes back exactly this many units to the sale, or none where fewer are free; the outcome says how many.
    TakeWhole(u32),
    /// Takes units anew for an ended reservation, under its old id; the outcome is 1 or, where too few are free, 0.
    Retake {
        /// The reservation's place.
        place: Place,
        /// Units.
        quantity: u32,
        /// The client had sent a key of its own.
        explicit_key: bool,
        /// Of the key.
        key: KeyHash,
        /// Of the request.
        fingerprint: Fingerprint,
        /// Of the order's line.
        line: KeyHash,
        /// Whose record.
        buyer: String,
    },
    /// Corrects the counter by this much.
    Correct(i32),
    /// Replaces a buyer's record, if it still is `old`; the outcome is 1 or 0.
    Record {
        /// Whose.
        buyer: String,
        /// As it was found; empty: none.
        old: Vec<u8>,
        /// As it must be; empty: none.
        new: Vec<u8>,
    },
}

impl Grant {
    /// The word of its kind, as Postgres has it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Grant::Units(_) => "units",
            Grant::End { .. } => "end",
            Grant::Open(_) => "open",
            Grant::Settings(_) => "settings",
            Grant::Drop => "drop",
            Grant::Take { .. } | Grant::TakeWhole(_) => "take",
            Grant::Retake { .. } => "retake",
            Grant::Correct(_) => "correct",
            Grant::Record { .. } => "record",
        }
    }

    /// Packs it; the sale index is set when its place in a call is known.
    #[must_use]
    pub fn pack(&self) -> Vec<u8> {
        let mut out = vec![0, 0, 0, self.kind_byte()];
        match self {
            Grant::Units(units) | Grant::TakeWhole(units) => put_uint(&mut out, (*units).into(), 4),
            Grant::End {
                place,
                quantity,
                status,
                buyer,
            } => {
                let leaves_none = *status == Status::Rejected;
                out.push(if leaves_none { 0 } else { LEAVES_TOMBSTONE });
                put_uint(&mut out, (*quantity).into(), 3);
                out.extend_from_slice(&place.pack());
                out.push(status_byte(*status));
                put_text(&mut out, buyer);
            }
            Grant::Open(settings) | Grant::Settings(settings) => put_settings(&mut out, settings),
            Grant::Drop => {}
            Grant::Take { units, target } => {
                put_uint(&mut out, (*units).into(), 4);
                put_uint(&mut out, target.map_or(NO_LANE, |lane| lane.0).into(), 2);
            }
            Grant::Retake {
                place,
                quantity,
                explicit_key,
                key,
                fingerprint,
                line,
                buyer,
            } => {
                out.push(u8::from(*explicit_key));
                put_uint(&mut out, (*quantity).into(), 3);
                out.extend_from_slice(&place.pack());
                out.extend_from_slice(&key.0);
                out.extend_from_slice(&line.0);
                out.extend_from_slice(&fingerprint.0);
                let keys = SlipKeys {
                    explicit: *explicit_key,
                    key: *key,
                    line: *line,
                    fingerprint: *fingerprint,
                };
                out.extend_from_slice(&record_sum(buyer, &keys, *quantity));
                put_text(&mut out, buyer);
            }
            Grant::Correct(delta) => out.extend_from_slice(&delta.to_be_bytes()),
            Grant::Record { buyer, old, new } => {
                put_text(&mut out, buyer);
                put_uint(&mut out, old.len().try_into().expect("a record is below 64 KiB"), 2);
                out.extend_from_slice(old);
                out.extend_from_slice(new);
            }
        }
        set_length(&mut out);
        out
    }

    /// The reverse of [`Grant::pack`].
    ///
    /// # Errors
    /// The bytes are no grant.
    pub fn unpack(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader(bytes);
        r.take(3)?;
        let grant = match r.byte()? {
            1 => Grant::Units(r.uint32(4)?),
            2 => {
                r.byte()?;
                let quantity = r.uint32(3)?;
                let place = Place::unpack(r.array()?);
                Grant::End {
                    place,
                    quantity,
                    status: status_of(r.byte()?)?,
                    buyer: r.text()?.to_owned(),
                }
            }
            3 => Grant::Open(read_settings(&mut r)?),
            4 => Grant::Settings(read_settings(&mut r)?),
            5 => Grant::Drop,
            6 => {
                let units = r.uint32(4)?;
                let lane = u16::from_be_bytes(r.array()?);
                let target = (lane != NO_LANE).then_some(LaneNo(lane));
                Grant::Take { units, target }
            }
            7 => {
                let explicit = r.byte()? != 0;
                let quantity = r.uint32(3)?;
                let place = Place::unpack(r.array()?);
                let keys = SlipKeys {
                    explicit,
                    key: KeyHash(r.array()?),
                    line: KeyHash(r.array()?),
                    fingerprint: Fingerprint(r.array()?),
                };
                let (sum, buyer): (Sum, String) = (r.array()?, r.text()?.to_owned());
                if sum != record_sum(&buyer, &keys, quantity) {
                    return Err(Malformed);
                }
                Grant::Retake {
                    place,
                    quantity,
                    explicit_key: explicit,
                    key: keys.key,
                    fingerprint: keys.fingerprint,
                    line: keys.line,
                    buyer,
                }
            }
            8 => Grant::Correct(i32::from_be_bytes(r.array()?)),
            9 => {
                let buyer = r.text()?.to_owned();
                let length = usize::try_from(r.uint(2)?).map_err(|_| Malformed)?;
                let old = r.take(length)?.to_vec();
                let new = r.take(r.0.len())?.to_vec();
                Grant::Record { buyer, old, new }
            }
            10 => Grant::TakeWhole(r.uint32(4)?),
            _ => return Err(Malformed),
        };
        if r.is_empty() { Ok(grant) } else { Err(Malformed) }
    }

    fn kind_byte(&self) -> u8 {
        match self {
            Grant::Units(_) => 1,
            Grant::End { .. } => 2,
            Grant::Open(_) => 3,
            Grant::Settings(_) => 4,
            Grant::Drop => 5,
            Grant::Take { .. } => 6,
            Grant::Retake { .. } => 7,
            Grant::Correct(_) => 8,
            Grant::Record { .. } => 9,
            Grant::TakeWhole(_) => 10,
        }
    }
}

/// A grant as a queue entry reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Index into the entry's touched sales.
    pub sale: usize,
    /// What was delivered.
    pub grant: Grant,
    /// `Take`, `TakeWhole`: units taken. `End`: 1, or 0 where the record lacked the entry. `Retake`, `Record`: 1 or 0. Others: 1.
    pub outcome: u32,
}

impl Delivered {
    /// What it did to the ledger's view of the counter.
    #[must_use]
    pub fn counter_delta(&self) -> i64 {
        match &self.grant {
            Grant::Units(units) => (*units).into(),
            Grant::End { quantity, .. } => (*quantity).into(),
            Grant::Take { .. } | Grant::TakeWhole(_) => -i64::from(self.outcome),
            Grant::Retake { quantity, .. } => -i64::from(*quantity) * i64::from(self.outcome),
            Grant::Open(_) | Grant::Settings(_) | Grant::Drop | Grant::Correct(_) | Grant::Record { .. } => 0,
        }
    }

    pub(crate) fn decode_all(bytes: &[u8], touched: &[Touched]) -> Result<Vec<Self>, Malformed> {
        let decode = |part: &[u8]| {
            let (message, outcome) = part.split_at_checked(part.len() - 4).ok_or(Malformed)?;
            let sale = usize::from(*message.get(2).ok_or(Malformed)?)
                .checked_sub(1)
                .ok_or(Malformed)?;
            touched.get(sale).ok_or(Malformed)?;
            Ok(Delivered {
                sale,
                grant: Grant::unpack(message)?,
                outcome: Reader(outcome).uint32(4)?,
            })
        };
        split_parts(bytes)?.into_iter().map(decode).collect()
    }
}

fn status_byte(status: Status) -> u8 {
    match status {
        Status::Released => 1,
        Status::Expired => 2,
        Status::Reserved | Status::Committed | Status::Rejected => 3,
    }
}

fn status_of(byte: u8) -> Result<Status, Malformed> {
    match byte {
        1 => Ok(Status::Released),
        2 => Ok(Status::Expired),
        3 => Ok(Status::Rejected),
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::sale::SaleState;

    #[test]
    fn every_grant_survives_its_journey() {
        let place = Place {
            epoch: 5,
            seq: 6,
            index: 7,
            nonce: [1, 2, 3],
        };
        let settings = LaneSettings {
            state: SaleState::Paused,
            per_user_limit: 2,
            rate_milli: 1500,
            rate_burst: 3,
            hold_ms: 900_000,
            hold_max_ms: 3_600_000,
            ends_at_ms: 1_900_000_000_000,
            undurable_max: 0,
        };
        let bounded = LaneSettings {
            undurable_max: 70_000,
            ..settings
        };
        let (key, line) = (KeyHash([1; 16]), KeyHash([2; 16]));
        let buyer = "u:x".to_owned();
        let grants = [
            Grant::Units(7),
            Grant::End {
                place,
                quantity: 2,
                status: Status::Expired,
                buyer: buyer.clone(),
            },
            Grant::Open(settings),
            Grant::Settings(settings),
            Grant::Open(bounded),
            Grant::Settings(bounded),
            Grant::Drop,
            Grant::Take {
                units: 9,
                target: Some(LaneNo(3)),
            },
            Grant::Take { units: 9, target: None },
            Grant::TakeWhole(9),
            Grant::Retake {
                place,
                quantity: 1,
                explicit_key: true,
                key,
                fingerprint: Fingerprint([3; 8]),
                line,
                buyer: buyer.clone(),
            },
            Grant::Correct(-4),
            Grant::Record {
                buyer,
                old: vec![1, 2],
                new: vec![],
            },
        ];
        let touched = [Touched {
            sale_no: 1,
            free: 0,
            hold_ms: 1,
        }];
        for grant in grants {
            let mut packed = grant.pack();
            assert_eq!(Grant::unpack(&packed), Ok(grant.clone()));
            if matches!(grant, Grant::Retake { .. }) {
                let altered = [&packed[..22], &[9], &packed[23..]].concat();
                assert_eq!(
                    Grant::unpack(&altered),
                    Err(Malformed),
                    "its sum is that of another key"
                );
            }
            packed[2] = 1;
            packed.extend_from_slice(&[0, 0, 0, 9]);
            set_length(&mut packed);
            let delivered = Delivered::decode_all(&packed, &touched).expect("decodes");
            assert_eq!(
                delivered,
                [Delivered {
                    sale: 0,
                    grant,
                    outcome: 9
                }]
            );
        }
    }
}
