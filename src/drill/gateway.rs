//! A gateway in a process of its own, over two wires; and where it listens, which changes when it starts anew.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::DrillError;
use super::wire::Wire;

/// Longest time until it listens; it does so before it asks anybody.
const LISTENS_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Few, so that two gateways and a test fit into what a Postgres has.
const POSTGRES_CONNECTIONS: u32 = 12;

/// Where a gateway listens now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) public: SocketAddr,
    pub(super) admin: SocketAddr,
}

/// A gateway that can be killed, paused and started again. Dropping it kills its process.
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) number: u32,
    pub(super) redis: Wire,
    pub(super) postgres: Wire,
    home: PathBuf,
    process: Option<Child>,
    /// It was started without anything between it and the system.
    is_plain: bool,
    addresses: Arc<RwLock<Addresses>>,
}

impl Gateway {
    /// Starts it; its log and pid lie in `home`.
    ///
    /// # Errors
    /// It does not come up.
    pub(super) async fn start(number: u32, home: PathBuf, redis: Wire, postgres: Wire) -> Result<Gateway, DrillError> {
        fs::create_dir_all(&home)?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut gateway = Gateway {
            number,
            redis,
            postgres,
            home,
            process: None,
            is_plain: true,
            addresses: Arc::new(RwLock::new(Addresses {
                public: nowhere,
                admin: nowhere,
            })),
        };
        gateway.launch(&[]).await?;
        Ok(gateway)
    }

    /// Where it listens, now and whenever it has started again.
    pub(super) fn addresses(&self) -> Arc<RwLock<Addresses>> {
        Arc::clone(&self.addresses)
    }

    /// Its process, where it has one.
    pub(super) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Whether it runs, and as it should.
    pub(super) fn is_whole(&self) -> bool {
        self.process.is_some() && self.is_plain
    }

    /// Kills it outright, as a crash would.
    pub(super) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Either fails only where it is gone.
            process.kill().ok();
            process.wait().ok();
        }
    }

    /// Starts it with these variables in its environment, after what runs of it was killed.
    ///
    /// # Errors
    /// It does not come up.
    pub(super) async fn launch(&mut self, variables: &[(&str, String)]) -> Result<(), DrillError> {
        self.kill();
        let log = self.home.join(format!("gateway-{}.log", rand::random::<u32>()));
        let mut command = Command::new(std::env::current_exe()?);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FLASHGATE_")) {
            command.env_remove(name);
        }
        // In a file, so that its command line names the directory: by it a watcher knows whose process it is.
        let settings = self.home.join("gateway.toml");
        fs::write(
            &settings,
            format!(
                "redis_url = \"redis://{}\"\ndatabase_url = \"postgres://flashgate@{}/flashgate\"\n\
                 postgres_connections = {POSTGRES_CONNECTIONS}\nlisten = \"127.0.0.1:0\"\n\
                 admin_listen = \"127.0.0.1:0\"\nlog_format = \"json\"\nlog_filter = \"info\"\n",
                self.redis.address(),
                self.postgres.address()
            ),
        )?;
        command
            .arg("--config")
            .arg(&settings)
            .arg("serve")
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?);
        let process = command.spawn()?;
        fs::write(self.home.join("gateway.pid"), process.id().to_string())?;
        self.process = Some(process);
        self.is_plain = variables.is_empty();
        let since = Instant::now();
        let addresses = loop {
            if let Some(addresses) = listening(&log)? {
                break addresses;
            }
            if since.elapsed() > LISTENS_WITHIN {
                let said = fs::read_to_string(&log)?;
                return Err(DrillError::Stack(format!("a gateway does not come up: {said}")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        *self.addresses.write().unwrap_or_else(PoisonError::into_inner) = addresses;
        Ok(())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where the log says that it listens.
fn listening(log: &Path) -> io::Result<Option<Addresses>> {
    let text = fs::read_to_string(log)?;
    let told = text.lines().find(|line| line.contains("\"listening\""));
    let told = told.and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let address = |name: &str| {
        let shown = told.as_ref()?[name].as_str()?;
        shown.trim_start_matches("Some(").trim_end_matches(')').parse().ok()
    };
    Ok(address("public")
        .zip(address("admin"))
        .map(|(public, admin)| Addresses { public, admin }))
}
