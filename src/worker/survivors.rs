//! What a recovery makes of the entries that survived in a lane's queue.
//!
//! An entry whose checksum is wrong is not believed. Where the entries around it, or the lane itself, tell its nonce and
//! how many reservations it had, those of its slips whose own checksums are right are carried all the same: their
//! requests, their places and so their ids are certain. What is not certain goes to quarantine.

use crate::domain::difference::{Difference, Kind, Site};
use crate::domain::entry::{Around, Body, Entry, EntryError, RawEntry};
use crate::domain::lane::{Cursor, LaneNo, Nonce, Seq};
use crate::domain::time::Millis;
use crate::flash::LaneMeta;
use crate::ledger::recon::LiveFound;
use crate::ledger::recovery::LaneSale;
use crate::metric;

/// What survived.
#[derive(Debug, Default)]
pub(super) struct Survivors {
    /// In the order of the queue.
    pub(super) entries: Vec<Entry>,
    /// What was not as it was written, in that order.
    pub(super) altered: Vec<Altered>,
}

/// An entry that was altered.
#[derive(Debug)]
pub(super) struct Altered {
    pub(super) raw: RawEntry,
    pub(super) error: EntryError,
    /// Some of its reservations are carried; else it goes to quarantine whole.
    pub(super) salvaged: bool,
}

/// Where the queue stands: place, nonce, and reservations of the epoch up to there.
#[derive(Clone, Copy)]
struct Point {
    epoch: u32,
    seq: Seq,
    nonce: Nonce,
    total: u64,
}

impl Survivors {
    /// Reads what follows the cursor in the queue of a lane that is closed. `now` is a time that no entry is later than.
    /// `sales` are those that the lane has.
    pub(super) fn read(
        raw: Vec<RawEntry>,
        cursor: Cursor,
        meta: Option<&LaneMeta>,
        sales: &[i32],
        now: Millis,
    ) -> Self {
        let decoded: Vec<_> = raw.iter().map(Entry::decode).collect();
        let mut last = Some(Point {
            epoch: cursor.epoch,
            seq: cursor.seq,
            nonce: cursor.nonce,
            total: cursor.total,
        });
        let mut survivors = Survivors::default();
        for (at, (raw, entry)) in raw.into_iter().zip(&decoded).enumerate() {
            let entry = match entry {
                Ok(entry) => Some(entry.clone()),
                Err(error) => {
                    let next = match decoded.get(at + 1) {
                        Some(next) => next.as_ref().ok().map(Next::of),
                        None => meta.map(|meta| Next::end(meta, raw.id.0, now)),
                    };
                    let around = last
                        .zip(next)
                        .and_then(|(last, next)| next.around(&last, raw.id, sales));
                    let entry = around.and_then(|around| Entry::salvage(&raw, &around));
                    survivors.altered.push(Altered {
                        raw,
                        error: *error,
                        salvaged: entry.is_some(),
                    });
                    entry
                }
            };
            last = entry.as_ref().map(|entry| Point {
                epoch: entry.epoch,
                seq: entry.seq,
                nonce: entry.nonce,
                total: entry.total,
            });
            survivors.entries.extend(entry);
        }
        survivors
    }
}

/// Logs and counts the slips of these entries that were altered. They are in quarantine, each with its place.
pub(super) fn tell_altered_slips(lane: LaneNo, entries: &[Entry]) {
    for entry in entries {
        let Body::Reserve(slips) = &entry.body else { continue };
        let altered: u64 = slips.iter().map(|slip| u64::from(slip.is_err())).sum();
        if altered > 0 {
            metrics::counter!(metric::ALTERED, "what" => "slip").increment(altered);
            tracing::error!(%lane, epoch = entry.epoch, seq = entry.seq, altered, "reservations of an entry were altered");
        }
    }
}

impl Altered {
    /// As a report tells it, once for each of the lane's sales that it speaks of.
    pub(super) fn found(&self, lane: LaneNo, sales: &[LaneSale]) -> Vec<LiveFound> {
        let (epoch, seq) = self.raw.id;
        let site = Site::default()
            .with_lane(lane)
            .with_figure(format!("entry {epoch}-{seq}"));
        let numbers: Vec<i32> = sales.iter().map(|of| of.sale.no).collect();
        let spoken_of = self.raw.sales(&numbers);
        let named = sales
            .iter()
            .map(|of| &of.sale)
            .filter(|sale| spoken_of.contains(&sale.no));
        let mut sites: Vec<Site> = named
            .map(|sale| site.clone().with_item(&sale.item).with_sale(sale.id.as_str()))
            .collect();
        if sites.is_empty() {
            sites.push(site);
        }
        let note = match self.salvaged {
            true => "the lane was recovered; what the entry's own slips prove was kept",
            false => "the lane was recovered; the entry is in quarantine",
        };
        let found = |site| LiveFound {
            difference: Difference::new(
                Kind::EntryAltered,
                site,
                "an entry of the queue",
                "as it was written",
                self.error.to_string(),
            ),
            repair: None,
            review: None,
            note: Some(note.to_owned()),
        };
        sites.into_iter().map(found).collect()
    }
}

