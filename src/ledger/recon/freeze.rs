//! Sales that freeze by themselves: the writer refused units that Redis had given out, or the two differ by more than is
//! corrected while a sale sells.
//!
//! The writer raises an alarm in the transaction in which it notices; it can't freeze there, for sales are locked before
//! what it writes. Whoever heeds the alarm freezes the sale, tells so in a report and in an event, and takes the alarm
//! away, in one transaction. Only a person unfreezes, and only when nothing of it waits any more.

use uuid::Uuid;

use super::live::{Line, LiveFound, insert};
use crate::domain::difference::{Figure, Kind, Site};
use crate::domain::id::SaleId;
use crate::domain::lane::LaneNo;
use crate::domain::reconciliation::{FreezeCause, ReportKind, Review, drift_max};
use crate::domain::sale::{Sale, SaleAction, SaleState, SaleStep, step};
use crate::ledger::connection::Connection;
use crate::ledger::once::By;
use crate::ledger::post::{Deltas, EventType, Movement, post};
use crate::ledger::retry::retried;
use crate::ledger::sale::lock_sale;
use crate::ledger::sale_life::enter;
use crate::ledger::{Ledger, LedgerError, OfOneSale};

/// The reason of the event.
const FROZEN: &str = "sale_frozen";
/// Most sales whose alarms one run heeds; the next run takes the rest.
const SALES_MAX: i64 = 100;

/// A sale that an alarm was heeded for, or that drifted too far.
#[derive(Clone, Debug, PartialEq)]
pub struct Frozen {
    /// As it is now.
    pub sale: Sale,
    /// What for.
    pub cause: FreezeCause,
    /// The report that tells of it.
    pub report: Uuid,
    /// It was not frozen before, nor ended.
    pub is_new: bool,
}

#[derive(sqlx::FromRow)]
struct Alarm {
    alarm_no: i64,
    lane: i16,
    cause: String,
    units: i64,
}

#[derive(sqlx::FromRow)]
struct Drifting {
    lane: i16,
    counter: i64,
    drift: i64,
}

