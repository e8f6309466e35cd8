//! Lanes and counters: a lane is where the ledger has it, its queue holds together, and each of its counters is what
//! grants and reservations make it.

use std::time::Instant;

use super::buyers::{self, At};
use super::follow::{Break, Effect, Effects, Followed, follow};
use super::{Finding, Halves, LOOKS, PAUSE, VerifyError, in_both, may_pass};
use crate::domain::difference::{Difference, Kind, Site};
use crate::domain::entry::{EntryError, RawEntry};
use crate::domain::grant::Grant;
use crate::domain::lane::{LaneNo, Seq};
use crate::flash::{Flash, FlashError, LaneMeta};
use crate::ledger::Ledger;
use crate::ledger::audit::repair::Repair;
use crate::ledger::audit::{BucketView, Foothold, LaneView};

/// Counters that are looked at in one script call.
const SALES_STEP: usize = 64;

/// What one look at a lane found.
enum Look {
    Compared {
        findings: Vec<Finding>,
        notes: Vec<String>,
        view: LaneView,
    },
    /// It is closed here, and sells nothing.
    Idle,
    /// The ledger alone decides for it: there is nothing to compare it with.
    Aside,
    /// It sells nothing, and can't be asked.
    Unreached,
    /// It is closed, gone, or at another epoch in Redis; the ledger has it so.
    Elsewhere(Foothold, Option<LaneMeta>),
    /// An entry in flight, of which slips were altered, must be durable first: its writer sets them aside.
    Unsettled(Vec<Finding>),
}

/// Compares a lane, its counters and its records. Until `until` it may be unreachable, or in recovery.
pub(super) async fn compare(
    ledger: &Ledger,
    flash: &Flash,
    lane: LaneNo,
    until: Instant,
) -> Result<Halves, VerifyError> {
    let (mut halves, buckets) = compare_counters(ledger, flash, lane, until).await?;
    for bucket in &buckets {
        let compared = buyers::compare(ledger, flash, lane, bucket, until, At::default(), usize::MAX).await?;
        halves = halves.merge(compared.halves);
    }
    Ok(halves)
}

