//! The gate before the router: turns new reservations away before anything is done for them, for next to nothing.
//!
//! Under overload most of what comes is turned away, so what that costs decides what is left for the others. Here no
//! route is looked up, nothing is logged or timed, and the body of the answer is there but for its trace id. The gate
//! only looks; places are taken by [`super::admission`], behind the router, which also turns away what is read.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Method, Request, Response, StatusCode};
use metrics::Counter;

use super::admission::Admission;
use super::code::Code;
use super::problem::Problem;
use super::trace::{self, Random, TRACEPARENT};
use crate::domain::trace::TraceId;
use crate::metric;

/// Where reservations are asked for.
const ROUTES: [&str; 2] = ["/api/inventory/reservations", "/api/inventory/reserve"];

/// See the module.
#[derive(Clone, Debug)]
pub struct Gate {
    admission: Arc<Admission>,
    random: Random,
    /// Answers, by route, and what was turned away: looked up once.
    answers: [Counter; ROUTES.len()],
    shed: Counter,
}

impl Gate {
    /// Before the router that asks this admission.
    pub(super) fn new(admission: &Arc<Admission>, random: Random) -> Self {
        Gate {
            admission: Arc::clone(admission),
            random,
            answers: ROUTES
                .map(|route| metrics::counter!(metric::HTTP_RESPONSES, "route" => route, "code" => Code::Overloaded.as_str())),
            shed: metrics::counter!(metric::HTTP_SHED, "class" => "beginning", "cause" => "delay"),
        }
    }

    /// How long to hold back such an answer.
    pub(super) fn hold(&self) -> Duration {
        self.admission.bound.hold()
    }

    /// The answer to a request that is not let in; `of_connection`: so many of its connection are in flight already.
    pub(super) fn refuse<B>(&self, request: &Request<B>, of_connection: usize) -> Option<Response<Body>> {
        if !self.admission.bound.is_full(of_connection) || request.method() != Method::POST {
            return None;
        }
        let route = ROUTES.iter().position(|route| *route == request.uri().path())?;
        self.answers[route].increment(1);
        self.shed.increment(1);
        let trace = trace::of(request.headers(), self.random);
        let mut response = Response::new(body(trace));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(RETRY_AFTER, seconds(self.admission.bound.turn_away()));
        headers.insert(TRACEPARENT, trace::parent(trace, self.random));
        Some(response)
    }
}

/// What everybody is told who is turned away for a full bound.
pub(super) fn overloaded(after: Duration) -> Problem {
    Problem::new(
        Code::Overloaded,
        "more is in flight than can be served without delay; nothing was done for this request",
    )
    .retry_after(after)
}

/// The body of that problem.
fn body(trace: TraceId) -> Body {
    static AROUND: OnceLock<(String, String)> = OnceLock::new();
    let (before, after) = AROUND.get_or_init(|| {
        let nobody = TraceId([0; 16]);
        let whole = overloaded(Duration::ZERO).body(nobody);
        let whole = String::from_utf8(whole).expect("JSON is UTF-8");
        let (before, after) = whole.split_once(&nobody.to_string()).expect("it names its trace");
        (before.to_owned(), after.to_owned())
    });
    Body::from(format!("{before}{trace}{after}"))
}

fn seconds(after: Duration) -> HeaderValue {
    HeaderValue::from(after.as_secs().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::to_bytes;

    #[tokio::test]
    async fn the_short_way_says_what_the_long_way_says() {
        let trace = TraceId([0xab; 16]);
        let short = to_bytes(body(trace), 10_000).await.expect("a body");
        assert_eq!(short, overloaded(Duration::from_secs(3)).body(trace));
    }
}
