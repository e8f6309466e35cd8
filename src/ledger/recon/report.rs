//! Reports: how they are written, and how they are read.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::types::Json;
use uuid::Uuid;

use crate::domain::difference::Figure;
use crate::domain::reconciliation::{ReportKind, Review};
use crate::domain::reservation_id::ReservationId;
use crate::domain::time::Millis;
use crate::ledger::connection::Connection;
use crate::ledger::{Ledger, LedgerError};

/// What a comparison found.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ReconciliationReport)]
pub struct Report {
    /// Its id.
    #[serde(rename = "reportId")]
    #[schema(value_type = String)]
    pub id: Uuid,
    /// Its number, by which reports are paged.
    #[serde(skip)]
    pub no: i64,
    /// What was compared with the ledger.
    pub kind: ReportKind,
    /// Of a count, as its sender named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count_id: Option<String>,
    /// Of a count.
    #[serde(rename = "locationId", skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Of a count.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub counted_at: Option<Millis>,
    /// Who asked for it.
    pub operator: String,
    /// When it began.
    #[schema(value_type = String)]
    pub started_at: Millis,
    /// When it ended; `null` while it runs, and where its process died.
    #[schema(value_type = Option<String>)]
    pub ended_at: Option<Millis>,
    /// Items, lines, orders; counters and records.
    pub compared: i64,
    /// How much differed, whether it stands in `discrepancies` or not.
    pub different: i64,
    /// Of these, how much waits for a person.
    pub waiting: i64,
    /// What differed, in the order in which it was found.
    pub discrepancies: Vec<Discrepancy>,
}

/// A difference and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Discrepancy {
    /// Its number.
    #[serde(skip)]
    pub id: i64,
    /// Which SKU.
    #[serde(rename = "skuId", skip_serializing_if = "Option::is_none")]
    pub sku: Option<String>,
    /// Where it lies.
    #[serde(rename = "locationId", skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Which order.
    #[serde(rename = "orderId", skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
    /// Which reservation.
    #[serde(rename = "reservationId", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub reservation: Option<ReservationId>,
    /// Which figure of the balance: `on_hand`, `reserved` …; in a report of kind `live`, which grant or entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub figure: Option<String>,
    /// By the ledger's events, or by the order's state: units, or a word.
    pub expected: Figure,
    /// What was there: units, or a word.
    pub found: Figure,
    /// What is the matter, in a word.
    pub cause: String,
    /// Why it was not corrected by itself: `over_threshold`, `promised`, `events_incomplete`, `needs_decision`,
    /// `undecided`, `unrepairable` or `took_too_long`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub review: Option<String>,
    /// `corrected`, `manual_review`, `superseded` or `closed`.
    pub status: String,
    /// Of which sale, in a report of kind `live`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sale_id: Option<String>,
    /// In which lane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lane: Option<i16>,
    /// Whose record in Redis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buyer: Option<String>,
    /// The correcting grant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant_id: Option<i64>,
    /// The correcting event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<i64>,
    /// What the person said who closed it, or what was done about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Who repaired or closed it by hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
}

/// A report with differences that wait for a person.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct OpenReport {
    /// Its id.
    pub report_id: Uuid,
    /// Its kind.
    pub kind: String,
    /// Differences that wait.
    pub waiting: i64,
}

/// Which reports to list.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    /// Only older ones than this number.
    pub before: Option<i64>,
    /// Only of this kind.
    pub kind: Option<ReportKind>,
    /// Only those with differences that wait for a person.
    pub open: bool,
    /// So many reports.
    pub limit: i64,
    /// So many differences of each.
    pub discrepancies: i64,
}

