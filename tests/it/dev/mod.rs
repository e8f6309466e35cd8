//! The embedded servers: they come up, stay up, carry on, and leave nothing behind.

mod data;
mod demo;
mod look;

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use flashgate::dev::{DevError, Servers, Settings};
use fred::prelude::ClientLike;
use sqlx::{Connection, PgConnection};
use tokio_util::sync::CancellationToken;

use self::look::{address, connect, dev_json, get, is_alive, kill_9, pid, put, rows, start, wait_for, write_row};
use crate::support::servers::{self, Private};

/// Names the directory for the process that `a_dev_to_be_killed` turns into.
const DEV_DIR: &str = "FLASHGATE_TEST_DEV_DIR";

#[tokio::test]
async fn both_servers_run_where_dev_json_says_and_stop_without_a_trace() {
    let home = servers::home();
    let servers = start(home.path()).await;
    servers
        .announce(address(8080), address(8081))
        .expect("dev.json is written");
    let told = dev_json(home.path()).expect("it is whole");
    assert_eq!(told["listen"], "127.0.0.1:8080");
    assert_eq!(told["adminListen"], "127.0.0.1:8081");
    assert_eq!(told["pids"]["gateway"], std::process::id());
    put(told["redisUrl"].as_str().expect("a URL"), "k", "v").await;
    write_row(told["databaseUrl"].as_str().expect("a URL"), 1).await;
    let pids = [servers.redis_pid(), servers.postgres_pid()];
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    servers.stop().await;
    assert!(!pids.iter().any(|pid| is_alive(*pid)));
    assert!(
        dev_json(home.path()).is_none(),
        "nothing is running that it could tell about"
    );
}

#[tokio::test]
async fn redis_is_safe_and_postgres_durable_by_their_settings() {
    let home = servers::home();
    let servers = start(home.path()).await;
    let client = connect(&servers.redis_url()).await;
    for (name, wanted) in [
        ("appendonly", "yes"),
        ("appendfsync", "everysec"),
        ("maxmemory-policy", "noeviction"),
        ("bind", "127.0.0.1"),
        ("protected-mode", "yes"),
    ] {
        let found: Vec<String> = client
            .custom(fred::cmd!("CONFIG"), vec!["GET", name])
            .await
            .expect("Redis tells its settings");
        assert_eq!(found, [name, wanted]);
    }
    let mut postgres = PgConnection::connect(&servers.database_url())
        .await
        .expect("Postgres answers");
    for (name, wanted) in [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("listen_addresses", "127.0.0.1"),
        ("idle_in_transaction_session_timeout", "30s"),
        ("server_encoding", "UTF8"),
    ] {
        let found: String = sqlx::query_scalar("SELECT current_setting($1)")
            .bind(name)
            .fetch_one(&mut postgres)
            .await
            .expect("it tells");
        assert_eq!(found, wanted, "{name}");
    }
    servers.stop().await;
}

#[tokio::test]
async fn a_killed_server_is_back_within_a_second_on_the_same_port_with_its_data() {
    let home = servers::home();
    let servers = start(home.path()).await;
    servers
        .announce(address(8080), address(8081))
        .expect("dev.json is written");
    let stop = CancellationToken::new();
    let watch = tokio::spawn({
        let (servers, stop) = (servers.clone(), stop.clone());
        async move { servers.supervise(stop).await }
    });
    write_row(&servers.database_url(), 7).await;
    put(&servers.redis_url(), "k", "v").await;
    // The AOF is written when the event loop turns and synced each second; a kill of the process
    // alone loses nothing that was written.
    for name in ["redis", "postgres"] {
        let before = dev_json(home.path()).expect("it is whole")["pids"][name]
            .as_u64()
            .expect("a pid");
        let since = Instant::now();
        kill_9(u32::try_from(before).expect("a pid"));
        let after = wait_for("a new pid in dev.json", || {
            dev_json(home.path())
                .and_then(|told| told["pids"][name].as_u64())
                .filter(|pid| *pid != before)
        })
        .await;
        // A second is the promise; the rest is for a machine that runs all tests at once.
        assert!(
            since.elapsed() < Duration::from_secs(30),
            "{name} took {:?}",
            since.elapsed()
        );
        assert!(is_alive(u32::try_from(after).expect("a pid")));
    }
    assert_eq!(get(&servers.redis_url(), "k").await.as_deref(), Some("v"));
    assert_eq!(rows(&servers.database_url()).await, [7]);
    stop.cancel();
    watch.await.expect("supervision ends");
    servers.stop().await;
}

