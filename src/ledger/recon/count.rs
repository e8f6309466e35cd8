//! Counts: what a warehouse or a seller found, compared with what was on hand at that moment.
//!
//! On hand *as of* `counted_at` is what it is now, without what moved since. Corrections that followed from earlier
//! counts say what was on the shelf before they were posted, so they are never taken out: two counts that arrive late
//! correct one difference once. All lines are judged in one transaction, under the locks of their balances.
//!
//! Who counts is one person. What is larger than one person may change by hand is corrected by another, looking at the
//! report (`repair`). The safety stock is no reason to wait: units that are not on the shelf are not there.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::report::{self, NewDiscrepancy, Report};
use crate::domain::difference::Figure;
use crate::domain::id::{Item, LocationId, Sku};
use crate::domain::key::{Fingerprint, KeyHash};
use crate::domain::reconciliation::{CountVerdict, ReportKind, judge_count};
use crate::domain::time::Millis;
use crate::ledger::adjust::Reason;
use crate::ledger::balance::{ensure_balance, location_is_known};
use crate::ledger::connection::Connection;
use crate::ledger::once::{By, Claim, Key, claim};
use crate::ledger::post::{Deltas, EventType, Movement, post};
use crate::ledger::retry::retried;
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
}

/// An item at the moment of the comparison.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct Shelf {
    sku_id: String,
    /// Units that may go now.
    pub(super) unpromised: i64,
    /// On hand as of the count.
    pub(super) expected: i64,
    /// The newest count in the balance.
    pub(super) marked_at: Option<chrono::DateTime<chrono::Utc>>,
}

