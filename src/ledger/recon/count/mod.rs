//! Counts: what a warehouse or a seller found, compared with what was on hand at that moment.
//!
//! On hand *as of* `counted_at` is what the first event after it has found. Corrections that have followed since from
//! earlier counts say what was on the shelf before they were posted, so they are counted in: two counts that arrive late
//! correct one difference once. All lines are judged in one transaction, under the locks of their balances.
//!
//! Units that are not on the shelf and that a sale has set aside are taken from the sale, as an adjustment takes them;
//! where buyers hold them, or the sale is frozen, a person must look.
//!
//! Who counts is one person. What is larger than one person may change by hand is corrected by another, looking at the
//! report (`repair`). The safety stock is no reason to wait: units that are not on the shelf are not there.

mod givers;
mod shelf;
mod since;

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use self::givers::{Given, Givers};
use self::shelf::{Shelf, make_balances};
pub(super) use self::shelf::{mark, shelves};
use self::since::Since;
use super::report::{self, NewDiscrepancy, Report};
use crate::domain::difference::Figure;
use crate::domain::id::{Item, LocationId, SaleId, Sku};
use crate::domain::key::{Fingerprint, KeyHash};
use crate::domain::reconciliation::{CountVerdict, ReportKind, Review, judge_count};
use crate::domain::time::Millis;
use crate::ledger::adjust::{CallBack, Reason};
use crate::ledger::balance::location_is_known;
use crate::ledger::connection::Connection;
use crate::ledger::once::{By, Claim, Key, claim};
use crate::ledger::post::{Deltas, EventType, Movement, post};
use crate::ledger::retry::retried;
use crate::ledger::sale::lock_sales_of;
use crate::ledger::{Ledger, LedgerError};

/// A count as it was sent. No SKU stands in it twice.
#[derive(Clone, Debug)]
pub struct Count {
    /// Its name, once and for all.
    pub id: String,
    /// `Warehouse` or `SellerFeed`.
    pub source: ReportKind,
    /// Where.
    pub location: LocationId,
    /// When; everything of this millisecond and before has happened.
    pub counted_at: Millis,
    /// Units found, damaged ones included.
    pub lines: BTreeMap<Sku, i64>,
    /// The client's key.
    pub key: Option<KeyHash>,
}

/// What came of a count.
#[derive(Clone, Debug, PartialEq)]
pub enum Counted {
    /// Compared now.
    Done(Report),
    /// Compared before; the report as it stands.
    Replayed(Report),
    /// The name or the key belongs to another count.
    KeyReused,
    /// No such SKU.
    UnknownSku(Sku),
    /// No such location.
    UnknownLocation,
    /// A count that is as new, or newer, is in the balance.
    Stale {
        /// Of this SKU.
        sku: Sku,
        /// When that was made.
        counted_at: Millis,
    },
    /// Units must come back from the lanes of these sales first: [`Ledger::take_back`], then again.
    Short(Vec<CallBack>),
    /// Sales have units of these SKUs set aside that are not on the shelf, and give none at this moment, for they are
    /// being stopped: again, soon.
    SetAside(BTreeSet<Sku>),
}

/// Which sales may be asked for what is not on the shelf.
#[derive(Clone, Copy)]
struct Giving<'a> {
    /// Those of these SKUs, which are locked before the balances.
    skus: &'a BTreeSet<Sku>,
    /// But for these, whose buyers hold too much.
    keep: &'a BTreeSet<SaleId>,
}

