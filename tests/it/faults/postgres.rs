//! Postgres dies and comes back while buyers go on.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta};

use super::crowd::{Crowd, assert_kept};
use super::{durable, selling};
use crate::support::door::{Buy, Told};

/// Longer than the longest silence of all gateways that is no stall.
const AWAY: Duration = Duration::from_millis(6_500);

fn expires_at(told: &Told) -> DateTime<chrono::FixedOffset> {
    let text = told.body["expiresAt"].as_str().expect("a deadline");
    DateTime::parse_from_rfc3339(text).expect("a time")
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_units_are_still_taken_and_all_become_durable_later() {
    let (mut servers, gateway) = selling(100_000).await;
    let early = durable(&gateway, "early").await;
    let deadline = expires_at(&gateway.reservation(&early).await);
    let crowd = Crowd::gather(4, &[&gateway]);
    crowd.buys(20).await;
    servers.postgres.kill();
    let since = Instant::now();

    let taken = gateway.reserve(&Buy::of("taken").key("taken").prefer("wait=0.3")).await;
    assert_eq!((taken.status, taken.standing()), (202, "RESERVED accepted".into()));
    for told in [gateway.commit(&early).await, gateway.release(&early).await] {
        assert_eq!(told.problem(), (503, "LEDGER_UNAVAILABLE"));
        assert!(told.retry_after.is_some());
    }
    let mut n = 0;
    while since.elapsed() < AWAY {
        n += 1;
        let order = format!("on-{n}");
        let told = gateway.reserve(&Buy::of(&order).prefer("wait=0.3")).await;
        assert_eq!(told.standing(), "RESERVED accepted", "{}", told.body);
    }
    // The ledger is further behind than this wait, so there is nothing to wait for.
    let asked = Instant::now();
    let told = gateway.reserve(&Buy::of("at-once").prefer("wait=5")).await;
    assert_eq!(told.status, 202);
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    let replay = gateway
        .reserve(&Buy::of("taken").key("taken").prefer("respond-async"))
        .await;
    if replay.status != 503 {
        assert_eq!((replay.id(), replay.replayed), (taken.id(), true));
    }
    servers.restart_postgres().await;

    crowd.buys(20).await;
    let heard = crowd.leave().await;
    gateway.settled().await;
    assert_eq!(assert_kept(&gateway, &heard).await, 0);
    assert_eq!(gateway.reservation(&taken.id()).await.standing(), "RESERVED durable");
    let later = expires_at(&gateway.reservation(&early).await);
    let moved = later - deadline;
    let least = TimeDelta::from_std(AWAY).expect("short") + TimeDelta::seconds(29);
    assert!(moved >= least, "the deadline moved by {moved} only");
    gateway.commit(&early).await.expect(200);
}
