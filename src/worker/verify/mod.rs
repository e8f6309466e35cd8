//! Verification: recomputes everything that is stored twice, in either half and between them, while both go on.
//!
//! The ledger is compared with itself, each comparison in one statement ([`crate::ledger::audit`]). What Redis holds is compared with the
//! ledger at a cursor plus the queue from there on, read in the same step as what is compared: so nothing in flight looks
//! like a difference. What differs all the same is looked at again, from a newer cursor, before it is reported.

mod beside;
mod buyers;
mod follow;
mod lanes;
mod record;

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;

pub use self::beside::flash_beside;
use self::buyers::At;
use crate::domain::difference::Difference;
use crate::flash::{Flash, FlashError};
use crate::ledger::audit::AuditCount;
use crate::ledger::audit::repair::Repair;
use crate::ledger::{Ledger, LedgerError};

/// How long lanes may be unreachable or in recovery before they count as such: a recovery takes less.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at the same thing; a writer's step takes less.
const PAUSE: Duration = Duration::from_millis(150);
/// Looks at a difference before it is reported.
const LOOKS: usize = 3;
/// Lanes compared at the same time.
const AT_ONCE: usize = 4;
/// Looks that a sale in a lane counts for at least: to ask for its buyers costs as much as to look at so many.
const BUYERS_MIN: usize = 100;

/// Why it could not be found out whether everything agrees.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Postgres can't be asked.
    #[error("could not find out: {0}")]
    Ledger(#[from] LedgerError),
    /// Redis can't be asked.
    #[error("could not find out: {0}")]
    Flash(FlashError),
    /// Redis restarted and nobody has recovered it.
    #[error(
        "could not find out: Redis has lost its scripts, so it restarted, and no gateway has recovered it since; start one"
    )]
    NotRecovered,
    /// There are no tables.
    #[error("could not find out: the database is not migrated; run `flashgate migrate`")]
    NotMigrated,
    /// Two repairs at once would correct the same thing twice.
    #[error("another repair is running; try again when it is done")]
    RepairRunning,
}

impl From<FlashError> for VerifyError {
    fn from(error: FlashError) -> Self {
        match error {
            FlashError::NotLoaded => VerifyError::NotRecovered,
            other => VerifyError::Flash(other),
        }
    }
}

/// How much was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Compared {
    /// SKUs at locations.
    pub balances: i64,
    /// Events of the ledger.
    pub events: i64,
    /// Reservations.
    pub reservations: i64,
    /// Sales.
    pub sales: i64,
    /// Lanes that are open.
    pub lanes: i64,
    /// Counters of sales in lanes.
    pub counters: i64,
    /// Buyers' records.
    pub buyers: i64,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// How much was compared.
    pub compared: Compared,
    /// What disagrees.
    pub differences: Vec<Difference>,
    /// What could not be compared.
    pub undecided: Vec<String>,
    /// What an operator should know beside.
    pub notes: Vec<String>,
}

impl Report {
    /// 0: all agrees; 1: there are differences; 2: there are none where it could be found out.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        exit_code(&self.differences, &self.undecided)
    }
}

pub(super) fn exit_code(differences: &[Difference], undecided: &[String]) -> u8 {
    match (differences, undecided) {
        ([], []) => 0,
        ([], _) => 2,
        _ => 1,
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.compared;
        writeln!(
            f,
            "compared {} balances, {} events, {} reservations, {} sales; {} lanes, {} counters, {} buyers",
            c.balances, c.events, c.reservations, c.sales, c.lanes, c.counters, c.buyers
        )?;
        write_lines(f, "note: ", &self.notes)?;
        write_lines(f, "undecided: ", &self.undecided)?;
        for difference in &self.differences {
            writeln!(f, "difference: {difference} [{}]", difference.kind.as_str())?;
        }
        match self.exit_code() {
            0 => f.write_str("all agree"),
            1 => write!(f, "{} differences", self.differences.len()),
            _ => f.write_str("no difference was found, but not everything could be compared"),
        }
    }
}

pub(super) fn write_lines(f: &mut fmt::Formatter<'_>, word: &str, lines: &[String]) -> fmt::Result {
    lines.iter().try_for_each(|line| writeln!(f, "{word}{line}"))
}

/// Compares everything. It changes nothing.
///
/// # Errors
/// It could not be found out.
pub async fn verify(ledger: &Ledger, flash: &Flash) -> Result<Report, VerifyError> {
    if !ledger.is_migrated().await? {
        return Err(VerifyError::NotMigrated);
    }
    let audit = ledger.audit().await?;
    let halves = compare_halves(ledger, flash).await?;
    let AuditCount {
        balances,
        events,
        reservations,
        sales,
    } = audit.compared;
    let mut differences = audit.differences;
    differences.extend(halves.findings.into_iter().map(|finding| finding.difference));
    Ok(Report {
        compared: Compared {
            balances,
            events,
            reservations,
            sales,
            lanes: halves.lanes,
            counters: halves.counters,
            buyers: halves.buyers,
        },
        differences,
        undecided: halves.undecided,
        notes: audit.notes.into_iter().chain(halves.notes).collect(),
    })
}

/// A difference between Redis and the ledger, and what would make it good.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub(super) difference: Difference,
    /// None: recovery does it, or nobody.
    pub(super) remedy: Option<Repair>,
}

/// What the comparison of Redis with the ledger found.
#[derive(Debug, Default)]
pub(super) struct Halves {
    pub(super) findings: Vec<Finding>,
    pub(super) undecided: Vec<String>,
    pub(super) notes: Vec<String>,
    pub(super) lanes: i64,
    pub(super) counters: i64,
    pub(super) buyers: i64,
}

