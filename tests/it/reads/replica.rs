//! A read replica, a real one: asked first, done without where it is behind or away, and there when the primary is not.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::support::door::{Buy, until};
use crate::support::gateway::{Whole, migrate};
use crate::support::servers::{Private, home};
use crate::support::standby::standby;

const STOCK: &str = "/api/inventory?skuId=hot&locationId=wh1";

async fn receive(whole: &Whole, units: i64) {
    let body = json!({"skuId": "hot", "locationId": "wh1", "delta": units, "reason": "stock_received"});
    whole.post("/api/inventory/adjustments", body).await.expect(201);
}

async fn until_told(whole: &Whole, on_hand: i64) -> Value {
    until("the units", async || {
        let told = whole.get(STOCK).await.expect(200);
        (told["onHand"] == on_hand).then_some(told)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_serves_what_it_can() {
    let mut servers = Private::start().await;
    migrate(&servers.postgres.url()).await;
    let place = home();
    let mut replica = tokio::task::block_in_place(|| standby(&mut servers.postgres, &place));
    let whole = Whole::changed(&servers.redis.url(), &servers.postgres.url(), |settings| {
        settings.ledger.read_url = Some(replica.url());
    })
    .await;
    whole.until_open().await;
    whole.sell("s", 100, json!({})).await;
    let at_replica = PgPool::connect_lazy(&replica.url()).expect("an address");
    until("reads at the replica", async || {
        let told = whole.get(STOCK).await.expect(200);
        let reads = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '-- snapshot.read%'";
        let reads: i64 = sqlx::query_scalar(reads).fetch_one(&at_replica).await.ok()?;
        (told["source"] == "snapshot" && told["onHand"] == 100 && reads > 0).then_some(())
    })
    .await;

    // It falls behind: the primary is read instead.
    let pause = sqlx::query("SELECT pg_wal_replay_pause()").execute(&at_replica).await;
    pause.expect("it pauses");
    receive(&whole, 5).await;
    until_told(&whole, 105).await;
    let resume = sqlx::query("SELECT pg_wal_replay_resume()").execute(&at_replica).await;
    resume.expect("it goes on");

    // It is away: likewise.
    replica.kill();
    receive(&whole, 5).await;
    until_told(&whole, 110).await;
    tokio::task::block_in_place(|| replica.restart(&CancellationToken::new())).expect("it comes back");

    // The primary is away: pages go on with what the replica has, and say how old it is.
    let told = whole.insist(&Buy::of("o1").prefer("wait=10")).await;
    let id = (told.id(), told.expect(201)).0;
    until("the replica to have followed", async || {
        let there = "SELECT count(*) FROM inventory_snapshot WHERE reserved = 1";
        let there: i64 = sqlx::query_scalar(there).fetch_one(&at_replica).await.ok()?;
        (there == 1).then_some(())
    })
    .await;
    servers.postgres.kill();
    let order = until("the order", async || {
        let told = whole.get("/api/read-model/orders/o1/inventory-status").await;
        (told.status == 200).then_some(told.body)
    })
    .await;
    assert_eq!(
        (&order["reservations"][0]["reservationId"], &order["degraded"]),
        (&json!(id), &json!(true))
    );
    let stock = until("the stock", async || {
        let told = whole.get(STOCK).await;
        (told.status == 200).then_some(told.body)
    })
    .await;
    assert_eq!((&stock["onHand"], &stock["reserved"]), (&json!(110), &json!(1)));
    let strong = whole.get(&format!("{STOCK}&consistency=strong")).await;
    assert_eq!(strong.problem(), (503, "LEDGER_UNAVAILABLE"));
    servers.restart_postgres().await;
    whole.until_open().await;
    let told = whole.admin(Method::GET, "/readyz", None).await.expect(200);
    assert_eq!(told["ready"], true);
    whole.stop().await;
}
