//! Gateways die and pause; another one takes their lanes over.

use flashgate::drill::wire::Trouble;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::crowd::{Crowd, assert_kept};
use crate::support::door::{Buy, Door, until};
use crate::support::gateway::{Child, LANES, Whole, migrate};
use crate::support::servers::{Private, shared};
use crate::support::wire::wired;

/// Two gateways in processes of their own, each with lanes to serve, and a live sale with a bucket in every lane.
async fn two() -> (Child, Child) {
    let (redis_url, database_url) = (shared().await.redis(), shared().await.database().await);
    migrate(&database_url).await;
    let (one, other) = tokio::join!(
        Child::over(&redis_url, &database_url),
        Child::over(&redis_url, &database_url)
    );
    one.sell("s", 100_000, json!({"buckets": LANES})).await;
    (one, other)
}

/// Waits until a single gateway has every lane.
pub(super) async fn until_one_owns_all(pool: &PgPool, not: &[uuid::Uuid]) {
    until("a gateway that has all lanes", async || {
        let owners = "SELECT DISTINCT owner FROM lane";
        let owners: Vec<Option<uuid::Uuid>> = sqlx::query_scalar(owners).fetch_all(pool).await.ok()?;
        (owners.len() == 1 && owners[0].is_some_and(|owner| !not.contains(&owner))).then_some(())
    })
    .await;
}

/// The process that the gateway's name ends with.
pub(super) async fn gateway_of(pool: &PgPool, child: &Child) -> uuid::Uuid {
    until("its heartbeat", async || {
        sqlx::query_scalar("SELECT gateway_id FROM gateway WHERE name LIKE '%-' || $1")
            .bind(child.pid().to_string())
            .fetch_optional(pool)
            .await
            .ok()?
    })
    .await
}

async fn cursors(pool: &PgPool) -> Vec<i64> {
    let cursors = sqlx::query_scalar("SELECT cursor_seq FROM lane ORDER BY lane");
    cursors.fetch_all(pool).await.expect("Postgres answers")
}

pub(super) async fn epochs(door: &Door) -> Vec<Value> {
    let lanes = door.admin(reqwest::Method::GET, "/admin/lanes", None).await.expect(200);
    let lanes = lanes["lanes"].as_array().expect("lanes");
    lanes.iter().map(|lane| lane["epoch"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateways_lanes_are_taken_over_and_its_answers_hold() {
    let (mut dies, stays) = two().await;
    let dead = gateway_of(&stays.pool, &dies).await;
    let crowd = Crowd::gather(6, &[&dies, &stays]);
    crowd.buys(40).await;
    dies.kill();
    crowd.fails_with("gone").await;
    until_one_owns_all(&stays.pool, &[dead]).await;
    crowd.buys(20).await;
    let heard = crowd.leave().await;
    stays.settled().await;
    assert_eq!(assert_kept(&stays, &heard).await, 0);
    // Whichever gateway answered first, the key finds the same reservation.
    for of in heard.iter().take(20) {
        let again = stays.reserve(&Buy::of(&of.order).key(&of.order)).await;
        assert_eq!((again.status, again.id(), again.replayed), (201, of.told.id(), true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_was_paused_wakes_up_and_harms_nobody() {
    let (sleeps, stays) = two().await;
    let asleep = gateway_of(&stays.pool, &sleeps).await;
    let before = epochs(&stays).await;
    // The paused one is under load, too.
    let door = (*sleeps).clone();
    let crowd = Crowd::gather(4, &[&stays]);
    crowd.buys(10).await;
    let asked: Vec<_> = (0..20)
        .map(|n| {
            let door = door.clone();
            tokio::spawn(async move {
                door.insist(&Buy::of(&format!("held-{n}")).key(&format!("held-{n}")))
                    .await
            })
        })
        .collect();
    sleeps.signal(Signal::SIGSTOP);
    until_one_owns_all(&stays.pool, &[asleep]).await;
    crowd.buys(20).await;
    sleeps.signal(Signal::SIGCONT);
    for told in asked {
        let told = told.await.expect("it is answered");
        let again = stays
            .insist(
                &Buy::of(told.body["orderId"].as_str().expect("its order"))
                    .key(told.body["orderId"].as_str().expect("its order")),
            )
            .await;
        assert_eq!(again.id(), told.id());
    }
    let told = sleeps.insist(&Buy::of("awake").prefer("wait=10")).await;
    assert_eq!(told.standing(), "RESERVED durable");
    crowd.buys(10).await;
    let heard = crowd.leave().await;
    stays.settled().await;
    sleeps.settled().await;
    assert_eq!(assert_kept(&sleeps, &heard).await, 0);
    assert_eq!(epochs(&stays).await, before, "no lane forked, so none was recovered");
}

/// What it says on the wire while it is cut off reaches Postgres when another owner has long carried the queues on.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_was_cut_off_from_postgres_comes_back_too_late() {
    let servers = Private::start().await;
    let (redis_url, database_url) = (servers.redis.url(), servers.postgres.tcp_url_of("flashgate"));
    migrate(&database_url).await;
    let (wire, through) = wired(&database_url).await;
    let cut_off = Whole::over(&redis_url, &through).await;
    cut_off.sell("s", 100_000, json!({"buckets": LANES})).await;
    let lonely: uuid::Uuid = sqlx::query_scalar("SELECT gateway_id FROM gateway")
        .fetch_one(&cut_off.pool)
        .await
        .expect("there is one so far");
    let stays = Whole::over(&redis_url, &database_url).await;
    let before = epochs(&stays).await;
    until_one_owns_all(&stays.pool, &[]).await;

    stays.until_drained().await;
    let cursors = cursors(&stays.pool).await;
    wire.trouble(Trouble::Held);
    let crowd = Crowd::gather(8, &[&stays]);
    until_one_owns_all(&stays.pool, &[lonely]).await;
    until("queues that are carried on", async || {
        let now = self::cursors(&stays.pool).await;
        now.iter().zip(&cursors).all(|(now, then)| now > then).then_some(())
    })
    .await;
    wire.trouble(Trouble::Calm);
    let told = cut_off.insist(&Buy::of("back").prefer("wait=10")).await;
    assert_eq!(told.standing(), "RESERVED durable");
    crowd.buys(10).await;
    let heard = crowd.leave().await;
    stays.settled().await;
    cut_off.settled().await;
    assert_eq!(assert_kept(&cut_off, &heard).await, 0);
    assert_eq!(epochs(&stays).await, before, "no lane forked, so none was recovered");
}