#[tokio::test]
async fn a_second_start_on_the_directory_of_a_live_dev_is_refused() {
    let home = servers::home();
    let first = start(home.path()).await;
    let second = Servers::start(&Settings {
        dir: home.path().to_path_buf(),
    })
    .await;
    let Err(DevError::Busy { pid, .. }) = second else {
        panic!("refused as busy, not {second:?}")
    };
    assert_eq!(pid, Some(std::process::id()));
    put(&first.redis_url(), "k", "v").await;
    first.stop().await;
    start(home.path()).await.stop().await;
}

#[tokio::test]
async fn a_start_after_a_killed_dev_stops_its_servers_and_carries_on_with_its_data() {
    let home = servers::home();
    let mut dev = run_dev(home.path());
    let told = wait_for("the other dev", || dev_json(home.path())).await;
    let url = |name: &str| told[name].as_str().expect("a URL").to_owned();
    put(&url("redisUrl"), "k", "v").await;
    write_row(&url("databaseUrl"), 3).await;
    dev.kill().expect("it can be killed");
    dev.wait().expect("it is gone");
    let left = ["redis", "postgres"].map(|name| pid(&told["pids"][name]));
    assert!(left.iter().all(|pid| is_alive(*pid)), "its servers live on");

    let servers = start(home.path()).await;
    assert!(
        dev_json(home.path()).is_none(),
        "what the killed one told is no longer so"
    );
    assert!(!left.contains(&servers.redis_pid()) && !left.contains(&servers.postgres_pid()));
    assert!(!left.iter().any(|pid| is_alive(*pid)), "the left ones are stopped");
    assert_eq!(get(&servers.redis_url(), "k").await.as_deref(), Some("v"));
    assert_eq!(rows(&servers.database_url()).await, [3]);
    servers.stop().await;
}

/// Not a test of its own: the process that the test above kills.
#[tokio::test]
async fn a_dev_to_be_killed() {
    let Some(dir) = env::var_os(DEV_DIR) else {
        return;
    };
    let servers = start(Path::new(&dir)).await;
    servers
        .announce(address(8080), address(8081))
        .expect("dev.json is written");
    // Until it is killed, or the program that started it is gone.
    let lines = tokio::task::spawn_blocking(|| std::io::stdin().lines().count()).await;
    lines.expect("its input ends");
    servers.stop().await;
}

#[tokio::test]
async fn a_pid_that_is_now_somebody_elses_is_left_alone() {
    let home = servers::home();
    start(home.path()).await.stop().await;
    let mut bystander = Command::new("sleep").arg("600").spawn().expect("sleep runs");
    fs::write(home.path().join("redis/redis.pid"), bystander.id().to_string()).expect("written");
    start(home.path()).await.stop().await;
    assert!(
        bystander.try_wait().expect("it can be asked").is_none(),
        "it still sleeps"
    );
    bystander.kill().expect("it can be killed");
    bystander.wait().expect("it is gone");
}

#[tokio::test]
async fn every_test_gets_databases_of_its_own() {
    let shared = servers::shared().await;
    let (one, other) = (shared.database().await, shared.database().await);
    write_row(&one, 1).await;
    write_row(&other, 2).await;
    assert_eq!((rows(&one).await, rows(&other).await), (vec![1], vec![2]));
    let (one, other) = (shared.redis(), shared.redis());
    put(&one, "k", "v").await;
    assert_eq!(get(&other, "k").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn private_servers_can_be_killed_restarted_and_wiped() {
    let mut servers = Private::start().await;
    let (redis, database) = (servers.redis.url(), servers.postgres.url());
    put(&redis, "k", "v").await;
    write_row(&database, 1).await;
    servers.redis.kill();
    servers.postgres.kill();
    servers.restart_redis().await;
    servers.restart_postgres().await;
    assert_eq!(get(&redis, "k").await.as_deref(), Some("v"));
    assert_eq!(rows(&database).await, [1]);
    assert_eq!(rows(&servers.postgres.tcp_url_of("flashgate")).await, [1]);
    servers.redis.wipe().expect("wiped");
    servers.restart_redis().await;
    assert_eq!(get(&redis, "k").await, None);
}

/// This very program, running `a_dev_to_be_killed` alone.
fn run_dev(dir: &Path) -> Child {
    Command::new(env::current_exe().expect("this program has a path"))
        .args(["--exact", "dev::a_dev_to_be_killed"])
        .env(DEV_DIR, dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs")
}
