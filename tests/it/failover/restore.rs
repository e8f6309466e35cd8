//! The disk of Postgres is lost: a base backup and the archived WAL bring it back, the queue in Redis the rest.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use flashgate::dev::binaries;
use sqlx::PgPool;

use super::{Stage, carried, goes_on, halt, run};
use crate::faults::crowd::{Crowd, assert_kept};
use crate::support::door::until;
use crate::support::servers::{Private, home};

#[tokio::test(flavor = "multi_thread")]
async fn a_base_backup_and_the_archive_bring_the_ledger_back() {
    brought_back(false).await;
}

/// The last commits are left out on purpose, as after a mistake: the queue knows what was sold, and carries it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_restored_to_an_earlier_moment_catches_up_from_the_queue() {
    brought_back(true).await;
}

/// To the end of the archive, or to a moment before it.
async fn brought_back(to_a_moment: bool) {
    let mut stage = Stage::over(Private::start().await).await;
    let pool = PgPool::connect_lazy(&stage.servers.postgres.url()).expect("an address");
    let (archive, base) = (home(), home());
    open_to_all(archive.path());
    let place = archive.path().display();
    run(&pool, "ALTER SYSTEM SET archive_mode = on").await;
    run(&pool, &format!("ALTER SYSTEM SET archive_command = 'cp %p {place}/%f'")).await;
    stage.servers.restart_postgres().await;
    stage.gateway.settled().await;

    let backup = base.path().join("data");
    take_base_backup(&stage, &backup);
    let crowd = Crowd::gather(6, &[&stage.gateway]);
    crowd.buys(60).await;
    let moment: String = sqlx::query_scalar("SELECT clock_timestamp()::text")
        .fetch_one(&pool)
        .await
        .expect("Postgres answers");
    if to_a_moment {
        crowd.buys(60).await;
        run(&pool, "CREATE TABLE later ()").await;
    }
    // Up to here it is archived; what follows, only the disk has.
    let segment: String = sqlx::query_scalar("SELECT pg_walfile_name(pg_switch_wal())")
        .fetch_one(&pool)
        .await
        .expect("Postgres answers");
    until("an archived segment", async || {
        archive.path().join(&segment).exists().then_some(())
    })
    .await;
    let archived = carried(&pool).await;
    crowd.buys(60).await;
    assert!(carried(&pool).await > archived);

    stage.servers.postgres.kill();
    let data = stage.servers.postgres.data();
    let owner = data.with_extension("lost");
    fs::rename(&data, &owner).expect("it is ours");
    assert!(fs::rename(&backup, &data).is_ok() || copy(&backup, &data));
    give_to_the_owner_of(&owner, &data);
    fs::remove_dir_all(&owner).expect("it is ours");
    fs::write(data.join("recovery.signal"), "").expect("the directory can be written");
    let settings = OpenOptions::new().append(true).open(data.join("postgresql.auto.conf"));
    let target = match to_a_moment {
        true => format!("recovery_target_time = '{moment}'\nrecovery_target_action = 'promote'"),
        false => String::new(),
    };
    writeln!(
        settings.expect("it is in the backup"),
        "restore_command = 'cp {place}/%f %p'\narchive_mode = off\nrecovery_target_timeline = 'latest'\n{target}"
    )
    .expect("it can be written");
    tokio::task::block_in_place(|| stage.servers.postgres.restart(&halt())).expect("Postgres comes back");

    let heard = goes_on(&stage, crowd).await;
    if to_a_moment {
        let later: Option<String> = sqlx::query_scalar("SELECT to_regclass('later')::text")
            .fetch_one(&stage.gateway.pool)
            .await
            .expect("Postgres answers");
        assert_eq!(later, None, "the archive went further than the ledger now does");
    }
    assert_eq!(assert_kept(&stage.gateway, &heard).await, 0);
}

fn take_base_backup(stage: &Stage, to: &Path) {
    let url = stage.servers.postgres.tcp_url_of("flashgate");
    let made = Command::new(
        binaries::postgres(None)
            .expect("a Postgres is installed")
            .join("pg_basebackup"),
    )
    .args(["--checkpoint=fast", "--wal-method=stream", "--dbname", &url, "--pgdata"])
    .arg(to)
    .output()
    .expect("it comes with Postgres");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn open_to_all(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).expect("it is ours");
}

/// From one file system to another.
fn copy(from: &Path, to: &Path) -> bool {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    copied.expect("cp runs").success()
}

/// Where Postgres runs as another user than the tests, the backup is that user's, too.
fn give_to_the_owner_of(like: &Path, dir: &Path) {
    if nix::unistd::geteuid().is_root() {
        let given = Command::new("chown")
            .arg("-R")
            .arg(format!("--reference={}", like.display()))
            .arg(dir)
            .status();
        assert!(given.expect("chown runs").success());
    }
}
