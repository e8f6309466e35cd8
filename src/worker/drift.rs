//! Drift, all the time: Redis compared with the ledger again and again, what differs put right, and sales that differ too
//! much frozen.
//!
//! One process of all compares at a time, counters of every lane each time and buyers' records in turn. Only what two
//! comparisons found is believed; nothing in flight looks like a difference to either. A small difference is corrected by
//! a grant that the report names, and a lane that is not what its queue says is recovered; a sale that differs by more is
//! frozen and left as it is, for a person to look at; what neither puts right waits for a person, too. Where nothing differs nothing is written.

use std::collections::BTreeMap;
use std::time::Duration;

use super::reconcile::remedies;
use super::verify::{Finding, Halves, Position, VerifyError, compare_some, in_both};
use super::{Context, repeat};
use crate::domain::difference::{Difference, Figure, Kind};
use crate::domain::grant::Grant;
use crate::domain::id::SaleId;
use crate::domain::lane::{Epoch, LaneNo};
use crate::domain::reconciliation::{FreezeCause, Review};
use crate::ledger::LedgerError;
use crate::ledger::audit::repair::Repair;
use crate::ledger::once::By;
use crate::ledger::recon::{Frozen, LiveFound, OpenFinding, Report};
use crate::metric;

/// Between two looks at whether it is time to compare, at most.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Most findings of one comparison that are told; who has more has one fault, many times, and the next goes on.
const FINDINGS_MAX: usize = 2_000;

/// What one comparison came to.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// What it found beside what froze sales; none where nothing new differs.
    pub report: Option<Report>,
    /// Sales that differ too much.
    pub frozen: Vec<Frozen>,
    /// Counters and records that it looked at.
    pub compared: i64,
    /// What it could not compare.
    pub undecided: Vec<String>,
    /// Where the next one goes on.
    pub next: Position,
}

/// Compares from time to time, until stopped.
pub(crate) async fn run(context: Context) {
    let every = Duration::from_millis(context.ledger.recon().compare_every_ms.into());
    let pause = (every / 5).min(LOOK_EVERY);
    let at = std::sync::Mutex::new(Position::default());
    repeat::<LedgerError, _>(&context, "drift", pause, async || {
        let frozen = context.ledger.frozen_for().await?;
        let count = u32::try_from(frozen.len()).unwrap_or(u32::MAX);
        metrics::gauge!(metric::SALES_FROZEN_WAITING).set(f64::from(count));
        if !context.ledger.begin_live().await? {
            return Ok(false);
        }
        let from = at.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        if let Some(next) = compare(&context, from).await {
            *at.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = next;
        }
        Ok(false)
    })
    .await;
}

/// Compares on a thread of its own: it may take long, and its future can't move between threads.
async fn compare(context: &Context, from: Position) -> Option<Position> {
    let (context, here) = (context.clone(), tokio::runtime::Handle::current());
    let compared = tokio::task::spawn_blocking(move || {
        let stop = context.stop.clone();
        here.block_on(stop.run_until_cancelled(run_once(&context, &from)))
    });
    match compared.await {
        Ok(Some(Ok(Some(round)))) => {
            for what in &round.undecided {
                tracing::info!(what, "could not be compared; the next comparison tries again");
            }
            return Some(round.next);
        }
        // Another process compares or repairs, or this one stops.
        Ok(Some(Ok(None)) | None) => {}
        Ok(Some(Err(error))) => tracing::warn!(%error, "redis and the ledger could not be compared"),
        Err(error) => tracing::error!(%error, "the comparison broke off"),
    }
    None
}

/// One comparison, and what follows from it; none where another process compares or repairs.
///
/// # Errors
/// It could not be found out.
pub async fn run_once(context: &Context, from: &Position) -> Result<Option<Round>, VerifyError> {
    let Some(lock) = context.ledger.live_lock().await? else {
        return Ok(None);
    };
    let round = compare_once(context, from).await;
    lock.release().await;
    round
}

async fn compare_once(context: &Context, from: &Position) -> Result<Option<Round>, VerifyError> {
    let (halves, next) = look(context, from).await?;
    let compared = halves.counters + halves.buyers;
    let round = Round {
        compared,
        next,
        ..Round::default()
    };
    if halves.findings.is_empty() {
        return settle(context, round, halves, &[]).await.map(Some);
    }
    // Else a correction that is being sent by hand would be sent twice.
    let Some(lock) = context.ledger.repair_lock().await? else {
        return Ok(None);
    };
    let done = confirm(context, from, round, &halves.findings).await;
    lock.release().await;
    done.map(Some)
}

