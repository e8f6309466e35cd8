//! Queue entries: what one script call changed in its lane, as Redis streams it and the writer reads it.
//!
//! An entry bears the digest that its script computed over its id and its fields ([`RawEntry::digest`]), each of its
//! slips a sum of its own: so it is known which of an entry's parts are not as they were written.

mod salvage;
mod slip;

pub use self::salvage::Around;
pub(crate) use self::slip::{SALE_INDEX_AT, set_length};
pub use self::slip::{Slip, SlipKeys, set_repeated, set_sale_index};
use super::bytes::{Malformed, Reader};
use super::grant::Delivered;
use super::lane::{Nonce, Seq};
use super::sum::digest;
use super::time::Millis;

/// A sale that a call touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touched {
    /// Which.
    pub sale_no: i32,
    /// Its counter in the lane after the call.
    pub free: i64,
    /// Its default time to pay, in ms; 0: not known, ask the ledger.
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
    /// Reservations, in order; a slip that is not as it was packed stands as its bytes.
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
    /// Field `sum`: the digest of the others.
    pub sum: Vec<u8>,
}

/// Why an entry can't be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// A field of it can't be read.
    #[error("a field can't be read")]
    Malformed,
    /// Its digest is not that of its fields.
    #[error("its checksum is wrong")]
    Altered,
}

impl From<Malformed> for EntryError {
    fn from(_: Malformed) -> Self {
        EntryError::Malformed
    }
}

impl RawEntry {
    /// The lane's time when it was made, as the entry has it.
    ///
    /// # Errors
    /// That can't be read.
    pub fn at(&self) -> Result<Millis, Malformed> {
        Ok(Millis(decimal(&self.time)?))
    }

    /// The digest of the entry, as `lua/entry.lua` has it: over id, kind, time, total, first, the length of the items,
    /// nonce, prev, items, and of a `reserve` the sums of its slips, which cover their bytes, of a `grant` the body.
    ///
    /// # Errors
    /// The body can't be split into slips.
    pub fn digest(&self) -> Result<String, Malformed> {
        let (epoch, seq) = self.id;
        let id = format!("{epoch}-{seq}");
        let length = self.items.len().to_string();
        let texts = [
            id.as_bytes(),
            &self.kind,
            &self.time,
            &self.total,
            &self.first,
            length.as_bytes(),
        ];
        let head = texts.join(&b' ');
        let sums = match self.kind.as_slice() {
            b"reserve" => {
                let slips = split_parts(&self.body)?;
                let sums = slips
                    .iter()
                    .map(|slip| slip::stored_sum(slip).copied().ok_or(Malformed));
                sums.collect::<Result<Vec<_>, _>>()?.concat()
            }
            _ => self.body.clone(),
        };
        Ok(digest(&[&head, b" ", &self.nonce, &self.prev, &self.items, &sums]))
    }
}

