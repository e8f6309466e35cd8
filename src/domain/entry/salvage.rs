//! What can still be told of an entry whose own words can't be trusted: whose reservations are in it.
//!
//! A slip that bears its own sum and that of its sale is what a gateway packed. What else makes it a reservation, its
//! place and the nonce of its call, is told by the entries around: the next one names the nonce, and the counts of
//! reservations before and after say how many slips there were, so that each has its index.

use super::slip::length_by_texts;
use super::{Accepted, Body, Entry, RawEntry, Slip, Touched};
use crate::domain::bytes::Reader;
use crate::domain::lane::Nonce;
use crate::domain::time::Millis;

/// What stands around an entry and can be trusted.
#[derive(Clone, Debug)]
pub struct Around<'a> {
    /// Nonce of the entry before it.
    pub prev: Nonce,
    /// Its own, as the entry after it has it.
    pub nonce: Nonce,
    /// Reservations of the epoch before it.
    pub total_before: u64,
    /// And with it.
    pub total: u64,
    /// A time that it is not later than.
    pub at: Millis,
    /// Sales that it may speak of.
    pub sales: &'a [i32],
}

impl Entry {
    /// The reservations of an altered entry, those of altered slips as bytes; its counters are not known. None where it
    /// is not certain which they were, or which places they had.
    #[must_use]
    pub fn salvage(raw: &RawEntry, around: &Around<'_>) -> Option<Self> {
        let slips = split(&raw.body, around.sales);
        let count = u64::try_from(slips.len()).ok()?;
        if around.total_before.checked_add(count) != Some(around.total) {
            return None;
        }
        let mut touched: Vec<Touched> = Vec::new();
        let slips = slips.into_iter().map(|slip| {
            let (sale_no, slip) = slip.map_err(<[u8]>::to_vec)?;
            let sale = touched.iter().position(|of| of.sale_no == sale_no).unwrap_or_else(|| {
                touched.push(Touched {
                    sale_no,
                    free: 0,
                    hold_ms: 0,
                });
                touched.len() - 1
            });
            Ok(Accepted { sale, slip })
        });
        let body = Body::Reserve(slips.collect());
        (!touched.is_empty()).then_some(Entry {
            epoch: raw.id.0,
            seq: raw.id.1,
            nonce: around.nonce,
            prev: around.prev,
            at: around.at,
            total: around.total,
            touched,
            body,
        })
    }
}

impl RawEntry {
    /// Those of these sales that it speaks of, as far as that can be told.
    #[must_use]
    pub fn sales(&self, of: &[i32]) -> Vec<i32> {
        let named = |sale_no: &i32| {
            self.items
                .chunks(12)
                .any(|item| item.starts_with(&sale_no.to_be_bytes()))
        };
        let slips = split(&self.body, of);
        let proven = |sale_no: &i32| slips.iter().flatten().any(|(of, _)| of == sale_no);
        of.iter().copied().filter(|no| named(no) || proven(no)).collect()
    }
}

/// Splits a body into slips, each with its sale; altered ones stand as their bytes.
fn split<'b>(body: &'b [u8], sales: &[i32]) -> Vec<Result<(i32, Slip), &'b [u8]>> {
    let mut slips = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let declared = Reader(rest)
            .uint(2)
            .ok()
            .and_then(|length| usize::try_from(length).ok());
        let declared = declared.filter(|length| (1..=rest.len()).contains(length));
        let by_texts = length_by_texts(rest);
        let read = |length: usize| {
            let of = |sale_no: &i32| Some((length, *sale_no, Slip::unpack(&rest[..length], *sale_no).ok()?));
            sales.iter().find_map(of)
        };
        let length = match by_texts.and_then(read).or_else(|| declared.and_then(read)) {
            Some((length, sale_no, slip)) => {
                slips.push(Ok((sale_no, slip)));
                length
            }
            None => {
                let length = declared.or(by_texts).unwrap_or(rest.len());
                slips.push(Err(&rest[..length]));
                length
            }
        };
        rest = &rest[length..];
    }
    slips
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::entry::slip::tests::slip;
    use crate::domain::entry::tests::{SALES, raw};

    fn around() -> Around<'static> {
        Around {
            prev: Nonce(4u64.to_be_bytes()),
            nonce: Nonce(5u64.to_be_bytes()),
            total_before: 10,
            total: 13,
            at: Millis(1_763_739_059_000),
            sales: &SALES,
        }
    }

    fn accepted(entry: &Entry) -> Vec<Option<i32>> {
        let Body::Reserve(slips) = &entry.body else {
            panic!("{entry:?}")
        };
        let sale_no = |accepted: &Accepted| entry.touched[accepted.sale].sale_no;
        slips.iter().map(|slip| slip.as_ref().ok().map(sale_no)).collect()
    }

    #[test]
    fn what_its_slips_tell_survives_any_byte_around_them() {
        let good = raw(5, 13, &[slip(), slip(), slip()]);
        let (ends, of) = (good.body.len() / 3, [Some(70), Some(71), Some(70)]);
        for what in 0..8 {
            let mut bad = good.clone();
            match what {
                0 => bad.kind = b"grant".to_vec(),
                1 => bad.nonce = vec![1],
                2 => bad.prev.clear(),
                3 => bad.time = b"soon".to_vec(),
                4 => bad.total[0] ^= 1,
                5 => bad.items = vec![0; 7],
                6 => bad.body[ends] ^= 0x80, // the length of the second
                _ => bad.body[2] = 9,        // the sale index of the first
            }
            let entry = Entry::salvage(&bad, &around()).unwrap_or_else(|| panic!("fault {what}"));
            assert_eq!(accepted(&entry), of, "fault {what}");
            assert_eq!(
                (entry.nonce, entry.prev, entry.total),
                (around().nonce, around().prev, 13)
            );
            assert_eq!(bad.sales(&[1, 70, 71]), [70, 71], "fault {what}");
        }
        let mut bad = good.clone();
        bad.body[ends + 71] ^= 1;
        let entry = Entry::salvage(&bad, &around()).expect("two are what they were");
        assert_eq!(accepted(&entry), [Some(70), None, Some(70)]);
    }

    #[test]
    fn nothing_is_made_of_what_is_not_certain() {
        let good = raw(5, 13, &[slip(), slip(), slip()]);
        let more = Around { total: 14, ..around() };
        assert_eq!(Entry::salvage(&good, &more), None, "one is missing");
        let others = Around {
            sales: &[1],
            ..around()
        };
        assert_eq!(Entry::salvage(&good, &others), None, "of no sale of the lane");
        let grants = RawEntry {
            body: vec![0, 12, 1, 1, 0, 0, 0, 7, 0, 0, 0, 1],
            ..good
        };
        let none = Around { total: 10, ..around() };
        assert_eq!(Entry::salvage(&grants, &none), None, "it had no reservations");
    }
}
