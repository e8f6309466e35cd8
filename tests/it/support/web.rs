//! The public paths of one gateway over a [`Shop`], asked without a socket.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use flashgate::clock::Clock;
use flashgate::flash::{self, Flash};
use flashgate::http::admission::{self, Admission};
use flashgate::http::{self, Gateway};
use flashgate::metric;
use serde_json::Value;
use tower::ServiceExt;
use uuid::Uuid;

use super::servers::shared;
use super::shop::Shop;

/// One gateway.
pub(crate) struct Web {
    router: Router,
    /// The Redis database of its flash.
    pub(crate) redis_url: String,
    /// Prefix of its keys.
    pub(crate) namespace: String,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) replayed: bool,
    pub(crate) body: Value,
}

impl Answer {
    /// Status and code of a problem.
    pub(crate) fn problem(&self) -> (u16, &str) {
        (self.status.as_u16(), self.body["code"].as_str().unwrap_or("no code"))
    }
}

impl Web {
    /// With the shared Redis.
    pub(crate) async fn open(shop: &Shop) -> Web {
        Web::with_redis(shop, shared().await.redis()).await
    }

    /// With the Redis at this address, if there is one.
    pub(crate) async fn with_redis(shop: &Shop, redis_url: String) -> Web {
        let deployment = shop.ledger.deployment().await.expect("Postgres answers");
        let namespace = deployment.namespace.clone();
        let deployment = flash::Deployment {
            namespace: deployment.namespace,
            lanes: deployment.lanes,
            id_key: deployment.id_key,
        };
        let settings = flash::Settings::new(&redis_url);
        let flash = Flash::start(settings, &deployment, Arc::new(Clock::new()), Uuid::new_v4());
        let admission = admission::Settings {
            in_flight_max: 1000,
            in_flight_reserved: 100,
            in_flight_min: 10,
            in_flight_start: 10,
            delay_target_ms: 0,
            client_rate: 0,
            client_burst: 0,
            global_rate: 0,
            global_burst: 0,
            reads_rate: 0,
            proxies: 0,
        };
        let admission = Arc::new(Admission::new(&admission));
        let gateway = Gateway::new(shop.ledger.clone(), admission, metric::install(), rand::random);
        gateway.flash.set(flash.expect("the URL is good"));
        Web {
            router: http::public(&Arc::new(gateway)),
            redis_url,
            namespace,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Request::get(path).body(Body::empty()).expect("a request"))
            .await
    }

    /// Posts this JSON.
    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.post_with(path, &[], body).await
    }

    /// Posts this JSON with these headers.
    pub(crate) async fn post_with(&self, path: &str, headers: &[(&str, &str)], body: Value) -> Answer {
        let mut request = Request::post(path).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.ask(request.body(Body::from(body.to_string())).expect("a request"))
            .await
    }

    async fn ask(&self, request: Request<Body>) -> Answer {
        let response = self
            .router
            .clone()
            .oneshot(request)
            .await
            .expect("a router never fails");
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 1 << 20).await.expect("a body");
        Answer {
            status: parts.status,
            replayed: parts
                .headers
                .get("idempotent-replayed")
                .is_some_and(|value| value == "true"),
            body: serde_json::from_slice(&bytes).expect("JSON"),
        }
    }
}
