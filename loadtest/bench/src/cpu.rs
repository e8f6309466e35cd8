//! CPU time and memory of processes, from `/proc`. CPU time moves far less with a busy machine than the clock does.

use std::fs;

/// Clock ticks a second in `/proc`, on every Linux that we know.
const TICKS: f64 = 100.0;

/// Who is measured together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pids {
    /// The gateway, or the baseline in its place.
    pub(crate) gateway: u32,
    /// Where it takes part.
    pub(crate) redis: Option<u32>,
    /// The postmaster, where it takes part.
    pub(crate) postgres: Option<u32>,
}

/// Seconds of CPU, in user and system mode, since each process began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    pub(crate) gateway: f64,
    pub(crate) redis: f64,
    pub(crate) postgres: f64,
}

impl Pids {
    /// Reads it; 0 for whoever is gone.
    pub(crate) fn cpu(&self) -> Cpu {
        Cpu {
            gateway: read(self.gateway).map_or(0.0, |stat| stat.own),
            // With the children that rewrite its file, once they are over.
            redis: self.redis.and_then(read).map_or(0.0, |stat| stat.own + stat.reaped),
            postgres: self.postgres.map_or(0.0, tree),
        }
    }
}

impl Cpu {
    /// What was spent from `before` to now.
    pub(crate) fn since(self, before: Cpu) -> Cpu {
        Cpu {
            gateway: self.gateway - before.gateway,
            redis: self.redis - before.redis,
            postgres: self.postgres - before.postgres,
        }
    }
}

struct Stat {
    parent: u32,
    own: f64,
    reaped: f64,
}

fn read(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the fields begin behind the last one.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        own: (ticks(11)? + ticks(12)?) / TICKS,
        reaped: (ticks(13)? + ticks(14)?) / TICKS,
    })
}

/// A process with all its children, dead or alive: Postgres has one a connection.
fn tree(pid: u32) -> f64 {
    let Some(root) = read(pid) else {
        return 0.0;
    };
    let others = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = others.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let children = pids.filter_map(read).filter(|stat| stat.parent == pid);
    root.own + root.reaped + children.map(|child| child.own + child.reaped).sum::<f64>()
}

/// Memory of a process that lies in RAM, in bytes; 0 where it is gone.
pub(crate) fn resident_bytes(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) * 1024.0
}

/// Seconds of CPU that the whole machine has spent, on anything.
pub(crate) fn machine() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // All but idle and the wait for disks; guest time is in user time already.
    let busy = ticks
        .iter()
        .enumerate()
        .filter(|(at, _)| ![3, 4].contains(at) && *at < 8);
    busy.map(|(_, ticks)| ticks).sum::<f64>() / TICKS
}

#[cfg(test)]
mod tests {
    use super::{machine, read, resident_bytes, tree};

    #[test]
    fn a_process_has_a_parent_and_has_cost_something() {
        let me = read(std::process::id()).expect("this process");
        assert!(me.parent > 0);
        assert!(tree(me.parent) >= me.own);
        assert!(machine() >= me.own);
        assert!(resident_bytes(std::process::id()) > 1e5);
    }
}
