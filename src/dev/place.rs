//! Where the private Postgres lives, and as whom.
//!
//! Postgres refuses to run as root. Started by root, it therefore runs as the `postgres` user, or
//! `nobody` where there is none, and its directory must belong to that user and be reachable for
//! it. Below a closed directory (a home of mode 700, say) it is not: then Postgres gets a place of
//! its own, named by a hash of the directory, and `DIR/postgres` is a symbolic link to it, so that
//! later runs find the same data.

use std::env;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{User, geteuid};
use tracing::info;

use super::error::DevError;

/// The longest path of a Unix socket: 108 bytes with a closing zero on Linux, 104 elsewhere.
const SOCKET_PATH_BYTES_MAX: usize = 103;
/// `/.s.PGSQL.<port>` behind the directory.
const SOCKET_NAME_BYTES: usize = 16;

/// A user that is not root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Account {
    uid: u32,
    gid: u32,
}

/// The directory of a private Postgres and the user that runs it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    path: PathBuf,
    socket: PathBuf,
    account: Option<Account>,
}

impl Place {
    /// Prepares the place for the data directory `dir` (canonical), moving out of closed directories.
    ///
    /// # Errors
    /// [`DevError`] where a directory can't be made, or root finds no user to run Postgres as.
    pub(super) fn prepare(dir: &Path) -> Result<Place, DevError> {
        let link = dir.join("postgres");
        let mut place = if !geteuid().is_root() {
            make_dir(&link, 0o755)?;
            Place {
                path: link,
                socket: PathBuf::new(),
                account: None,
            }
        } else if let Ok(target) = fs::read_link(&link) {
            make_dir(&target, 0o755)?;
            Place {
                account: Some(account(&target)?),
                path: target,
                socket: PathBuf::new(),
            }
        } else {
            prepare_as_root(dir, &link)?
        };
        place.socket = place.socket_dir();
        place.own_dir(&place.socket, 0o755)?;
        Ok(place)
    }

    /// The directory that belongs to Postgres.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of the Unix socket, short enough for one.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// A command that runs as the place's user, in the place, without any `PG…` variable of ours.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        // The locale of the data is fixed; the caller's may not exist on this machine.
        command.env("LC_ALL", "C").current_dir(&self.path).stdin(Stdio::null());
        if let Some(account) = self.account {
            command.uid(account.uid).gid(account.gid);
        }
        command
    }

    /// Makes a directory that belongs to the place's user; one that exists must be theirs.
    fn own_dir(&self, path: &Path, mode: u32) -> Result<(), DevError> {
        make_dir(path, mode)?;
        if let Some(account) = self.account {
            chown(path, Some(account.uid), Some(account.gid)).map_err(DevError::io("give away", path))?;
        }
        Ok(())
    }

    fn socket_dir(&self) -> PathBuf {
        let near = self.path.join("socket");
        if near.as_os_str().len() + SOCKET_NAME_BYTES <= SOCKET_PATH_BYTES_MAX {
            near
        } else {
            env::temp_dir().join(name_for(&self.path))
        }
    }
}

/// Under `dir` where the user can reach it, else elsewhere with a link under `dir`.
fn prepare_as_root(dir: &Path, link: &Path) -> Result<Place, DevError> {
    open_to_passage(dir)?;
    make_dir(link, 0o755)?;
    let account = account(link)?;
    let here = Place {
        path: link.to_path_buf(),
        socket: PathBuf::new(),
        account: Some(account),
    };
    if here.own_dir(link, 0o755).is_ok() && can_reach(account, link) {
        return Ok(here);
    }
    let elsewhere = elsewhere(dir)?;
    let away = Place {
        path: elsewhere.clone(),
        socket: PathBuf::new(),
        account: Some(account),
    };
    away.own_dir(&elsewhere, 0o755)?;
    if !can_reach(account, &elsewhere) {
        return Err(DevError::Unusable {
            what: elsewhere.display().to_string(),
            why: "the user that runs Postgres can't reach it",
        });
    }
    // Only an empty directory goes; anything in it stops us here.
    fs::remove_dir(link).map_err(DevError::io("replace", link))?;
    symlink(&elsewhere, link).map_err(DevError::io("link", link))?;
    info!(dir = %dir.display(), postgres = %elsewhere.display(), "the directory is closed to other users: Postgres keeps its data elsewhere");
    Ok(away)
}

/// The owner of the data that exists, else `postgres`, else `nobody`.
fn account(place: &Path) -> Result<Account, DevError> {
    if let Ok(data) = fs::metadata(place.join("data"))
        && data.uid() != 0
    {
        return Ok(Account {
            uid: data.uid(),
            gid: data.gid(),
        });
    }
    ["postgres", "nobody"]
        .iter()
        .find_map(|name| User::from_name(name).ok().flatten())
        .map(|user| Account {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
        })
        .ok_or(DevError::Unusable {
            what: "root".to_owned(),
            why: "Postgres refuses to run as root, and there is neither a user postgres nor nobody",
        })
}

/// A directory that holds nothing but our files is ours, so we may let others pass through it; what
/// is above it, or a home that somebody gave us, is not.
fn open_to_passage(dir: &Path) -> Result<(), DevError> {
    let mode = fs::metadata(dir)
        .map_err(DevError::io("read", dir))?
        .permissions()
        .mode();
    let ours = fs::read_dir(dir)
        .map_err(DevError::io("read", dir))?
        .flatten()
        .all(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            ["dev.", "postgres", "redis"]
                .iter()
                .any(|known| name.starts_with(known))
        });
    if mode & 0o001 == 0 && ours {
        fs::set_permissions(dir, fs::Permissions::from_mode(mode | 0o011)).map_err(DevError::io("open", dir))?;
    }
    Ok(())
}

/// Asks the system rather than mode bits: access lists and mounts have a say too.
fn can_reach(account: Account, path: &Path) -> bool {
    Command::new("/bin/sh")
        .args(["-c", "cd -- \"$1\"", "sh"])
        .arg(path)
        .current_dir("/")
        .uid(account.uid)
        .gid(account.gid)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// A place outside of `dir`: temporary for a temporary directory, lasting for others. What others
/// may have put there under our name is refused.
fn elsewhere(dir: &Path) -> Result<PathBuf, DevError> {
    let temp = env::temp_dir();
    let temp = temp.canonicalize().unwrap_or(temp);
    let parent = if dir.starts_with(&temp) {
        temp
    } else {
        let lasting = PathBuf::from("/var/lib/flashgate");
        make_dir(&lasting, 0o755)?;
        // Whatever the umask took away.
        fs::set_permissions(&lasting, fs::Permissions::from_mode(0o755)).map_err(DevError::io("open", &lasting))?;
        lasting
    };
    let path = parent.join(name_for(dir));
    make_dir(&path, 0o755)?;
    let found = fs::symlink_metadata(&path).map_err(DevError::io("read", &path))?;
    if !found.is_dir() || (found.uid() != 0 && found.uid() != account(&path)?.uid) {
        return Err(DevError::Unusable {
            what: path.display().to_string(),
            why: "somebody else made it",
        });
    }
    Ok(path)
}

fn name_for(path: &Path) -> String {
    let hash = blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex();
    format!("flashgate-{}", &hash[..16])
}

fn make_dir(path: &Path, mode: u32) -> Result<(), DevError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(DevError::io("create", path))
}