/// A difference to be written down.
#[derive(Clone, Debug)]
pub(super) struct NewDiscrepancy {
    pub(super) item: Option<(String, String)>,
    pub(super) order: Option<String>,
    pub(super) reservation: Option<Uuid>,
    pub(super) figure: Option<String>,
    pub(super) expected: Figure,
    pub(super) found: Figure,
    pub(super) cause: String,
    /// None: it is corrected.
    pub(super) review: Option<Review>,
    pub(super) event_id: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct ReportRow {
    report_id: Uuid,
    report_no: i64,
    kind: String,
    count_id: Option<String>,
    location_id: Option<String>,
    counted_at: Option<DateTime<Utc>>,
    operator: String,
    started_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
    compared: i64,
    different: i64,
    waiting: i64,
}

#[derive(sqlx::FromRow)]
struct DiscrepancyRow {
    report_id: Uuid,
    discrepancy_id: i64,
    sku_id: Option<String>,
    location_id: Option<String>,
    order_id: Option<String>,
    reservation_id: Option<Uuid>,
    figure: Option<String>,
    expected: Json<Figure>,
    found: Json<Figure>,
    cause: String,
    review: Option<String>,
    status: String,
    event_id: Option<i64>,
    note: Option<String>,
    operator: Option<String>,
    sale_id: Option<String>,
    lane: Option<i16>,
    buyer: Option<String>,
    grant_id: Option<i64>,
}

impl Ledger {
    /// A report with all that it found.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn report(&self, id: Uuid) -> Result<Option<Report>, LedgerError> {
        let mut connection = self.pool.acquire().await?;
        let report = read(&mut connection, id).await?;
        connection.keep();
        Ok(report)
    }

    /// Reports, newest first.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn reports(&self, filter: Filter) -> Result<Vec<Report>, LedgerError> {
        let mut connection = self.pool.acquire().await?;
        let rows: Vec<ReportRow> = sqlx::query_as(
            "-- recon.reports
             SELECT r.*, d.* FROM reconciliation_report r, LATERAL (
                 SELECT count(*) AS different, count(*) FILTER (WHERE status = 'manual_review') AS waiting
                 FROM reconciliation_discrepancy d WHERE d.report_id = r.report_id) d
             WHERE ($1::int8 IS NULL OR report_no < $1) AND ($2::text IS NULL OR kind = $2)
                 AND (NOT $3 OR EXISTS (SELECT FROM reconciliation_discrepancy o
                                        WHERE o.report_id = r.report_id AND o.status = 'manual_review'))
             ORDER BY report_no DESC LIMIT $4",
        )
        .bind(filter.before)
        .bind(filter.kind.map(ReportKind::as_str))
        .bind(filter.open)
        .bind(filter.limit)
        .fetch_all(&mut connection)
        .await?;
        let reports = with_discrepancies(&mut connection, rows, filter.discrepancies).await?;
        connection.keep();
        Ok(reports)
    }

    /// How many differences wait for a person.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn waiting(&self) -> Result<i64, LedgerError> {
        Ok(sqlx::query_scalar(
            "-- recon.waiting: an index of those that wait
             SELECT count(*) FROM reconciliation_discrepancy WHERE status = 'manual_review'",
        )
        .fetch_one(&self.pool)
        .await?)
    }

    /// Reports with differences that wait for a person, newest first.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn open_reports(&self, limit: i64) -> Result<Vec<OpenReport>, LedgerError> {
        Ok(sqlx::query_as(
            "-- recon.open_reports
             SELECT report_id, kind, count(*) AS waiting FROM reconciliation_discrepancy
             JOIN reconciliation_report USING (report_id) WHERE status = 'manual_review'
             GROUP BY report_id, kind ORDER BY max(report_no) DESC LIMIT $1",
        )
        .bind(limit)
        .fetch_all(&self.pool)
        .await?)
    }
}

/// The report of this id, as this transaction sees it.
pub(super) async fn read(tx: &mut Connection, id: Uuid) -> Result<Option<Report>, LedgerError> {
    let row: Option<ReportRow> = sqlx::query_as(
        "-- recon.report
         SELECT r.*, d.* FROM reconciliation_report r, LATERAL (
             SELECT count(*) AS different, count(*) FILTER (WHERE status = 'manual_review') AS waiting
             FROM reconciliation_discrepancy d WHERE d.report_id = r.report_id) d
         WHERE report_id = $1",
    )
    .bind(id)
    .fetch_optional(&mut *tx)
    .await?;
    Ok(with_discrepancies(tx, row.into_iter().collect(), i64::MAX).await?.pop())
}

