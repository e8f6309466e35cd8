//! What Redis has stored goes, whole or in part.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use rand::Rng;

use super::{Scene, Wound};
use crate::drill::DrillError;
use crate::drill::stack::{blocking, pause};

/// Where Redis keeps the parts of its AOF, in its directory.
const AOF: &str = "appendonlydir";

pub(super) fn flush(scene: &mut Scene<'_>) -> Result<Wound, DrillError> {
    blocking(|| scene.stack.redis.say("FLUSHALL"))?;
    Ok(Wound::Over)
}

pub(super) fn empty(scene: &mut Scene<'_>) -> Result<Wound, DrillError> {
    blocking(|| scene.stack.redis.wipe())?;
    Ok(Wound::RedisDead)
}

pub(super) fn cut(scene: &mut Scene<'_>) -> Result<Wound, DrillError> {
    blocking(|| scene.stack.redis.kill());
    let last = part(&scene.stack.redis.data(), ".incr.aof")?;
    let file = OpenOptions::new().write(true).open(&last)?;
    let length = file.metadata()?.len();
    file.set_len(scene.chance.random_range(0..=length))?;
    Ok(Wound::RedisDead)
}

pub(super) fn spoil(scene: &mut Scene<'_>) -> Result<Wound, DrillError> {
    blocking(|| scene.stack.redis.kill());
    let base = part(&scene.stack.redis.data(), ".base.rdb")?;
    let mut file = OpenOptions::new().write(true).open(&base)?;
    let mut noise = [0; 16];
    scene.chance.fill(&mut noise);
    file.write_all(&noise)?;
    Ok(Wound::RedisDead)
}

pub(super) async fn step_back(scene: &mut Scene<'_>) -> Result<Wound, DrillError> {
    let data = scene.stack.redis.data();
    let before = scene.stack.room("before")?;
    fs::remove_dir_all(&before)?;
    copy(&data, &before)?;
    pause(scene.chance.random_range(500..2_500)).await;
    blocking(|| scene.stack.redis.kill());
    fs::remove_dir_all(&data)?;
    fs::rename(&before, &data)?;
    Ok(Wound::RedisDead)
}

/// The newest part of the AOF of this kind.
fn part(data: &Path, ending: &str) -> Result<PathBuf, DrillError> {
    // `appendonly.aof.<number><ending>`
    let number = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?.strip_suffix(ending)?;
        name.rsplit('.').next()?.parse::<u64>().ok()
    };
    let parts = fs::read_dir(data.join(AOF))?.flatten().map(|entry| entry.path());
    parts
        .filter(|path| number(path).is_some())
        .max_by_key(number)
        .ok_or_else(|| DrillError::Stack(format!("there is no {ending} in {}", data.display())))
}

/// Copies a directory. A file that grows meanwhile is there up to some point.
fn copy(from: &Path, to: &Path) -> Result<(), DrillError> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
