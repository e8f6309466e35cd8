//! Reservation ids: 128 bits. Those of a lane name the queue entry in which the reservation was made.
//!
//! ```text
//! kind 3 | lane 9 | epoch 24 | seq 38 | place in the call 7 | nonce 24 | MAC 23     (bits, most significant first)
//! kind 3 | milliseconds since 1970 48 | random 54 | MAC 23       (made in the ledger: of one line, or a cart)
//! ```
//!
//! So a `GET` for a reservation that is not durable yet knows which lane to ask and how far its cursor must get; two
//! forks of one queue never share an id (the nonce); and an id that we never gave out is told from one that was lost
//! (the MAC). Printed as 26 digits of Crockford's base32 in lower case.

use std::fmt;
use std::sync::LazyLock;

use data_encoding::{Encoding, Specification};
use uuid::Uuid;

use super::lane::{Epoch, LaneNo, Nonce, Seq};
use super::time::Millis;

const LANE_BITS: u32 = 9;
const EPOCH_BITS: u32 = 24;
const SEQ_BITS: u32 = 38;
const INDEX_BITS: u32 = 7;
const NONCE_BITS: u32 = 24;
const MAC_BITS: u32 = 23;

/// Largest epoch an id can carry.
pub const EPOCH_MAX: Epoch = (1 << EPOCH_BITS) - 1;
/// Largest seq an id can carry: recovery starts a new epoch long before.
pub const SEQ_MAX: Seq = (1 << SEQ_BITS) - 1;
/// Most reservations one call can make.
pub const CALL_MAX: usize = 1 << INDEX_BITS;

const KIND_BITS: u32 = 3;
const TIME_BITS: u32 = 48;
const RANDOM_BITS: u32 = 54;

/// What an id names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A line that a lane reserved.
    Lane,
    /// A line that the ledger reserved.
    Ledger,
    /// A cart of lines.
    Cart,
}

impl Kind {
    fn bits(self) -> u128 {
        match self {
            Kind::Lane => 1,
            Kind::Ledger => 2,
            Kind::Cart => 3,
        }
    }

    fn read(bits: u128) -> Option<Self> {
        [Kind::Lane, Kind::Ledger, Kind::Cart]
            .into_iter()
            .find(|kind| kind.bits() == bits)
    }
}

static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut spec = Specification::new();
    spec.symbols.push_str("0123456789abcdefghjkmnpqrstvwxyz");
    spec.translate.from.push_str("ABCDEFGHJKMNPQRSTVWXYZ");
    spec.translate.to.push_str("abcdefghjkmnpqrstvwxyz");
    spec.encoding().expect("32 distinct symbols are an encoding")
});

/// Where a reservation was made: the part of its id that Redis keeps, 12 bytes packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Generation of the lane.
    pub epoch: Epoch,
    /// The call's place in the queue.
    pub seq: Seq,
    /// The reservation's place in the call, from 0.
    pub index: u8,
    /// Tail of the call's nonce.
    pub nonce: [u8; 3],
}

impl Place {
    /// A reservation of the call (epoch, seq, nonce).
    #[must_use]
    pub fn new(epoch: Epoch, seq: Seq, index: u8, nonce: Nonce) -> Self {
        Place {
            epoch,
            seq,
            index,
            nonce: nonce.tail(),
        }
    }

    /// epoch 3 bytes, seq 5, index 1, nonce 3.
    #[must_use]
    pub fn pack(self) -> [u8; 12] {
        let mut out = [0; 12];
        out[..3].copy_from_slice(&self.epoch.to_be_bytes()[1..]);
        out[3..8].copy_from_slice(&self.seq.to_be_bytes()[3..]);
        out[8] = self.index;
        out[9..].copy_from_slice(&self.nonce);
        out
    }

    /// The reverse of [`Place::pack`].
    #[must_use]
    pub fn unpack(b: [u8; 12]) -> Self {
        Place {
            epoch: u32::from_be_bytes([0, b[0], b[1], b[2]]),
            seq: u64::from_be_bytes([0, 0, 0, b[3], b[4], b[5], b[6], b[7]]),
            index: b[8],
            nonce: [b[9], b[10], b[11]],
        }
    }
}

/// The secret of a deployment that keys the MAC of its ids.
#[derive(Clone)]
pub struct IdKey(pub [u8; 32]);

impl fmt::Debug for IdKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdKey(secret)")
    }
}

impl IdKey {
    /// The id of the reservation made by `lane` at `place`.
    #[must_use]
    pub fn seal(&self, lane: LaneNo, place: Place) -> ReservationId {
        let mut bits = Kind::Lane.bits();
        let mut push = |value: u64, width: u32| bits = bits << width | u128::from(value & ((1 << width) - 1));
        push(lane.0.into(), LANE_BITS);
        push(place.epoch.into(), EPOCH_BITS);
        push(place.seq, SEQ_BITS);
        push(place.index.into(), INDEX_BITS);
        let [a, b, c] = place.nonce;
        push(u32::from_be_bytes([0, a, b, c]).into(), NONCE_BITS);
        self.signed(bits)
    }

