//! A gateway that starts before what it needs.

use serde_json::Value;

use super::durable;
use crate::support::door::{Buy, until};
use crate::support::gateway::{Whole, migrate};
use crate::support::servers::Private;

/// Waits until `/readyz` is as wanted.
async fn until_ready(gateway: &Whole, what: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
    until(what, async || {
        let told = gateway.get("/readyz").await;
        assert_eq!(told.retry_after, (told.status == 503).then_some(1), "{}", told.body);
        wanted(told.status, &told.body).then_some(told.body)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_says_what_it_waits_for_and_comes_up_when_it_is_there() {
    let mut servers = Private::start().await;
    servers.redis.kill();
    servers.postgres.kill();
    let (redis_url, database_url) = (servers.redis.url(), servers.postgres.url());
    let gateway = Whole::start(&redis_url, &database_url).await;
    let told = until_ready(&gateway, "a gateway that misses Postgres", |status, told| {
        status == 503 && told["dependencies"]["postgres"]["standing"] == "away"
    })
    .await;
    assert_eq!((&told["mode"], &told["ready"]), (&"starting".into(), &false.into()));
    assert_eq!(gateway.get("/healthz").await.status, 200);
    let told = gateway.reserve(&Buy::of("early")).await;
    assert_eq!(told.status, 503, "{}", told.body);

    servers.restart_postgres().await;
    until_ready(&gateway, "a gateway that wants a schema", |status, told| {
        let cause = told["dependencies"]["postgres"]["cause"].as_str();
        status == 503 && cause.is_some_and(|cause| cause.contains("flashgate migrate"))
    })
    .await;
    migrate(&database_url).await;
    until_ready(&gateway, "a gateway that misses Redis", |status, told| {
        status == 200
            && told["mode"] == "endings_only"
            && told["dependencies"]["redis"]["standing"] == "away"
            && told["dependencies"]["postgres"]["standing"] == "up"
    })
    .await;
    assert_eq!(gateway.get("/healthz").await.status, 200);

    servers.restart_redis().await;
    gateway.until_open().await;
    gateway.sell("s", 10, Value::Null).await;
    durable(&gateway, "first").await;
    gateway.settled().await;
}