impl Ledger {
    /// Freezes the sale and tells of what was found.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn freeze_for(
        &self,
        sale: &SaleId,
        cause: FreezeCause,
        found: &[LiveFound],
    ) -> Result<Option<Frozen>, LedgerError> {
        let lines: Vec<Line> = found.iter().map(|found| Line::of(found, None)).collect();
        retried!(self, self.freeze_once(sale, cause, &lines))
    }

    async fn freeze_once(
        &self,
        sale: &SaleId,
        cause: FreezeCause,
        lines: &[Line],
    ) -> Result<Option<Frozen>, LedgerError> {
        let mut tx = self.begin().await?;
        let frozen = freeze(&mut tx, sale, cause, lines).await?;
        tx.commit().await?;
        Ok(frozen)
    }

    /// Most units by which a sale of this allocation may drift and be corrected while it sells.
    #[must_use]
    pub fn drift_max(&self, allocation: i64) -> i64 {
        drift_max(
            allocation,
            self.recon.freeze_drift_units,
            self.recon.freeze_drift_permille,
        )
    }

    /// Heeds the alarms that the writer raised: freezes sales, and has the halves compared at once where a counter drifted
    /// by less. Several processes share the work.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn heed_alarms(&self) -> Result<Vec<Frozen>, LedgerError> {
        let sales: Vec<(i32, String)> = sqlx::query_as(
            "-- alarm.sales: nearly always none
             SELECT DISTINCT sale_no, sale_id FROM alarm JOIN sale USING (sale_no) ORDER BY sale_no LIMIT $1",
        )
        .bind(SALES_MAX)
        .fetch_all(&self.pool)
        .await?;
        let mut frozen = Vec::new();
        for (sale_no, sale_id) in sales {
            let heeded = self.heed(sale_no, &sale_id).await;
            frozen.extend(heeded.of_one_sale(sale_no, "heed alarms")?.flatten());
        }
        Ok(frozen)
    }

    async fn heed(&self, sale_no: i32, sale_id: &str) -> Result<Option<Frozen>, LedgerError> {
        let id =
            SaleId::try_from(sale_id).map_err(|_| LedgerError::Broken(format!("{sale_id} is the name of no sale")))?;
        retried!(self, self.heed_once(sale_no, &id))
    }

    async fn heed_once(&self, sale_no: i32, id: &SaleId) -> Result<Option<Frozen>, LedgerError> {
        let mut tx = self.begin_in_haste().await?;
        let alarms: Vec<Alarm> = sqlx::query_as(
            "-- alarm.of_sale: what another heeds is left to it
             SELECT alarm_no, lane, cause, units FROM alarm WHERE sale_no = $1 ORDER BY alarm_no FOR UPDATE SKIP LOCKED",
        )
        .bind(sale_no)
        .fetch_all(&mut *tx)
        .await?;
        let Some(kept) = lock_sale(&mut tx, id).await?.filter(|_| !alarms.is_empty()) else {
            return Ok(None);
        };
        let oversold = oversell_lines(&mut tx, &kept.sale, &alarms).await?;
        let drifting = drift_lines(&mut tx, &kept.sale).await?;
        let drift: i64 = drifting.iter().map(|(units, _)| units.saturating_abs()).sum();
        let frozen = if !oversold.is_empty() {
            freeze(&mut tx, id, FreezeCause::OversellAttempt, &oversold).await?
        } else if drift > self.drift_max(kept.sale.allocation) {
            let lines: Vec<Line> = drifting.into_iter().map(|(_, line)| line).collect();
            let new = not_open(&mut tx, &kept.sale, lines).await?;
            freeze(&mut tx, id, FreezeCause::Drift, &new).await?
        } else {
            sqlx::query("-- recon.live_is_due\n UPDATE live_comparison SET begun_at = '-infinity'")
                .execute(&mut *tx)
                .await?;
            None
        };
        sqlx::query("-- alarm.heeded\n DELETE FROM alarm WHERE alarm_no = ANY($1)")
            .bind(alarms.iter().map(|alarm| alarm.alarm_no).collect::<Vec<_>>())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(frozen)
    }

    /// Sales that froze by themselves and wait for a person.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn frozen_for(&self) -> Result<Vec<(String, FreezeCause)>, LedgerError> {
        let rows: Vec<(String, String)> = sqlx::query_as(
            "-- sale.frozen_for
             SELECT sale_id, frozen_for FROM sale WHERE state = 'frozen' AND frozen_for IS NOT NULL ORDER BY sale_no",
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .filter_map(|(sale, cause)| Some((sale, FreezeCause::parse(&cause)?)))
            .collect())
    }
}

/// Reports of findings that wait for a person, where `action` would unfreeze the sale and there are such.
pub(in crate::ledger) async fn keeps_frozen(
    tx: &mut Connection,
    sale: &Sale,
    action: SaleAction,
) -> Result<Option<Vec<Uuid>>, LedgerError> {
    if (action, sale.state) != (SaleAction::Unfreeze, SaleState::Frozen) {
        return Ok(None);
    }
    let reports: Vec<Uuid> = sqlx::query_scalar(
        "-- recon.waiting_of_sale
         SELECT report_id FROM reconciliation_discrepancy WHERE status = 'manual_review' AND sale_id = $1
         GROUP BY report_id ORDER BY min(discrepancy_id)",
    )
    .bind(sale.id.as_str())
    .fetch_all(tx)
    .await?;
    Ok(Some(reports).filter(|reports| !reports.is_empty()))
}

/// Freezes a sale unless it has ended, and writes the report; none where there is no such sale, or nothing to tell.
async fn freeze(
    tx: &mut Connection,
    id: &SaleId,
    cause: FreezeCause,
    lines: &[Line],
) -> Result<Option<Frozen>, LedgerError> {
    let Some(mut kept) = lock_sale(tx, id).await? else {
        return Ok(None);
    };
    if lines.is_empty() {
        return Ok(None);
    }
    let by = By::default();
    let report = super::open_report(tx, ReportKind::Live, &by).await?;
    let freezes = step(kept.sale.state, kept.sale.thaws_to, SaleAction::Freeze) == SaleStep::To(SaleState::Frozen);
    if freezes {
        post(tx, &[movement(&kept.sale, cause, report)]).await?;
    }
    insert(tx, report, lines).await?;
    super::close_report(tx, report, 0).await?;
    if freezes {
        enter(tx, &mut kept, SaleState::Frozen, &by).await?;
        sqlx::query("-- sale.set_frozen_for\n UPDATE sale SET frozen_for = $2 WHERE sale_no = $1")
            .bind(kept.sale.no)
            .bind(cause.as_str())
            .execute(&mut *tx)
            .await?;
    }
    Ok(Some(Frozen {
        sale: kept.sale,
        cause,
        report,
        is_new: freezes,
    }))
}

