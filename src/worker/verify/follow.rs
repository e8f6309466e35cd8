//! Following a lane's queue from the ledger's cursor to where the lane is now.
//!
//! Entries never change once written, so they may be read in steps; the last step reads them, the counter and the
//! records in one. What an entry did is told to the caller, who adds it to what the ledger has at the cursor.

use std::collections::HashMap;

use crate::domain::entry::{Body, Entry, EntryError, RawEntry};
use crate::domain::grant::Grant;
use crate::domain::lane::{LaneNo, Seq};
use crate::flash::{Flash, FlashError, LaneMeta};
use crate::ledger::audit::Foothold;

/// Entries per step, at most 128 reservations each: some MB, and a few ms of Redis' time.
const STEP: usize = 200;
/// Steps before we give up: a full queue is far shorter.
const STEPS_MAX: usize = 10_000;

/// Where following led.
#[derive(Debug)]
pub(super) enum Followed {
    /// To the end of the queue.
    Here(Seen),
    /// Nowhere: the lane is closed, gone, or at another epoch.
    NotHere(Option<LaneMeta>),
    /// To an entry that does not follow the one before it.
    Broken(Break),
    /// To an entry that is not as it was written.
    Altered(Box<RawEntry>, EntryError),
}

/// A lane at the end of its queue.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) meta: LaneMeta,
    /// The sales' counters; none where the lane does not have the sale.
    pub(super) free: Vec<Option<i64>>,
    /// In the order in which they were asked for.
    pub(super) records: Vec<Vec<u8>>,
}

/// Where a queue does not hold together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Break {
    /// `entry <epoch>-<seq>`, or the lane's end.
    pub(super) at: String,
    pub(super) says: &'static str,
    pub(super) expected: String,
    pub(super) found: String,
}

/// How far we have come.
struct Place {
    epoch: u32,
    seq: u64,
    nonce: [u8; 8],
    total: u64,
    grant_no: i64,
}

/// Follows the queue of a lane to its end, and reads there the counters of `sales`, and records of `buyers` of the first
/// of these.
pub(super) async fn follow(
    flash: &Flash,
    lane: LaneNo,
    sales: &[i32],
    from: &Foothold,
    buyers: &[String],
    mut each: impl FnMut(&Entry),
) -> Result<Followed, FlashError> {
    let mut at = Place {
        epoch: from.epoch,
        seq: from.cursor.seq,
        nonce: from.cursor.nonce.0,
        total: from.cursor.total,
        grant_no: from.delivered,
    };
    for _ in 0..STEPS_MAX {
        let view = flash.look(lane, sales, (at.epoch, at.seq), STEP, buyers).await?;
        let meta = match view.meta {
            Some(meta) if meta.open && meta.epoch == at.epoch => meta,
            other => return Ok(Followed::NotHere(other)),
        };
        let full = view.entries.len() == STEP;
        for raw in &view.entries {
            let entry = match Entry::decode(raw) {
                Ok(entry) => entry,
                Err(error) => return Ok(Followed::Altered(Box::new(raw.clone()), error)),
            };
            if let Err(broken) = at.step(&entry) {
                return Ok(Followed::Broken(broken));
            }
            each(&entry);
        }
        if full && meta.seq > at.seq {
            continue;
        }
        return Ok(match at.arrive(&meta) {
            Ok(()) => Followed::Here(Seen {
                meta,
                free: view.free,
                records: view.records,
            }),
            Err(broken) => Followed::Broken(broken),
        });
    }
    Err(FlashError::Unavailable(
        "the queue grows faster than it can be read".into(),
    ))
}

fn same<T: PartialEq + ToString>(at: &str, says: &'static str, expected: T, found: T) -> Result<(), Break> {
    if expected == found {
        return Ok(());
    }
    Err(Break {
        at: at.to_owned(),
        says,
        expected: expected.to_string(),
        found: found.to_string(),
    })
}

fn hex(nonce: [u8; 8]) -> String {
    data_encoding::HEXLOWER.encode(&nonce)
}

impl Place {
    /// Goes on to the next entry, if it is the next.
    fn step(&mut self, entry: &Entry) -> Result<(), Break> {
        let name = format!("entry {}-{}", entry.epoch, entry.seq);
        let next = format!("{}-{}", self.epoch, self.seq + 1);
        same(
            &name,
            "the entry that comes next",
            next,
            format!("{}-{}", entry.epoch, entry.seq),
        )?;
        same(
            &name,
            "the nonce of the entry before it, as it names it",
            hex(self.nonce),
            hex(entry.prev.0),
        )?;
        let mut total = self.total;
        match &entry.body {
            Body::Reserve(slips) => total += u64::try_from(slips.len()).expect("at most 128"),
            Body::Grant { first, delivered } => {
                same(&name, "the number of its first grant", self.grant_no + 1, *first)?;
                self.grant_no += i64::try_from(delivered.len()).expect("a few hundred");
            }
        }
        same(&name, "reservations of the epoch up to it", total, entry.total)?;
        (self.seq, self.nonce, self.total) = (entry.seq, entry.nonce.0, entry.total);
        Ok(())
    }

    /// The lane says that this is its end.
    fn arrive(&self, meta: &LaneMeta) -> Result<(), Break> {
        let at = "the end of its queue";
        same(at, "the lane's last entry", self.seq, meta.seq)?;
        same(
            at,
            "the nonce of the lane's last entry",
            hex(self.nonce),
            hex(meta.nonce.0),
        )?;
        same(at, "the lane's reservations of the epoch", self.total, meta.total)?;
        same(at, "the lane's last grant", self.grant_no, meta.grant_no)
    }
}

/// What entries did to the sales of a lane.
#[derive(Debug, Default)]
pub(super) struct Effects(HashMap<i32, Effect>);

/// What entries did to one sale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// Units more in its counter, as the ledger counts.
    pub(super) counter: i64,
    /// An entry in which somebody took units, and it can't be read how many.
    pub(super) unreadable: Option<(u32, Seq)>,
    /// The lane has it since.
    pub(super) opened: bool,
    /// The lane has forgotten it.
    pub(super) dropped: bool,
}

impl Effects {
    pub(super) fn of(&self, sale_no: i32) -> Effect {
        self.0.get(&sale_no).copied().unwrap_or_default()
    }

    pub(super) fn add(&mut self, entry: &Entry) {
        match &entry.body {
            Body::Reserve(slips) => {
                for slip in slips {
                    match slip {
                        Ok(taken) => {
                            self.at(entry, taken.sale).counter -= i64::from(taken.slip.quantity);
                        }
                        Err(_) => {
                            for touched in &entry.touched {
                                self.0.entry(touched.sale_no).or_default().unreadable = Some((entry.epoch, entry.seq));
                            }
                        }
                    }
                }
            }
            Body::Grant { delivered, .. } => {
                for delivered in delivered {
                    let effect = self.at(entry, delivered.sale);
                    effect.counter += delivered.counter_delta();
                    match delivered.grant {
                        Grant::Open(_) => (effect.opened, effect.dropped) = (true, false),
                        Grant::Drop => (effect.opened, effect.dropped) = (false, true),
                        _ => {}
                    }
                }
            }
        }
    }

    fn at(&mut self, entry: &Entry, sale: usize) -> &mut Effect {
        self.0.entry(entry.touched[sale].sale_no).or_default()
    }
}
