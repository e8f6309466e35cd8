//! Redis loses everything: what was durable is still sold, what was only accepted is known as lost and for sale again.

use std::time::Duration;

use fred::types::Value;

use super::{accepted, durable, redis, sell_out, selling};
use crate::support::door::{Buy, until};
use crate::support::servers::Private;

const UNITS: i64 = 12;

#[tokio::test(flavor = "multi_thread")]
async fn a_flushed_redis_is_filled_again_from_the_ledger() {
    accepted_is_lost_and_durable_is_kept(async |servers| {
        // The scripts stay loaded: only the lanes' own words can show that something is wrong.
        redis(&servers.redis.url(), "FLUSHALL", vec![]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_redis_in_the_old_ones_place_is_filled_from_the_ledger() {
    accepted_is_lost_and_durable_is_kept(async |servers| {
        servers.redis.wipe().expect("the data goes");
        servers.restart_redis().await;
    })
    .await;
}

async fn accepted_is_lost_and_durable_is_kept(lose: impl AsyncFnOnce(&mut Private)) {
    let (mut servers, gateway) = selling(UNITS).await;
    let mut kept = Vec::new();
    for order in ["d0", "d1", "d2"] {
        kept.push(durable(&gateway, order).await);
    }
    gateway.until_drained().await;

    // The writer is held up at the door of the ledger, with the first of these in its hands, and what ended the read that
    // was under way; the others it has not read.
    let mut cursors = gateway.pool.begin().await.expect("Postgres answers");
    sqlx::query("SELECT FROM lane FOR NO KEY UPDATE")
        .execute(&mut *cursors)
        .await
        .expect("the lanes are there");
    let mut carried = vec![accepted(&gateway, "a0").await];
    until("a writer that waits", async || {
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
            AND query LIKE '-- apply.begin%'";
        let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&gateway.pool).await.ok()?;
        (waiting > 0).then_some(())
    })
    .await;
    carried.push(accepted(&gateway, "b0").await);
    let mut lost = Vec::new();
    for order in ["a1", "a2", "a3"] {
        lost.push(accepted(&gateway, order).await);
    }
    lose(&mut servers).await;
    cursors.rollback().await.expect("Postgres answers");

    for id in &lost {
        let told = until("the word that it is lost", async || {
            let told = gateway.reservation(id).await;
            (told.status == 200 && told.body["status"] == "REJECTED").then_some(told)
        })
        .await;
        assert_eq!(
            (&told.body["ack"], &told.body["cause"]),
            (&"accepted".into(), &"lost".into())
        );
        assert_eq!(gateway.commit(id).await.problem(), (409, "RESERVATION_REJECTED"));
    }
    gateway.settled().await;
    for id in &kept {
        assert_eq!(gateway.reservation(id).await.standing(), "RESERVED durable");
    }
    let mut sold = 6;
    for id in &carried {
        sold += match gateway.reservation(id).await.standing().as_str() {
            "RESERVED durable" => 1,
            "REJECTED accepted" => 0,
            other => panic!("{other}"),
        };
    }
    for (order, id) in ["d0", "d1", "d2"].iter().zip(&kept) {
        let again = gateway.insist(&Buy::of(order).key(order).prefer("wait=10")).await;
        assert_eq!((again.status, &again.id(), again.replayed), (201, id, true));
    }
    // Whoever lost one gets another under the same key, and the rest is for sale, to the last unit and not beyond.
    for (order, id) in ["a1", "a2", "a3"].iter().zip(&lost) {
        assert_ne!(durable(&gateway, order).await, *id);
    }
    assert_eq!(sell_out(&gateway).await, UNITS - sold);
    gateway.settled().await;
}

/// A lane that is gone from under an idle gateway is noticed without any request.
#[tokio::test(flavor = "multi_thread")]
async fn a_flush_is_noticed_while_nobody_buys() {
    let (servers, gateway) = selling(UNITS).await;
    durable(&gateway, "d0").await;
    gateway.until_drained().await;
    redis(&servers.redis.url(), "FLUSHALL", vec![]).await;
    let keys = tokio::time::timeout(
        Duration::from_secs(10),
        until("lanes that are back", async || {
            let keys = redis(&servers.redis.url(), "KEYS", vec![Value::from("fg:*:sale:*")]).await;
            (!keys.into_array().is_empty()).then_some(())
        }),
    );
    keys.await.expect("in a few seconds");
    gateway.settled().await;
    assert_eq!(gateway.sale("s").await["remaining"], UNITS - 1);
}
