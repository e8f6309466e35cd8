//! Lanes: their numbers, epochs, sequence numbers, nonces and cursors, and which lane is a buyer's home.

use std::fmt;

/// A lane's number, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct LaneNo(pub u16);

impl LaneNo {
    /// As Postgres stores it.
    #[must_use]
    pub fn to_i16(self) -> i16 {
        i16::try_from(self.0).expect("lanes are at most 512")
    }

    /// As Postgres stores it.
    #[must_use]
    pub fn from_i16(lane: i16) -> Self {
        LaneNo(u16::try_from(lane).expect("the lane table holds 0 to 511"))
    }
}

impl fmt::Display for LaneNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The generation of a lane: recovery raises it, and whatever speaks for an older one is refused. At most 2^24 - 1.
pub type Epoch = u32;

/// The place of a call in its lane's queue, from 1 within an epoch. At most 2^38 - 1.
pub type Seq = u64;

/// Marks one script call; drawn at random by the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Nonce(pub [u8; 8]);

impl Nonce {
    /// As Postgres stores it.
    #[must_use]
    pub fn to_i64(self) -> i64 {
        i64::from_be_bytes(self.0)
    }

    /// As Postgres stores it.
    #[must_use]
    pub fn from_i64(value: i64) -> Self {
        Nonce(value.to_be_bytes())
    }

    /// The last three bytes, which go into reservation ids.
    #[must_use]
    pub fn tail(self) -> [u8; 3] {
        [self.0[5], self.0[6], self.0[7]]
    }
}

/// The last queue entry that is durable: who moves it must name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Generation of the lane.
    pub epoch: Epoch,
    /// Place in the queue; 0 before the first entry of an epoch.
    pub seq: Seq,
    /// Nonce of that entry; of the recovery, at seq 0.
    pub nonce: Nonce,
    /// Reservations up to here in this epoch.
    pub total: u64,
}

/// The bucket, as an index below `buckets`, that serves a buyer: allowance, keys and counter in one lane.
///
/// # Panics
/// `buckets` is 0, which no sale has.
#[must_use]
pub fn home_bucket(buyer: &str, buckets: usize) -> usize {
    let hash = blake3::hash(buyer.as_bytes());
    let mut head = [0; 8];
    head.copy_from_slice(&hash.as_bytes()[..8]);
    let buckets = u64::try_from(buckets).expect("a sale has at most 512 buckets");
    usize::try_from(u64::from_be_bytes(head) % buckets).expect("below the number of buckets")
}
