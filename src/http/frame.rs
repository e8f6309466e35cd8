//! What stands around every handler of both routers. From the outside: trace, measure, panics, whether the gateway has
//! started, and on the public router admission.
//!
//! All of it is one layer. For each request axum copies and boxes whatever is inside a layer, so five of them would cost
//! more than the handlers do.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use tracing::Instrument;

use super::admission::{self, Admission};
use super::code::Code;
use super::measure::Measures;
use super::problem::Problem;
use super::{Gateway, trace};

/// The frame of one router.
#[derive(Clone)]
pub(super) struct Frame {
    gateway: Arc<Gateway>,
    /// None where everything is let in.
    admission: Option<Arc<Admission>>,
    measures: Arc<Measures>,
}

impl Frame {
    pub(super) fn new(gateway: &Arc<Gateway>, admission: Option<&Arc<Admission>>) -> Self {
        Frame {
            gateway: Arc::clone(gateway),
            admission: admission.map(Arc::clone),
            measures: Arc::default(),
        }
    }

    /// Until the process knows its lanes it can only say how it is.
    fn serves(&self, path: &str) -> bool {
        self.gateway.flash.get().is_some() || ["/healthz", "/readyz", "/metrics", "/openapi.json"].contains(&path)
    }

    async fn answer(self, request: Request, next: Next) -> Response {
        if !self.serves(request.uri().path()) {
            let what = "the gateway is starting; /readyz says what it waits for";
            return Problem::new(Code::LedgerUnavailable, what).into_response();
        }
        match self.admission {
            Some(admission) => admission::layer(State(admission), request, next).await,
            None => next.run(request).await,
        }
    }
}

/// See the module.
pub(super) async fn layer(State(frame): State<Frame>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let (random, measures) = (frame.gateway.random, Arc::clone(&frame.measures));
    let trace = trace::begin(&mut request, random);
    let span = tracing::debug_span!("request", %trace, method = %request.method(), path = request.uri().path());
    // Nothing that a handler leaves behind when it panics is looked at again.
    let answered = AssertUnwindSafe(frame.answer(request, next)).catch_unwind();
    let mut response = answered
        .instrument(span)
        .await
        .unwrap_or_else(|panic| panicked(&*panic));
    measures.count(route.as_ref(), &response, started.elapsed());
    trace::finish(&mut response, trace, random);
    response
}

fn panicked(panic: &(dyn Any + Send)) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a value that is no text");
    Problem::internal(format_args!("a handler panicked: {text}")).into_response()
}