async fn look(context: &Context, from: &Position) -> Result<(Halves, Position), VerifyError> {
    let (ledger, flash) = (&context.ledger, &context.flash);
    let most = usize::try_from(ledger.recon().compare_records_max).unwrap_or(usize::MAX);
    let (mut halves, next) = compare_some(ledger, flash, from, most).await?;
    halves.findings.extend(own_books(ledger.audit_live().await?));
    Ok((halves, next))
}

fn own_books(differences: Vec<Difference>) -> impl Iterator<Item = Finding> {
    let finding = |difference| Finding {
        difference,
        remedy: None,
    };
    differences.into_iter().map(finding)
}

/// Looks a second time, and acts on what both looks found.
async fn confirm(
    context: &Context,
    from: &Position,
    mut round: Round,
    first: &[Finding],
) -> Result<Round, VerifyError> {
    let (mut halves, _) = look(context, from).await?;
    halves.findings = in_both(Some(first), std::mem::take(&mut halves.findings));
    let open = context.ledger.open_findings().await?;
    let found = std::mem::take(&mut halves.findings);
    let round_findings: Vec<Difference> = found.iter().map(|finding| finding.difference.clone()).collect();
    let replaced = context.ledger.records_on_the_way().await?;
    let new = found.into_iter().filter(|finding| {
        let is_open = open.iter().any(|open| open.is_of(&finding.difference));
        // A correction of it is on its way.
        let is_mended = match &finding.remedy {
            None => finding.difference.kind == Kind::Counter,
            Some(remedy) => match &remedy.grant {
                Grant::Record { buyer, .. } => replaced.iter().any(|(no, of)| (*no, of) == (remedy.sale_no, buyer)),
                _ => false,
            },
        };
        !is_open && !is_mended
    });
    let mut new: Vec<Finding> = new.take(FINDINGS_MAX).collect();
    for finding in &new {
        let kind = finding.difference.kind.as_str();
        metrics::counter!(metric::RECONCILIATION_MISMATCHES, "kind" => kind).increment(1);
        if finding.difference.kind == Kind::RecordAltered {
            metrics::counter!(metric::ALTERED, "what" => "record").increment(1);
        }
        tracing::error!(difference = %finding.difference, kind, "redis and the ledger differ");
    }
    round.frozen = freeze(context, &mut new).await?;
    if !new.is_empty() {
        let found = judge(context, new).await?;
        let report = context.ledger.report_live(&found, round.compared).await?;
        for found in &found {
            if let Some(repair) = &found.repair {
                context.flash.nudge_grants(repair.lane);
            }
        }
        tracing::warn!(report = %report.id, report.different, report.waiting, "what differs stands in a report");
        round.report = Some(report);
    }
    settle(context, round, halves, &round_findings).await
}

/// Freezes the sales that differ by more than is corrected while they sell, and takes their counters out of `new`.
async fn freeze(context: &Context, new: &mut Vec<Finding>) -> Result<Vec<Frozen>, VerifyError> {
    let mut drifting: BTreeMap<String, i64> = BTreeMap::new();
    for difference in new.iter().map(|finding| &finding.difference) {
        if let (Some(sale), Some(units)) = (&difference.site.sale_id, units(difference)) {
            let drift = drifting.entry(sale.clone()).or_default();
            *drift = drift.saturating_add(units);
        }
    }
    let mut frozen = Vec::new();
    for (sale_id, drift) in drifting {
        let Ok(id) = SaleId::try_from(sale_id.as_str()) else {
            continue;
        };
        let Some(sale) = context.ledger.sale(&id).await? else {
            continue;
        };
        if drift <= context.ledger.drift_max(sale.allocation) {
            continue;
        }
        let is_of_it = |finding: &Finding| {
            finding.difference.site.sale_id.as_deref() == Some(id.as_str()) && units(&finding.difference).is_some()
        };
        let (of_it, rest) = std::mem::take(new).into_iter().partition(is_of_it);
        *new = rest;
        let of_it: Vec<Finding> = of_it;
        let found: Vec<LiveFound> = of_it
            .into_iter()
            .map(|finding| LiveFound {
                difference: finding.difference,
                repair: None,
                review: Some(Review::OverThreshold),
                note: None,
            })
            .collect();
        frozen.extend(context.ledger.freeze_for(&id, FreezeCause::Drift, &found).await?);
    }
    tell_frozen(context, &frozen);
    Ok(frozen)
}

