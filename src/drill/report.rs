//! What a drill has found: a line after each round, a table at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, Write};

use super::DrillError;
use super::check::{Check, Verdict};
use super::fault::Fault;
use super::history::{Healed, History, Kind, Loses, Moment, Operation, Outcome};
use crate::domain::reservation::{Ack, Cause};
use crate::domain::reservation_id::ReservationId;

/// What is named of a round that failed; the rest is in its directory.
const NAMED_MAX: usize = 12;

/// What is known of a round.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The faults that it consisted of.
    parts: Vec<&'static str>,
    operations: usize,
    durable: usize,
    accepted: usize,
    lost: usize,
    /// Most that the declared fault could cost.
    lost_max: usize,
    oversold: usize,
    duplicates: usize,
    recovery_ms: Option<i64>,
    compared: Vec<(Check, u64)>,
    wrong: Vec<String>,
}

impl Told {
    /// Of a round that `began`, whose fault was `from` and `to`; `wrong` is what is known to be wrong so far.
    pub(super) fn new(
        history: &History,
        parts: &[Fault],
        [began, from, to]: [Moment; 3],
        healed: Option<Healed>,
        mut wrong: Vec<String>,
    ) -> Told {
        let of_round = || history.operations.iter().filter(|operation| operation.invoked >= began);
        let is_change = |operation: &&Operation| {
            operation.outcome == Outcome::Ok && !matches!(operation.kind, Kind::Get | Kind::Sale)
        };
        let with_ack = |ack| {
            of_round()
                .filter(is_change)
                .filter(move |operation| operation.ack == Some(ack))
        };
        let lost = of_round().filter(|operation| operation.cause == Some(Cause::Lost));
        let lost = ids(lost).len();
        let durable_before = ids(with_ack(Ack::Durable).filter(|operation| operation.returned < Some(from)));
        let at_stake = ids(with_ack(Ack::Accepted).filter(|operation| operation.invoked < to));
        let lost_max = match parts.iter().all(|part| part.loses() == Loses::Nothing) {
            true => 0,
            false => at_stake.difference(&durable_before).count(),
        };
        if lost > lost_max {
            wrong.push(format!(
                "{lost} accepted reservations were lost, and at most {lost_max} may be"
            ));
        }
        Told {
            parts: parts.iter().map(|part| part.as_str()).collect(),
            operations: of_round().count(),
            durable: with_ack(Ack::Durable).count(),
            accepted: with_ack(Ack::Accepted).count(),
            lost,
            lost_max,
            oversold: 0,
            duplicates: 0,
            compared: Vec::new(),
            recovery_ms: healed.map(|healed| (healed.healed.mono_us - to.mono_us).max(0) / 1_000),
            wrong,
        }
    }

    /// With what the judge says of the history so far, which earlier rounds of the stack are in.
    pub(super) fn judged(mut self, verdict: &Verdict) -> Told {
        let found = |checks: &[Check]| {
            let of = verdict.checked.iter().filter(|checked| checks.contains(&checked.check));
            usize::try_from(of.map(|checked| checked.found).sum::<u64>()).unwrap_or(usize::MAX)
        };
        self.compared = verdict
            .checked
            .iter()
            .map(|checked| (checked.check, checked.compared))
            .collect();
        self.oversold = found(&[Check::C1]);
        self.duplicates = found(&[Check::C4, Check::C9]);
        self.wrong.extend(verdict.violations.iter().map(ToString::to_string));
        self
    }
}

fn ids<'a>(operations: impl Iterator<Item = &'a Operation>) -> BTreeSet<ReservationId> {
    operations.filter_map(|operation| operation.reservation_id).collect()
}

/// What is known of all rounds.
#[derive(Debug, Default)]
pub(super) struct Report {
    rows: BTreeMap<usize, Row>,
    notes: Vec<String>,
    failures: usize,
    /// Most things that each check compared in one stack.
    compared: BTreeMap<Check, u64>,
}

#[derive(Debug, Default)]
struct Row {
    rounds: usize,
    failed: usize,
    sum: Told,
    recoveries_ms: Vec<i64>,
}

