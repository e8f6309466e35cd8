//! A replica of Redis that has fallen behind takes over, or is followed by the one it replaces.

use rand::Rng;

use super::{Scene, Wound};
use crate::dev::redis::Redis;
use crate::drill::DrillError;
use crate::drill::stack::{address_of, blocking, pause};
use crate::drill::wire::{Trouble, Wire};

const LOOK_EVERY_MS: u64 = 20;
/// Longest time to follow, in looks.
const LOOKS_MAX: u32 = 1_500;

pub(super) async fn promote(scene: &mut Scene<'_>) -> Result<Wound, DrillError> {
    let replica = lagging(scene).await?;
    blocking(|| scene.stack.redis.kill());
    tell(&replica, "REPLICAOF NO ONE")?;
    let old = scene.stack.put_redis(replica)?;
    blocking(|| drop(old));
    Ok(Wound::Over)
}

pub(super) async fn demote_and_promote(scene: &mut Scene<'_>) -> Result<Wound, DrillError> {
    let replica = lagging(scene).await?;
    tell(&replica, "REPLICAOF NO ONE")?;
    tell(&replica, "CONFIG SET repl-diskless-sync-delay 0")?;
    let port = address_of(&replica.url())?.port();
    tell(&scene.stack.redis, &format!("REPLICAOF 127.0.0.1 {port}"))?;
    until_following(&scene.stack.redis).await?;
    tell(&scene.stack.redis, "REPLICAOF NO ONE")?;
    blocking(|| drop(replica));
    Ok(Wound::Over)
}

/// A replica that has heard nothing for some time.
async fn lagging(scene: &mut Scene<'_>) -> Result<Redis, DrillError> {
    let replica = scene.stack.other_redis()?;
    tell(&scene.stack.redis, "CONFIG SET repl-diskless-sync-delay 0")?;
    let wire = Wire::to(scene.stack.redis_address()?, scene.stack.seed()).await?;
    tell(&replica, &format!("REPLICAOF 127.0.0.1 {}", wire.address().port()))?;
    until_following(&replica).await?;
    wire.trouble(Trouble::Held);
    pause(scene.chance.random_range(300..2_000)).await;
    Ok(replica)
}

async fn until_following(replica: &Redis) -> Result<(), DrillError> {
    for _ in 0..LOOKS_MAX {
        // While it loads it may refuse to say.
        let said = blocking(|| replica.say("INFO replication"));
        if said.is_ok_and(|said| said.contains("master_link_status:up")) {
            return Ok(());
        }
        pause(LOOK_EVERY_MS).await;
    }
    Err(DrillError::Stack("a replica does not follow".to_owned()))
}

fn tell(redis: &Redis, command: &str) -> Result<(), DrillError> {
    let said = blocking(|| redis.say(command))?;
    if said.starts_with("+OK") {
        return Ok(());
    }
    Err(DrillError::Stack(format!("Redis refuses {command}: {said}")))
}
