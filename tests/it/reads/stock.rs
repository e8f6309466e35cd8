//! Stock: from the read model, never older than it may be, or from the ledger where that is asked for.

use chrono::{DateTime, TimeDelta, Utc};
use flashgate::config::Role;
use serde_json::{Value, json};

use crate::support::door::{Buy, until};
use crate::support::gateway::{Whole, migrate};
use crate::support::servers::shared;

const HOT: &str = "/api/inventory?skuId=hot&locationId=wh1";

async fn now(whole: &Whole) -> DateTime<Utc> {
    let now = sqlx::query_scalar("SELECT clock_timestamp()");
    now.fetch_one(&whole.pool).await.expect("Postgres answers")
}

fn as_of(body: &Value) -> DateTime<Utc> {
    let text = body["asOf"].as_str().expect("a time");
    DateTime::parse_from_rfc3339(text).expect("a time").to_utc()
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_follow_the_ledger_and_say_how_old_they_are() {
    let whole = Whole::empty().await;
    whole.sell("s", 100, json!({})).await;
    for n in 1..=3 {
        let told = whole.reserve(&Buy::of(&format!("o{n}")).prefer("wait=10")).await;
        assert_eq!(told.status, 201, "{}", told.body);
        let strong = whole.get(&format!("{HOT}&consistency=strong")).await.expect(200);
        assert_eq!((&strong["reserved"], &strong["source"]), (&json!(n), &json!("ledger")));
        until("the reservation", async || {
            let asked = now(&whole).await;
            let told = whole.get(HOT).await.expect(200);
            assert!(as_of(&told) >= asked - TimeDelta::seconds(3), "{told} at {asked}");
            (told["source"] == "snapshot" && told["reserved"] == n && told["available"] == 100 - n).then_some(())
        })
        .await;
    }
    let told = whole.get("/api/inventory/hot").await.expect(200);
    assert_eq!((&told["available"], &told["reserved"]), (&json!(97), &json!(3)));
    let all = whole.get("/api/inventory?skuId=hot").await.expect(200);
    assert_eq!(
        (&all["reserved"], &all["locations"][0]["reserved"]),
        (&json!(3), &json!(3))
    );
    assert_eq!(all.get("degraded"), None);
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_feed_the_ledger_is_read() {
    let database_url = shared().await.database().await;
    migrate(&database_url).await;
    let roles = [Role::Http, Role::Writer, Role::Granter];
    let whole = Whole::start_as(&roles, &shared().await.redis(), &database_url).await;
    whole.until_open().await;
    whole.receive("hot", 7).await;
    let told = whole.get(HOT).await.expect(200);
    assert_eq!((&told["onHand"], &told["source"]), (&json!(7), &json!("ledger")));
    whole.stop().await;
}

/// A verb's path takes POST, and hides nothing from who reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_sku_may_be_named_like_a_verb() {
    let whole = Whole::empty().await;
    for (sku, units) in [("reserve", 3), ("confirm", 4), ("release", 5)] {
        whole.receive(sku, units).await;
        let path = format!("/api/inventory/{sku}");
        let told = whole.get(&format!("{path}?consistency=strong")).await.expect(200);
        assert_eq!((&told["skuId"], &told["available"]), (&json!(sku), &json!(units)));
        assert_eq!(whole.get(&format!("{path}?colour=red")).await.body["field"], "colour");
        let verb = whole.shop(&path, json!({})).await;
        assert_eq!(verb.problem(), (400, "INVALID_REQUEST"), "{sku}");
    }
    whole.stop().await;
}