/// Units that could be sold twice, or never, for this difference.
fn units(difference: &Difference) -> Option<i64> {
    match (difference.kind, &difference.expected, &difference.found) {
        (Kind::Counter | Kind::Escrow, Figure::Number(expected), Figure::Number(found)) => {
            Some(found.saturating_sub(*expected).saturating_abs())
        }
        _ => None,
    }
}

/// Logs and counts sales that froze by themselves, and wakes those who carry that to their lanes.
pub(super) fn tell_frozen(context: &Context, frozen: &[Frozen]) {
    for frozen in frozen {
        let (sale, cause) = (&frozen.sale, frozen.cause.as_str());
        if frozen.is_new {
            metrics::counter!(metric::SALES_FROZEN, "cause" => cause).increment(1);
            tracing::error!(
                sale = %sale.id, sku = %sale.item.sku, location = %sale.item.location, cause, report = %frozen.report,
                "a sale froze by itself: reconcile it, then unfreeze it"
            );
        } else {
            tracing::error!(sale = %sale.id, cause, report = %frozen.report, "a sale that does not sell has a fault");
        }
        for lane in &sale.lanes {
            context.flash.nudge_grants(*lane);
        }
    }
}

/// What is done about each: a repair, or a person.
async fn judge(context: &Context, new: Vec<Finding>) -> Result<Vec<LiveFound>, VerifyError> {
    let mut notes = Vec::new();
    let repairs: Vec<Repair> = remedies(&context.ledger, &new, &mut notes).await?;
    for note in notes {
        tracing::error!(note, "a difference is left alone");
    }
    let recovered = recover(context, &new).await?;
    let judged = new.into_iter().map(|finding| {
        let repair = finding.remedy.filter(|remedy| repairs.contains(remedy));
        let note = recovered
            .filter(|_| is_recovered(finding.difference.kind))
            .map(|epoch| format!("the lane is recovered, at epoch {epoch} or later"));
        LiveFound {
            review: (repair.is_none() && note.is_none()).then_some(Review::Unrepairable),
            difference: finding.difference,
            repair,
            note,
        }
    });
    Ok(judged.collect())
}

/// Whether a recovery of the lane puts it right, and nothing else does.
fn is_recovered(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::LaneEpoch | Kind::QueueChain | Kind::LaneSale | Kind::EntryAltered
    )
}

/// Closes the lanes that are not what their queue says, in the ledger, under a new epoch: any gateway recovers them now,
/// and none can take them for sound. Returns the epoch where there are such.
async fn recover(context: &Context, new: &[Finding]) -> Result<Option<Epoch>, VerifyError> {
    let broken = new.iter().filter(|finding| is_recovered(finding.difference.kind));
    let mut lanes: Vec<LaneNo> = broken.filter_map(|finding| finding.difference.site.lane).collect();
    lanes.sort_unstable();
    lanes.dedup();
    if lanes.is_empty() {
        return Ok(None);
    }
    let mut before = Vec::new();
    for lane in &lanes {
        before.push(context.ledger.lane(*lane).await?.epoch);
    }
    let epoch = context.ledger.raise_epoch(&lanes, 0).await?;
    for (lane, before) in lanes.iter().zip(before) {
        tracing::warn!(%lane, epoch, "a lane is closed, to be recovered");
        context.flash.suspect_lane(*lane, before);
    }
    Ok(Some(epoch))
}

/// Settles what went away by itself, where everything could be compared.
async fn settle(
    context: &Context,
    mut round: Round,
    halves: Halves,
    found: &[Difference],
) -> Result<Round, VerifyError> {
    let decided = halves.undecided.is_empty();
    round.undecided = halves.undecided;
    let open = context.ledger.open_findings().await?;
    let by_itself = |open: &OpenFinding| {
        let kinds = [Kind::Grants, Kind::Escrow];
        open.review.as_deref() == Some(Review::Unrepairable.as_str())
            && kinds.iter().any(|kind| kind.as_str() == open.cause)
    };
    let gone = open.into_iter().filter(|open| decided && by_itself(open));
    let gone: Vec<OpenFinding> = gone.filter(|open| !found.iter().any(|d| open.is_of(d))).collect();
    context.ledger.settle_findings(&gone, &By::default()).await?;
    let waiting = u32::try_from(context.ledger.waiting().await?).unwrap_or(u32::MAX);
    metrics::gauge!(metric::RECONCILIATION_WAITING).set(f64::from(waiting));
    Ok(round)
}
