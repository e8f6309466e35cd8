//! What the comparison of Redis with the ledger finds: written down once, corrected by grants where a delta does it, and
//! settled when it is gone.
//!
//! A report and the grants that it names are one transaction. A finding that waits for a person is not told again while it
//! waits; whoever compares on a person's behalf settles what is not found any more.

use sqlx::types::Json;
use uuid::Uuid;

use super::report::{self, Report};
use crate::domain::difference::{Difference, Site};
use crate::domain::reconciliation::{ReportKind, Review};
use crate::ledger::audit::repair::{Repair, Sent, send};
use crate::ledger::connection::Connection;
use crate::ledger::once::By;
use crate::ledger::retry::retried;
use crate::ledger::{Ledger, LedgerError};

/// A confirmed difference, and what is done about it.
#[derive(Clone, Debug)]
pub struct LiveFound {
    /// What differs.
    pub difference: Difference,
    /// What puts it right; several differences of a record share one.
    pub repair: Option<Repair>,
    /// Why a person must look; none: it is repaired.
    pub review: Option<Review>,
    /// What else was done about it.
    pub note: Option<String>,
}

/// A finding that waits for a person.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct OpenFinding {
    discrepancy_id: i64,
    /// The kind of difference, or `oversell_attempt`.
    pub cause: String,
    /// Why it waits.
    pub review: Option<String>,
    /// In which lane.
    pub lane: Option<i16>,
    sku_id: Option<String>,
    location_id: Option<String>,
    sale_id: Option<String>,
    buyer: Option<String>,
    reservation_id: Option<Uuid>,
    figure: Option<String>,
}

impl OpenFinding {
    /// Whether it tells of the same fault.
    #[must_use]
    pub fn is_of(&self, difference: &Difference) -> bool {
        let Site {
            lane,
            sale_id,
            sku_id,
            location_id,
            reservation_id,
            buyer,
            of,
        } = &difference.site;
        self.cause == difference.kind.as_str()
            && (self.lane, self.reservation_id) == (lane.map(|lane| lane.to_i16()), reservation_id.map(|id| id.0))
            && (&self.sku_id, &self.location_id, &self.sale_id) == (sku_id, location_id, sale_id)
            && (&self.buyer, &self.figure) == (buyer, of)
    }
}

impl Ledger {
    /// Whether to compare now: says so to one of all who ask, once in the time between two comparisons, which begins anew.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn begin_live(&self) -> Result<bool, LedgerError> {
        let begun = sqlx::query(
            "-- recon.begin_live
             UPDATE live_comparison SET begun_at = clock_timestamp()
             WHERE begun_at <= clock_timestamp() - $1 * interval '1 millisecond'",
        )
        .bind(i64::from(self.recon.compare_every_ms))
        .execute(&self.pool)
        .await?;
        Ok(begun.rows_affected() == 1)
    }

    /// What reconciliation may do by itself, and how often.
    #[must_use]
    pub fn recon(&self) -> super::Settings {
        self.recon
    }

    /// Writes down what was found in a report of its own, and sends its repairs on their way.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn report_live(&self, found: &[LiveFound], compared: i64) -> Result<Report, LedgerError> {
        retried!(self, self.report_live_once(found, compared))
    }

    async fn report_live_once(&self, found: &[LiveFound], compared: i64) -> Result<Report, LedgerError> {
        let mut tx = self.begin().await?;
        let id = super::open_report(&mut tx, ReportKind::Live, &By::default()).await?;
        let mut repairs: Vec<Repair> = Vec::new();
        for repair in found.iter().filter_map(|found| found.repair.as_ref()) {
            if !repairs.contains(repair) {
                repairs.push(repair.clone());
            }
        }
        let sent = send(&mut tx, &repairs, super::AUTOMATIC).await?;
        let of = |found: &LiveFound| {
            let at = repairs
                .iter()
                .position(|repair| Some(repair) == found.repair.as_ref())?;
            sent.get(at).copied()
        };
        let lines: Vec<Line> = found.iter().map(|found| Line::of(found, of(found))).collect();
        insert(&mut tx, id, &lines).await?;
        super::close_report(&mut tx, id, compared).await?;
        let report = report::read(&mut tx, id).await?;
        tx.commit().await?;
        report.ok_or_else(|| LedgerError::Broken(format!("report {id} was written and is not there")))
    }

    /// The findings that wait for a person.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn open_findings(&self) -> Result<Vec<OpenFinding>, LedgerError> {
        Ok(sqlx::query_as(
            "-- recon.open_findings
             SELECT discrepancy_id, cause, review, lane, sku_id, d.location_id, sale_id, buyer, reservation_id, figure
             FROM reconciliation_discrepancy d JOIN reconciliation_report USING (report_id)
             WHERE status = 'manual_review' AND kind = 'live' ORDER BY discrepancy_id",
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// Settles findings that are not found any more.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn settle_findings(&self, gone: &[OpenFinding], by: &By) -> Result<(), LedgerError> {
        if gone.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "-- recon.settle_findings
             UPDATE reconciliation_discrepancy SET status = 'corrected', note = 'it is not found any more', operator = $2,
                 resolved_at = clock_timestamp() WHERE discrepancy_id = ANY($1) AND status = 'manual_review'",
        )
        .bind(gone.iter().map(|open| open.discrepancy_id).collect::<Vec<_>>())
        .bind(by.operator.as_deref().unwrap_or(super::AUTOMATIC))
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

/// A line of a report.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) site: Site,
    pub(super) cause: String,
    pub(super) expected: crate::domain::difference::Figure,
    pub(super) found: crate::domain::difference::Figure,
    pub(super) review: Option<Review>,
    pub(super) sent: Option<Sent>,
    pub(super) note: Option<String>,
}