/// What follows an entry: what it says of it.
#[derive(Clone, Copy)]
struct Next {
    /// The entry's own place, and its nonce.
    epoch: u32,
    seq: Seq,
    nonce: Nonce,
    total: u64,
    at: Millis,
}

impl Next {
    /// Another entry.
    fn of(entry: &Entry) -> Self {
        let count = match &entry.body {
            Body::Reserve(slips) => u64::try_from(slips.len()).expect("at most 128"),
            Body::Grant { .. } => 0,
        };
        Next {
            epoch: entry.epoch,
            seq: entry.seq.saturating_sub(1),
            nonce: entry.prev,
            total: entry.total.saturating_sub(count),
            at: entry.at,
        }
    }

    /// The end of the queue, of which the lane tells. Closing it has raised its epoch.
    fn end(meta: &LaneMeta, epoch: u32, now: Millis) -> Self {
        Next {
            epoch,
            seq: meta.seq,
            nonce: meta.nonce,
            total: meta.total,
            at: now,
        }
    }

    /// What is certain of the entry `id` between `last` and this; none where it does not stand there.
    fn around<'a>(&self, last: &Point, id: (u32, Seq), sales: &'a [i32]) -> Option<Around<'a>> {
        let stands = id == (last.epoch, last.seq + 1) && id == (self.epoch, self.seq);
        stands.then_some(Around {
            prev: last.nonce,
            nonce: self.nonce,
            total_before: last.total,
            total: self.total,
            at: self.at,
            sales,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::bytes::put_uint;
    use crate::domain::entry::{Slip, set_sale_index};
    use crate::domain::key::{Fingerprint, KeyHash};
    use crate::domain::trace::TraceId;

    const SALE: i32 = 70;
    const NOW: Millis = Millis(1_763_739_060_000);

    fn nonce(seq: Seq) -> Nonce {
        Nonce(seq.to_be_bytes())
    }

    /// Entry `seq` of two reservations.
    fn raw(seq: Seq) -> RawEntry {
        let slip = |n: u8| Slip {
            explicit_key: false,
            quantity: 2,
            ttl_ms: 0,
            key: KeyHash([n; 16]),
            line: KeyHash([n; 16]),
            fingerprint: Fingerprint([n; 8]),
            trace: TraceId([n; 16]),
            order: format!("o{seq}-{n}"),
            user: None,
        };
        let (mut items, mut body) = (Vec::new(), Vec::new());
        for value in [70, 50, 900_000] {
            put_uint(&mut items, value, 4);
        }
        for mut packed in [slip(1).pack(SALE), slip(2).pack(SALE)] {
            set_sale_index(&mut packed, 1);
            body.extend(packed);
        }
        let mut raw = RawEntry {
            id: (3, seq),
            kind: b"reserve".to_vec(),
            nonce: nonce(seq).0.to_vec(),
            prev: nonce(seq - 1).0.to_vec(),
            time: b"1763739059000".to_vec(),
            total: (2 * seq).to_string().into(),
            first: b"0".to_vec(),
            items,
            body,
            sum: Vec::new(),
        };
        raw.sum = raw.digest().expect("two slips").into();
        raw
    }

    /// Entries 6 to 9 after a cursor at 5, these of them altered, in a lane that says that it ended so.
    fn read(altered: &[usize], end: Seq, total: u64) -> Survivors {
        let mut entries: Vec<RawEntry> = (6..10).map(raw).collect();
        for at in altered {
            entries[*at].time[12] ^= 1;
        }
        let cursor = Cursor {
            epoch: 3,
            seq: 5,
            nonce: nonce(5),
            total: 10,
        };
        let meta = LaneMeta {
            epoch: 4,
            open: false,
            seq: end,
            nonce: nonce(end),
            grant_no: 0,
            total,
            done: 10,
        };
        Survivors::read(entries, cursor, Some(&meta), &[SALE], NOW)
    }

    fn seqs(survivors: &Survivors) -> Vec<Seq> {
        survivors.entries.iter().map(|entry| entry.seq).collect()
    }

    #[test]
    fn what_stands_between_two_that_are_sound_is_kept() {
        for at in 0..4 {
            let survivors = read(&[at], 9, 18);
            assert_eq!(seqs(&survivors), [6, 7, 8, 9], "{at}");
            assert!(survivors.altered.len() == 1 && survivors.altered[0].salvaged);
            for (entry, seq) in survivors.entries.iter().zip(6..) {
                assert_eq!(
                    (entry.nonce, entry.prev, entry.total),
                    (nonce(seq), nonce(seq - 1), 2 * seq)
                );
            }
            let at_latest = if at == 3 { NOW } else { Millis(1_763_739_059_000) };
            assert_eq!(survivors.entries[at].at, at_latest, "its own time can't be believed");
        }
        assert_eq!(seqs(&read(&[0, 2], 9, 18)), [6, 7, 8, 9], "each beside sound ones");
    }

    #[test]
    fn what_nothing_vouches_for_is_not() {
        assert_eq!(seqs(&read(&[1, 2], 9, 18)), [6, 9], "beside one another");
        for (end, total) in [(8, 16), (11, 18), (9, 20)] {
            let survivors = read(&[3], end, total);
            assert_eq!(seqs(&survivors), [6, 7, 8], "the lane ended at {end} with {total}");
            assert!(!survivors.altered[0].salvaged);
        }
    }
}
