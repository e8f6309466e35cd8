//! What the embedded servers do with the data and the directory that they find.

use std::fs;
use std::path::{Path, PathBuf};

use flashgate::dev::redis::Redis;
use flashgate::dev::{DevError, Servers, Settings, redis};
use tokio_util::sync::CancellationToken;

use super::look::{get, put, rows, start, write_row};
use crate::support::servers;

#[tokio::test]
async fn data_that_redis_cannot_read_is_set_aside() {
    let home = servers::home();
    let servers = start(home.path()).await;
    put(&servers.redis_url(), "k", "v").await;
    servers.stop().await;
    let aof = home.path().join("redis/appendonlydir");
    let increments = fs::read_dir(&aof).expect("the AOF is there").flatten();
    let file = increments
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().ends_with(".incr.aof"));
    fs::write(
        file.expect("it has an increment"),
        "*3\r\n$3\r\nSET\r\n!garbage\r\nmore of it\r\n",
    )
    .expect("written");

    let servers = start(home.path()).await;
    assert_eq!(get(&servers.redis_url(), "k").await, None, "it starts empty");
    let kept = set_aside(home.path());
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert!(kept[0].join("appendonlydir").is_dir(), "with the data");
    servers.stop().await;
}

#[tokio::test]
async fn data_that_is_not_to_blame_stays_in_its_place() {
    let home = servers::home();
    let halt = CancellationToken::new();
    let mut redis = Redis::start(redis::Settings::new(home.path()), &halt).expect("it starts");
    put(&redis.url(), "k", "v").await;
    redis.kill();
    drop(redis);
    // A Redis that refuses its settings fails with and without the data.
    let wrong = redis::Settings {
        databases: 0,
        ..redis::Settings::new(home.path())
    };
    let failure = Redis::start(wrong, &halt).expect_err("0 databases are none");
    assert!(matches!(failure, DevError::Exited { .. }), "{failure}");
    assert!(set_aside(home.path()).is_empty(), "{failure}");
    let redis = Redis::start(redis::Settings::new(home.path()), &halt).expect("it starts");
    assert_eq!(get(&redis.url(), "k").await.as_deref(), Some("v"));
}

#[tokio::test]
async fn a_directory_closed_to_other_users_serves_as_well() {
    use std::os::unix::fs::PermissionsExt;
    let home = servers::home();
    let closed = home.path().join("closed");
    let dir = closed.join("with a blank and \u{e9}");
    fs::create_dir_all(&dir).expect("made");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("closed");
    let servers = start(&dir).await;
    write_row(&servers.database_url(), 5).await;
    put(&servers.redis_url(), "k", "v").await;
    servers.stop().await;
    let servers = start(&dir).await;
    assert_eq!(rows(&servers.database_url()).await, [5]);
    servers.stop().await;
    let place = dir.join("postgres").canonicalize().expect("it is there");
    // As root it lies outside of the closed directory, so outside of what the guard removes.
    fs::remove_dir_all(place).expect("removed");
}

#[tokio::test]
async fn a_place_that_is_no_directory_is_named_with_what_the_system_says() {
    let home = servers::home();
    let file = home.path().join("file");
    fs::write(&file, "").expect("written");
    let failure = Servers::start(&Settings { dir: file.clone() })
        .await
        .expect_err("no place");
    let told = failure.to_string();
    assert!(
        told.contains(&file.display().to_string()) && told.contains("os error"),
        "{told}"
    );
}

fn set_aside(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir)
        .expect("it is there")
        .flatten()
        .map(|entry| entry.path());
    entries
        .filter(|path| path.to_string_lossy().contains("redis.unreadable-"))
        .collect()
}