impl Ledger {
    /// Compares a count, once, and corrects what may be corrected. What is missing and set aside for a sale is taken from
    /// it where nothing else is left, but from none of `keep`, and from none that is frozen: a person must look there.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn count(&self, count: &Count, by: &By, keep: &BTreeSet<SaleId>) -> Result<Counted, LedgerError> {
        let since = self
            .since(count.counted_at, &count.location, count.lines.keys())
            .await?;
        match retried!(self, self.count_once(count, by, &since, None))? {
            // Sales are locked before balances, so it starts over with those that it needs.
            Counted::SetAside(skus) => {
                let giving = Giving { skus: &skus, keep };
                retried!(self, self.count_once(count, by, &since, Some(giving)))
            }
            counted => Ok(counted),
        }
    }

    async fn count_once(
        &self,
        count: &Count,
        by: &By,
        since: &Since,
        giving: Option<Giving<'_>>,
    ) -> Result<Counted, LedgerError> {
        let id = Uuid::new_v4();
        let mut tx = self.begin().await?;
        let sales = match giving {
            Some(giving) => Givers {
                locked: lock_sales_of(&mut tx, &count.location, giving.skus).await?,
                keep: Some(giving.keep),
            },
            None => Givers::default(),
        };
        if let Some(hash) = count.key {
            let fingerprint = count.fingerprint();
            match claim(&mut tx, &Key { hash, fingerprint }, false, id).await? {
                Claim::New => {}
                Claim::Reused => return Ok(Counted::KeyReused),
                Claim::Replay(first) => return first_answer(&mut tx, first).await,
            }
        }
        if !insert_report(&mut tx, id, count, by).await? {
            return match same_count(&mut tx, count).await? {
                Some(first) => first_answer(&mut tx, first).await,
                None => Ok(Counted::KeyReused),
            };
        }
        if !location_is_known(&mut tx, &count.location).await? {
            return Ok(Counted::UnknownLocation);
        }
        if let Some(unknown) = make_balances(&mut tx, count, by).await? {
            return Ok(Counted::UnknownSku(unknown));
        }
        let skus: Vec<&Sku> = count.lines.keys().collect();
        let shelves = shelves(&mut tx, &count.location, &skus, since).await?;
        for (shelf, sku) in shelves.iter().zip(&skus) {
            if let Some(marked_at) = shelf.marked_at.map(Millis::from)
                && marked_at >= count.counted_at
            {
                let sku = (*sku).clone();
                let counted_at = marked_at;
                return Ok(Counted::Stale { sku, counted_at });
            }
        }
        if let Some(first) = self.judge_lines(&mut tx, id, count, &shelves, sales, by).await? {
            return Ok(first);
        }
        let compared = i64::try_from(count.lines.len()).expect("a body holds few lines");
        super::close_report(&mut tx, id, compared).await?;
        let report = report::read(&mut tx, id).await?;
        tx.commit().await?;
        report
            .map(Counted::Done)
            .ok_or_else(|| LedgerError::Broken(format!("report {id} was written and is not there")))
    }

    /// Judges, corrects and reports; or says what must be done first.
    async fn judge_lines(
        &self,
        tx: &mut Connection,
        report: Uuid,
        count: &Count,
        shelves: &[Shelf],
        mut sales: Givers<'_>,
        by: &By,
    ) -> Result<Option<Counted>, LedgerError> {
        let units_max = i64::from(self.approval.approval_units_max).min(self.recon.correct_units_max);
        let (mut movements, mut found, mut in_balance) = (Vec::new(), Vec::new(), Vec::new());
        let (mut set_aside, mut short) = (BTreeSet::new(), Vec::new());
        for ((sku, counted), shelf) in count.lines.iter().zip(shelves) {
            let balance = shelf.balance();
            let there = balance.unpromised() + balance.escrowed;
            let mut review = None;
            match judge_count(shelf.expected, *counted, there, units_max) {
                CountVerdict::Agrees => {
                    in_balance.push(sku.clone());
                    continue;
                }
                CountVerdict::Review(why) => review = Some(why),
                CountVerdict::Correct(delta) => {
                    let missing = -delta - balance.unpromised();
                    match sales.give(tx, sku, missing, balance, by).await? {
                        Given::All => {
                            in_balance.push(sku.clone());
                            movements.push(correction(&count.item(sku), delta, &count.id, by));
                        }
                        Given::Later(back) => short.push(back),
                        Given::NotLocked => _ = set_aside.insert(sku.clone()),
                        Given::Nothing => review = Some(Review::Promised),
                    }
                }
            }
            found.push(NewDiscrepancy {
                item: Some((sku.to_string(), count.location.to_string())),
                order: None,
                reservation: None,
                figure: Some("on_hand".to_owned()),
                expected: Figure::Number(shelf.expected),
                found: Figure::Number(*counted),
                cause: cause(count.source, *counted - shelf.expected).to_owned(),
                review,
                event_id: None,
            });
        }
        if !set_aside.is_empty() {
            return Ok(Some(Counted::SetAside(set_aside)));
        }
        if !short.is_empty() {
            return Ok(Some(Counted::Short(short)));
        }
        let posted = post(tx, &movements).await?;
        for (discrepancy, posted) in found.iter_mut().filter(|d| d.review.is_none()).zip(&posted) {
            discrepancy.event_id = Some(posted.event_id);
        }
        report::insert(tx, report, &found).await?;
        mark(tx, &count.location, &in_balance, count.counted_at, report).await?;
        Ok(None)
    }
}

