//! An answer is lost between the gateway and Redis: whether the script ran is not known to anyone but the lane.

use serde_json::json;

use crate::support::door::Buy;
use crate::support::gateway::{Whole, migrate};
use crate::support::proxy::{Proxy, Trick};
use crate::support::servers::shared;

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_answer_is_lost_counts_once() {
    let (redis_url, database_url) = (shared().await.redis(), shared().await.database().await);
    migrate(&database_url).await;
    let proxy = Proxy::before(&redis_url).await;
    let gateway = Whole::over(proxy.url(), &database_url).await;
    gateway.sell("s", 20, json!({})).await;
    for n in 0..5 {
        let order = format!("lost-{n}");
        let wanted = Buy::of(&order).prefer("wait=10");
        proxy.play(&order, Trick::CutAfter);
        let first = gateway.try_reserve(&wanted).await;
        let first = first.filter(|told| told.status != 503 && told.status != 429);
        proxy.until_played().await;
        if let Some(told) = &first {
            assert!(!told.replayed, "the gateway asked again by itself: {}", told.body);
        }
        // On a very busy machine asking again takes too long as well, and the client is told to.
        let told = match first {
            Some(told) => told,
            None => gateway.insist(&wanted).await,
        };
        assert_eq!(told.standing(), "RESERVED durable", "{}", told.body);
        let again = gateway.insist(&wanted).await;
        assert_eq!((again.id(), again.replayed), (told.id(), true));
    }
    gateway.settled().await;
    assert_eq!(gateway.sale("s").await["remaining"], 15);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_whose_answer_is_lost_gives_units_back_once() {
    let (redis_url, database_url) = (shared().await.redis(), shared().await.database().await);
    migrate(&database_url).await;
    let proxy = Proxy::before(&redis_url).await;
    let gateway = Whole::over(proxy.url(), &database_url).await;
    gateway.sell("s", 3, json!({})).await;
    for n in 0..3 {
        let order = format!("given-back-{n}");
        let told = gateway.insist(&Buy::of(&order).prefer("wait=10")).await;
        assert_eq!(told.standing(), "RESERVED durable");
        // The grant names its buyer, and nothing else does by now.
        proxy.play(&format!("o:{order}"), Trick::CutAfter);
        gateway.release(&told.id()).await.expect(200);
        proxy.until_played().await;
        gateway.settled().await;
        assert_eq!(gateway.sale("s").await["remaining"], 3);
    }
}
