//! Processes that die, or stand still for a while.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::seq::IndexedRandom;

use super::{Scene, Wound};
use crate::drill::DrillError;
use crate::drill::stack::blocking;

/// Processes that stand still; dropping it lets them go on.
#[derive(Debug)]
pub(in crate::drill) struct Pids(Vec<Pid>);

impl Pids {
    fn stop(pids: Vec<Pid>) -> Pids {
        for pid in &pids {
            // It fails only where it is gone.
            kill(*pid, Signal::SIGSTOP).ok();
        }
        Pids(pids)
    }

    /// Lets them go on.
    pub(in crate::drill) fn wake(self) {
        drop(self);
    }
}

impl Drop for Pids {
    fn drop(&mut self) {
        for pid in &self.0 {
            // It fails only where it is gone.
            kill(*pid, Signal::SIGCONT).ok();
        }
    }
}

pub(super) async fn kill_gateway(scene: &mut Scene<'_>) -> Result<Wound, DrillError> {
    let gateway = an_owner(scene).await?;
    scene.stack.gateways[gateway].kill();
    Ok(Wound::Over)
}

pub(super) fn kill_redis(scene: &mut Scene<'_>) -> Wound {
    blocking(|| scene.stack.redis.kill());
    Wound::RedisDead
}

pub(super) fn kill_postgres(scene: &mut Scene<'_>) -> Wound {
    blocking(|| scene.stack.postgres.kill());
    Wound::PostgresDead
}

pub(super) async fn pause_gateway(scene: &mut Scene<'_>) -> Result<Wound, DrillError> {
    let gateway = an_owner(scene).await?;
    Ok(Wound::Asleep(Pids::stop(vec![pid(
        scene.stack.gateways[gateway].pid()
    )?])))
}

pub(super) fn pause_redis(scene: &mut Scene<'_>) -> Result<Wound, DrillError> {
    Ok(Wound::Asleep(Pids::stop(vec![pid(scene.stack.redis.pid())?])))
}

/// First the one that would make more, then those that it has made.
pub(super) fn pause_postgres(scene: &mut Scene<'_>) -> Result<Wound, DrillError> {
    let postmaster = pid(scene.stack.postgres.pid())?;
    let mut pids = Pids::stop(vec![postmaster]);
    pids.0.append(&mut Pids::stop(children(postmaster)?).0);
    Ok(Wound::Asleep(pids))
}

/// A gateway that owns lanes: without one that does not, nobody misses anything.
async fn an_owner(scene: &mut Scene<'_>) -> Result<usize, DrillError> {
    let lanes = scene.ledger.lanes().await?;
    let owns = |index: &usize| {
        let Some(pid) = scene.stack.gateways[*index].pid() else {
            return false;
        };
        let name = format!("-{pid}");
        let mut owners = lanes.iter().filter_map(|lane| lane.owner_name.as_deref());
        owners.any(|owner| owner.ends_with(&name))
    };
    let owners: Vec<usize> = (0..scene.stack.gateways.len()).filter(owns).collect();
    let chosen = owners.choose(scene.chance).copied();
    chosen.ok_or_else(|| DrillError::Stack("no gateway owns a lane".to_owned()))
}

fn pid(pid: Option<u32>) -> Result<Pid, DrillError> {
    pid.and_then(|pid| i32::try_from(pid).ok())
        .map(Pid::from_raw)
        .ok_or_else(|| DrillError::Stack("a process is not there".to_owned()))
}

/// The processes whose parent it is, as the system tells in /proc.
fn children(parent: Pid) -> Result<Vec<Pid>, DrillError> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // One that has ended meanwhile has no file any more. Behind the name, in brackets: state, then parent.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let of = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        if of.and_then(|of| of.parse().ok()) == Some(parent.as_raw()) {
            children.push(Pid::from_raw(pid));
        }
    }
    Ok(children)
}
