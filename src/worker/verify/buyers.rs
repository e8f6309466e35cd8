//! Buyers' records against reservations, both ways, a page of buyers at a time.
//!
//! Each page reads the ledger in one snapshot and then the records together with the queue since that snapshot, so a
//! buyer who is being served at that very moment agrees too.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Instant;

use super::follow::{Followed, follow};
use super::record::{Changes, Expected, Fault};
use super::{Finding, Halves, LOOKS, PAUSE, VerifyError, in_both, may_pass};
use crate::domain::difference::{Difference, Kind, Site};
use crate::domain::grant::Grant;
use crate::domain::lane::LaneNo;
use crate::domain::record::Record;
use crate::domain::reservation_id::{Place, ReservationId};
use crate::flash::{Flash, FlashError};
use crate::ledger::Ledger;
use crate::ledger::audit::repair::Repair;
use crate::ledger::audit::{BucketView, BuyerRow};

/// Buyers per page: a lookup in Redis each, in one script call.
const PAGE: usize = 1_000;
/// Reservations that the ledger passes at once to tell names of buyers.
const WALK: usize = 50_000;
/// Reservations that the ledger passes in the time of one look at a buyer.
const PASSED_A_LOOK: usize = 50;

/// The records of one sale in one lane.
struct Records<'a> {
    ledger: &'a Ledger,
    flash: &'a Flash,
    lane: LaneNo,
    bucket: &'a BucketView,
    until: Instant,
}

/// What one look at some buyers found.
enum Page {
    Compared(Vec<Finding>),
    /// The lane forgets the sale: nothing is left to compare.
    Gone,
    /// The lane is being recovered.
    Elsewhere,
}

/// Why the rest is not compared.
enum Stop {
    /// There is nothing to compare any more.
    Gone,
    /// It can't be compared now.
    Elsewhere,
    Failed(VerifyError),
}

impl<E: Into<VerifyError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Stop::Failed(error.into())
    }
}

/// How far a sale's records in a lane have been compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum At {
    /// Not at all.
    #[default]
    Start,
    /// Up to here of a scan of Redis.
    Scan(String),
    /// Redis knows no more; up to this buyer of the ledger.
    Names(String),
}

/// Some buyers to compare.
struct Step {
    /// None that was told before in this turn.
    buyers: Vec<String>,
    /// Reservations of the ledger that were passed for them.
    passed: usize,
    /// Where to go on. None: that was all.
    next: Option<At>,
}

/// What was compared of a sale in a lane.
pub(super) struct Compared {
    pub(super) halves: Halves,
    /// What it cost, in looks at a buyer.
    pub(super) looks: usize,
    /// Where to go on. None: that was all.
    pub(super) rest: Option<At>,
}

/// Compares the buyers of a sale in a lane from `at` on, for about `most` looks. The reservations that the ledger passes to
/// find them cost too, if little: most of them may have ended.
pub(super) async fn compare(
    ledger: &Ledger,
    flash: &Flash,
    lane: LaneNo,
    bucket: &BucketView,
    until: Instant,
    at: At,
    most: usize,
) -> Result<Compared, VerifyError> {
    let records = Records {
        ledger,
        flash,
        lane,
        bucket,
        until,
    };
    let mut compared = Compared {
        halves: Halves::default(),
        looks: 0,
        rest: Some(at),
    };
    match records.compare(&mut compared, most).await {
        Ok(()) => {}
        Err(Stop::Gone) => compared.rest = None,
        Err(Stop::Elsewhere) => {
            compared.halves.undecided.push(format!(
                "records of sale {} in lane {lane}: the lane is being recovered",
                bucket.sale_id
            ));
            compared.rest = None;
        }
        Err(Stop::Failed(error)) => return Err(error),
    }
    Ok(compared)
}