impl Ledger {
    /// Compares a count, once, and corrects what may be corrected.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn count(&self, count: &Count, by: &By) -> Result<Counted, LedgerError> {
        retried!(self, self.count_once(count, by))
    }

    async fn count_once(&self, count: &Count, by: &By) -> Result<Counted, LedgerError> {
        let id = Uuid::new_v4();
        let mut tx = self.begin().await?;
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
        let shelves = shelves(&mut tx, &count.location, &skus, count.counted_at).await?;
        for (shelf, sku) in shelves.iter().zip(&skus) {
            if let Some(marked_at) = shelf.marked_at.map(Millis::from)
                && marked_at >= count.counted_at
            {
                let sku = (*sku).clone();
                let counted_at = marked_at;
                return Ok(Counted::Stale { sku, counted_at });
            }
        }
        self.judge_lines(&mut tx, id, count, &shelves, by).await?;
        let compared = i64::try_from(count.lines.len()).expect("a body holds few lines");
        super::close_report(&mut tx, id, compared).await?;
        let report = report::read(&mut tx, id).await?;
        tx.commit().await?;
        report
            .map(Counted::Done)
            .ok_or_else(|| LedgerError::Broken(format!("report {id} was written and is not there")))
    }

    async fn judge_lines(
        &self,
        tx: &mut Connection,
        report: Uuid,
        count: &Count,
        shelves: &[Shelf],
        by: &By,
    ) -> Result<(), LedgerError> {
        let units_max = i64::from(self.approval.approval_units_max).min(self.recon.correct_units_max);
        let (mut movements, mut found, mut in_balance) = (Vec::new(), Vec::new(), Vec::new());
        for ((sku, counted), shelf) in count.lines.iter().zip(shelves) {
            let verdict = judge_count(shelf.expected, *counted, shelf.unpromised, units_max);
            let mut review = None;
            match verdict {
                CountVerdict::Agrees => {
                    in_balance.push(sku.clone());
                    continue;
                }
                CountVerdict::Review(why) => review = Some(why),
                CountVerdict::Correct(delta) => {
                    in_balance.push(sku.clone());
                    movements.push(correction(&count.item(sku), delta, &count.id, by));
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
        let posted = post(tx, &movements).await?;
        for (discrepancy, posted) in found.iter_mut().filter(|d| d.review.is_none()).zip(&posted) {
            discrepancy.event_id = Some(posted.event_id);
        }
        report::insert(tx, report, &found).await?;
        mark(tx, &count.location, &in_balance, count.counted_at, report).await
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

/// Makes the balances that are not there. Returns a SKU that is not known, if there is one.
async fn make_balances(tx: &mut Connection, count: &Count, by: &By) -> Result<Option<Sku>, LedgerError> {
    let skus: Vec<&str> = count.lines.keys().map(Sku::as_str).collect();
    let missing: Vec<(String, bool)> = sqlx::query_as(
        "-- recon.missing_balances
         SELECT w.sku_id, EXISTS (SELECT 1 FROM sku s WHERE s.sku_id = w.sku_id)
         FROM UNNEST($1::text[]) AS w(sku_id)
         WHERE NOT EXISTS (SELECT 1 FROM inventory_balance b WHERE b.sku_id = w.sku_id AND b.location_id = $2)
         ORDER BY w.sku_id COLLATE \"C\"",
    )
    .bind(&skus)
    .bind(count.location.as_str())
    .fetch_all(&mut *tx)
    .await?;
    let missing: Vec<(&Sku, bool)> = missing
        .iter()
        .filter_map(|(id, known)| Some((count.lines.keys().find(|sku| sku.as_str() == id)?, *known)))
        .collect();
    if let Some((unknown, _)) = missing.iter().find(|(_, known)| !known) {
        return Ok(Some((*unknown).clone()));
    }
    for (sku, _) in missing {
        ensure_balance(tx, &count.item(sku), by).await?;
    }
    Ok(None)
}

/// The balances of these SKUs, locked, with what was on hand at `counted_at`; in the order of the SKUs, which are sorted.
pub(super) async fn shelves(
    tx: &mut Connection,
    location: &LocationId,
    skus: &[&Sku],
    counted_at: Millis,
) -> Result<Vec<Shelf>, LedgerError> {
    let ids: Vec<&str> = skus.iter().map(|sku| sku.as_str()).collect();
    sqlx::query(
        "-- recon.lock_shelves: whoever posts an event holds this lock, so none comes between the sums and the correction
         SELECT 1 FROM inventory_balance WHERE location_id = $1 AND sku_id = ANY($2)
         ORDER BY sku_id COLLATE \"C\" FOR NO KEY UPDATE",
    )
    .bind(location.as_str())
    .bind(&ids)
    .execute(&mut *tx)
    .await?;
    let shelves: Vec<Shelf> = sqlx::query_as(
        "-- recon.shelves: an instant of the API is a whole millisecond
         SELECT b.sku_id, greatest(0, b.on_hand - b.reserved - b.unavailable - b.escrowed) AS unpromised,
             (b.on_hand - coalesce((
                 SELECT sum(on_hand_delta) FROM inventory_event e
                 WHERE e.sku_id = b.sku_id AND e.location_id = b.location_id
                   AND e.created_at >= $3 + interval '1 ms'
                   AND NOT EXISTS (
                       SELECT 1 FROM reconciliation_discrepancy d JOIN reconciliation_report r USING (report_id)
                       WHERE d.sku_id = b.sku_id AND d.location_id = b.location_id AND d.event_id = e.event_id
                         AND r.counted_at <= $3)), 0))::int8 AS expected,
             (SELECT counted_at FROM count_mark m
              WHERE m.sku_id = b.sku_id AND m.location_id = b.location_id) AS marked_at
         FROM inventory_balance b WHERE b.location_id = $1 AND b.sku_id = ANY($2)
         ORDER BY b.sku_id COLLATE \"C\"",
    )
    .bind(location.as_str())
    .bind(&ids)
    .bind(counted_at.to_utc())
    .fetch_all(tx)
    .await?;
    if shelves
        .iter()
        .map(|shelf| shelf.sku_id.as_str())
        .ne(ids.iter().copied())
    {
        return Err(LedgerError::Broken(format!("balances of {ids:?} at {location}")));
    }
    Ok(shelves)
}

/// Remembers that these items' balances have a count of this moment in them.
pub(super) async fn mark(
    tx: &mut Connection,
    location: &LocationId,
    skus: &[Sku],
    counted_at: Millis,
    report: Uuid,
) -> Result<(), LedgerError> {
    sqlx::query(
        "-- recon.mark: their balances are locked, so no other count is between
         INSERT INTO count_mark AS m (sku_id, location_id, counted_at, report_id)
         SELECT sku_id, $2, $3, $4 FROM UNNEST($1::text[]) AS w(sku_id)
         ON CONFLICT (sku_id, location_id) DO UPDATE SET counted_at = excluded.counted_at,
             report_id = excluded.report_id WHERE m.counted_at < excluded.counted_at",
    )
    .bind(skus.iter().map(Sku::as_str).collect::<Vec<_>>())
    .bind(location.as_str())
    .bind(counted_at.to_utc())
    .bind(report)
    .execute(tx)
    .await?;
    Ok(())
}
