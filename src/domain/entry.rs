//! Queue entries: what one script call changed in its lane, as Redis streams it and the writer reads it.
//!
//! A request travels as a *slip*. The script copies the slips that it accepts into the entry, in order, so nothing is
//! packed twice and Lua reads only fixed places of it:
//!
//! ```text
//! length 2 | sale index 1 | flags 1 (1: own key, 2: user named, 4: repeated by us) | quantity 3 | ttl_ms 4 | key hash 16 | line hash 16 | fingerprint 8 | trace 16
//! | order: length 1, text | user: length 1, text
//! ```

use super::bytes::{Malformed, Reader, put_text, put_uint};
use super::grant::Delivered;
use super::id::{OrderId, UserId};
use super::key::{Fingerprint, KeyHash};
use super::lane::{Nonce, Seq};
use super::quantity::Quantity;
use super::time::Millis;
use super::trace::TraceId;

const EXPLICIT_KEY: u8 = 1;
const HAS_USER: u8 = 2;
const REPEATED: u8 = 4;
/// Where the sale index stands in a slip or a grant message.
pub(crate) const SALE_INDEX_AT: usize = 2;

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

    /// Packs it; the sale index is set by [`set_sale_index`] when its place in a call is known.
    #[must_use]
    pub fn pack(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96 + self.order.len());
        out.extend_from_slice(&[0, 0, 0]);
        let has_user = if self.user.is_some() { HAS_USER } else { 0 };
        out.push(has_user | if self.explicit_key { EXPLICIT_KEY } else { 0 });
        put_uint(&mut out, self.quantity.into(), 3);
        put_uint(&mut out, self.ttl_ms.into(), 4);
        out.extend_from_slice(&self.key.0);
        out.extend_from_slice(&self.line.0);
        out.extend_from_slice(&self.fingerprint.0);
        out.extend_from_slice(&self.trace.0);
        put_text(&mut out, &self.order);
        put_text(&mut out, self.user.as_deref().unwrap_or(""));
        set_length(&mut out);
        out
    }

    /// Reads a slip, and the place of its sale in the call.
    ///
    /// # Errors
    /// The bytes are no slip.
    pub fn unpack(bytes: &[u8]) -> Result<(u8, Self), Malformed> {
        let mut r = Reader(bytes);
        r.take(SALE_INDEX_AT)?;
        let sale_index = r.byte()?;
        let flags = r.byte()?;
        let quantity = r.uint32(3)?;
        let ttl_ms = r.uint32(4)?;
        let key = KeyHash(r.array()?);
        let line = KeyHash(r.array()?);
        let fingerprint = Fingerprint(r.array()?);
        let trace = TraceId(r.array()?);
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
        if r.is_empty() {
            Ok((sale_index, slip))
        } else {
            Err(Malformed)
        }
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

pub(crate) fn set_length(packed: &mut [u8]) {
    let length = u16::try_from(packed.len()).expect("slips and messages stay below 64 KiB");
    packed[..2].copy_from_slice(&length.to_be_bytes());
}

/// Marks a slip that was sent before, by ourselves: the user rate does not count it again.
pub fn set_repeated(packed: &mut [u8]) {
    packed[SALE_INDEX_AT + 1] |= REPEATED;
}

/// Sets the place, from 1, of a slip's or message's sale in its call.
pub fn set_sale_index(packed: &mut [u8], index: u8) {
    packed[SALE_INDEX_AT] = index;
}

/// A sale that a call touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touched {
    /// Which.
    pub sale_no: i32,
    /// Its counter in the lane after the call.
    pub free: i64,
    /// Its default time to pay, in ms.
    pub hold_ms: u32,
}

impl Touched {
    fn unpack(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Touched {
            sale_no: i32::try_from(r.uint(4)?).map_err(|_| Malformed)?,
            free: i64::from(i32::from_be_bytes(r.array()?)),
            hold_ms: r.uint32(4)?,
        })
    }
}

/// An accepted reservation in an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Index into [`Entry::touched`].
    pub sale: usize,
    /// What was asked.
    pub slip: Slip,
}

/// What an entry did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Reservations, in order; a slip that can't be read stands as its bytes.
    Reserve(Vec<Result<Accepted, Vec<u8>>>),
    /// Numbered grants from `first` on.
    Grant {
        /// Number of the first.
        first: i64,
        /// What each did.
        delivered: Vec<Delivered>,
    },
}