impl Report {
    /// Adds a round, and says how it went; whether all was well.
    ///
    /// # Errors
    /// The output can't be written.
    pub(super) fn add(&mut self, fault: Fault, round: u32, told: Result<Told, DrillError>) -> io::Result<bool> {
        let told = told.unwrap_or_else(|error| Told {
            wrong: vec![format!("it could not be played to its end: {error}")],
            ..Told::default()
        });
        let is_well = told.wrong.is_empty();
        for (check, compared) in &told.compared {
            let most = self.compared.entry(*check).or_default();
            *most = (*most).max(*compared);
        }
        let mut out = io::stdout();
        let with = match told.parts.as_slice() {
            [one] if *one == fault.as_str() => String::new(),
            parts => format!(" ({})", parts.join(" + ")),
        };
        writeln!(
            out,
            "round {round} {}{with}: {} operations, {} durable, {} accepted, {} of {} lost, well after {}: {}",
            fault.as_str(),
            told.operations,
            told.durable,
            told.accepted,
            told.lost,
            told.lost_max,
            told.recovery_ms.map_or("never".to_owned(), seconds),
            if is_well { "ok" } else { "FAILED" },
        )?;
        for line in told.wrong.iter().take(NAMED_MAX) {
            writeln!(out, "  {line}")?;
        }
        if told.wrong.len() > NAMED_MAX {
            writeln!(out, "  and {} more", told.wrong.len() - NAMED_MAX)?;
        }
        out.flush()?;
        let place = Fault::ALL.iter().position(|other| *other == fault).unwrap_or_default();
        let row = self.rows.entry(place).or_default();
        row.rounds += 1;
        row.failed += usize::from(!is_well);
        row.recoveries_ms.extend(told.recovery_ms);
        let sum = &mut row.sum;
        for (total, more) in [
            (&mut sum.operations, told.operations),
            (&mut sum.durable, told.durable),
            (&mut sum.accepted, told.accepted),
            (&mut sum.lost, told.lost),
            (&mut sum.lost_max, told.lost_max),
            (&mut sum.oversold, told.oversold),
            (&mut sum.duplicates, told.duplicates),
        ] {
            *total += more;
        }
        self.failures += usize::from(!is_well);
        Ok(is_well)
    }

    /// Adds something to be said at the end.
    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failures > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<24}{:>7}{:>11}{:>9}{:>9}{:>13}{:>9}{:>11}{:>9}{:>9}{:>7}",
            "fault",
            "rounds",
            "operations",
            "durable",
            "accepted",
            "lost (most)",
            "oversold",
            "duplicates",
            "p50",
            "max",
            "failed"
        )?;
        for (place, row) in &self.rows {
            let mut recoveries = row.recoveries_ms.clone();
            recoveries.sort_unstable();
            let at = |index: usize| recoveries.get(index).map_or("-".to_owned(), |ms| seconds(*ms));
            let sum = &row.sum;
            writeln!(
                f,
                "{:<24}{:>7}{:>11}{:>9}{:>9}{:>13}{:>9}{:>11}{:>9}{:>9}{:>7}",
                Fault::ALL[*place].as_str(),
                row.rounds,
                sum.operations,
                sum.durable,
                sum.accepted,
                format!("{} ({})", sum.lost, sum.lost_max),
                sum.oversold,
                sum.duplicates,
                at(recoveries.len().saturating_sub(1) / 2),
                at(recoveries.len().saturating_sub(1)),
                row.failed,
            )?;
        }
        for (check, compared) in &self.compared {
            writeln!(f, "{check}, {}: {compared} compared in one stack", check.says())?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        let rounds: usize = self.rows.values().map(|row| row.rounds).sum();
        match self.failures {
            0 => write!(f, "{rounds} rounds, everything held"),
            failures => write!(f, "{failures} of {rounds} rounds failed"),
        }
    }
}

fn seconds(ms: i64) -> String {
    format!("{}.{:02} s", ms / 1_000, ms % 1_000 / 10)
}