impl Halves {
    fn merge(mut self, other: Halves) -> Self {
        self.findings.extend(other.findings);
        self.undecided.extend(other.undecided);
        self.notes.extend(other.notes);
        self.lanes += other.lanes;
        self.counters += other.counters;
        self.buyers += other.buyers;
        self
    }
}

/// Compares every lane, its counters and its records with the ledger.
pub(super) async fn compare_halves(ledger: &Ledger, flash: &Flash) -> Result<Halves, VerifyError> {
    let until = Instant::now() + PATIENCE;
    let lanes: Vec<_> = flash.lane_numbers().collect();
    stream::iter(lanes)
        .map(|lane| lanes::compare(ledger, flash, lane, until))
        .buffered(AT_ONCE)
        .try_fold(Halves::default(), async |all, of_lane| Ok(all.merge(of_lane)))
        .await
}

/// Where a comparison of some records goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The first, of those not begun, that has not had its turn.
    next: Name,
    /// The first of those begun that has not.
    next_begun: Name,
    /// Those that have been compared in part, and how far.
    begun: BTreeMap<Name, At>,
}

/// Of a sale in a lane: the lane, and the sale's own number.
type Name = (u16, i32);

/// Compares every lane and its counters, and buyers from `from` on for about `most` looks; returns where the next goes on.
pub(super) async fn compare_some(
    ledger: &Ledger,
    flash: &Flash,
    from: &Position,
    most: usize,
) -> Result<(Halves, Position), VerifyError> {
    let until = Instant::now() + PATIENCE;
    let lanes: Vec<_> = flash.lane_numbers().collect();
    let (mut all, mut begun, mut fresh) = (Halves::default(), Vec::new(), Vec::new());
    let mut compared = stream::iter(lanes)
        .map(async |lane| (lane, lanes::compare_counters(ledger, flash, lane, until).await))
        .buffered(AT_ONCE);
    while let Some((lane, of_lane)) = compared.next().await {
        let (halves, of_lane) = of_lane?;
        all = all.merge(halves);
        for bucket in of_lane {
            let name = (lane.0, bucket.sale_no);
            let at = from.begun.get(&name).cloned();
            let queue = if at.is_some() { &mut begun } else { &mut fresh };
            queue.push((name, lane, bucket, at.unwrap_or_default()));
        }
    }
    for (queue, next) in [(&mut fresh, from.next), (&mut begun, from.next_begun)] {
        let first = queue.iter().position(|(name, ..)| *name >= next).unwrap_or(0);
        queue.rotate_left(first);
    }
    let queue = by_turns(begun, fresh);
    let (mut left, mut had, mut to) = (most, 0, Position::default());
    for some in queue.chunks(AT_ONCE) {
        if left == 0 {
            break;
        }
        let share = left.div_ceil(some.len());
        let compared = some.iter().map(async |(name, lane, bucket, at)| {
            let compared = buyers::compare(ledger, flash, *lane, bucket, until, at.clone(), share).await?;
            Ok::<_, VerifyError>((*name, compared))
        });
        for (name, compared) in futures::future::try_join_all(compared).await? {
            left = left.saturating_sub(compared.looks.max(BUYERS_MIN));
            all = all.merge(compared.halves);
            to.begun.extend(compared.rest.map(|at| (name, at)));
        }
        had += some.len();
    }
    let is_begun = |name: &Name| from.begun.contains_key(name);
    let first = |begun: bool| {
        let mut waiting = queue[had..].iter().map(|(name, ..)| *name);
        waiting.find(|name| is_begun(name) == begun).unwrap_or_default()
    };
    (to.next, to.next_begun) = (first(false), first(true));
    let waiting = queue.into_iter().skip(had).filter(|(name, ..)| is_begun(name));
    to.begun.extend(waiting.map(|(name, _, _, at)| (name, at)));
    Ok((all, to))
}

/// One of each in turn, and the rest of whichever is longer: what takes many turns may not keep the others from theirs.
fn by_turns<T>(begun: Vec<T>, fresh: Vec<T>) -> Vec<T> {
    let (mut begun, mut fresh) = (begun.into_iter(), fresh.into_iter());
    let mut all = Vec::with_capacity(begun.len() + fresh.len());
    while begun.len() + fresh.len() > 0 {
        all.extend(begun.next());
        all.extend(fresh.next());
    }
    all
}

/// Keeps what both looks found: what only one did is no difference.
pub(super) fn in_both(last: Option<&[Finding]>, now: Vec<Finding>) -> Vec<Finding> {
    let Some(last) = last else { return now };
    let same = |a: &Difference, b: &Difference| a.kind == b.kind && a.site == b.site;
    now.into_iter()
        .filter(|finding| last.iter().any(|before| same(&before.difference, &finding.difference)))
        .collect()
}

/// Whether Redis may answer in a moment: it is being reached, or recovered.
fn may_pass(error: &VerifyError) -> bool {
    matches!(
        error,
        VerifyError::NotRecovered | VerifyError::Flash(FlashError::Unavailable(_) | FlashError::Refused(_))
    )
}

#[cfg(test)]
mod tests {
    use super::by_turns;

    #[test]
    fn neither_what_was_begun_nor_what_was_not_keeps_the_other_from_its_turn() {
        assert_eq!(by_turns(vec![1, 2, 3, 4, 5], vec![6, 7]), [1, 6, 2, 7, 3, 4, 5]);
        assert_eq!(by_turns(vec![1], vec![6, 7, 8]), [1, 6, 7, 8]);
    }
}