/// No unit moves; the event says that none will until a person has looked.
fn movement(sale: &Sale, cause: FreezeCause, report: Uuid) -> Movement {
    Movement {
        item: sale.item.clone(),
        event: EventType::Adjusted,
        quantity_delta: 0,
        deltas: Deltas::default(),
        reason: Some(FROZEN.to_owned()),
        reference_id: Some(sale.id.to_string()),
        reservation_id: None,
        order_id: None,
        operator: Some(super::AUTOMATIC.to_owned()),
        trace_id: None,
        metadata: Some(serde_json::json!({"cause": cause.as_str(), "reportId": report})),
    }
}

fn site(sale: &Sale, lane: i16) -> Site {
    Site::default()
        .with_item(&sale.item)
        .with_sale(sale.id.as_str())
        .with_lane(LaneNo::from_i16(lane))
}

/// Units refused, by lane; lanes of which that waits already are left out.
async fn oversell_lines(tx: &mut Connection, sale: &Sale, alarms: &[Alarm]) -> Result<Vec<Line>, LedgerError> {
    let cause = FreezeCause::OversellAttempt.as_str();
    let mut lines: Vec<(i16, i64)> = Vec::new();
    for alarm in alarms.iter().filter(|alarm| alarm.cause == cause) {
        match lines.iter_mut().find(|(lane, _)| *lane == alarm.lane) {
            Some((_, units)) => *units += alarm.units,
            None => lines.push((alarm.lane, alarm.units)),
        }
    }
    let line = |(lane, units)| Line {
        site: site(sale, lane),
        cause: cause.to_owned(),
        expected: Figure::Number(0),
        found: Figure::Number(units),
        review: Some(Review::NeedsDecision),
        sent: None,
        note: None,
    };
    not_open(tx, sale, lines.into_iter().map(line).collect()).await
}

/// Counters that are known to drift, with the units.
async fn drift_lines(tx: &mut Connection, sale: &Sale) -> Result<Vec<(i64, Line)>, LedgerError> {
    let rows: Vec<Drifting> = sqlx::query_as(
        "-- alarm.drifting
         SELECT lane, counter, drift FROM sale_bucket WHERE sale_no = $1 AND drift <> 0 ORDER BY lane",
    )
    .bind(sale.no)
    .fetch_all(tx)
    .await?;
    let line = |row: Drifting| {
        let line = Line {
            site: site(sale, row.lane),
            cause: Kind::Counter.as_str().to_owned(),
            expected: Figure::Number(row.counter),
            found: Figure::Number(row.counter + row.drift),
            review: Some(Review::OverThreshold),
            sent: None,
            note: None,
        };
        (row.drift, line)
    };
    Ok(rows.into_iter().map(line).collect())
}

/// Those of lanes whose like does not wait already.
async fn not_open(tx: &mut Connection, sale: &Sale, lines: Vec<Line>) -> Result<Vec<Line>, LedgerError> {
    let open: Vec<(Option<i16>, String)> = sqlx::query_as(
        "-- recon.open_of_sale
         SELECT lane, cause FROM reconciliation_discrepancy WHERE status = 'manual_review' AND sale_id = $1",
    )
    .bind(sale.id.as_str())
    .fetch_all(tx)
    .await?;
    let is_open = |line: &Line| {
        let lane = line.site.lane.map(|lane| lane.to_i16());
        open.iter().any(|(at, cause)| *at == lane && *cause == line.cause)
    };
    Ok(lines.into_iter().filter(|line| !is_open(line)).collect())
}
