//! C8: after healing, nothing is left to catch up with, within a bound.
//!
//! Every round with a fault heals after it; every healing is followed by a moment at which the lanes had no backlog and no
//! drift. In the account, which was read at rest, every lane is open and at its own epoch, no grant has waited longer than
//! the bound, and no bucket of a sale that still has units drifts.
//!
//! Can't be seen: when it was that the stack came to rest, but for when somebody looked.

use std::collections::HashMap;

use super::Bounds;
use super::case::Case;
use super::verdict::Findings;
use crate::drill::history::Settled;

pub(super) fn reached(case: &Case<'_>, bounds: &Bounds, out: &mut Findings) {
    rounds(case, bounds, out);
    let read_at_us = case.account.read_at.0.saturating_mul(1_000);
    for lane in &case.account.lanes {
        out.looked();
        let waits_us = lane
            .waits_since
            .map_or(0, |since| read_at_us - since.0.saturating_mul(1_000));
        let wrong = if !lane.open {
            "is closed".to_owned()
        } else if lane.cursor_epoch != lane.epoch {
            format!("is at epoch {}, and its cursor at {}", lane.epoch, lane.cursor_epoch)
        } else if waits_us > bounds.settles_within_us {
            format!("has a grant that has waited for {} ms", waits_us / 1_000)
        } else {
            continue;
        };
        out.add(|| (format!("lane {} {wrong}", lane.lane), Vec::new()));
    }
    for sale in case.account.sales.iter().filter(|sale| !sale.drained) {
        for bucket in sale.buckets.iter().filter(|bucket| bucket.drift != 0) {
            out.add(|| {
                let what = format!(
                    "lane {} of sale {} drifts by {} units",
                    bucket.lane, sale.id, bucket.drift
                );
                (what, Vec::new())
            });
        }
    }
}

fn rounds(case: &Case<'_>, bounds: &Bounds, out: &mut Findings) {
    let mut healed: HashMap<u32, i64> = HashMap::new();
    for one in &case.history.healed {
        let last = healed.entry(one.round).or_insert(i64::MIN);
        *last = one.healed.mono_us.max(*last);
    }
    for fault in &case.history.faults {
        out.looked();
        if healed.get(&fault.round).is_none_or(|healed| *healed < fault.to.mono_us) {
            out.add(|| {
                (
                    format!("round {}, {}: it did not heal", fault.round, fault.fault),
                    Vec::new(),
                )
            });
        }
    }
    let mut settled: HashMap<u32, &Settled> = HashMap::new();
    for one in &case.history.settled {
        settled.insert(one.round, one);
    }
    for one in &case.history.healed {
        out.looked();
        let after = settled.get(&one.round).filter(|settled| settled.settled >= one.healed);
        let wrong = match after {
            None => "nobody saw it come to rest".to_owned(),
            Some(last) if last.backlog > 0 || last.drift > 0 => {
                format!(
                    "a backlog of {} and a drift of {} units were left",
                    last.backlog, last.drift
                )
            }
            Some(last) if last.settled.mono_us - one.healed.mono_us > bounds.settles_within_us => {
                format!("it took {} ms", (last.settled.mono_us - one.healed.mono_us) / 1_000)
            }
            Some(_) => continue,
        };
        out.add(|| (format!("round {}, after healing: {wrong}", one.round), Vec::new()));
    }
}
