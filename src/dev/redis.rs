//! A private Redis (or Valkey) under a directory: started, killed, restarted and stopped.
//!
//! It listens on loopback only, appends to its AOF (`everysec`), evicts nothing, and keeps its port
//! over restarts. Data that it can't read is set aside and it starts empty: whoever uses it has to
//! be able to rebuild it, as the gateway does from its ledger. Nothing here is async, so that a
//! server is tied to no runtime.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use chrono::Utc;
use nix::sys::signal::Signal;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::binaries;
use super::error::DevError;
use super::port;
use super::process::{self, Exit, LOOK_EVERY, Ladder, Process};

/// SIGTERM makes Redis write and sync its AOF.
const LADDER: Ladder = &[
    (Signal::SIGTERM, Duration::from_secs(5)),
    (Signal::SIGKILL, Duration::from_secs(2)),
];
/// Loading an AOF of a few gigabytes takes a minute.
const READY_MAX: Duration = Duration::from_secs(120);
/// A taken port is tried again this long at a restart; a first start draws another one.
const PORT_WAIT_MAX: Duration = Duration::from_secs(10);
/// A Redis that accepts connections answers within microseconds.
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// A command of ours may have to wait behind others, or for a fork.
const SAID_MAX: Duration = Duration::from_secs(10);

/// Where a private Redis lives.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory under which it keeps `redis/` (its data) and `redis.log`.
    pub dir: PathBuf,
    /// How many numbered databases it has.
    pub databases: u16,
}

impl Settings {
    /// A Redis under `dir` with Redis' usual 16 databases.
    pub fn new(dir: impl Into<PathBuf>) -> Settings {
        Settings {
            dir: dir.into(),
            databases: 16,
        }
    }
}

/// A private Redis. Dropping it stops it.
#[derive(Debug)]
pub struct Redis {
    binary: PathBuf,
    settings: Settings,
    port: u16,
    process: Option<Process>,
}

impl Redis {
    /// Starts a Redis on a free port, with the data found under the directory; one that an earlier,
    /// killed run left there is stopped first. Blocks until it has loaded its data, or until `halt`.
    ///
    /// # Errors
    /// [`DevError`] where no fitting binary is found, the directory can't be used, or Redis doesn't
    /// come up.
    pub fn start(settings: Settings, halt: &CancellationToken) -> Result<Redis, DevError> {
        let binary = binaries::redis()?;
        fs::create_dir_all(&settings.dir).map_err(DevError::io("create", &settings.dir))?;
        let dir = settings
            .dir
            .canonicalize()
            .map_err(DevError::io("find", &settings.dir))?;
        let mut redis = Redis {
            binary,
            settings: Settings { dir, ..settings },
            port: port::free()?,
            process: None,
        };
        redis.end_leftover();
        process::rotate(&redis.log());
        redis.launch(false, halt)?;
        Ok(redis)
    }

    /// `redis://127.0.0.1:<port>`; the same as long as this value lives.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The process id, or that of the last process where none runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// How it ended, in words, or `None` while it runs. Never blocks.
    pub fn exited(&mut self) -> Option<String> {
        match &mut self.process {
            Some(process) => process.exited().map(|exit| exit.to_string()),
            None => Some("not started".to_owned()),
        }
    }

