//! Slips: requests to reserve, as they travel. The script copies those that it accepts into the entry, in order, so
//! nothing is packed twice and Lua reads only fixed places of it:
//!
//! ```text
//! length 2 | sale index 1 | flags 1 (1: own key, 2: user named, 4: repeated by us) | quantity 3 | ttl_ms 4 | key hash 16 | line hash 16 | fingerprint 8 | trace 16
//! | sum of the record's part 4 | sum of the slip 4 | order: length 1, text | user: length 1, text
//! ```
//!
//! The first sum is that of the live entry of the buyer's record ([`Live`](crate::domain::record::Live)), where the
//! script copies it. The second is over the number of the sale and all of the slip but its length, the sale index and the
//! flag of a repetition, which change on the way: so a slip can be trusted, and its sale be told, whatever became of the
//! entry around it.

use crate::domain::bytes::{Malformed, Reader, put_text, put_uint};
use crate::domain::id::{OrderId, UserId};
use crate::domain::key::{Fingerprint, KeyHash};
use crate::domain::quantity::Quantity;
use crate::domain::record::record_sum;
use crate::domain::sum::{SUM_BYTES, Sum, sum};
use crate::domain::trace::TraceId;

const EXPLICIT_KEY: u8 = 1;
const HAS_USER: u8 = 2;
const REPEATED: u8 = 4;
/// Where the sale index stands in a slip or a grant message.
pub(crate) const SALE_INDEX_AT: usize = 2;
const FLAGS_AT: usize = 3;
const SUM_AT: usize = 71;
const TEXTS_AT: usize = SUM_AT + SUM_BYTES;

/// A request to reserve, as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slip {
    /// The client sent a key of its own.
    pub explicit_key: bool,
    /// Units.
    pub quantity: u32,
    /// Time to pay in ms; 0: the sale's.
    pub ttl_ms: u32,
    /// Of the key, sent or derived.
    pub key: KeyHash,
    /// Of the order's line.
    pub line: KeyHash,
    /// Of the request.
    pub fingerprint: Fingerprint,
    /// Of the request's trace.
    pub trace: TraceId,
    /// The shop's order.
    pub order: String,
    /// The buyer, where one was named.
    pub user: Option<String>,
}

impl Slip {
    /// A slip from checked parts.
    #[must_use]
    pub fn new(
        order: &OrderId,
        user: Option<&UserId>,
        quantity: Quantity,
        ttl_ms: u32,
        keys: SlipKeys,
        trace: TraceId,
    ) -> Self {
        Slip {
            explicit_key: keys.explicit,
            quantity: quantity.units(),
            ttl_ms,
            key: keys.key,
            line: keys.line,
            fingerprint: keys.fingerprint,
            trace,
            order: order.as_str().to_owned(),
            user: user.map(|user| user.as_str().to_owned()),
        }
    }

    /// Who is limited: the user, else the order, which then is its own buyer. The prefix keeps the two apart.
    #[must_use]
    pub fn buyer(&self) -> String {
        match &self.user {
            Some(user) => ["u:", user].concat(),
            None => ["o:", &self.order].concat(),
        }
    }

    /// Its hashes.
    #[must_use]
    pub fn keys(&self) -> SlipKeys {
        SlipKeys {
            explicit: self.explicit_key,
            key: self.key,
            line: self.line,
            fingerprint: self.fingerprint,
        }
    }

    /// Packs it for this sale; the sale index is set by [`set_sale_index`] when its place in a call is known.
    #[must_use]
    pub fn pack(&self, sale_no: i32) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + self.order.len());
        out.extend_from_slice(&[0, 0, 0]);
        let has_user = if self.user.is_some() { HAS_USER } else { 0 };
        out.push(has_user | if self.explicit_key { EXPLICIT_KEY } else { 0 });
        put_uint(&mut out, self.quantity.into(), 3);
        put_uint(&mut out, self.ttl_ms.into(), 4);
        out.extend_from_slice(&self.key.0);
        out.extend_from_slice(&self.line.0);
        out.extend_from_slice(&self.fingerprint.0);
        out.extend_from_slice(&self.trace.0);
        out.extend_from_slice(&record_sum(&self.buyer(), &self.keys(), self.quantity));
        out.extend_from_slice(&[0; SUM_BYTES]);
        put_text(&mut out, &self.order);
        put_text(&mut out, self.user.as_deref().unwrap_or(""));
        set_length(&mut out);
        let sum = sum_of(&out, sale_no);
        out[SUM_AT..TEXTS_AT].copy_from_slice(&sum);
        out
    }

    /// Reads a slip of this sale.
    ///
    /// # Errors
    /// The bytes are no slip, or not as they were packed for this sale.
    pub fn unpack(bytes: &[u8], sale_no: i32) -> Result<Self, Malformed> {
        if stored_sum(bytes) != Some(&sum_of(bytes, sale_no)) {
            return Err(Malformed);
        }
        let mut r = Reader(bytes);
        r.take(FLAGS_AT)?;
        let flags = r.byte()?;
        let quantity = r.uint32(3)?;
        let ttl_ms = r.uint32(4)?;
        let key = KeyHash(r.array()?);
        let line = KeyHash(r.array()?);
        let fingerprint = Fingerprint(r.array()?);
        let trace = TraceId(r.array()?);
        r.take(2 * SUM_BYTES)?;
        let order = r.text()?.to_owned();
        let user = r.text()?.to_owned();
        let slip = Slip {
            explicit_key: flags & EXPLICIT_KEY != 0,
            quantity,
            ttl_ms,
            key,
            line,
            fingerprint,
            trace,
            order,
            user: (flags & HAS_USER != 0).then_some(user),
        };
        if r.is_empty() { Ok(slip) } else { Err(Malformed) }
    }
}

