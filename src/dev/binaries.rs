//! Finds Redis (or Valkey) and Postgres on this machine and checks their versions.
//!
//! `PATH` comes first, then the places where packages put servers without linking them there:
//! Debian's versioned Postgres directories, Red Hat's, Homebrew's, Postgres.app's. What is too old
//! is passed over, and named in the error when nothing else is found.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::DevError;

/// The oldest Redis with the script cache and AOF behaviour that the gateway relies on.
const REDIS_MIN: Version = Version(7, 0);
/// The oldest Valkey that matches it.
const VALKEY_MIN: Version = Version(7, 2);
/// The oldest Postgres that the ledger supports.
const POSTGRES_MIN: Version = Version(14, 0);

/// Where servers hide outside of `PATH`: a parent directory, the prefix of its entries that count,
/// and what follows below each.
const HIDING_PLACES: [(&str, &str, &str); 10] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ("/usr/local", "pgsql", "bin"),
    ("/opt/homebrew/opt", "redis", "bin"),
    ("/opt/homebrew/opt", "valkey", "bin"),
    ("/usr/local/opt", "redis", "bin"),
    ("/usr/local/opt", "valkey", "bin"),
];

/// Major and minor version; a missing minor counts as 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

/// Finds `redis-server` or `valkey-server`.
///
/// # Errors
/// [`DevError::Missing`] where there is none of a sufficient version.
pub fn redis() -> Result<PathBuf, DevError> {
    let mut too_old = Vec::new();
    for name in ["redis-server", "valkey-server"] {
        for path in candidates(name) {
            let Some((version, said)) = ask_version(&path) else {
                continue;
            };
            let least = if said.starts_with("Valkey") {
                VALKEY_MIN
            } else {
                REDIS_MIN
            };
            if version >= least {
                return Ok(path);
            }
            too_old.push(describe(&path, version));
        }
    }
    Err(DevError::Missing {
        wanted: "Redis 7.0 (or Valkey 7.2) or newer".to_owned(),
        found: found(&too_old),
        install: if cfg!(target_os = "macos") {
            "brew install redis"
        } else {
            "scripts/need-servers.sh"
        },
    })
}

/// Finds a directory that holds `postgres`, `initdb` and `psql` of one version: of the major
/// version `major` where data of that version exists already, else the first that is new enough.
///
/// # Errors
/// [`DevError::Missing`] where there is none.
pub fn postgres(major: Option<u32>) -> Result<PathBuf, DevError> {
    let mut unfit = Vec::new();
    for path in candidates("postgres") {
        let Some((version, _)) = ask_version(&path) else {
            continue;
        };
        let fits = version >= POSTGRES_MIN && major.is_none_or(|major| version.0 == major);
        match path.parent() {
            Some(bin) if fits && ["initdb", "psql"].iter().all(|tool| bin.join(tool).is_file()) => {
                return Ok(bin.to_path_buf());
            }
            _ => unfit.push(describe(&path, version)),
        }
    }
    Err(DevError::Missing {
        wanted: match major {
            Some(major) => format!("Postgres {major} with initdb and psql (the data directory is of that version)"),
            None => "Postgres 14 or newer with initdb and psql".to_owned(),
        },
        found: found(&unfit),
        install: if cfg!(target_os = "macos") {
            "brew install postgresql@17"
        } else {
            "scripts/need-servers.sh"
        },
    })
}

/// Every file of this name: those in `PATH` in its order, then the hidden ones, newest first.
fn candidates(name: &str) -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let listed = env::split_paths(&path).filter(|dir| dir.is_absolute());
    let usual = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/opt/homebrew/bin"].map(PathBuf::from);
    let mut hidden: Vec<PathBuf> = HIDING_PLACES.iter().flat_map(|place| hidden_dirs(*place)).collect();
    hidden.sort_by_key(|dir| std::cmp::Reverse(digits(dir)));
    let mut files = Vec::new();
    for dir in listed.chain(usual).chain(hidden) {
        let file = dir.join(name);
        if file.is_file() && !files.contains(&file) {
            files.push(file);
        }
    }
    files
}

fn hidden_dirs((parent, prefix, below): (&str, &str, &str)) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path().join(below))
        .collect()
}

/// The version number in a directory name such as `/usr/lib/postgresql/15/bin`; 0 where none is.
fn digits(dir: &Path) -> u32 {
    let text: String = dir.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    text.parse().unwrap_or(0)
}

/// Runs `path --version`; `None` where it doesn't run or says nothing like a version.
fn ask_version(path: &Path) -> Option<(Version, String)> {
    let output = Command::new(path).arg("--version").stdin(Stdio::null()).output().ok()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    Some((parse_version(&said)?, said))
}

/// Reads `Redis server v=7.0.15 sha=…` as well as `postgres (PostgreSQL) 18beta1 (Debian …)`.
fn parse_version(said: &str) -> Option<Version> {
    let token = said
        .split_whitespace()
        .map(|token| token.strip_prefix("v=").unwrap_or(token))
        .find(|token| token.starts_with(|first: char| first.is_ascii_digit()))?;
    let mut numbers = token
        .split(|sign: char| !sign.is_ascii_digit())
        .filter(|number| !number.is_empty());
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next().and_then(|minor| minor.parse().ok()).unwrap_or(0);
    Some(Version(major, minor))
}

fn describe(path: &Path, Version(major, minor): Version) -> String {
    format!("{} ({major}.{minor})", path.display())
}

fn found(unfit: &[String]) -> String {
    if unfit.is_empty() {
        "none was found".to_owned()
    } else {
        format!("only {} was found", unfit.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_servers_print() {
        let cases = [
            (
                "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64",
                Some(Version(7, 0)),
            ),
            ("Valkey server v=8.1.3 sha=00000000:0", Some(Version(8, 1))),
            (
                "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)",
                Some(Version(15, 18)),
            ),
            ("postgres (PostgreSQL) 18beta1", Some(Version(18, 1))),
            ("postgres (PostgreSQL) 19devel", Some(Version(19, 0))),
            ("command not found", None),
        ];
        for (said, version) in cases {
            assert_eq!(parse_version(said), version, "{said}");
        }
    }
}