    /// A new id for what the ledger reserves. Ids made later are greater, so that they lie together.
    #[must_use]
    pub fn mint(&self, kind: Kind, now: Millis, random: [u8; 16]) -> ReservationId {
        let time = u128::try_from(now.0.max(0)).expect("it is not negative") & ((1 << TIME_BITS) - 1);
        let random = u128::from_be_bytes(random) & ((1 << RANDOM_BITS) - 1);
        self.signed((kind.bits() << TIME_BITS | time) << RANDOM_BITS | random)
    }

    fn signed(&self, bits: u128) -> ReservationId {
        ReservationId(Uuid::from_u128(bits << MAC_BITS | self.mac(bits)))
    }

    /// Whether we gave this id out.
    #[must_use]
    pub fn is_genuine(&self, id: ReservationId) -> bool {
        let bits = id.0.as_u128();
        let body = bits >> MAC_BITS;
        id.kind().is_some() && self.mac(body) == bits & ((1 << MAC_BITS) - 1)
    }

    fn mac(&self, body: u128) -> u128 {
        let hash = blake3::keyed_hash(&self.0, &body.to_be_bytes());
        let b = hash.as_bytes();
        u128::from(u32::from_be_bytes([b[0], b[1], b[2], b[3]])) & ((1 << MAC_BITS) - 1)
    }
}

/// The id of a reservation, as clients see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReservationId(pub Uuid);

/// The text is not a reservation id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a reservation id")]
pub struct NotAnId;

impl ReservationId {
    /// What it names; none: nothing that was ever made.
    #[must_use]
    pub fn kind(self) -> Option<Kind> {
        Kind::read(self.0.as_u128() >> (128 - KIND_BITS))
    }

    /// The lane that made it, if one did.
    #[must_use]
    pub fn lane(self) -> LaneNo {
        LaneNo(
            u16::try_from(self.field(EPOCH_BITS + SEQ_BITS + INDEX_BITS + NONCE_BITS + MAC_BITS, LANE_BITS))
                .expect("9 bits fit"),
        )
    }

    /// Where in that lane, if one made it.
    #[must_use]
    pub fn place(self) -> Place {
        let nonce = u32::try_from(self.field(MAC_BITS, NONCE_BITS))
            .expect("24 bits fit")
            .to_be_bytes();
        Place {
            epoch: u32::try_from(self.field(SEQ_BITS + INDEX_BITS + NONCE_BITS + MAC_BITS, EPOCH_BITS))
                .expect("24 bits fit"),
            seq: self.field(INDEX_BITS + NONCE_BITS + MAC_BITS, SEQ_BITS),
            index: u8::try_from(self.field(NONCE_BITS + MAC_BITS, INDEX_BITS)).expect("7 bits fit"),
            nonce: [nonce[1], nonce[2], nonce[3]],
        }
    }

    fn field(self, shift: u32, width: u32) -> u64 {
        let masked = self.0.as_u128() >> shift & ((1u128 << width) - 1);
        u64::try_from(masked).expect("no field is wider than 38 bits")
    }
}

impl fmt::Display for ReservationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32.encode(self.0.as_bytes()))
    }
}

impl std::str::FromStr for ReservationId {
    type Err = NotAnId;
    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let bytes = BASE32.decode(text.as_bytes()).map_err(|_| NotAnId)?;
        Uuid::from_slice(&bytes).map(ReservationId).map_err(|_| NotAnId)
    }
}

impl serde::Serialize for ReservationId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for ReservationId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_names_its_place(lane in 0u16..512, epoch in 0..=EPOCH_MAX, seq in 0..=SEQ_MAX, index in 0u8..128, nonce: [u8; 8]) {
            let key = IdKey([7; 32]);
            let place = Place::new(epoch, seq, index, Nonce(nonce));
            let id = key.seal(LaneNo(lane), place);
            let text = id.to_string();
            prop_assert_eq!(text.len(), 26);
            prop_assert_eq!(text.parse(), Ok(id));
            prop_assert_eq!(text.to_uppercase().parse(), Ok(id));
            prop_assert_eq!((id.lane(), id.place()), (LaneNo(lane), place));
            prop_assert_eq!(Place::unpack(place.pack()), place);
            prop_assert!(key.is_genuine(id));
        }

        #[test]
        fn a_minted_id_says_what_it_names(now in 0i64..1 << 48, random: [u8; 16]) {
            let key = IdKey([7; 32]);
            for kind in [Kind::Ledger, Kind::Cart] {
                let id = key.mint(kind, Millis(now), random);
                prop_assert_eq!((id.kind(), key.is_genuine(id)), (Some(kind), true));
                prop_assert!(now == 0 || key.mint(kind, Millis(now - 1), random) < id);
            }
        }

        #[test]
        fn an_altered_id_is_not_genuine(bit in 0u32..128) {
            let key = IdKey([7; 32]);
            let id = key.seal(LaneNo(3), Place::new(1, 2, 3, Nonce([9; 8])));
            let altered = ReservationId(Uuid::from_u128(id.0.as_u128() ^ 1 << bit));
            prop_assert!(!key.is_genuine(altered));
        }
    }

    #[test]
    fn other_texts_are_not_ids() {
        for bad in [
            "",
            "o123",
            "01234567890123456789012345x",
            "zzzzzzzzzzzzzzzzzzzzzzzzzz",
            "iiiiiiiiiiiiiiiiiiiiiiiiii",
        ] {
            assert_eq!(bad.parse::<ReservationId>(), Err(NotAnId), "{bad}");
        }
    }
}
