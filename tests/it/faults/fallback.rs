//! Redis is away, and a sale that wants it goes on in the ledger: what Redis had accepted keeps its units, what it accepts
//! late counts once, and when it is back the lanes take over again.

use flashgate::config::Role;
use flashgate::domain::lane::LaneNo;
use flashgate::drill::wire::Trouble;
use flashgate::ledger::{self, Ledger};
use serde_json::{Value, json};
use uuid::Uuid;

use super::crowd::{Crowd, assert_kept};
use super::{accepted, durable, redis, sell_out};
use crate::support::door::{Buy, until};
use crate::support::gateway::{LANES, Whole, migrate};
use crate::support::servers::{Private, shared};
use crate::support::wire::wired;

/// A gateway over servers of its own, with a live sale `s` that goes on in the ledger.
async fn selling(units: i64, undurable_max: i64) -> (Private, Whole) {
    let servers = Private::start().await;
    migrate(&servers.postgres.url()).await;
    let gateway = Whole::over(&servers.redis.url(), &servers.postgres.url()).await;
    gateway.sell("s", units, falls_back(undurable_max)).await;
    (servers, gateway)
}

fn falls_back(undurable_max: i64) -> Value {
    json!({"redisDown": "ledger", "undurableMax": undurable_max})
}

async fn until_fallen(gateway: &Whole) {
    until("the ledger in Redis' place", async || {
        (gateway.ready().await["mode"] == "ledger_fallback").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn buyers_are_served_while_redis_is_dead_and_when_it_comes_back_with_its_data() {
    served_all_along(async |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn buyers_are_served_while_redis_is_dead_and_when_an_empty_one_comes_back() {
    served_all_along(async |servers| servers.redis.wipe().expect("the data goes")).await;
}

async fn served_all_along(lose: impl AsyncFnOnce(&mut Private)) {
    let (mut servers, gateway) = selling(100_000, 1_000).await;
    let [kept, paid, dropped] = [
        durable(&gateway, "kept").await,
        durable(&gateway, "paid").await,
        durable(&gateway, "dropped").await,
    ];
    gateway.until_drained().await;
    servers.redis.kill();
    until_fallen(&gateway).await;
    lose(&mut servers).await;
    gateway.act("s", "pause").await.expect(200);
    let told = gateway.reserve(&Buy::of("paused")).await;
    assert_eq!(told.problem(), (409, "SALE_NOT_LIVE"));
    gateway.act("s", "resume").await.expect(200);

    let crowd = Crowd::gather(4, &[&gateway]);
    crowd.buys(40).await;
    let again = gateway.reserve(&Buy::of("kept").key("kept")).await;
    assert_eq!((again.status, again.id(), again.replayed), (201, kept.clone(), true));
    let other = gateway.reserve(&Buy::of("kept").key("other")).await;
    assert_eq!(other.problem(), (409, "ORDER_ALREADY_RESERVED"));
    assert_eq!(other.body["reservationId"], *kept);
    let fresh = durable(&gateway, "fresh").await;
    assert_eq!(gateway.reservation(&fresh).await.standing(), "RESERVED durable");
    gateway.commit(&paid).await.expect(200);
    assert_eq!(gateway.release(&dropped).await.expect(200)["restocked"], false);
    let gone = durable(&gateway, "gone").await;
    gateway.release(&gone).await.expect(200);
    let sale = gateway.sale("s").await;
    assert_eq!(
        (&sale["redisDown"], &sale["fallback"]["keptBack"]),
        (&json!("ledger"), &json!(1_000))
    );
    let verified = gateway.command(&["verify"]).await;
    let said = String::from_utf8_lossy(&verified.stdout);
    assert!(
        verified.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&verified.stderr)
    );
    assert!(said.contains("is left to the ledger"), "{said}");

    servers.restart_redis().await;
    gateway.until_open().await;
    crowd.buys(40).await;
    let heard = crowd.leave().await;
    gateway.settled().await;
    assert_eq!(
        assert_kept(&gateway, &heard).await,
        0,
        "nothing that was answered is lost"
    );
    for (order, id) in [("kept", &kept), ("fresh", &fresh)] {
        let again = gateway.reserve(&Buy::of(order).key(order)).await;
        assert_eq!((again.status, &again.id(), again.replayed), (201, id, true));
    }
    let again = gateway.reserve(&Buy::of("gone").key("gone")).await;
    assert_eq!((again.status, again.id(), again.replayed), (200, gone, true));
    assert_eq!(gateway.reservation(&paid).await.body["status"], "COMMITTED");
    gateway.commit(&fresh).await.expect(200);
    let sale = gateway.sale("s").await;
    let live = i64::try_from(heard.len()).expect("few") + 3;
    assert_eq!(sale["remaining"], 100_000 - live, "crowd, kept, paid and fresh");
    assert_eq!(sale["fallback"], Value::Null);
}

/// It answers questions and takes no writes: for who sells, and for who would recover it, it is away.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_refuses_writes_is_away() {
    let (servers, gateway) = selling(100_000, 1_000).await;
    let kept = durable(&gateway, "kept").await;
    let crowd = Crowd::gather(4, &[&gateway]);
    for setting in ["maxmemory", "min-replicas-to-write"] {
        let set = async |value: &str| {
            let args = ["SET", setting, value].map(fred::types::Value::from).into();
            redis(&servers.redis.url(), "CONFIG", args).await;
        };
        crowd.buys(10).await;
        set("1").await;
        until_fallen(&gateway).await;
        crowd.buys(20).await;
        let again = gateway.reserve(&Buy::of("kept").key("kept")).await;
        assert_eq!((again.status, again.id(), again.replayed), (201, kept.clone(), true));
        set("0").await;
        gateway.until_open().await;
    }
    crowd.buys(10).await;
    let heard = crowd.leave().await;
    gateway.settled().await;
    assert_eq!(assert_kept(&gateway, &heard).await, 0);
    let keys = redis(&servers.redis.url(), "KEYS", vec!["*:probe".into()]).await;
    assert_eq!(
        keys.into_array().len(),
        0,
        "who asks whether it may write has written nothing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_accepted_than_is_kept_back_and_each_of_it_has_its_unit() {
    let (mut servers, gateway) = selling(40, 5).await;
    durable(&gateway, "d").await;
    gateway.until_drained().await;
    // The writer is held up at the door of the ledger.
    let mut cursors = gateway.pool.begin().await.expect("Postgres answers");
    sqlx::query("SELECT FROM lane FOR NO KEY UPDATE")
        .execute(&mut *cursors)
        .await
        .expect("the lanes are there");
    let mut survivors = Vec::new();
    for n in 0..5 {
        survivors.push(accepted(&gateway, &format!("a{n}")).await);
    }
    let told = gateway.reserve(&Buy::of("sixth").prefer("respond-async")).await;
    assert_eq!(told.problem(), (503, "OVERLOADED"), "{}", told.body);
    assert!(told.retry_after.is_some());
    servers.redis.kill();
    cursors.rollback().await.expect("Postgres answers");
    until_fallen(&gateway).await;

    let mut sold = 0;
    let refused = loop {
        let told = gateway.reserve(&Buy::of(&format!("f{sold}"))).await;
        match told.status {
            201 => sold += 1,
            _ => break told,
        }
    };
    assert_eq!(refused.problem(), (503, "STOCK_UNAVAILABLE"), "{}", refused.body);
    assert!(refused.retry_after.is_some());
    let carried = "SELECT count(*) FROM inventory_reservation WHERE order_id LIKE 'a_'";
    let carried: i64 = sqlx::query_scalar(carried)
        .fetch_one(&gateway.pool)
        .await
        .expect("Postgres answers");
    assert_eq!(sold, 40 - 1 - 5 - carried, "{carried} were in the writer's hands");

    servers.restart_redis().await;
    gateway.settled().await;
    for (n, id) in survivors.iter().enumerate() {
        assert_eq!(gateway.reservation(id).await.standing(), "RESERVED durable");
        let key = format!("a{n}");
        let again = gateway.reserve(&Buy::of(&key).key(&key)).await;
        assert_eq!((again.status, &again.id(), again.replayed), (201, id, true));
    }
    assert_eq!(sell_out(&gateway).await, carried);
    gateway.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_that_is_stopped_meanwhile_sells_no_more_and_its_units_come_home() {
    let (mut servers, gateway) = selling(40, 5).await;
    durable(&gateway, "d").await;
    gateway.until_drained().await;
    servers.redis.kill();
    until_fallen(&gateway).await;
    let kept = durable(&gateway, "kept").await;
    let told = gateway.act("s", "stop").await;
    assert_eq!(
        told.problem(),
        (503, "STOCK_UNAVAILABLE"),
        "its units are still out there"
    );
    let told = gateway.reserve(&Buy::of("late")).await;
    assert_eq!(told.problem(), (503, "STOCK_UNAVAILABLE"), "{}", told.body);
    let again = gateway.reserve(&Buy::of("kept").key("kept")).await;
    assert_eq!((again.status, again.id(), again.replayed), (201, kept.clone(), true));
    servers.restart_redis().await;
    gateway.act("s", "stop").await.expect(200);
    gateway.settled().await;
    let sale = gateway.sale("s").await;
    assert_eq!((&sale["state"], &sale["remaining"]), (&json!("ended"), &json!(0)));
    gateway.commit(&kept).await.expect(200);
    let told = gateway.reserve(&Buy::of("rest").units(38)).await;
    assert_eq!(told.standing(), "RESERVED durable", "all that the sale left");
    gateway.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_much_is_accepted_while_postgres_is_away() {
    let (mut servers, gateway) = selling(1_000, 20).await;
    durable(&gateway, "d").await;
    gateway.until_drained().await;
    servers.postgres.kill();
    let mut taken = Vec::new();
    let refused = loop {
        let order = format!("o{}", taken.len());
        let told = gateway.reserve(&Buy::of(&order).prefer("respond-async")).await;
        match told.status {
            202 => taken.push(told.id()),
            _ => break told,
        }
    };
    assert_eq!(refused.problem(), (503, "OVERLOADED"), "{}", refused.body);
    assert_eq!(taken.len(), 20);
    servers.restart_postgres().await;
    gateway.settled().await;
    for id in &taken {
        assert_eq!(gateway.reservation(id).await.standing(), "RESERVED durable");
    }
    // More at once than may be on its way goes when nothing else is.
    let big = gateway.insist(&Buy::of("big").units(50).prefer("wait=10")).await;
    assert_eq!(big.standing(), "RESERVED durable");
    for n in 0..60 {
        durable(&gateway, &format!("more-{n}")).await;
    }
    gateway.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_alone_has_lost_redis_harms_nobody_and_one_that_is_left_alone_serves() {
    let servers = Private::start().await;
    let (redis_url, database_url) = (servers.redis.url(), servers.postgres.url());
    migrate(&database_url).await;
    let (wire, through) = wired(&redis_url).await;
    let (one, other) = tokio::join!(
        Whole::over(&redis_url, &database_url),
        Whole::over(&through, &database_url)
    );
    one.sell("s", 100_000, json!({"redisDown": "ledger", "buckets": 2}))
        .await;
    durable(&other, "first").await;
    let crowd = Crowd::gather(4, &[&one]);
    crowd.buys(10).await;
    wire.trouble(Trouble::Held);
    until("its word that it reaches nothing", async || {
        let blind = "SELECT count(*) FROM gateway WHERE reaches = '{}'";
        let blind: i64 = sqlx::query_scalar(blind).fetch_one(&one.pool).await.ok()?;
        (blind == 1).then_some(())
    })
    .await;
    let told = other.reserve(&Buy::of("blind")).await;
    assert_eq!(told.problem(), (503, "STOCK_UNAVAILABLE"), "the other one serves");

    // Were it believed all the same, the other one is shut out at once; what it still accepts is carried later.
    let ledger = Ledger::new(&ledger::Settings::new(&database_url)).expect("an address");
    for round in 0..5 {
        let lanes: Vec<LaneNo> = (0..LANES).map(LaneNo).collect();
        let fallen = ledger.fall_back(&lanes, Uuid::new_v4(), 0).await.expect("answers");
        let order = format!("late-{round}");
        let late = one.insist(&Buy::of(&order).key(&order).prefer("respond-async")).await;
        let here = other
            .try_reserve(&Buy::of(&format!("here-{round}")))
            .await
            .expect("answers");
        assert!([201, 202, 503].contains(&here.status), "{}", here.body);
        crowd.buys(10).await;
        let known = until("what became of it", async || {
            let told = one.reservation(&late.id()).await;
            match told.standing().as_str() {
                "RESERVED durable" => Some(()),
                "RESERVED accepted" | "STOCK_UNAVAILABLE" | "LEDGER_UNAVAILABLE" => None,
                _ => panic!("round {round}: {}", told.body),
            }
        });
        known.await;
        assert!(fallen.len() <= 2, "the sale has two lanes: {fallen:?}");
    }
    ledger.close().await;
    wire.trouble(Trouble::Calm);
    let heard = crowd.leave().await;
    one.settled().await;
    assert_eq!(assert_kept(&one, &heard).await, 0);

    other.until_open().await;
    let crowd = Crowd::gather(4, &[&other]);
    crowd.buys(10).await;
    wire.trouble(Trouble::Held);
    one.stop().await;
    until_fallen(&other).await;
    crowd.buys(20).await;
    wire.trouble(Trouble::Calm);
    other.until_open().await;
    crowd.buys(10).await;
    let heard = crowd.leave().await;
    other.settled().await;
    assert_eq!(assert_kept(&other, &heard).await, 0);
}

/// It lives, so nobody would take its lanes for forsaken: it leaves them to those who reach them.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_owned_that_alone_has_lost_redis_is_carried_by_another() {
    let (redis_url, database_url) = (shared().await.redis(), shared().await.database().await);
    migrate(&database_url).await;
    let (wire, through) = wired(&redis_url).await;
    let owner = Whole::over(&through, &database_url).await;
    let other = Whole::over(&redis_url, &database_url).await;
    other.sell("s", 100, json!({"buckets": 2})).await;
    durable(&other, "before").await;
    let owned = "SELECT count(*) FROM lane GROUP BY owner";
    let owned: Vec<i64> = sqlx::query_scalar(owned).fetch_all(&other.pool).await.expect("reads");
    assert_eq!(owned, [i64::from(LANES)], "whoever was alone has all of them");
    wire.trouble(Trouble::Held);
    for n in 0..8 {
        let order = format!("late-{n}");
        let late = other.insist(&Buy::of(&order).prefer("respond-async")).await;
        until("somebody who carries it", async || {
            let told = other.reservation(&late.id()).await;
            (told.standing() == "RESERVED durable").then_some(())
        })
        .await;
    }
    wire.trouble(Trouble::Calm);
    owner.until_open().await;
    other.settled().await;
    owner.stop().await;
    other.stop().await;
}

/// It owns no lane, so no writer tells it.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_only_sells_notices_that_the_ledger_decides() {
    let servers = Private::start().await;
    let (redis_url, database_url) = (servers.redis.url(), servers.postgres.url());
    migrate(&database_url).await;
    let (wire, through) = wired(&redis_url).await;
    let owner = Whole::over(&through, &database_url).await;
    let sells = Whole::start_as(&[Role::Http], &redis_url, &database_url).await;
    sells.until_open().await;
    owner.sell("s", 100, falls_back(50)).await;
    durable(&sells, "first").await;
    wire.trouble(Trouble::Held);
    let ledger = Ledger::new(&ledger::Settings::new(&database_url)).expect("an address");
    let lanes: Vec<LaneNo> = (0..LANES).map(LaneNo).collect();
    let fallen = ledger.fall_back(&lanes, Uuid::new_v4(), 0).await.expect("answers");
    assert_eq!(fallen.len(), 1);
    ledger.close().await;
    let late = sells.insist(&Buy::of("late").key("late").prefer("respond-async")).await;
    until("a lane that is its own again", async || {
        (sells.reservation(&late.id()).await.standing() == "RESERVED durable").then_some(())
    })
    .await;
    wire.trouble(Trouble::Calm);
    sells.settled().await;
    owner.settled().await;
    assert_eq!(sells.sale("s").await["remaining"], 98);
}