impl Entry {
    /// Reads an entry.
    ///
    /// # Errors
    /// A field is malformed, or not as it was written. That of a slip alone is not an error: it stands in the body as its
    /// bytes.
    pub fn decode(raw: &RawEntry) -> Result<Self, EntryError> {
        if raw.digest()?.as_bytes() != raw.sum {
            return Err(EntryError::Altered);
        }
        let mut touched = Vec::new();
        let mut items = Reader(&raw.items);
        while !items.is_empty() {
            touched.push(Touched::unpack(&mut items)?);
        }
        let body = match raw.kind.as_slice() {
            b"reserve" => Body::Reserve(decode_slips(&raw.body, &touched)?),
            b"grant" => Body::Grant {
                first: decimal(&raw.first)?,
                delivered: Delivered::decode_all(&raw.body, &touched)?,
            },
            _ => return Err(EntryError::Malformed),
        };
        Ok(Entry {
            epoch: raw.id.0,
            seq: raw.id.1,
            nonce: Nonce(raw.nonce.as_slice().try_into().map_err(|_| Malformed)?),
            prev: Nonce(raw.prev.as_slice().try_into().map_err(|_| Malformed)?),
            at: raw.at()?,
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

fn decode_slips(bytes: &[u8], touched: &[Touched]) -> Result<Vec<Result<Accepted, Vec<u8>>>, Malformed> {
    let decode = |part: &[u8]| {
        let sale = part
            .get(SALE_INDEX_AT)
            .and_then(|index| usize::from(*index).checked_sub(1));
        let of = sale.and_then(|sale| Some((sale, touched.get(sale)?.sale_no)));
        let slip = of.and_then(|(sale, sale_no)| Some((sale, Slip::unpack(part, sale_no).ok()?)));
        slip.map(|(sale, slip)| Accepted { sale, slip })
            .ok_or_else(|| part.to_vec())
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
    use super::slip::tests::slip;
    use super::*;
    use crate::domain::bytes::put_uint;

    pub(in crate::domain::entry) const SALES: [i32; 2] = [70, 71];

    /// The entry of a call that accepted these slips, of [`SALES`] in turn.
    pub(in crate::domain::entry) fn raw(seq: Seq, total: u64, slips: &[Slip]) -> RawEntry {
        let (mut items, mut body) = (Vec::new(), Vec::new());
        for sale_no in [70, 71] {
            for value in [sale_no, 50, 900_000] {
                put_uint(&mut items, value, 4);
            }
        }
        for (n, slip) in slips.iter().enumerate() {
            let mut packed = slip.pack(SALES[n % 2]);
            set_sale_index(&mut packed, if n % 2 == 0 { 1 } else { 2 });
            body.extend(packed);
        }
        let name = |seq: Seq| seq.to_be_bytes().to_vec();
        let mut raw = RawEntry {
            id: (3, seq),
            kind: b"reserve".to_vec(),
            nonce: name(seq),
            prev: name(seq - 1),
            time: b"1763739059000".to_vec(),
            total: total.to_string().into(),
            first: b"0".to_vec(),
            items,
            body,
            sum: Vec::new(),
        };
        raw.sum = raw.digest().expect("it can be split").into();
        raw
    }

    #[test]
    fn an_altered_slip_does_not_hide_its_neighbours() {
        let mut raw = raw(5, 3, &[slip(), slip(), slip()]);
        let length = raw.body.len() / 3;
        raw.body[2 * length - 1] ^= 1;
        let entry = Entry::decode(&raw).expect("the entry itself is as it was written");
        let Body::Reserve(slips) = entry.body else {
            panic!("{entry:?}")
        };
        assert!(slips[0].is_ok() && slips[2].is_ok());
        assert_eq!(slips[1], Err(raw.body[length..2 * length].to_vec()));
    }

    #[test]
    fn an_altered_field_is_found() {
        type Alter = fn(&mut RawEntry);
        let alter: [(&str, Alter); 12] = [
            ("epoch", |raw| raw.id.0 += 1),
            ("seq", |raw| raw.id.1 += 1),
            ("kind", |raw| raw.kind = b"grant".to_vec()),
            ("nonce", |raw| raw.nonce[7] ^= 1),
            ("prev", |raw| raw.prev[0] ^= 128),
            ("time", |raw| raw.time[3] ^= 1),
            ("total", |raw| raw.total = b"4".to_vec()),
            ("first", |raw| raw.first = b"1".to_vec()),
            ("a counter", |raw| raw.items[7] ^= 1),
            ("a slip that is gone", |raw| raw.body.truncate(raw.body.len() / 3 * 2)),
            ("a slip's sum", |raw| raw.body[slip::tests::SUM_BYTE] ^= 1),
            ("sum", |raw| raw.sum[15] = b'x'),
        ];
        let good = raw(5, 3, &[slip(), slip(), slip()]);
        assert!(Entry::decode(&good).is_ok());
        for (what, alter) in alter {
            let mut bad = good.clone();
            alter(&mut bad);
            assert!(Entry::decode(&bad).is_err(), "{what}");
        }
        let mut grants = RawEntry {
            kind: b"grant".to_vec(),
            first: b"9".to_vec(),
            body: vec![0, 12, 1, 1, 0, 0, 0, 7, 0, 0, 0, 1],
            ..good
        };
        grants.sum = grants.digest().expect("nothing is split").into();
        assert!(Entry::decode(&grants).is_ok());
        grants.body[7] ^= 1;
        assert_eq!(Entry::decode(&grants), Err(EntryError::Altered), "a grant's units");
    }
}
