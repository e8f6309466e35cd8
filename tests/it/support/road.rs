//! A lane as its queue shows it: the entries that the scripts would write, of whatever they are told to accept.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use flashgate::domain::entry::{Accepted, Body, Entry, Slip, Touched};
use flashgate::domain::grant::{Delivered, Grant};
use flashgate::domain::key::{Fingerprint, KeyHash};
use flashgate::domain::lane::{Cursor, LaneNo, Nonce};
use flashgate::domain::sale::Sale;
use flashgate::domain::time::Millis;
use flashgate::domain::trace::TraceId;
use flashgate::ledger::grants::NumberedGrant;

pub(crate) const HOLD_MS: u32 = 900_000;

/// A lane's queue.
#[derive(Clone, Debug)]
pub(crate) struct Road {
    pub(crate) lane: LaneNo,
    /// After the last entry.
    pub(crate) at: Cursor,
    /// Units free in Redis, by sale.
    pub(crate) free: BTreeMap<i32, i64>,
    /// Last grant delivered.
    pub(crate) grant_no: i64,
    pub(crate) time: Millis,
}

pub(crate) fn nonce() -> Nonce {
    Nonce(rand::random())
}

impl Road {
    /// The next entry: these slips were accepted.
    pub(crate) fn reserve(&mut self, sale_no: i32, slips: Vec<Slip>) -> Entry {
        let slips = slips.into_iter().map(Ok).collect();
        self.reserve_raw(sale_no, slips, 0)
    }

    /// The next entry, some of it unreadable; `lost` units went to the unreadable ones.
    pub(crate) fn reserve_raw(&mut self, sale_no: i32, slips: Vec<Result<Slip, Vec<u8>>>, lost: i64) -> Entry {
        let units = |slip: &Result<Slip, Vec<u8>>| slip.as_ref().map_or(0, |slip| i64::from(slip.quantity));
        let taken: i64 = slips.iter().map(units).sum();
        *self.free.entry(sale_no).or_default() -= taken + lost;
        let count = u64::try_from(slips.len()).expect("few");
        let accept = |slip: Result<Slip, Vec<u8>>| slip.map(|slip| Accepted { sale: 0, slip });
        let body = Body::Reserve(slips.into_iter().map(accept).collect());
        self.push(body, &[sale_no], count)
    }

    /// The next entry: these grants were delivered.
    pub(crate) fn deliver(&mut self, grants: &[NumberedGrant]) -> Entry {
        let mut sales: Vec<i32> = grants.iter().map(|grant| grant.sale_no).collect();
        sales.sort_unstable();
        sales.dedup();
        let first = grants[0].grant_no;
        let delivered = grants.iter().map(|grant| {
            let message = Grant::unpack(&grant.body).expect("a grant");
            let outcome = self.obey(grant.sale_no, &message);
            Delivered {
                sale: sales.binary_search(&grant.sale_no).expect("it is one of them"),
                grant: message,
                outcome,
            }
        });
        let delivered = delivered.collect();
        self.grant_no = grants.last().expect("some").grant_no;
        self.push(Body::Grant { first, delivered }, &sales, 0)
    }

    fn obey(&mut self, sale_no: i32, grant: &Grant) -> u32 {
        let free = self.free.entry(sale_no).or_default();
        match grant {
            Grant::Units(units) => *free += i64::from(*units),
            Grant::End { quantity, .. } => *free += i64::from(*quantity),
            Grant::Take { units, .. } => {
                let taken = i64::from(*units).min(*free).max(0);
                *free -= taken;
                return u32::try_from(taken).expect("not negative");
            }
            Grant::TakeWhole(units) if *free < i64::from(*units) => return 0,
            Grant::TakeWhole(units) => {
                *free -= i64::from(*units);
                return *units;
            }
            Grant::Retake { quantity, .. } if *free < i64::from(*quantity) => return 0,
            Grant::Retake { quantity, .. } => *free -= i64::from(*quantity),
            Grant::Correct(delta) => *free += i64::from(*delta),
            Grant::Open(_) | Grant::Settings(_) | Grant::Drop | Grant::Record { .. } => {}
        }
        1
    }

    fn push(&mut self, body: Body, sales: &[i32], reservations: u64) -> Entry {
        let touched = |sale_no: &i32| Touched {
            sale_no: *sale_no,
            free: self.free[sale_no],
            hold_ms: HOLD_MS,
        };
        let entry = Entry {
            epoch: self.at.epoch,
            seq: self.at.seq + 1,
            nonce: nonce(),
            prev: self.at.nonce,
            at: self.time,
            total: self.at.total + reservations,
            touched: sales.iter().map(touched).collect(),
            body,
        };
        self.at = Cursor {
            epoch: entry.epoch,
            seq: entry.seq,
            nonce: entry.nonce,
            total: entry.total,
        };
        entry
    }
}

/// A request for units of `item` with a derived key; the order is its own buyer.
pub(crate) fn slip(sale: &Sale, order: &str, quantity: u32) -> Slip {
    let line = KeyHash::order_line(order, sale.item.sku.as_str(), sale.item.location.as_str());
    Slip {
        explicit_key: false,
        quantity,
        ttl_ms: 0,
        key: line,
        line,
        fingerprint: Fingerprint::of(&[order, &quantity.to_string()]),
        trace: TraceId([9; 16]),
        order: order.to_owned(),
        user: None,
    }
}

/// The same from a user.
pub(crate) fn of_user(slip: Slip, user: &str) -> Slip {
    Slip {
        user: Some(user.to_owned()),
        ..slip
    }
}

/// The same with a key of the client's own.
pub(crate) fn with_key(slip: Slip, key: &str) -> Slip {
    Slip {
        explicit_key: true,
        key: KeyHash::explicit("reserve", key),
        ..slip
    }
}

/// An order that no other test has.
pub(crate) fn fresh(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{prefix}{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
