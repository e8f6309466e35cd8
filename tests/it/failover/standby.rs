//! A standby that follows by streaming replication is promoted.

use flashgate::dev::postgres::Postgres;
use sqlx::PgPool;

use super::{Stage, carried, goes_on, run};
use crate::faults::crowd::{Crowd, assert_kept};
use crate::support::door::{Buy, until};
use crate::support::servers::{Home, Private, home};
use crate::support::standby::standby;
use crate::support::wire::server_of;

/// A stage and a standby of its Postgres.
async fn followed() -> (Stage, Postgres, Home) {
    let mut servers = Private::start().await;
    let place = home();
    let standby = tokio::task::block_in_place(|| standby(&mut servers.postgres, &place));
    (Stage::over(servers).await, standby, place)
}

/// Has the standby take the place of the primary, which dies.
async fn promote(stage: &mut Stage, standby: &Postgres, at_standby: &PgPool) {
    stage.servers.postgres.kill();
    run(at_standby, "SELECT pg_promote()").await;
    stage.wire.lead_to(server_of(&standby.tcp_url_of("flashgate")));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_synchronous_standby_a_failover_loses_nothing() {
    let (mut stage, standby, _place) = followed().await;
    let at_primary = PgPool::connect_lazy(&stage.servers.postgres.url()).expect("an address");
    let at_standby = PgPool::connect_lazy(&standby.url()).expect("an address");
    run(&at_primary, "ALTER SYSTEM SET synchronous_standby_names = '*'").await;
    run(&at_primary, "SELECT pg_reload_conf()").await;
    until("a synchronous standby", async || {
        let state = sqlx::query_scalar("SELECT sync_state FROM pg_stat_replication");
        let state: Option<String> = state.fetch_optional(&at_primary).await.ok()?;
        (state.as_deref() == Some("sync")).then_some(())
    })
    .await;
    // The new primary has no standby, and must not wait for one.
    let alone = "ALTER SYSTEM SET synchronous_standby_names = ''";
    run(&at_standby, alone).await;
    let crowd = Crowd::gather(6, &[&stage.gateway]);
    crowd.buys(60).await;
    promote(&mut stage, &standby, &at_standby).await;
    let heard = goes_on(&stage, crowd).await;
    assert_eq!(assert_kept(&stage.gateway, &heard).await, 0);
}

/// What the standby had not received was durable once, and is in the queue still.
#[tokio::test(flavor = "multi_thread")]
async fn with_an_asynchronous_standby_the_queue_makes_up_for_what_it_lacks() {
    let (mut stage, standby, _place) = followed().await;
    let at_primary = PgPool::connect_lazy(&stage.servers.postgres.url()).expect("an address");
    let at_standby = PgPool::connect_lazy(&standby.url()).expect("an address");
    let given_back = stage.gateway.insist(&Buy::of("given-back").prefer("wait=10")).await;
    assert_eq!(given_back.standing(), "RESERVED durable", "{}", given_back.body);
    let crowd = Crowd::gather(6, &[&stage.gateway]);
    crowd.buys(60).await;
    run(&at_standby, "ALTER SYSTEM SET primary_conninfo = ''").await;
    run(&at_standby, "SELECT pg_reload_conf()").await;
    until("a standby that has lost its primary", async || {
        let receivers = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM pg_stat_wal_receiver");
        (receivers.fetch_one(&at_standby).await.ok()? == 0).then_some(())
    })
    .await;
    let released = stage.gateway.release(&given_back.id()).await.expect(200);
    assert_ne!(released["restocked"], false, "{released}");
    crowd.buys(60).await;
    let (there, here) = (carried(&at_primary).await, carried(&at_standby).await);
    assert!(here < there, "the standby has {here} of {there}");
    promote(&mut stage, &standby, &at_standby).await;
    let heard = goes_on(&stage, crowd).await;
    assert_eq!(assert_kept(&stage.gateway, &heard).await, 0);
    let told = stage.gateway.reservation(&given_back.id()).await;
    assert_eq!(
        told.standing(),
        "RELEASED durable",
        "its lane had heard of it: {}",
        told.body
    );
}
