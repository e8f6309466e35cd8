//! What a run leaves: a table on the screen, a file with everything, a picture.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::Failure;
use crate::figures::{Checks, Round, Spread};
use crate::machine::Machine;
use crate::open::Step;
use crate::plot;
use crate::rows::{Reached, Row};
use crate::settings::Settings;

/// A whole run.
pub(crate) struct Results {
    pub(crate) table: &'static [Row],
    pub(crate) began: DateTime<Utc>,
    pub(crate) commit: String,
    pub(crate) machine: Machine,
    /// Share of the machine that others used before each round.
    pub(crate) others: Vec<f64>,
    pub(crate) trials: Round,
    pub(crate) rounds: Vec<Round>,
    pub(crate) sweep: Vec<Step>,
    pub(crate) checks: Checks,
}

impl Results {
    /// Prints the table; ratios alone where `ratios` says so.
    ///
    /// # Errors
    /// Nobody reads.
    pub(crate) fn print(&self, ratios: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out)?;
        writeln!(
            out,
            "{:<76}{:>9}{:>9}{:>11}  spread",
            "median of rounds", "at least", "aim", "measured"
        )?;
        for row in self.table {
            let Some(spread) = row.spread(&self.rounds).filter(|_| !ratios || row.unit == "×") else {
                continue;
            };
            let bound = |bound: Option<f64>| bound.map_or_else(String::new, short);
            let mark = match row.target.map(|target| target.reached(spread.median)) {
                Some(Reached::Missed) => "  MISSED",
                _ => "",
            };
            writeln!(
                out,
                "{:<76}{:>9}{:>9}{:>8} {:<2}  {} to {}{mark}",
                row.what,
                bound(row.target.map(|target| target.least)),
                bound(row.target.map(|target| target.aim)),
                short(spread.median),
                row.unit,
                short(spread.min),
                short(spread.max),
            )?;
        }
        if !ratios {
            self.print_contenders(&mut out)?;
            if !self.sweep.is_empty() {
                self.print_steps(&mut out)?;
            }
        }
        writeln!(out)?;
        for failed in &self.checks.failed {
            writeln!(out, "FAILED: {failed}")?;
        }
        writeln!(out, "{} checks, {} failed", self.checks.done, self.checks.failed.len())?;
        if let Some(others) = Spread::of(self.others.clone()).filter(|others| others.max > 0.1) {
            writeln!(
                out,
                "others used up to {:.0} % of this machine before rounds: trust ratios, not rates",
                others.max * 100.0
            )?;
        }
        Ok(())
    }

    /// Rates and CPU times of everything that was measured in a closed loop.
    fn print_contenders(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out)?;
        writeln!(
            out,
            "{:<20}{:>10}{:>10}{:>36}",
            "contender", "per s", "p95 ms", "CPU µs: gateway, Redis, Postgres"
        )?;
        let of = |name: &str, what: &str| Some(self.spread(&format!("{name}.{what}"))?.median);
        let names = self.names();
        for name in names.iter().filter_map(|name| name.strip_suffix(".rate")) {
            let figure = |what: &str| of(name, what).map_or_else(|| "-".to_owned(), |median| format!("{median:.1}"));
            writeln!(
                out,
                "{name:<20}{:>10.0}{:>10}{:>14}{:>11}{:>11}",
                of(name, "rate").unwrap_or(f64::NAN),
                figure("p95_ms"),
                figure("gateway_us"),
                figure("redis_us"),
                figure("postgres_us"),
            )?;
        }
        Ok(())
    }

    fn print_steps(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out)?;
        writeln!(
            out,
            "{:<20}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "offered/s, durable", "granted/s", "failed %", "p50 ms", "p95 ms", "p99 ms"
        )?;
        for step in &self.sweep {
            writeln!(
                out,
                "{:<20.0}{:>10.0}{:>10.2}{:>10.1}{:>10.1}{:>10.1}",
                step.offered,
                step.granted,
                step.failed * 100.0,
                step.p50_ms,
                step.p95_ms,
                step.p99_ms
            )?;
        }
        Ok(())
    }

    /// Writes `<date>-<commit>.json` and, where rates were tried, `.svg` beside it.
    ///
    /// # Errors
    /// The directory can't be written.
    pub(crate) fn save(&self, settings: &Settings) -> Result<(), Failure> {
        fs::create_dir_all(&settings.results)?;
        let soak = if settings.soak { "-soak" } else { "" };
        let name = format!("{}-{}{soak}", self.began.format("%Y-%m-%d"), self.commit);
        let path = settings.results.join(format!("{name}.json"));
        fs::write(&path, serde_json::to_string_pretty(&self.to_json(settings))? + "\n")?;
        tell(&path)?;
        if !self.sweep.is_empty() {
            let path = settings.results.join(format!("{name}.svg"));
            let title = format!(
                "flashgate {}: latency against offered rate, {} cores",
                self.commit, self.machine.cores
            );
            let steady = self.spread("steady.rate").map_or(0.0, |spread| spread.median);
            fs::write(&path, plot::latency(&title, &self.sweep, steady))?;
            tell(&path)?;
        }
        Ok(())
    }

    /// Of one figure over the rounds.
    pub(crate) fn spread(&self, name: &str) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(|round| round.get(name)).collect())
    }

    fn names(&self) -> BTreeSet<String> {
        self.rounds.iter().flat_map(Round::names).map(str::to_owned).collect()
    }

    fn to_json(&self, settings: &Settings) -> Value {
        let rows: Vec<Value> = self
            .table
            .iter()
            .filter_map(|row| {
                let spread = row.spread(&self.rounds)?;
                let reached = row.target.map(|target| target.reached(spread.median));
                Some(json!({
                    "what": row.what, "unit": row.unit, "target": row.target, "measured": spread, "reached": reached,
                }))
            })
            .collect();
        let medians = self
            .names()
            .into_iter()
            .filter_map(|name| Some((name.clone(), json!(self.spread(&name)?))));
        json!({
            "began": self.began.to_rfc3339_opts(SecondsFormat::Secs, true),
            "commit": self.commit,
            "machine": self.machine,
            "othersBusy": self.others,
            "settings": { "rounds": self.rounds.len(), "seconds": settings.seconds(), "scale": settings.scale },
            "rows": rows,
            "figures": medians.collect::<serde_json::Map<String, Value>>(),
            "trials": self.trials,
            "rounds": self.rounds,
            "latencyByRate": self.sweep,
            "checks": self.checks,
        })
    }
}

fn tell(path: &Path) -> io::Result<()> {
    writeln!(io::stdout(), "saved {}", path.display())
}

/// Three digits, as many as a median of rounds bears.
fn short(figure: f64) -> String {
    if figure.abs() >= 100.0 {
        format!("{figure:.0}")
    } else if figure.abs() >= 10.0 {
        format!("{figure:.1}")
    } else {
        format!("{figure:.2}")
    }
}
