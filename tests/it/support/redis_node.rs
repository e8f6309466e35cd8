//! A Redis with settings of one's own: a replica, or a node of a cluster.
//!
//! Its directory is watched over by the guard of the test servers, and dropping it kills it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use flashgate::dev::binaries;
use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::config::{Config, PerformanceConfig};
use fred::types::{ClusterHash, CustomCommand, Value};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::door::until;
use super::servers::{Home, home};

const ANSWER_MAX: Duration = Duration::from_secs(5);
/// A drawn port may be taken by another program before Redis has it.
const STARTS_MAX: usize = 5;
/// Marks the settings of a sentinel.
const SENTINEL: &str = "sentinel resolve-hostnames no";

/// A running server.
pub(crate) struct RedisNode {
    pub(crate) port: u16,
    settings: Vec<String>,
    process: Child,
    home: Home,
}

impl RedisNode {
    /// A server with these lines in its configuration, and whatever `more` makes of a second free port.
    pub(crate) async fn start(settings: &[&str], more: impl Fn(u16) -> Option<String>) -> RedisNode {
        for _ in 0..STARTS_MAX {
            let home = home();
            let mut settings: Vec<String> = settings.iter().map(|line| (*line).to_owned()).collect();
            settings.extend(more(free_port()));
            let port = free_port();
            let process = launch(&home, port, &settings);
            let mut node = RedisNode {
                port,
                settings,
                process,
                home,
            };
            if node.is_up().await {
                return node;
            }
        }
        panic!("Redis does not start");
    }

    /// A sentinel that watches a primary, alone.
    pub(crate) async fn sentinel(primary: &RedisNode, service: &str) -> RedisNode {
        let monitor = format!("sentinel monitor {service} 127.0.0.1 {} 1", primary.port);
        let down = format!("sentinel down-after-milliseconds {service} 2000");
        let retry = format!("sentinel failover-timeout {service} 10000");
        RedisNode::start(&[SENTINEL, &monitor, &down, &retry], |_| None).await
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn socket(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// What it answers; an error reply, or that it does not answer, as text.
    pub(crate) async fn ask(&self, line: &str) -> Result<Value, String> {
        let config = Config::from_url(&self.url()).expect("an address");
        let patience = PerformanceConfig {
            default_command_timeout: ANSWER_MAX,
            ..PerformanceConfig::default()
        };
        let client = Client::new(config, Some(patience), None, None);
        let started = tokio::time::timeout(ANSWER_MAX, client.init()).await;
        started.map_err(|_| "silent")?.map_err(|error| error.to_string())?;
        let (word, args) = line.split_once(' ').unwrap_or((line, ""));
        let command = CustomCommand::new(word.to_owned(), ClusterHash::Random, false);
        let args: Vec<&str> = args
            .split_whitespace()
            .map(|arg| if arg == "\"\"" { "" } else { arg })
            .collect();
        let answer = client.custom(command, args).await;
        client.quit().await.ok();
        answer.map_err(|error| error.to_string())
    }

    /// Has it do something that it must do.
    pub(crate) async fn tell(&self, line: &str) -> Value {
        self.ask(line).await.unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// What INFO says under this name.
    pub(crate) async fn info(&self, name: &str) -> Option<String> {
        let all = self.ask("INFO").await.ok()?.as_string()?;
        let line = all.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.trim().to_owned())
    }

    /// Waits until INFO says so.
    pub(crate) async fn until(&self, name: &str, value: &str) {
        until(&format!("{name}:{value}"), async || {
            (self.info(name).await.as_deref() == Some(value)).then_some(())
        })
        .await;
    }

    /// Has this replica lose its primary, which goes on without it: from here on it lags.
    pub(crate) async fn lose(&self, primary: &RedisNode) {
        self.tell("CONFIG SET masteruser nobody").await;
        self.tell("CONFIG SET masterauth wrong").await;
        primary.tell("CLIENT KILL TYPE replica").await;
        self.until("master_link_status", "down").await;
    }

    /// Lets it follow a primary again.
    pub(crate) async fn may_follow(&self) {
        self.tell("CONFIG SET masteruser \"\"").await;
        self.tell("CONFIG SET masterauth \"\"").await;
    }

    /// Kills it outright and waits until it is gone. Its data stays.
    pub(crate) fn kill(&mut self) {
        // Either fails only where it is gone.
        self.process.kill().ok();
        self.process.wait().ok();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("it is our child");
    }

    /// Starts it again after [`RedisNode::kill`], with its data, settings and port.
    pub(crate) async fn restart(&mut self) {
        self.restart_at(self.port).await;
    }

    /// The same on another port.
    pub(crate) async fn restart_at(&mut self, port: u16) {
        self.port = port;
        self.process = launch(&self.home, port, &self.settings);
        assert!(self.is_up().await, "Redis comes back");
    }

    /// Takes this line out of its configuration, from its next start on.
    pub(crate) fn unset(&mut self, line: &str) {
        self.settings.retain(|other| !other.starts_with(line));
    }

    /// Whether it answers before it ends.
    async fn is_up(&mut self) -> bool {
        loop {
            match self.process.try_wait() {
                Ok(None) if self.ask("PING").await.is_ok() => return true,
                Ok(None) => tokio::time::sleep(Duration::from_millis(20)).await,
                _ => return false,
            }
        }
    }
}

impl Drop for RedisNode {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

fn launch(home: &Home, port: u16, settings: &[String]) -> Child {
    let dir = home.path().display();
    let is_sentinel = settings.iter().any(|line| line == SENTINEL);
    let kept = match is_sentinel {
        true => "",
        false => "appendonly yes\nappendfsync everysec\nsave \"\"\nmaxmemory-policy noeviction\n",
    };
    let own = format!(
        "port {port}\nbind 127.0.0.1\ndir {dir}\npidfile {dir}/redis.pid\ndaemonize no\nset-proc-title no\n{kept}{}\n",
        settings.join("\n")
    );
    let config = home.path().join("redis.conf");
    fs::write(&config, own).expect("the directory can be written");
    let log = File::create(home.path().join("redis.log")).expect("the directory can be written");
    Command::new(binaries::redis().expect("a Redis is installed"))
        .arg(&config)
        .args(is_sentinel.then_some("--sentinel"))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts")
}