/// One entry of a lane's queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Generation of the lane, and place in it.
    pub epoch: u32,
    /// Place in the lane.
    pub seq: Seq,
    /// Of the call that wrote it.
    pub nonce: Nonce,
    /// Of the entry before it.
    pub prev: Nonce,
    /// The lane's time.
    pub at: Millis,
    /// Reservations of this epoch up to here.
    pub total: u64,
    /// Sales touched, with their counters afterwards.
    pub touched: Vec<Touched>,
    /// What it did.
    pub body: Body,
}

/// An entry's fields as they stand in the stream.
#[derive(Clone, Debug)]
pub struct RawEntry {
    /// `<epoch>-<seq>`.
    pub id: (u32, Seq),
    /// Field `kind`: `reserve` or `grant`.
    pub kind: Vec<u8>,
    /// Field `nonce`.
    pub nonce: Vec<u8>,
    /// Field `prev`.
    pub prev: Vec<u8>,
    /// Field `time`, ms in decimal.
    pub time: Vec<u8>,
    /// Field `total`, in decimal.
    pub total: Vec<u8>,
    /// Field `first`, in decimal; 0 in a `reserve`.
    pub first: Vec<u8>,
    /// Field `items`.
    pub items: Vec<u8>,
    /// Field `body`.
    pub body: Vec<u8>,
}

impl Entry {
    /// Reads an entry.
    ///
    /// # Errors
    /// A field is malformed. A malformed slip alone is not an error: it stands in the body as its bytes.
    pub fn decode(raw: &RawEntry) -> Result<Self, Malformed> {
        let mut touched = Vec::new();
        let mut items = Reader(&raw.items);
        while !items.is_empty() {
            touched.push(Touched::unpack(&mut items)?);
        }
        let body = match raw.kind.as_slice() {
            b"reserve" => Body::Reserve(decode_slips(&raw.body, touched.len())?),
            b"grant" => Body::Grant {
                first: decimal(&raw.first)?,
                delivered: Delivered::decode_all(&raw.body, &touched)?,
            },
            _ => return Err(Malformed),
        };
        Ok(Entry {
            epoch: raw.id.0,
            seq: raw.id.1,
            nonce: Nonce(raw.nonce.as_slice().try_into().map_err(|_| Malformed)?),
            prev: Nonce(raw.prev.as_slice().try_into().map_err(|_| Malformed)?),
            at: Millis(decimal(&raw.time)?),
            total: u64::try_from(decimal(&raw.total)?).map_err(|_| Malformed)?,
            touched,
            body,
        })
    }
}

/// Splits a run of length-prefixed parts.
pub(crate) fn split_parts(bytes: &[u8]) -> Result<Vec<&[u8]>, Malformed> {
    let mut parts = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let length = usize::try_from(Reader(rest).uint(2)?).map_err(|_| Malformed)?;
        if length < 4 {
            return Err(Malformed);
        }
        parts.push(Reader(rest).take(length)?);
        rest = &rest[length..];
    }
    Ok(parts)
}

fn decode_slips(bytes: &[u8], sales: usize) -> Result<Vec<Result<Accepted, Vec<u8>>>, Malformed> {
    let decode = |part: &[u8]| match Slip::unpack(part) {
        Ok((index, slip)) if (1..=sales).contains(&index.into()) => Ok(Accepted {
            sale: usize::from(index) - 1,
            slip,
        }),
        _ => Err(part.to_vec()),
    };
    Ok(split_parts(bytes)?.into_iter().map(decode).collect())
}

fn decimal(bytes: &[u8]) -> Result<i64, Malformed> {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slip() -> Slip {
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
            let mut packed = slip.pack();
            set_sale_index(&mut packed, 2);
            assert_eq!(Slip::unpack(&packed), Ok((2, slip)));
        }
    }

    #[test]
    fn a_malformed_slip_does_not_hide_its_neighbours() {
        let mut good = slip().pack();
        set_sale_index(&mut good, 1);
        let mut bad = good.clone();
        *bad.last_mut().expect("not empty") = 0xff;
        let slips = decode_slips(&[good.clone(), bad.clone(), good].concat(), 1).expect("splits");
        assert!(slips[0].is_ok() && slips[2].is_ok());
        assert_eq!(slips[1], Err(bad));
    }
}