/// Compares a lane and its counters; returns the sales whose records can be compared, too.
pub(super) async fn compare_counters(
    ledger: &Ledger,
    flash: &Flash,
    lane: LaneNo,
    until: Instant,
) -> Result<(Halves, Vec<BucketView>), VerifyError> {
    let mut halves = Halves::default();
    let mut last: Option<Vec<Finding>> = None;
    let mut looks = 0;
    let view = loop {
        match look(ledger, flash, lane).await {
            Ok(Look::Idle) => return Ok((halves, Vec::new())),
            Ok(Look::Aside) => {
                let what = "is left to the ledger while Redis is away: there is nothing to compare it with";
                halves.notes.push(format!("lane {lane} {what}"));
                return Ok((halves, Vec::new()));
            }
            Ok(Look::Unreached) if Instant::now() >= until => {
                halves
                    .notes
                    .push(format!("lane {lane} sells nothing and can't be asked"));
                return Ok((halves, Vec::new()));
            }
            Ok(Look::Compared { findings, notes, view }) => {
                looks += 1;
                let findings = in_both(last.as_deref(), findings);
                if findings.is_empty() || looks == LOOKS {
                    halves.findings = findings;
                    halves.notes = notes;
                    break view;
                }
                last = Some(findings);
            }
            Ok(Look::Elsewhere(foothold, meta)) if Instant::now() >= until => {
                elsewhere(&mut halves, lane, &foothold, meta.as_ref());
                return Ok((halves, Vec::new()));
            }
            Ok(Look::Unsettled(findings)) if Instant::now() >= until => {
                halves.findings = findings;
                return Ok((halves, Vec::new()));
            }
            Err(error) if !may_pass(&error) || Instant::now() >= until => return Err(error),
            Ok(Look::Elsewhere(..) | Look::Unsettled(_) | Look::Unreached) | Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    };
    halves.lanes = 1;
    halves.counters = i64::try_from(view.buckets.len()).expect("a lane has few sales");
    let breaks = [Kind::QueueChain, Kind::EntryAltered];
    let broken = halves.findings.iter().any(|f| breaks.contains(&f.difference.kind));
    let mut buckets = view.buckets;
    buckets.retain(|bucket| !bucket.drained);
    if broken {
        for bucket in buckets.drain(..) {
            halves.undecided.push(format!(
                "records of sale {} in lane {lane}: the queue does not lead there",
                bucket.sale_id
            ));
        }
    }
    Ok((halves, buckets))
}

async fn look(ledger: &Ledger, flash: &Flash, lane: LaneNo) -> Result<Look, VerifyError> {
    let view = ledger.lane_view(lane).await?;
    let foothold = view.foothold;
    if foothold.fallback {
        return Ok(Look::Aside);
    }
    let sells_nothing = view.buckets.iter().all(|bucket| !bucket.present);
    if !foothold.open {
        return Ok(if sells_nothing {
            Look::Idle
        } else {
            Look::Elsewhere(foothold, None)
        });
    }
    let (mut findings, mut notes, mut unsettled) = (Vec::new(), Vec::new(), Vec::new());
    // Before the queue is read to its end, which tells what the lane has and the ledger's view does not know yet.
    let there = match flash.lane_sales(lane).await {
        Err(FlashError::Unavailable(_)) if sells_nothing => return Ok(Look::Unreached),
        there => there?,
    };
    // A lane that sells nothing has a queue all the same.
    for from in (0..view.buckets.len().max(1)).step_by(SALES_STEP) {
        let until = view.buckets.len().min(from + SALES_STEP);
        let buckets = &view.buckets[from..until];
        let sales: Vec<i32> = buckets.iter().map(|bucket| bucket.sale_no).collect();
        let mut effects = Effects::default();
        let followed = follow(flash, lane, &sales, &foothold, &[], |entry| effects.add(entry)).await;
        let seen = match followed {
            Err(FlashError::Unavailable(_)) if sells_nothing => return Ok(Look::Unreached),
            followed => followed?,
        };
        let seen = match seen {
            Followed::Here(seen) => seen,
            Followed::NotHere(meta) => return Ok(Look::Elsewhere(foothold, meta)),
            Followed::Broken(broken) => {
                findings = vec![unrepairable(queue_chain(lane, &broken))];
                return Ok(Look::Compared { findings, notes, view });
            }
            Followed::Altered(raw, error) => {
                findings = altered_entry(lane, &view, &raw, error);
                return Ok(Look::Compared { findings, notes, view });
            }
        };
        for (bucket, free) in buckets.iter().zip(&seen.free) {
            let effect = effects.of(bucket.sale_no);
            if let Some(entry) = effect.unreadable {
                let says = "the checksums of the reservations in an entry of the queue";
                unsettled.push(altered(lane, Some(bucket), entry, says, "wrong"));
            } else {
                findings.extend(counter(lane, bucket, effect, *free, seen.meta.grant_no, &mut notes));
            }
        }
        if until == view.buckets.len() {
            findings.extend(strangers(lane, &view, &effects, &there));
        }
    }
    if !unsettled.is_empty() {
        return Ok(Look::Unsettled(unsettled));
    }
    Ok(Look::Compared { findings, notes, view })
}

/// An entry that is not as it was written, once for each sale that it speaks of.
fn altered_entry(lane: LaneNo, view: &LaneView, raw: &RawEntry, error: EntryError) -> Vec<Finding> {
    let (says, found) = match error {
        EntryError::Malformed => ("an entry of the queue", "unreadable"),
        EntryError::Altered => ("the checksum of an entry of the queue", "wrong"),
    };
    let numbers: Vec<i32> = view.buckets.iter().map(|bucket| bucket.sale_no).collect();
    let of = raw.sales(&numbers);
    let buckets = view.buckets.iter().filter(|bucket| of.contains(&bucket.sale_no));
    let findings: Vec<Finding> = buckets
        .map(|bucket| altered(lane, Some(bucket), raw.id, says, found))
        .collect();
    match findings.is_empty() {
        true => vec![altered(lane, None, raw.id, says, found)],
        false => findings,
    }
}

fn altered(lane: LaneNo, bucket: Option<&BucketView>, (epoch, seq): (u32, Seq), says: &str, found: &str) -> Finding {
    let site = Site::default()
        .with_lane(lane)
        .with_figure(format!("entry {epoch}-{seq}"));
    let site = match bucket {
        Some(bucket) => site.with_item(&bucket.item).with_sale(&bucket.sale_id),
        None => site,
    };
    unrepairable(Difference::new(
        Kind::EntryAltered,
        site,
        says,
        "as it was written",
        found,
    ))
}

fn unrepairable(difference: Difference) -> Finding {
    Finding {
        difference,
        remedy: None,
    }
}

fn queue_chain(lane: LaneNo, broken: &Break) -> Difference {
    let site = Site::default().with_lane(lane).with_figure(broken.at.clone());
    let (expected, found) = (broken.expected.clone(), broken.found.clone());
    Difference::new(Kind::QueueChain, site, broken.says, expected, found)
}

fn elsewhere(halves: &mut Halves, lane: LaneNo, foothold: &Foothold, meta: Option<&LaneMeta>) {
    if !foothold.open {
        halves.undecided.push(format!(
            "lane {lane} is closed: its recovery has not ended; a gateway that runs ends it"
        ));
        return;
    }
    let found = match meta {
        None => "no such lane".to_owned(),
        Some(meta) if meta.open => format!("open at epoch {}", meta.epoch),
        Some(meta) => format!("closed at epoch {}", meta.epoch),
    };
    let expected = format!("open at epoch {}", foothold.epoch);
    let site = Site::default().with_lane(lane);
    let says = "the lane in Redis, which a gateway that runs recovers";
    halves.findings.push(unrepairable(Difference::new(
        Kind::LaneEpoch,
        site,
        says,
        expected,
        found,
    )));
}

/// Compares one counter, `free` in a lane whose last grant is this.
fn counter(
    lane: LaneNo,
    bucket: &BucketView,
    effect: Effect,
    free: Option<i64>,
    grant_no: i64,
    notes: &mut Vec<String>,
) -> Option<Finding> {
    let site = Site::default()
        .with_item(&bucket.item)
        .with_sale(&bucket.sale_id)
        .with_lane(lane);
    let present = (bucket.present || effect.opened) && !effect.dropped;
    let word = |present| if present { "there" } else { "not there" };
    if present != free.is_some() {
        let says = "the sale in its lane, which a recovery of the lane puts right";
        let difference = Difference::new(Kind::LaneSale, site, says, word(present), word(!present));
        return Some(unrepairable(difference));
    }
    let expected = bucket.counter + effect.counter;
    let found = free.filter(|free| *free != expected)?;
    let says = "units free by the counter in Redis, and by grants and queue";
    let difference = Difference::new(Kind::Counter, site, says, expected, found);
    let on_the_way = bucket
        .corrections
        .iter()
        .filter(|c| c.grant_no.is_none_or(|no| no > grant_no));
    let on_the_way: i64 = on_the_way.map(|correction| correction.units).sum();
    if on_the_way != 0 {
        notes.push(format!(
            "a correction of {on_the_way} units of sale {} is on its way to lane {lane}",
            bucket.sale_id
        ));
    }
    let delta = i32::try_from(expected - found - on_the_way)
        .ok()
        .filter(|delta| *delta != 0);
    Some(Finding {
        difference,
        remedy: delta.map(|delta| Repair {
            lane,
            sale_no: bucket.sale_no,
            sale_id: bucket.sale_id.clone(),
            item: bucket.item.clone(),
            grant: Grant::Correct(delta),
        }),
    })
}

/// Sales that the lane has and the ledger does not have there.
fn strangers(lane: LaneNo, view: &LaneView, effects: &Effects, there: &[i32]) -> Vec<Finding> {
    let came = |effect: Effect| effect.opened || effect.dropped;
    let known = |sale_no: i32| view.buckets.iter().any(|b| b.sale_no == sale_no) || came(effects.of(sale_no));
    let strange = there.iter().filter(|sale_no| !known(**sale_no));
    strange
        .map(|sale_no| {
            let site = Site::default()
                .with_lane(lane)
                .with_figure(format!("sale number {sale_no}"));
            let says = "a sale in a lane that is not to have it, which a recovery of the lane puts right";
            unrepairable(Difference::new(Kind::LaneSale, site, says, "not there", "there"))
        })
        .collect()
}