impl Line {
    pub(super) fn of(found: &LiveFound, sent: Option<Sent>) -> Self {
        Line {
            site: found.difference.site.clone(),
            cause: found.difference.kind.as_str().to_owned(),
            expected: found.difference.expected.clone(),
            found: found.difference.found.clone(),
            review: found.review,
            sent,
            note: found.note.clone(),
        }
    }
}

/// Writes lines down, in this order.
pub(super) async fn insert(tx: &mut Connection, report: Uuid, lines: &[Line]) -> Result<(), LedgerError> {
    fn text(lines: &[Line], pick: fn(&Site) -> Option<&String>) -> Vec<Option<&str>> {
        lines.iter().map(|line| pick(&line.site).map(String::as_str)).collect()
    }
    sqlx::query(
        "-- recon.insert_live
         INSERT INTO reconciliation_discrepancy (report_id, sku_id, location_id, sale_id, buyer, figure, lane,
             reservation_id, expected, found, cause, review, status, event_id, grant_id, note)
         SELECT $1, d.sku_id, d.location_id, d.sale_id, d.buyer, d.figure, d.lane, d.reservation_id, d.expected, d.found,
             d.cause, d.review, CASE WHEN d.review IS NULL THEN 'corrected' ELSE 'manual_review' END, d.event_id, d.grant_id,
             d.note
         FROM UNNEST($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int2[], $8::uuid[], $9::jsonb[],
             $10::jsonb[], $11::text[], $12::text[], $13::int8[], $14::int8[], $15::text[]) WITH ORDINALITY AS d(sku_id, location_id,
             sale_id, buyer, figure, lane, reservation_id, expected, found, cause, review, event_id, grant_id, note, n)
         ORDER BY n",
    )
    .bind(report)
    .bind(text(lines, |site| site.sku_id.as_ref()))
    .bind(text(lines, |site| site.location_id.as_ref()))
    .bind(text(lines, |site| site.sale_id.as_ref()))
    .bind(text(lines, |site| site.buyer.as_ref()))
    .bind(text(lines, |site| site.of.as_ref()))
    .bind(lines.iter().map(|l| l.site.lane.map(|lane| lane.to_i16())).collect::<Vec<_>>())
    .bind(lines.iter().map(|l| l.site.reservation_id.map(|id| id.0)).collect::<Vec<_>>())
    .bind(lines.iter().map(|l| Json(&l.expected)).collect::<Vec<_>>())
    .bind(lines.iter().map(|l| Json(&l.found)).collect::<Vec<_>>())
    .bind(lines.iter().map(|l| l.cause.as_str()).collect::<Vec<_>>())
    .bind(lines.iter().map(|l| l.review.map(Review::as_str)).collect::<Vec<_>>())
    .bind(lines.iter().map(|l| l.sent.map(|sent| sent.event_id)).collect::<Vec<_>>())
    .bind(lines.iter().map(|l| l.sent.map(|sent| sent.grant_id)).collect::<Vec<_>>())
    .bind(lines.iter().map(|l| l.note.as_deref()).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}
