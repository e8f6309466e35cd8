//! Notices: which calls became durable, and which of their reservations the ledger refused.
//!
//! The lane's owner tells them to its own waiters at once and publishes them to every other gateway. A notice names
//! each call by (epoch, seq, nonce), never "everything up to n": after a step back in time the same numbers may stand
//! for other requests.

use uuid::Uuid;

use crate::domain::bytes::{Malformed, Reader, put_uint};
use crate::domain::lane::{Epoch, Nonce, Seq};
use crate::domain::outcome::Durability;
use crate::domain::reservation::Cause;
use crate::domain::reservation_id::ReservationId;

/// One call that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettledCall {
    /// Its place in the queue.
    pub seq: Seq,
    /// Its nonce.
    pub nonce: Nonce,
    /// Reservations, by their place in the call, that the ledger refused; all others are durable.
    pub refused: Vec<(u8, Durability)>,
}

/// Calls of one lane and epoch that became durable in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The gateway that wrote them; it has told its own waiters already.
    pub from: Uuid,
    /// Generation of the lane.
    pub epoch: Epoch,
    /// In order.
    pub calls: Vec<SettledCall>,
}

const CAUSES: [Cause; 7] = [
    Cause::Lost,
    Cause::Surplus,
    Cause::KeyReused,
    Cause::Replay,
    Cause::OrderAlreadyReserved,
    Cause::UserLimit,
    Cause::Poison,
];

impl Notice {
    /// As it is published.
    #[must_use]
    pub fn pack(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24 + 18 * self.calls.len());
        out.extend_from_slice(self.from.as_bytes());
        put_uint(&mut out, self.epoch.into(), 4);
        for call in &self.calls {
            put_uint(&mut out, call.seq, 8);
            out.extend_from_slice(&call.nonce.0);
            out.push(u8::try_from(call.refused.len()).expect("a call holds at most 128 reservations"));
            for (index, durability) in &call.refused {
                let Durability::Rejected { cause, first } = durability else {
                    continue;
                };
                let cause = CAUSES
                    .iter()
                    .position(|known| known == cause)
                    .expect("every cause is listed");
                out.extend_from_slice(&[*index, u8::try_from(cause).expect("there are seven")]);
                out.extend_from_slice(first.map_or(Uuid::nil(), |id| id.0).as_bytes());
            }
        }
        out
    }

    /// The reverse of [`Notice::pack`].
    ///
    /// # Errors
    /// The bytes are no notice.
    pub fn unpack(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader(bytes);
        let from = Uuid::from_bytes(r.array()?);
        let epoch = r.uint32(4)?;
        let mut calls = Vec::new();
        while !r.is_empty() {
            let (seq, nonce) = (r.uint(8)?, Nonce(r.array()?));
            let mut refused = Vec::new();
            for _ in 0..r.byte()? {
                let index = r.byte()?;
                let cause = *CAUSES.get(usize::from(r.byte()?)).ok_or(Malformed)?;
                let first = Uuid::from_bytes(r.array()?);
                let first = (!first.is_nil()).then_some(ReservationId(first));
                refused.push((index, Durability::Rejected { cause, first }));
            }
            calls.push(SettledCall { seq, nonce, refused });
        }
        Ok(Notice { from, epoch, calls })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_survives_its_journey() {
        let first = Some(ReservationId(Uuid::from_u128(7)));
        let refused = CAUSES
            .into_iter()
            .enumerate()
            .map(|(i, cause)| {
                (
                    u8::try_from(i).expect("small"),
                    Durability::Rejected {
                        cause,
                        first: first.filter(|_| i % 2 == 0),
                    },
                )
            })
            .collect();
        let notice = Notice {
            from: Uuid::from_u128(5),
            epoch: 3,
            calls: vec![
                SettledCall {
                    seq: 1,
                    nonce: Nonce([1; 8]),
                    refused: vec![],
                },
                SettledCall {
                    seq: 2,
                    nonce: Nonce([2; 8]),
                    refused,
                },
            ],
        };
        assert_eq!(Notice::unpack(&notice.pack()), Ok(notice));
    }
}
