//! The HTTP edge: it parses, asks flash and the ledger, and tells outcomes as the contract words them.
//!
//! The only user of axum and governor. Two routers: [`public`] (checkout and reading) and [`admin`] (stock, admin,
//! operations). Each handler is registered together with its documentation, so `/openapi.json` lists what exists.
//! `frame` stands around all of them, and before the public ones a [`gate`].

mod admin_alerts;
mod admin_approvals;
mod admin_catalogue;
mod admin_lanes;
mod admin_quarantine;
mod admin_reconciliation;
mod admin_sales;
pub mod admission;
mod author;
pub mod batch;
pub mod body;
mod call_back;
pub mod code;
mod counts;
mod edge;
mod endings;
mod events;
mod frame;
pub mod gate;
mod health;
pub mod idempotency;
pub mod json;
mod ledger_calls;
mod limit;
pub mod listen;
pub mod measure;
mod numbers;
pub mod openapi;
pub(crate) mod overload;
pub mod params;
pub mod prefer;
pub mod problem;
mod reads;
mod reserve;
mod returns;
mod standing;
mod stock;
pub mod trace;
mod transfers;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::http::{Method, Uri};
use axum::middleware::from_fn_with_state;
use metrics_exporter_prometheus::PrometheusHandle;
use utoipa_axum::router::OpenApiRouter;

use self::admission::Admission;
use self::code::Code;
use self::frame::Frame;
use self::gate::Gate;
use self::ledger_calls::LedgerCalls;
use self::problem::Problem;
use self::reads::Reads;
use self::reserve::{Ceilings, Choice, Earlier, Routes};
use crate::domain::choice::Weights;
use crate::flash::Flash;
use crate::health::Health;
use crate::ledger::Ledger;

/// What every handler may use; built once, in `app`.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// The durable record.
    pub ledger: Ledger,
    /// Its calls that are batched.
    pub calls: LedgerCalls,
    /// Live stock.
    pub flash: LateFlash,
    /// Which sale an item has.
    routes: Arc<Routes>,
    /// What was reserved of items before their sales.
    earlier: Earlier,
    /// What is let in while the ledger decides for lanes.
    ceilings: Arc<Ceilings>,
    /// What pages read.
    reads: Reads,
    /// How a location is chosen.
    choice: Arc<Choice>,
    /// What this process can do right now.
    pub health: Arc<Health>,
    /// Bounds of what is let in.
    pub admission: Arc<Admission>,
    /// The metrics page.
    pub metrics: PrometheusHandle,
    /// Where trace ids come from.
    pub random: trace::Random,
}

impl Gateway {
    /// A gateway that does not know its lanes yet.
    #[must_use]
    pub fn new(ledger: Ledger, admission: Arc<Admission>, metrics: PrometheusHandle, random: trace::Random) -> Self {
        Gateway {
            calls: LedgerCalls::start(&ledger),
            reads: Reads::start(&ledger),
            earlier: Earlier::new(ledger.clone()),
            ledger,
            flash: LateFlash::default(),
            routes: Arc::default(),
            choice: Arc::default(),
            ceilings: Arc::default(),
            health: Arc::default(),
            admission,
            metrics,
            random,
        }
    }

    /// What stands before the public router.
    #[must_use]
    pub fn gate(&self) -> Gate {
        Gate::new(&self.admission, self.random)
    }

    /// The same, choosing locations by these weights.
    #[must_use]
    pub fn choosing_by(self, weights: Weights) -> Self {
        Gateway {
            choice: Arc::new(Choice::new(weights)),
            ..self
        }
    }
}

/// Live stock, which a process knows only when Postgres has told it which lanes are its own. Until then
/// the routers refuse whatever would need it.
#[derive(Clone, Debug, Default)]
pub struct LateFlash(Arc<OnceLock<Flash>>);

impl LateFlash {
    /// Sets it, once.
    pub fn set(&self, flash: Flash) {
        // A second one can't come: bring-up ends with the first.
        self.0.set(flash).ok();
    }

    /// Whether it is there.
    #[must_use]
    pub fn get(&self) -> Option<&Flash> {
        self.0.get()
    }
}

impl std::ops::Deref for LateFlash {
    type Target = Flash;
    fn deref(&self) -> &Flash {
        self.0.get().expect("requests are refused until it is set")
    }
}

/// The public listener's paths: checkout and reading.
fn public_routes() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new()
        .merge(reserve::routes())
        .merge(endings::routes())
        .merge(returns::routes())
        .merge(reads::routes())
        .merge(health::routes())
        .merge(openapi::routes())
}

/// The admin listener's paths: stock, admin, operations.
fn admin_routes() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new()
        .merge(health::routes())
        .merge(health::admin_routes())
        .merge(admin_alerts::routes())
        .merge(admin_approvals::routes())
        .merge(admin_catalogue::routes())
        .merge(admin_sales::routes())
        .merge(admin_lanes::routes())
        .merge(admin_quarantine::routes())
        .merge(admin_reconciliation::routes())
        .merge(stock::routes())
        .merge(counts::routes())
        .merge(events::routes())
        .merge(transfers::routes())
        .merge(openapi::routes())
}

/// Everything that the public listener serves.
pub fn public(gateway: &Arc<Gateway>) -> Router {
    let frame = Frame::new(gateway, Some(&gateway.admission));
    framed(Router::from(public_routes()), gateway, frame)
}

/// Everything that the admin listener serves.
pub fn admin(gateway: &Arc<Gateway>) -> Router {
    framed(Router::from(admin_routes()), gateway, Frame::new(gateway, None))
}

fn framed(routes: Router<Arc<Gateway>>, gateway: &Arc<Gateway>, frame: Frame) -> Router {
    routes
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(frame, frame::layer))
        .with_state(Arc::clone(gateway))
}

async fn not_found(uri: Uri) -> Problem {
    Problem::new(Code::NotFound, format!("nothing is at {}", uri.path()))
}

async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    Problem::new(Code::MethodNotAllowed, format!("{} does not take {method}", uri.path()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger;
    use axum::body::{Body, to_bytes};
    use axum::extract::Request;
    use axum::routing::get;
    use tower::ServiceExt;

    const OPEN: admission::Settings = admission::Settings {
        in_flight_max: 10,
        in_flight_reserved: 0,
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

    #[tokio::test]
    async fn a_panic_is_told_to_nobody_but_the_log() {
        let ledger = Ledger::new(&ledger::Settings::new("postgres://localhost/none")).expect("an address");
        let admission = Arc::new(Admission::new(&OPEN));
        let gateway = Gateway::new(ledger, admission, crate::metric::install(), || [7; 16]);
        let panics = Router::new().route("/healthz", get(async || -> () { panic!("the secret") }));
        let gateway = Arc::new(gateway);
        let router = framed(panics, &gateway, Frame::new(&gateway, None));
        let request = Request::get("/healthz").body(Body::empty()).expect("a request");
        let response = router.oneshot(request).await.expect("a router never fails");
        assert_eq!(response.status(), 500);
        let body = to_bytes(response.into_body(), 10_000).await.expect("a body");
        let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(
            (&body["code"], &body["traceId"]),
            (&"INTERNAL".into(), &"07".repeat(16).into())
        );
        assert!(!body.to_string().contains("secret"));
    }
}
