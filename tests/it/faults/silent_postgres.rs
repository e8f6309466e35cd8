//! Connections to Postgres carry nothing more, and nobody is told: no end, no reset.

use std::time::Duration;

use serde_json::json;

use super::crowd::{Crowd, assert_kept};
use super::durable;
use crate::support::door::Buy;
use crate::support::gateway::{Whole, migrate};
use crate::support::servers::shared;
use crate::support::wire::wired;

/// How long a statement may take, and a connection be tried.
const SHORT: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_fall_silent_are_found_out_by_everyone_who_waits_for_them() {
    let (redis_url, database_url) = (shared().await.redis(), shared().await.tcp_database().await);
    migrate(&database_url).await;
    let (wire, through) = wired(&database_url).await;
    let gateway = Whole::changed(&redis_url, &database_url, |settings| {
        settings.ledger.url = through;
        (settings.ledger.statement_timeout, settings.ledger.acquire_timeout) = (SHORT, SHORT);
    })
    .await;
    gateway.until_open().await;
    gateway.sell("s", 100_000, json!({})).await;
    gateway.receive("plain", 1_000).await;
    let crowd = Crowd::gather(4, &[&gateway]);
    for round in 0..3 {
        crowd.buys(20).await;
        let early = durable(&gateway, &format!("early-{round}")).await;
        // All at once, and while each kind of call is under way.
        wire.silence();
        let plain = gateway.insist(&Buy::of(&format!("plain-{round}")).sku("plain")).await;
        assert_eq!(plain.status, 201, "{}", plain.body);
        durable(&gateway, &format!("late-{round}")).await;
        while gateway.commit(&early).await.status == 503 {}
        assert_eq!(gateway.reservation(&early).await.standing(), "COMMITTED durable");
    }
    let heard = crowd.leave().await;
    gateway.settled().await;
    assert_eq!(assert_kept(&gateway, &heard).await, 0);
    gateway.stop().await;
}