async fn with_discrepancies(
    tx: &mut Connection,
    rows: Vec<ReportRow>,
    of_each: i64,
) -> Result<Vec<Report>, LedgerError> {
    let ids: Vec<Uuid> = rows.iter().map(|row| row.report_id).collect();
    let found: Vec<DiscrepancyRow> = sqlx::query_as(
        "-- recon.discrepancies: the first ones of each report
         SELECT d.* FROM UNNEST($1::uuid[]) AS w(id), LATERAL (
             SELECT * FROM reconciliation_discrepancy WHERE report_id = w.id ORDER BY discrepancy_id LIMIT $2) d",
    )
    .bind(&ids)
    .bind(of_each)
    .fetch_all(&mut *tx)
    .await?;
    let mut reports = rows.into_iter().map(ReportRow::read).collect::<Result<Vec<_>, _>>()?;
    for row in found {
        if let Some(report) = reports.iter_mut().find(|report| report.id == row.report_id) {
            report.discrepancies.push(row.into());
        }
    }
    Ok(reports)
}

/// Writes down what differed; returns the numbers, in the same order.
pub(super) async fn insert(
    tx: &mut Connection,
    report: Uuid,
    found: &[NewDiscrepancy],
) -> Result<Vec<i64>, LedgerError> {
    if found.is_empty() {
        return Ok(Vec::new());
    }
    Ok(sqlx::query_scalar(
        "-- recon.insert_discrepancies
         INSERT INTO reconciliation_discrepancy (report_id, sku_id, location_id, order_id, reservation_id, figure, expected,
             found, cause, review, status, event_id)
         SELECT $1, d.sku_id, d.location_id, d.order_id, d.reservation_id, d.figure, d.expected, d.found, d.cause, d.review,
             CASE WHEN d.review IS NULL THEN 'corrected' ELSE 'manual_review' END, d.event_id
         FROM UNNEST($2::text[], $3::text[], $4::text[], $5::uuid[], $6::text[], $7::jsonb[], $8::jsonb[], $9::text[],
             $10::text[], $11::int8[]) WITH ORDINALITY AS d(sku_id, location_id, order_id, reservation_id, figure, expected,
             found, cause, review, event_id, n) ORDER BY n RETURNING discrepancy_id",
    )
    .bind(report)
    .bind(found.iter().map(|d| d.item.as_ref().map(|item| item.0.as_str())).collect::<Vec<_>>())
    .bind(found.iter().map(|d| d.item.as_ref().map(|item| item.1.as_str())).collect::<Vec<_>>())
    .bind(found.iter().map(|d| d.order.as_deref()).collect::<Vec<_>>())
    .bind(found.iter().map(|d| d.reservation).collect::<Vec<_>>())
    .bind(found.iter().map(|d| d.figure.as_deref()).collect::<Vec<_>>())
    .bind(found.iter().map(|d| Json(&d.expected)).collect::<Vec<_>>())
    .bind(found.iter().map(|d| Json(&d.found)).collect::<Vec<_>>())
    .bind(found.iter().map(|d| d.cause.as_str()).collect::<Vec<_>>())
    .bind(found.iter().map(|d| d.review.map(Review::as_str)).collect::<Vec<_>>())
    .bind(found.iter().map(|d| d.event_id).collect::<Vec<_>>())
    .fetch_all(tx)
    .await?)
}

impl ReportRow {
    fn read(self) -> Result<Report, LedgerError> {
        let kind = ReportKind::parse(&self.kind)
            .ok_or_else(|| LedgerError::Broken(format!("kind of report {}", self.report_id)))?;
        Ok(Report {
            id: self.report_id,
            no: self.report_no,
            kind,
            count_id: self.count_id,
            location: self.location_id,
            counted_at: self.counted_at.map(Millis::from),
            operator: self.operator,
            started_at: self.started_at.into(),
            ended_at: self.ended_at.map(Millis::from),
            compared: self.compared,
            different: self.different,
            waiting: self.waiting,
            discrepancies: Vec::new(),
        })
    }
}

impl From<DiscrepancyRow> for Discrepancy {
    fn from(row: DiscrepancyRow) -> Self {
        Discrepancy {
            id: row.discrepancy_id,
            sku: row.sku_id,
            location: row.location_id,
            order: row.order_id,
            reservation: row.reservation_id.map(ReservationId),
            figure: row.figure,
            expected: row.expected.0,
            found: row.found.0,
            cause: row.cause,
            review: row.review,
            status: row.status,
            event_id: row.event_id,
            note: row.note,
            operator: row.operator,
            sale_id: row.sale_id,
            lane: row.lane,
            buyer: row.buyer,
            grant_id: row.grant_id,
        }
    }
}
