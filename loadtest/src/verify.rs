//! Runs `flashgate verify`, which recomputes the ledger. It finds its servers by
//! `FLASHGATE_REDIS_URL` and `FLASHGATE_DATABASE_URL`, which are handed down, and
//! says on our output what differs.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The binary where `FLASHGATE_BIN` is not set: the release build in the current
/// directory where there is one, else whatever `PATH` finds.
pub(crate) fn default_binary() -> PathBuf {
    let built = PathBuf::from("target/release/flashgate");
    if built.is_file() {
        built
    } else {
        PathBuf::from("flashgate")
    }
}

/// Whether everything agrees: exit 0, and neither 1 (a difference) nor 2 (could
/// not find out).
///
/// # Errors
/// The binary could not be started.
pub(crate) fn run(binary: &Path) -> io::Result<bool> {
    let status = Command::new(binary)
        .arg("verify")
        .status()
        .map_err(|error| io::Error::new(error.kind(), format!("{} verify: {error}", binary.display())))?;
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::run;

    #[test]
    fn any_exit_but_zero_is_not_verified() {
        assert!(run(Path::new("true")).expect("true starts"));
        assert!(!run(Path::new("false")).expect("false starts"));
    }

    #[test]
    fn a_missing_binary_is_named() {
        let error = run(Path::new("/nonexistent/flashgate")).expect_err("can't start");
        assert!(error.to_string().contains("/nonexistent/flashgate verify"), "{error}");
    }
}
