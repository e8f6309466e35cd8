//! One server process: started apart from us, watched, and ended for certain.
//!
//! A server gets its own process group, so that a Ctrl-C meant for the gateway doesn't reach it, and
//! its output goes to a log file. It is ended by a ladder of signals, each with a bounded wait and
//! the last one SIGKILL; dropping a [`Process`] ends it too. Processes of an earlier run are ended
//! only after their command line proved to be the server's: pids are reused.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::DevError;

/// How often a process is looked at while it is waited for: short, as a start or a stop that takes
/// 30 ms should not be rounded up to something that people notice.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How much of the end of a log goes into an error message.
const TAIL_BYTES_MAX: u64 = 2_000;

/// Signals to send in turn, each with the time the process gets to obey it.
pub(super) type Ladder = &'static [(Signal, Duration)];

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It is gone; how is not known.
    Unknown,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Code(code) => write!(out, "exit code {code}"),
            Exit::Signal(signal) => write!(out, "signal {signal}"),
            Exit::Unknown => out.write_str("unknown how"),
        }
    }
}

/// A running (or just ended) server that this process started.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    ladder: Ladder,
    log: PathBuf,
    log_from: u64,
}

impl Process {
    /// Starts `command` with its output appended to `log`.
    ///
    /// # Errors
    /// [`DevError::Io`] where the log can't be opened or the program can't be run.
    pub(super) fn spawn(mut command: Command, log: &Path, ladder: Ladder) -> Result<Process, DevError> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .map_err(DevError::io("open", log))?;
        let log_from = file.metadata().map_err(DevError::io("read", log))?.len();
        let twin = file.try_clone().map_err(DevError::io("open", log))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(twin)
            .process_group(0)
            .spawn()
            .map_err(DevError::io("start", Path::new(command.get_program())))?;
        Ok(Process {
            child,
            ladder,
            log: log.to_path_buf(),
            log_from,
        })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, or `None` while it runs. Never blocks.
    pub(super) fn exited(&mut self) -> Option<Exit> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(match (status.code(), status.signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => Exit::Unknown,
            }),
            // ECHILD, where our own parent left SIGCHLD ignored: the system reaped it for us.
            Err(_) => Some(Exit::Unknown),
        }
    }

    /// What it has logged since it was started, at most the last 2,000 bytes.
    pub(super) fn said(&self) -> String {
        tail(&self.log, self.log_from)
    }

    /// Kills it outright, as a crash would, and waits until it is gone.
    pub(super) fn kill(&mut self) {
        if self.exited().is_none() {
            signal(self.id(), Signal::SIGKILL);
            // SIGKILL can't be refused, so this wait ends; an error means that it was reaped before.
            self.child.wait().ok();
        }
    }

    /// Ends it by its ladder; returns once it is gone.
    pub(super) fn stop(&mut self) {
        for (step, limit) in self.ladder {
            if self.exited().is_some() {
                return;
            }
            signal(self.id(), *step);
            let since = Instant::now();
            while self.exited().is_none() && since.elapsed() < *limit {
                thread::sleep(LOOK_EVERY);
            }
        }
        self.kill();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Ends the process `pid` of an earlier run by `ladder`, if it is alive and its command line names
/// `marker`. Says whether there was one.
pub(super) fn end_leftover(pid: u32, marker: &str, ladder: Ladder) -> bool {
    if !is_running(pid, marker) {
        return false;
    }
    for (step, limit) in ladder {
        signal(pid, *step);
        let since = Instant::now();
        while since.elapsed() < *limit {
            if !is_running(pid, marker) {
                return true;
            }
            thread::sleep(LOOK_EVERY);
        }
    }
    true
}

/// Whether a process with this pid is alive and names `marker` on its command line.
pub(super) fn is_running(pid: u32, marker: &str) -> bool {
    command_line(pid).is_some_and(|line| line.contains(marker))
}

/// Whether there is any process with this pid, whosever it is.
pub(super) fn is_alive(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(|pid| kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH))
}

/// Appended logs grow without end, so each start keeps the log of the run before and drops older
/// ones.
pub(super) fn rotate(log: &Path) {
    let mut old = log.as_os_str().to_owned();
    old.push(".old");
    // Without an earlier log there is nothing to keep.
    fs::rename(log, PathBuf::from(old)).ok();
}

/// The command line of a live process, from /proc where there is one, else from `ps`. A zombie has
/// none.
fn command_line(pid: u32) -> Option<String> {
    if Path::new("/proc/self/cmdline").exists() {
        let raw = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        return Some(String::from_utf8_lossy(&raw).replace('\0', " "));
    }
    let output = Command::new("ps")
        .args(["-ww", "-o", "command=", "-p", &pid.to_string()])
        .output()
        .ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn signal(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        // The only failure of interest is that it is gone, and every caller looks for that anyway.
        kill(Pid::from_raw(pid), signal).ok();
    }
}

fn tail(log: &Path, from: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let from = from.max(file.metadata()?.len().saturating_sub(TAIL_BYTES_MAX));
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read()
        .map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
        .unwrap_or_default()
}
