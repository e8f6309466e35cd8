//! What a run ran on, so that figures of two runs can be compared.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde::Serialize;

use crate::cpu;

/// How long other processes are watched.
const LOOK: Duration = Duration::from_secs(1);

/// A machine, and the programs on it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Machine {
    cpu: String,
    pub(crate) cores: usize,
    memory: String,
    kernel: String,
    redis: String,
    postgres: String,
}

impl Machine {
    /// With the versions that the servers told.
    pub(crate) fn of(redis: String, postgres: String) -> Machine {
        let field = |path: &str, name: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':'))
                .map_or_else(String::new, |(_, value)| value.trim().to_owned())
        };
        Machine {
            cpu: field("/proc/cpuinfo", "model name"),
            cores: cores(),
            memory: field("/proc/meminfo", "MemTotal"),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            redis,
            postgres,
        }
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// The share of the machine that others use while nothing of ours runs.
pub(crate) fn busy_share() -> f64 {
    let before = cpu::machine();
    thread::sleep(LOOK);
    let cores = u32::try_from(cores()).map_or(1.0, f64::from);
    (cpu::machine() - before) / LOOK.as_secs_f64() / cores
}

/// The commit that is measured, `+` behind it where the tree differs.
pub(crate) fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .args(args)
            .output()
            .ok()
            .filter(|output| output.status.success());
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| !changes.is_empty());
    if changed { commit + "+" } else { commit }
}
