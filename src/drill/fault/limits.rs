//! Room that runs out: Redis' memory, Postgres' disk.

use super::{Scene, Wound};
use crate::drill::DrillError;
use crate::drill::stack::{Stack, blocking};

pub(super) fn fill_redis(scene: &mut Scene<'_>) -> Result<Wound, DrillError> {
    // Less than it needs when it is empty.
    set_memory(scene.stack, "100kb")?;
    Ok(Wound::RedisFull)
}

pub(super) fn empty_redis(stack: &Stack) -> Result<(), DrillError> {
    set_memory(stack, "0")
}

fn set_memory(stack: &Stack, most: &str) -> Result<(), DrillError> {
    let said = blocking(|| stack.redis.say(&format!("CONFIG SET maxmemory {most}")))?;
    if said.starts_with("+OK") {
        return Ok(());
    }
    Err(DrillError::Stack(format!("maxmemory can't be set: {said}")))
}

pub(super) fn fill_disk(scene: &mut Scene<'_>) -> Result<Wound, DrillError> {
    let disk = scene.stack.small_disk.as_ref();
    let disk = disk.ok_or_else(|| DrillError::Stack("Postgres has no small disk".to_owned()))?;
    blocking(|| disk.fill())?;
    Ok(Wound::DiskFull)
}

/// A Postgres that has given up is started again, as a supervisor would.
pub(super) fn free_disk(stack: &mut Stack) -> Result<(), DrillError> {
    if let Some(disk) = &stack.small_disk {
        disk.free()?;
    }
    if stack.postgres.exited().is_some() {
        stack.restart_postgres()?;
    }
    Ok(())
}
