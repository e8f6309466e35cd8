//! A gateway whose wall clock jumps: libfaketime stands between it and the system, and reads the offset from a file. The
//! monotonic clock is left alone, as it is by whatever sets a clock.

use std::fs;
use std::path::{Path, PathBuf};

use rand::Rng;

use super::{Scene, Wound};
use crate::drill::DrillError;
use crate::drill::stack::pause;

/// The library where it is; else what to install.
///
/// # Errors
/// It is not there.
pub(super) fn library() -> Result<PathBuf, String> {
    let libs = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from);
    let below = fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    libs.into_iter()
        .chain(below)
        .map(|dir| dir.join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.is_file())
        .ok_or_else(|| "libfaketime is not installed (Debian's package is called faketime)".to_owned())
}

/// Starts a gateway anew under the library, and lets its clock jump by so many seconds.
pub(super) async fn jump(scene: &mut Scene<'_>, seconds: i64) -> Result<Wound, DrillError> {
    let file = scene.stack.room("clock")?.join("offset");
    set(&file, 0)?;
    let library = library().map_err(DrillError::Stack)?;
    let variables = [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_CACHE_DURATION", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
    let gateway = scene.chance.random_range(0..scene.stack.gateways.len());
    scene.stack.gateways[gateway].launch(&variables).await?;
    pause(scene.chance.random_range(1_000..2_000)).await;
    set(&file, seconds)?;
    Ok(Wound::Clock(file))
}

/// Says how far off the clock is.
pub(super) fn set(file: &Path, seconds: i64) -> Result<(), DrillError> {
    let fresh = file.with_extension("new");
    fs::write(&fresh, format!("{seconds:+}\n"))?;
    Ok(fs::rename(&fresh, file)?)
}
