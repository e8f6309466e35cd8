//! Ten times what can be served: beginnings are shed and told when to come back, endings are not; what was granted is
//! true, memory stays flat, and when it is over all is as before.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::door::{Buy, Door, PATIENCE};
use crate::support::flood::{self, Flood, p95};
use crate::support::gateway::{Child, migrate};
use crate::support::servers::shared;

/// How long it lasts.
const LASTING: Duration = Duration::from_secs(8);
/// More than the gateway lets in at a time.
const CONNECTIONS: usize = 1_500;
/// Endings meanwhile; 99.9 % of them are all.
const ENDINGS: u32 = 300;
/// Between two of them.
const PACE: Duration = Duration::from_millis(20);
/// By how much the gateway's memory may grow: a connection costs some ten kilobytes.
const GROWTH_MAX_MB: u64 = 256;
/// How long it may take until all is as before.
const BACK_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn ten_times_the_load_sheds_beginnings_and_no_endings() {
    let (redis, database) = (shared().await.redis(), shared().await.database().await);
    migrate(&database).await;
    let gateway = Child::over(&redis, &database).await;
    gateway.sell("s", 1_000_000, serde_json::json!({})).await;
    let mut held = Vec::new();
    for n in 0..ENDINGS {
        let told = gateway.reserve(&Buy::of(&format!("held-{n}"))).await;
        assert!(matches!(told.status, 201 | 202), "{told:?}");
        held.push(told.id());
    }
    // What it can serve: who waits for an answer before the next request asks no more than that.
    let calm = Flood {
        at: gateway.public,
        name: "calm",
        connections: 64,
        per_second: 1e6,
        lasting: Duration::from_secs(2),
    };
    let served = flood::ended(flood::start(calm)).await;
    assert_eq!(served.odd, [""; 0]);
    gateway.until_drained().await;
    let before = memory_mb(gateway.pid());

    let storm = Flood {
        name: "storm",
        connections: CONNECTIONS,
        per_second: 10.0 * served.per_second(),
        lasting: LASTING,
        ..calm
    };
    let running = flood::start(storm);
    let (mut ended, mut refused) = end_all(&gateway, held).await;
    let half = memory_mb(gateway.pid());
    let mut stormed = flood::ended(running).await;
    let (over, after) = (Instant::now(), memory_mb(gateway.pid()));

    let back = loop {
        let asked = Instant::now();
        let told = gateway.reserve(&Buy::of(&format!("back-{:?}", over.elapsed()))).await;
        if told.status == 201 {
            break asked - over;
        }
        assert!(over.elapsed() < PATIENCE, "{told:?}");
    };
    gateway.until_drained().await;
    eprintln!(
        "{:.0}/s served in calm; of the storm {} granted (p95 {:?}), {} shed; endings p95 {:?}; {before}, {half}, {after} MB; \
         back after {back:?}",
        served.per_second(),
        stormed.granted,
        p95(&mut stormed.took),
        stormed.shed,
        p95(&mut ended),
    );

    assert_eq!(stormed.odd, [""; 0], "who is not served is told when to come back");
    // How many depends on how much faster than the gateway this machine can ask.
    assert!(stormed.shed > 1_000, "{} were shed", stormed.shed);
    assert!(stormed.granted > 1_000, "{} were granted", stormed.granted);
    refused.truncate(5);
    assert_eq!(refused, [""; 0], "endings are not shed");
    assert!(after < before + GROWTH_MAX_MB, "{before} MB before, {after} MB after");
    assert!(back < BACK_WITHIN, "back after {back:?}");
    let sale = gateway.sale("s").await;
    let granted = served.granted + stormed.granted + held_and_back(&gateway).await;
    assert_eq!(
        sale["counts"]["durable"], granted,
        "each that was granted, and no other"
    );
    gateway.settled().await;
}

/// Commits them one by one while the storm goes on; how long each took, and what was not 200.
async fn end_all(door: &Door, held: Vec<String>) -> (Vec<Duration>, Vec<String>) {
    let mut waiting = Vec::new();
    for id in held {
        tokio::time::sleep(PACE).await;
        let door = door.clone();
        waiting.push(tokio::spawn(async move {
            let begun = Instant::now();
            let told = door.commit(&id).await;
            (begun.elapsed(), (told.status != 200).then(|| format!("{told:?}")))
        }));
    }
    let (mut took, mut refused) = (Vec::new(), Vec::new());
    for ending in waiting {
        let (time, told) = ending.await.expect("no ending panics");
        took.push(time);
        refused.extend(told);
    }
    (took, refused)
}

/// Reservations that were not made by a flood.
async fn held_and_back(door: &Door) -> usize {
    let sql = "SELECT count(*) FROM inventory_reservation WHERE order_id LIKE 'held-%' OR order_id LIKE 'back-%'";
    let count: i64 = sqlx::query_scalar(sql).fetch_one(&door.pool).await.expect("it counts");
    usize::try_from(count).expect("not negative")
}

/// What the process has in memory.
fn memory_mb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kb.expect("Linux tells it") / 1024
}