    /// Kills it with SIGKILL and waits until it is gone. Its data stays.
    pub fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }

    /// Stops it cleanly: the AOF is complete afterwards.
    pub fn stop(&mut self) {
        if let Some(process) = &mut self.process {
            process.stop();
        }
    }

    /// Kills it and removes its data: the next start is an empty Redis.
    ///
    /// # Errors
    /// [`DevError::Io`] where the data can't be removed.
    pub fn wipe(&mut self) -> Result<(), DevError> {
        self.kill();
        let data = self.data();
        match fs::remove_dir_all(&data) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(DevError::io("remove", &data)(error)),
            _ => Ok(()),
        }
    }

    /// Starts it again on the same port and data, ending it first where it still runs. Blocks until
    /// it has loaded its data, or until `halt`.
    ///
    /// # Errors
    /// [`DevError`] where it doesn't come up.
    pub fn restart(&mut self, halt: &CancellationToken) -> Result<(), DevError> {
        self.stop();
        self.launch(true, halt)
    }

    /// Says one command, its words without spaces, and returns what Redis answers: as the protocol spells it.
    ///
    /// # Errors
    /// It can't be reached, or does not answer in time.
    pub fn say(&self, command: &str) -> std::io::Result<String> {
        say(self.port, &format!("{command}\r\nQUIT\r\n"), SAID_MAX)
    }

    /// Where its AOF lies.
    pub fn data(&self) -> PathBuf {
        self.settings.dir.join("redis")
    }

    fn log(&self) -> PathBuf {
        self.settings.dir.join("redis.log")
    }

    fn config(&self) -> PathBuf {
        self.data().join("redis.conf")
    }

    fn end_leftover(&self) {
        let file = self.data().join("redis.pid");
        let Ok(text) = fs::read_to_string(&file) else {
            return;
        };
        let Ok(pid) = text.trim().parse() else { return };
        if process::end_leftover(pid, &self.config().to_string_lossy(), LADDER) {
            info!(pid, "stopped the Redis that an earlier run left behind");
        }
        // It is rewritten at the next start; a stale one would only be looked at again.
        fs::remove_file(file).ok();
    }

    /// Runs Redis until it answers. A taken port is waited for or, where `keep_port` is false,
    /// replaced; data that makes it fail is set aside, once.
    fn launch(&mut self, keep_port: bool, halt: &CancellationToken) -> Result<(), DevError> {
        let since = Instant::now();
        let mut set_aside = None;
        loop {
            let Err(failure) = self.run(halt)? else {
                return Ok(());
            };
            if failure.said.contains("Address already in use") && since.elapsed() < PORT_WAIT_MAX {
                if keep_port {
                    thread::sleep(LOOK_EVERY * 5);
                } else {
                    self.port = port::free()?;
                }
            } else if failure.blames_data() && set_aside.is_none() && self.has_data() {
                set_aside = Some(self.set_aside(&failure)?);
            } else {
                if let Some(kept) = set_aside {
                    self.put_back(&kept)?;
                }
                return Err(DevError::Exited {
                    server: "Redis",
                    exit: failure.exit.to_string(),
                    log: self.log(),
                    tail: failure.said,
                });
            }
        }
    }

    /// One try: the outer error is final, the inner one is Redis ending by itself.
    fn run(&mut self, halt: &CancellationToken) -> Result<Result<(), Failure>, DevError> {
        self.configure()?;
        let mut command = Command::new(&self.binary);
        command.arg(self.config()).current_dir(self.data());
        let mut process = Process::spawn(command, &self.log(), LADDER)?;
        let pid = process.id();
        let since = Instant::now();
        loop {
            if let Some(exit) = process.exited() {
                return Ok(Err(Failure {
                    exit,
                    said: process.said(),
                }));
            }
            if answers(self.port, pid) {
                self.process = Some(process);
                return Ok(Ok(()));
            }
            if halt.is_cancelled() {
                return Err(DevError::Halted);
            }
            if since.elapsed() > READY_MAX {
                return Err(DevError::TimedOut {
                    server: "Redis",
                    limit: READY_MAX,
                    log: self.log(),
                });
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    fn configure(&self) -> Result<(), DevError> {
        let data = self.data();
        fs::create_dir_all(&data).map_err(DevError::io("create", &data))?;
        let lines = [
            "# Written anew at each start of this server.".to_owned(),
            format!("port {}", self.port),
            "bind 127.0.0.1".to_owned(),
            "protected-mode yes".to_owned(),
            format!("dir {}", quote(&data)?),
            format!("pidfile {}", quote(&data.join("redis.pid"))?),
            "daemonize no".to_owned(),
            // The command line keeps naming this file: by it a later run recognises the process.
            "set-proc-title no".to_owned(),
            format!("databases {}", self.settings.databases),
            "appendonly yes".to_owned(),
            "appendfsync everysec".to_owned(),
            // The AOF is the only persistence: RDB snapshots would fork for nothing.
            "save \"\"".to_owned(),
            "maxmemory-policy noeviction".to_owned(),
        ];
        let config = self.config();
        fs::write(&config, lines.join("\n") + "\n").map_err(DevError::io("write", &config))
    }

    fn has_data(&self) -> bool {
        ["appendonlydir", "appendonly.aof", "dump.rdb"]
            .iter()
            .any(|name| self.data().join(name).exists())
    }

    fn set_aside(&self, failure: &Failure) -> Result<PathBuf, DevError> {
        let name = format!("redis.unreadable-{}", Utc::now().format("%Y%m%dT%H%M%S%3fZ"));
        let kept = self.settings.dir.join(name);
        fs::rename(self.data(), &kept).map_err(DevError::io("set aside", &self.data()))?;
        warn!(
            kept = %kept.display(), exit = %failure.exit, said = %failure.said,
            "Redis can't read its data: set aside, starting empty"
        );
        Ok(kept)
    }

    /// An empty Redis failed as well, so the data was not to blame.
    fn put_back(&self, kept: &Path) -> Result<(), DevError> {
        let data = self.data();
        fs::remove_dir_all(&data).map_err(DevError::io("remove", &data))?;
        fs::rename(kept, &data).map_err(DevError::io("put back", kept))?;
        warn!(data = %data.display(), "an empty Redis fails as well: the data is back in its place");
        Ok(())
    }
}

/// A Redis that ended by itself while starting.
struct Failure {
    exit: Exit,
    said: String,
}

impl Failure {
    /// Redis ends with a code other than 0, or by a signal of its own making, on data that it
    /// can't read; a shutdown while it loads gives code 0, a kill SIGKILL or SIGTERM.
    fn blames_data(&self) -> bool {
        let from_outside = [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGINT].map(|signal| signal as i32);
        match self.exit {
            Exit::Code(code) => code != 0,
            Exit::Signal(signal) => !from_outside.contains(&signal),
            Exit::Unknown => false,
        }
    }
}

/// Whether the Redis on this port is the process `pid` and has loaded its data.
fn answers(port: u16, pid: u32) -> bool {
    say(port, "INFO server\r\nPING\r\nQUIT\r\n", ANSWER_MAX).is_ok_and(|said| {
        said.lines().any(|line| line == "+PONG")
            && said
                .lines()
                .any(|line| line.strip_prefix("process_id:") == Some(&pid.to_string()))
    })
}

/// Says these lines, the last of which asks for the end of the connection; everything that was answered.
fn say(port: u16, lines: &str, answer_max: Duration) -> std::io::Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, answer_max)?;
    stream.set_read_timeout(Some(answer_max))?;
    stream.write_all(lines.as_bytes())?;
    let mut said = Vec::new();
    stream.read_to_end(&mut said)?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// A path as a quoted word of redis.conf.
fn quote(path: &Path) -> Result<String, DevError> {
    let unusable = |why| DevError::Unusable {
        what: path.display().to_string(),
        why,
    };
    let text = path.to_str().ok_or_else(|| unusable("it is not UTF-8"))?;
    if text.contains(char::is_control) {
        return Err(unusable("it has a control character"));
    }
    Ok(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
}
