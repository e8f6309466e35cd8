//! The reservations that entries ask the ledger to make, and which of them can't be stored whatever happens.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::book::Books;
use super::carry::Work;
use crate::domain::entry::{Body, Entry, SALE_INDEX_AT, Slip};
use crate::domain::id::{OrderId, UserId};
use crate::domain::lane::LaneNo;
use crate::domain::quantity::Quantity;
use crate::domain::reservation_id::{IdKey, Place};
use crate::domain::time::Millis;

/// An entry's time is at most this far ahead of ours: a lane's time is Postgres' own, and never runs back.
const AHEAD_MAX: TimeDelta = TimeDelta::days(1);
/// No queue is older.
const BEHIND_MAX: TimeDelta = TimeDelta::days(366);

/// A reservation to be made.
#[derive(Debug)]
pub(in crate::ledger) struct Ask<'a> {
    /// Its entry, as an index into the parts of the work.
    pub(super) part: usize,
    /// Its id.
    pub(in crate::ledger) id: Uuid,
    /// Its place.
    pub(super) place: Place,
    /// Of which sale.
    pub(super) sale_no: i32,
    /// What was asked; none: unreadable, or altered.
    pub(super) slip: Option<&'a Slip>,
    /// The bytes of an unreadable one.
    pub(super) raw: &'a [u8],
    /// The lane's time, or ours where that makes no sense.
    pub(super) at: DateTime<Utc>,
    /// Its time to pay; none: the sale's, as it is now.
    pub(super) hold_ms: Option<u32>,
    /// Why it can't be stored.
    pub(super) poison: Option<String>,
}

impl<'a> Ask<'a> {
    /// The sale, and who wants its units, where a user is named and it can be stored.
    pub(super) fn user(&self) -> Option<(i32, &'a str)> {
        let slip = self.slip.filter(|_| self.poison.is_none())?;
        slip.user.as_deref().map(|user| (self.sale_no, user))
    }

    /// Units that it asks for; 0 where that is unreadable.
    pub(super) fn units(&self) -> i64 {
        self.slip.map_or(0, |slip| slip.quantity.into())
    }

    /// Its time to pay.
    pub(super) fn hold_ms(&self, books: &Books) -> i64 {
        self.hold_ms.unwrap_or_else(|| books.hold_ms(self.sale_no)).into()
    }
}

/// All reservations of the entries, in order, except those already known and those that a probe leaves out.
pub(in crate::ledger) fn read_asks<'a>(work: &Work<'a>) -> Vec<Ask<'a>> {
    let mut asks = Vec::new();
    for (part, entry) in work.parts.iter().map(|part| part.entry).enumerate() {
        let Body::Reserve(slips) = &entry.body else { continue };
        for (index, accepted) in (0u8..).zip(slips) {
            let place = Place::new(entry.epoch, entry.seq, index, entry.nonce);
            let id = work.id_key.seal(work.lane, place).0;
            let left_out = work.known.contains(&id) || work.only.is_some_and(|only| !only.contains(&id));
            let (sale, slip, raw) = match accepted {
                Ok(accepted) => (accepted.sale, Some(&accepted.slip), &[] as &[u8]),
                Err(bytes) => (sale_of(bytes, entry), None, bytes.as_slice()),
            };
            let Some(touched) = entry.touched.get(sale).filter(|_| !left_out) else {
                continue;
            };
            let (at, sane) = sane_time(entry.at, work.now);
            let hold_ms = [slip.map_or(0, |slip| slip.ttl_ms), touched.hold_ms];
            asks.push(Ask {
                part,
                id,
                place,
                sale_no: touched.sale_no,
                slip,
                raw,
                at,
                hold_ms: hold_ms.into_iter().find(|hold_ms| *hold_ms > 0),
                poison: match slip {
                    None => Some("the slip is not as it was packed".to_owned()),
                    Some(_) if !sane => Some("the entry's time is out of range".to_owned()),
                    Some(slip) => fault(slip).map(str::to_owned).or_else(|| work.poison.get(&id).cloned()),
                },
            });
        }
    }
    asks
}

/// Ids and times of all readable reservations: what may be at fault when Postgres refuses a batch.
pub(in crate::ledger) fn ids(lane: LaneNo, id_key: &IdKey, entries: &[Entry]) -> Vec<(Uuid, DateTime<Utc>)> {
    let mut ids = Vec::new();
    for entry in entries {
        let Body::Reserve(slips) = &entry.body else { continue };
        for (index, _) in (0u8..).zip(slips).filter(|(_, slip)| slip.is_ok()) {
            let place = Place::new(entry.epoch, entry.seq, index, entry.nonce);
            ids.push((id_key.seal(lane, place).0, entry.at.to_utc()));
        }
    }
    ids
}

/// Unreadable reservations per (part, sale): the units that a counter lacks are theirs.
pub(super) fn unreadable(asks: &[Ask<'_>]) -> HashMap<(usize, i32), Vec<usize>> {
    let mut found: HashMap<(usize, i32), Vec<usize>> = HashMap::new();
    for (at, ask) in asks.iter().enumerate().filter(|(_, ask)| ask.slip.is_none()) {
        found.entry((ask.part, ask.sale_no)).or_default().push(at);
    }
    found
}

/// An unreadable slip's sale: by its sum, where nothing but the index of its sale was altered; else as far as its head
/// tells; else the entry's first.
fn sale_of(bytes: &[u8], entry: &Entry) -> usize {
    let by_sum = || {
        entry
            .touched
            .iter()
            .position(|of| Slip::unpack(bytes, of.sale_no).is_ok())
    };
    let by_index = || {
        let index = bytes.get(SALE_INDEX_AT)?;
        usize::from(*index)
            .checked_sub(1)
            .filter(|sale| *sale < entry.touched.len())
    };
    by_sum().or_else(by_index).unwrap_or(0)
}

fn sane_time(at: Millis, now: DateTime<Utc>) -> (DateTime<Utc>, bool) {
    let at = at.to_utc();
    if at > now + AHEAD_MAX || at < now - BEHIND_MAX {
        (now, false)
    } else {
        (at, true)
    }
}

/// What no row may hold, since no request could ask for it.
pub(in crate::ledger) fn fault(slip: &Slip) -> Option<&'static str> {
    if OrderId::try_from(slip.order.as_str()).is_err() {
        Some("the order is no id")
    } else if slip.user.as_deref().is_some_and(|user| UserId::try_from(user).is_err()) {
        Some("the user is no id")
    } else if Quantity::try_from(i64::from(slip.quantity)).is_err() {
        Some("the quantity is out of range")
    } else {
        None
    }
}
