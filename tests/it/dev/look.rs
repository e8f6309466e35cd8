//! What the tests of the embedded servers do to them and look at.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use flashgate::dev::{Servers, Settings};
use fred::prelude::{Builder, Client, ClientLike, Config, KeysInterface};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sqlx::{Connection, PgConnection};

/// The most that anything here is waited for; all of it takes a second or two on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn start(dir: &Path) -> Servers {
    Servers::start(&Settings { dir: dir.to_path_buf() })
        .await
        .expect("the servers start")
}

pub(crate) fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

pub(crate) fn dev_json(dir: &Path) -> Option<Value> {
    let text = fs::read_to_string(dir.join("dev.json")).ok()?;
    Some(serde_json::from_str(&text).expect("dev.json is always whole"))
}

pub(crate) fn pid(value: &Value) -> u32 {
    value.as_u64().and_then(|pid| pid.try_into().ok()).expect("a pid")
}

pub(crate) fn nix_pid(pid: u32) -> Pid {
    Pid::from_raw(pid.try_into().expect("a pid"))
}

pub(crate) fn is_alive(pid: u32) -> bool {
    // A zombie that nobody has reaped yet is not alive.
    let zombie = fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "));
    !zombie && kill(nix_pid(pid), None).is_ok()
}

pub(crate) fn kill_9(pid: u32) {
    kill(nix_pid(pid), Signal::SIGKILL).expect("it can be killed");
}

pub(crate) async fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(since.elapsed() < PATIENCE, "no sign of {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) async fn connect(url: &str) -> Client {
    let config = Config::from_url(url).expect("fred reads the URL");
    let client = Builder::from_config(config).build().expect("a client");
    client.init().await.expect("Redis answers");
    client
}

pub(crate) async fn put(url: &str, key: &str, value: &str) {
    let client = connect(url).await;
    client
        .set::<(), _, _>(key, value, None, None, false)
        .await
        .expect("set");
    client.quit().await.expect("closed");
}

pub(crate) async fn get(url: &str, key: &str) -> Option<String> {
    let client = connect(url).await;
    let found = client.get(key).await.expect("get");
    client.quit().await.expect("closed");
    found
}

pub(crate) async fn write_row(url: &str, n: i32) {
    let mut connection = PgConnection::connect(url).await.expect("Postgres answers");
    sqlx::query("CREATE TABLE IF NOT EXISTS t (n int)")
        .execute(&mut connection)
        .await
        .expect("a table");
    sqlx::query("INSERT INTO t VALUES ($1)")
        .bind(n)
        .execute(&mut connection)
        .await
        .expect("a row");
    connection.close().await.expect("closed");
}

pub(crate) async fn rows(url: &str) -> Vec<i32> {
    let mut connection = PgConnection::connect(url).await.expect("Postgres answers");
    let found = sqlx::query_scalar("SELECT n FROM t ORDER BY n")
        .fetch_all(&mut connection)
        .await
        .expect("rows");
    connection.close().await.expect("closed");
    found
}