impl Records<'_> {
    async fn compare(&self, compared: &mut Compared, most: usize) -> Result<(), Stop> {
        let mut seen: HashSet<String> = HashSet::new();
        let mut suspects: BTreeSet<String> = BTreeSet::new();
        while compared.looks < most
            && let Some(here) = compared.rest.take()
        {
            let step = self.step(here, most - compared.looks, &mut seen).await?;
            compared.looks += step.buyers.len() + step.passed.div_ceil(PASSED_A_LOOK);
            for page in step.buyers.chunks(PAGE) {
                suspects.extend(suspicious(&self.page(page, &[]).await?));
            }
            compared.rest = step.next;
        }
        compared.halves.buyers = i64::try_from(seen.len()).expect("no more than memory holds");
        let suspects: Vec<String> = suspects.into_iter().collect();
        for page in suspects.chunks(PAGE) {
            compared.halves.findings.extend(self.again(page).await?);
        }
        Ok(())
    }

    /// Buyers with a record in Redis, then those in flight, then those of the ledger: some, and none of whom was told before
    /// in this turn. A scan may tell a buyer twice, and the ledger tells those that Redis told: in a sale of more than one
    /// turn they are looked at twice.
    async fn step(&self, at: At, most: usize, seen: &mut HashSet<String>) -> Result<Step, Stop> {
        let sale_no = self.bucket.sale_no;
        let scanned = match at {
            At::Start => None,
            At::Scan(at) => Some(at),
            At::Names(after) => {
                let limit = most.saturating_mul(PASSED_A_LOOK).min(WALK);
                let limit = i64::try_from(limit).expect("no more than a walk");
                let step = self.ledger.buyers_after(self.lane, sale_no, &after, limit).await?;
                let (mut buyers, mut last) = (Vec::new(), step.last);
                for buyer in step.buyers.into_iter().filter(|buyer| seen.insert(buyer.clone())) {
                    buyers.push(buyer);
                    if buyers.len() == most {
                        last = buyers.last().cloned();
                        break;
                    }
                }
                return Ok(Step {
                    passed: usize::try_from(step.walked).expect("a count"),
                    buyers,
                    next: last.map(At::Names),
                });
            }
        };
        let (mut buyers, next) = self.flash.scan_buyers(self.lane, sale_no, scanned).await?;
        if next.is_none() {
            buyers.extend(self.in_flight().await?);
        }
        buyers.retain(|buyer| seen.insert(buyer.clone()));
        Ok(Step {
            passed: 0,
            buyers,
            next: Some(next.map_or_else(|| At::Names(String::new()), At::Scan)),
        })
    }

    /// Buyers whom the queue tells of: the ledger does not know them yet, and a record that is missing tells nothing.
    async fn in_flight(&self) -> Result<Vec<String>, Stop> {
        let sale_no = self.bucket.sale_no;
        let foothold = self.ledger.foothold(self.lane).await?;
        let mut changes = Changes::default();
        if foothold.open {
            // Where it leads nowhere, the pages find that out.
            follow(self.flash, self.lane, &[], &foothold, &[], |entry| {
                changes.add(sale_no, entry);
            })
            .await?;
        }
        Ok(changes.buyers())
    }

    /// Looks again at buyers whose records did not agree, from newer cursors.
    async fn again(&self, buyers: &[String]) -> Result<Vec<Finding>, Stop> {
        let mut last: Option<Vec<Finding>> = None;
        for _ in 0..LOOKS {
            let ids: Vec<ReservationId> = last
                .iter()
                .flatten()
                .filter_map(|finding| finding.difference.site.reservation_id)
                .collect();
            let findings = in_both(last.as_deref(), self.page(buyers, &ids).await?);
            if findings.is_empty() {
                return Ok(findings);
            }
            last = Some(findings);
            tokio::time::sleep(PAUSE).await;
        }
        Ok(last.unwrap_or_default())
    }

    /// One page, as soon as the lane lets itself be looked at. `ids`: reservations that records hold, whosever they are.
    async fn page(&self, buyers: &[String], ids: &[ReservationId]) -> Result<Vec<Finding>, Stop> {
        let until = self.until.max(Instant::now() + super::PATIENCE);
        loop {
            match self.look(buyers, ids).await {
                Ok(Page::Compared(findings)) => return Ok(findings),
                Ok(Page::Gone) => return Err(Stop::Gone),
                Ok(Page::Elsewhere) if Instant::now() >= until => return Err(Stop::Elsewhere),
                Err(error) if !may_pass(&error) || Instant::now() >= until => return Err(Stop::Failed(error)),
                Ok(Page::Elsewhere) | Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn look(&self, buyers: &[String], ids: &[ReservationId]) -> Result<Page, VerifyError> {
        let sale_no = self.bucket.sale_no;
        let view = self.ledger.buyers_view(self.lane, sale_no, buyers, ids).await?;
        if view.drained {
            return Ok(Page::Gone);
        }
        if !view.foothold.open {
            return Ok(Page::Elsewhere);
        }
        let mut changes = Changes::default();
        let followed = follow(self.flash, self.lane, &[sale_no], &view.foothold, buyers, |entry| {
            changes.add(sale_no, entry);
        })
        .await?;
        let seen = match followed {
            Followed::Here(seen) => seen,
            // A chain that is broken for good has been reported by now.
            Followed::NotHere(_) | Followed::Broken(_) | Followed::Altered(..) => return Ok(Page::Elsewhere),
        };
        if changes.dropped || seen.free == [None] {
            return Ok(Page::Gone);
        }
        if seen.records.len() != buyers.len() {
            return Err(FlashError::Broken("a look without all records".into()).into());
        }
        let mut rows: HashMap<&str, Vec<&BuyerRow>> = HashMap::new();
        for row in &view.rows {
            rows.entry(&row.buyer).or_default().push(row);
        }
        let asked: HashSet<&str> = buyers.iter().map(String::as_str).collect();
        let strays: Vec<&BuyerRow> = view
            .rows
            .iter()
            .filter(|r| r.ending && !asked.contains(r.buyer.as_str()))
            .collect();
        let mut findings = Vec::new();
        for (buyer, bytes) in buyers.iter().zip(&seen.records) {
            let own = rows.get(buyer.as_str()).map(Vec::as_slice).unwrap_or_default();
            let mut expected = Expected::of(own, view.ended);
            expected.allow(&strays);
            changes.carry(buyer, &mut expected);
            let (faults, right) = expected.judge(buyer, bytes);
            findings.extend(faults.iter().map(|fault| self.finding(buyer, fault, bytes, &right)));
        }
        Ok(Page::Compared(findings))
    }

    fn finding(&self, buyer: &str, fault: &Fault, bytes: &[u8], right: &Record) -> Finding {
        let new = if *right == Record::default() {
            Vec::new()
        } else {
            right.pack()
        };
        Finding {
            difference: self.difference(buyer, fault),
            remedy: Some(Repair {
                lane: self.lane,
                sale_no: self.bucket.sale_no,
                sale_id: self.bucket.sale_id.clone(),
                item: self.bucket.item.clone(),
                grant: Grant::Record {
                    buyer: buyer.to_owned(),
                    old: bytes.to_vec(),
                    new,
                },
            }),
        }
    }

    fn difference(&self, buyer: &str, fault: &Fault) -> Difference {
        let site = Site {
            buyer: Some(buyer.to_owned()),
            ..Site::default()
                .with_item(&self.bucket.item)
                .with_sale(&self.bucket.sale_id)
                .with_lane(self.lane)
        };
        let at = |place: Place| {
            let id = self.flash.id_key().seal(self.lane, place);
            site.clone().with_reservation(id)
        };
        match fault {
            Fault::Unreadable => Difference::new(
                Kind::RecordAltered,
                site,
                "the buyer's record in Redis",
                "readable",
                "unreadable",
            ),
            Fault::Missing(live) => Difference::new(
                Kind::RecordMissing,
                at(live.place),
                "a reservation that the buyer's record in Redis lacks",
                format!("{} units", live.units),
                "none",
            ),
            Fault::Unknown(place, status) => Difference::new(
                Kind::RecordUnknown,
                at(*place),
                "a buyer record in Redis holds what is not reserved or sold",
                "RESERVED or COMMITTED",
                status.map_or("no reservation", |status| status.as_str()),
            ),
            Fault::Tombstone(place) => Difference::new(
                Kind::RecordUnknown,
                at(*place),
                "a buyer record in Redis remembers the end of a reservation under a key",
                "that reservation with that key",
                "none",
            ),
            Fault::Altered(place) => Difference::new(
                Kind::RecordAltered,
                at(*place),
                "the checksum of a reservation in the buyer's record in Redis",
                "right",
                "wrong",
            ),
            Fault::Differs { expected, found } => Difference::new(
                Kind::RecordDiffers,
                at(expected.place),
                "a reservation as the buyer's record in Redis tells it",
                format!("{} units and the keys of the ledger", expected.units),
                format!(
                    "{} units, {}",
                    found.units,
                    if found.units == expected.units {
                        "other keys"
                    } else {
                        "other units"
                    }
                ),
            ),
        }
    }
}

/// Buyers with a finding.
fn suspicious(findings: &[Finding]) -> impl Iterator<Item = String> + '_ {
    findings
        .iter()
        .filter_map(|finding| finding.difference.site.buyer.clone())
}
