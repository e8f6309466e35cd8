//! Connections that break, and answers that are lost, late or in pieces.

use std::time::Duration;

use rand::Rng;

use super::{Scene, Wound};
use crate::drill::DrillError;
use crate::drill::stack::{blocking, pause};
use crate::drill::wire::Trouble;

/// How often connections are ended.
const TIMES: u32 = 4;

pub(super) async fn kill_clients(scene: &mut Scene<'_>) -> Result<Wound, DrillError> {
    for _ in 0..TIMES {
        for kind in ["normal", "pubsub"] {
            blocking(|| scene.stack.redis.say(&format!("CLIENT KILL TYPE {kind}")))?;
        }
        pause(scene.chance.random_range(50..600)).await;
    }
    Ok(Wound::Over)
}

pub(super) async fn end_backends(scene: &mut Scene<'_>) -> Result<Wound, DrillError> {
    for _ in 0..TIMES {
        let all = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = 'flashgate'";
        blocking(|| scene.stack.postgres.query(all))?;
        pause(scene.chance.random_range(50..600)).await;
    }
    Ok(Wound::Over)
}

/// Troubles every wire to Redis.
pub(super) fn redis(scene: &mut Scene<'_>, trouble: Trouble) -> Wound {
    scene
        .stack
        .gateways
        .iter()
        .for_each(|gateway| gateway.redis.trouble(trouble));
    Wound::Wires
}

/// Troubles every wire to Postgres.
pub(super) fn postgres(scene: &mut Scene<'_>, trouble: Trouble) -> Wound {
    scene
        .stack
        .gateways
        .iter()
        .for_each(|gateway| gateway.postgres.trouble(trouble));
    Wound::Wires
}

/// Nobody mends it: each connection is found out by whoever waits for its answer.
pub(super) fn silence_postgres(scene: &mut Scene<'_>) -> Wound {
    scene
        .stack
        .gateways
        .iter()
        .for_each(|gateway| gateway.postgres.silence());
    Wound::Over
}

/// On one side or the other of what a gateway waits for.
pub(super) fn redis_late(scene: &mut Scene<'_>) -> Wound {
    let by = Duration::from_millis(scene.chance.random_range(50..1_500));
    redis(scene, Trouble::Late(by))
}

/// A transaction of many statements waits for each of its answers.
pub(super) fn postgres_late(scene: &mut Scene<'_>) -> Wound {
    let by = Duration::from_millis(scene.chance.random_range(20..400));
    postgres(scene, Trouble::Late(by))
}
