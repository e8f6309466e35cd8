//! Closed loops: `wrk` with so many connections, each sending as soon as it has its answer, and what that costs in CPU.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use crate::Failure;
use crate::cpu::{Cpu, Pids};

const SCRIPT: &str = "loadtest/wrk/bench.lua";

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind<'a> {
    /// New orders, answered when accepted.
    Accepted,
    /// New orders, answered when durable.
    Durable,
    /// New buyers of what is sold out, and one in a hundred repeats an order of these.
    SoldOut {
        /// The tag of those who hold a unit.
        holders: &'a str,
        /// How many they are.
        count: u64,
    },
    /// Durable ones, over many items.
    Spread {
        /// The number in the first one's name.
        first: u32,
        /// How many they are.
        count: u32,
    },
    /// Pages.
    Read,
    /// Endings of reservations that there are, each once.
    Ending {
        /// Which one, as it stands in the path.
        action: &'a str,
        /// A file with their ids, line by line.
        ids: &'a Path,
    },
}

/// Whom it is sent to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) pids: Pids,
}

/// One closed loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loop<'a> {
    pub(crate) kind: Kind<'a>,
    /// 8 characters that no other run has.
    pub(crate) tag: &'a str,
    pub(crate) sku: &'a str,
    pub(crate) connections: u32,
    pub(crate) seconds: u32,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// Answers.
    pub(crate) answers: f64,
    /// Those that are not 2xx.
    pub(crate) refused: f64,
    /// Per second, refusals included.
    pub(crate) rate: f64,
    /// The 95th percentile, in ms, counted from the sending.
    pub(crate) p95_ms: f64,
    /// CPU seconds.
    pub(crate) cpu: Cpu,
}

impl Outcome {
    /// The same without refusals: as if only what was granted were an answer.
    pub(crate) fn of_granted(self) -> Outcome {
        let granted = self.answers - self.refused;
        Outcome {
            answers: granted,
            rate: self.rate * granted / self.answers.max(1.0),
            ..self
        }
    }

    /// µs of CPU an answer.
    pub(crate) fn each_us(&self, seconds: f64) -> f64 {
        seconds / self.answers.max(1.0) * 1e6
    }
}

/// Runs it.
///
/// # Errors
/// wrk could not run, or connections broke.
pub(crate) async fn run(target: &Target, what: Loop<'_>) -> Result<Outcome, Failure> {
    let mut command = Command::new("wrk");
    command.args(["-t1", "--timeout", "30s", "-s", SCRIPT]);
    command
        .arg(format!("-c{}", what.connections))
        .arg(format!("-d{}s", what.seconds));
    command.arg(format!("http://{}", target.address)).arg("--");
    let name = match what.kind {
        Kind::Accepted => "accepted",
        Kind::Durable => "durable",
        Kind::SoldOut { .. } => "sold-out",
        Kind::Spread { .. } => "spread",
        Kind::Read => "read",
        Kind::Ending { .. } => "ending",
    };
    command.args([name, what.tag, what.sku]);
    match what.kind {
        Kind::SoldOut { holders, count } => command.args([holders, &count.to_string()]),
        Kind::Spread { first, count } => command.args([first.to_string(), count.to_string()]),
        Kind::Ending { action, ids } => command.arg(action).arg(ids),
        Kind::Accepted | Kind::Durable | Kind::Read => &mut command,
    };
    command.stdin(Stdio::null()).kill_on_drop(true);
    let before = target.pids.cpu();
    let output = command.output().await.map_err(|error| format!("wrk: {error}"))?;
    let cpu = target.pids.cpu().since(before);
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().find_map(|line| line.strip_prefix("bench "));
    let figures: Option<Vec<f64>> = line.map(|line| line.split(' ').filter_map(|word| word.parse().ok()).collect());
    let Some([answers, seconds, refused, broken, _p50, p95, _p99]) = figures.as_deref() else {
        return Err(format!("wrk said: {said}{}", String::from_utf8_lossy(&output.stderr)).into());
    };
    if *broken > 0.0 {
        return Err(format!("wrk lost {broken} connections or answers at {name}").into());
    }
    Ok(Outcome {
        answers: *answers,
        refused: *refused,
        rate: answers / seconds,
        p95_ms: p95 / 1e3,
        cpu,
    })
}