impl Count {
    fn item(&self, sku: &Sku) -> Item {
        Item {
            sku: sku.clone(),
            location: self.location.clone(),
        }
    }

    fn fingerprint(&self) -> Fingerprint {
        let counted_at = self.counted_at.to_string();
        let lines: Vec<String> = self.lines.iter().map(|(sku, n)| format!("{sku}={n}")).collect();
        let lines = lines.join("\n");
        let parts = [
            self.id.as_str(),
            self.source.as_str(),
            self.location.as_str(),
            &counted_at,
            &lines,
        ];
        Fingerprint::of(&parts)
    }
}

/// What a difference of this sign is called.
fn cause(source: ReportKind, delta: i64) -> &'static str {
    match (source, delta > 0) {
        (ReportKind::SellerFeed, true) => "seller_has_more",
        (ReportKind::SellerFeed, false) => "seller_has_less",
        (_, true) => "counted_more",
        (_, false) => "counted_less",
    }
}

/// The movement that makes on hand what was counted.
pub(super) fn correction(item: &Item, delta: i64, count_id: &str, by: &By) -> Movement {
    Movement {
        item: item.clone(),
        event: EventType::Adjusted,
        quantity_delta: delta,
        deltas: Deltas {
            on_hand: delta,
            ..Deltas::default()
        },
        reason: Some(Reason::CycleCountCorrection.as_str().to_owned()),
        reference_id: Some(count_id.to_owned()),
        reservation_id: None,
        order_id: None,
        operator: by.operator.clone(),
        trace_id: by.trace.map(|trace| trace.to_uuid()),
        metadata: None,
    }
}

async fn first_answer(tx: &mut Connection, id: Uuid) -> Result<Counted, LedgerError> {
    let report = report::read(tx, id).await?;
    report
        .map(Counted::Replayed)
        .ok_or_else(|| LedgerError::Broken(format!("a count's report {id} is not there")))
}

/// Whether the count is new. Waits while another transaction brings the same.
async fn insert_report(tx: &mut Connection, id: Uuid, count: &Count, by: &By) -> Result<bool, LedgerError> {
    let done = sqlx::query(
        "-- recon.insert_count
         INSERT INTO reconciliation_report (report_id, kind, count_id, fingerprint, location_id, counted_at, operator,
             trace_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (count_id) DO NOTHING",
    )
    .bind(id)
    .bind(count.source.as_str())
    .bind(&count.id)
    .bind(count.fingerprint().to_i64())
    .bind(count.location.as_str())
    .bind(count.counted_at.to_utc())
    .bind(by.operator.as_deref().unwrap_or(super::AUTOMATIC))
    .bind(by.trace.map(|trace| trace.to_uuid()))
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The report of the count of that name, where that said the same.
async fn same_count(tx: &mut Connection, count: &Count) -> Result<Option<Uuid>, LedgerError> {
    Ok(sqlx::query_scalar(
        "-- recon.same_count
         SELECT report_id FROM reconciliation_report WHERE count_id = $1 AND fingerprint = $2",
    )
    .bind(&count.id)
    .bind(count.fingerprint().to_i64())
    .fetch_optional(tx)
    .await?)
}