/// The hashes of a slip.
#[derive(Clone, Copy, Debug)]
pub struct SlipKeys {
    /// The client sent a key of its own.
    pub explicit: bool,
    /// Of the key, sent or derived.
    pub key: KeyHash,
    /// Of the order's line.
    pub line: KeyHash,
    /// Of the request.
    pub fingerprint: Fingerprint,
}

/// The sum that stands in a packed slip; none where it is too short to hold one.
pub(super) fn stored_sum(packed: &[u8]) -> Option<&Sum> {
    packed.get(SUM_AT..)?.first_chunk()
}

/// The sum of a packed slip of this sale; that of nothing where it is too short to be one.
fn sum_of(packed: &[u8], sale_no: i32) -> Sum {
    let Some((head, texts)) = packed.split_at_checked(TEXTS_AT) else {
        return sum(&[]);
    };
    let lasting = head[FLAGS_AT] & !REPEATED;
    sum(&[&sale_no.to_be_bytes(), &[lasting], &head[FLAGS_AT + 1..SUM_AT], texts])
}

/// How many bytes a slip at the front of these takes by the lengths of its texts, which stand beside its own length.
pub(super) fn length_by_texts(bytes: &[u8]) -> Option<usize> {
    let mut r = Reader(bytes);
    r.take(TEXTS_AT).ok()?;
    for _ in 0..2 {
        let length = r.byte().ok()?;
        r.take(length.into()).ok()?;
    }
    Some(bytes.len() - r.0.len())
}

pub(crate) fn set_length(packed: &mut [u8]) {
    let length = u16::try_from(packed.len()).expect("slips and messages stay below 64 KiB");
    packed[..2].copy_from_slice(&length.to_be_bytes());
}

/// Marks a slip that was sent before, by ourselves: the user rate does not count it again.
pub fn set_repeated(packed: &mut [u8]) {
    packed[FLAGS_AT] |= REPEATED;
}

/// Sets the place, from 1, of a slip's or message's sale in its call.
pub fn set_sale_index(packed: &mut [u8], index: u8) {
    packed[SALE_INDEX_AT] = index;
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::domain::entry) const SUM_BYTE: usize = SUM_AT;

    pub(in crate::domain::entry) fn slip() -> Slip {
        Slip {
            explicit_key: true,
            quantity: 1_000_000,
            ttl_ms: 3_600_000,
            key: KeyHash([1; 16]),
            line: KeyHash([2; 16]),
            fingerprint: Fingerprint([3; 8]),
            trace: TraceId([4; 16]),
            order: "o".repeat(128),
            user: Some("u9".into()),
        }
    }

    #[test]
    fn a_slip_survives_its_journey() {
        for slip in [
            slip(),
            Slip {
                user: None,
                explicit_key: false,
                ..slip()
            },
        ] {
            let mut packed = slip.pack(7);
            set_sale_index(&mut packed, 2);
            set_repeated(&mut packed);
            assert_eq!(Slip::unpack(&packed, 7), Ok(slip));
            assert_eq!(length_by_texts(&packed), Some(packed.len()));
        }
    }

    #[test]
    fn an_altered_bit_of_what_was_packed_is_found() {
        let good = slip().pack(7);
        assert_eq!(Slip::unpack(&good, 8), Err(Malformed), "of another sale");
        for at in FLAGS_AT..good.len() {
            for bit in (0..8).filter(|bit| (at, 1 << bit) != (FLAGS_AT, REPEATED)) {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert_eq!(Slip::unpack(&bad, 7), Err(Malformed), "bit {bit} of byte {at}");
            }
        }
        for length in 0..good.len() {
            assert_eq!(Slip::unpack(&good[..length], 7), Err(Malformed), "cut at {length}");
        }
    }
}
