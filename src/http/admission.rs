//! Admission: what is refused before any work is done for it.
//!
//! Past [`Settings::in_flight_max`] requests at a time, new ones get `OVERLOADED`; the last
//! [`Settings::in_flight_reserved`] places are for endings alone, so that beginnings are shed first. Rates are
//! `super::edge`'s, but for that of reads while Redis is away, which `super::reads` asks for here.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::code::Code;
use super::edge::{Edge, Limits};
use super::limit::Limit;
use super::problem::Problem;
use crate::metric;

/// How much is let in.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Settings {
    /// Most requests served at a time; more answer OVERLOADED
    #[arg(long, env = "FLASHGATE_IN_FLIGHT_MAX", value_name = "COUNT", default_value_t = 16_384,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub in_flight_max: u32,

    /// How many of these are kept for commit, release and extend; below in_flight_max
    #[arg(
        long,
        env = "FLASHGATE_IN_FLIGHT_RESERVED",
        value_name = "COUNT",
        default_value_t = 2_048
    )]
    pub in_flight_reserved: u32,

    /// Most requests per second of one client address; 0: no limit
    #[arg(long, env = "FLASHGATE_CLIENT_RATE", value_name = "PER_SECOND", default_value_t = 0)]
    pub client_rate: u32,

    /// How many of these may come at once; 0: as many as per second
    #[arg(long, env = "FLASHGATE_CLIENT_BURST", value_name = "COUNT", default_value_t = 0)]
    pub client_burst: u32,

    /// Most requests per second of all clients, endings not counted; 0: no limit
    #[arg(long, env = "FLASHGATE_GLOBAL_RATE", value_name = "PER_SECOND", default_value_t = 0)]
    pub global_rate: u32,

    /// How many of these may come at once; 0: as many as per second
    #[arg(long, env = "FLASHGATE_GLOBAL_BURST", value_name = "COUNT", default_value_t = 0)]
    pub global_burst: u32,

    /// Most reads per second while Redis is away; more answer READS_LIMITED; 0: no limit
    #[arg(
        long,
        env = "FLASHGATE_READS_RATE",
        value_name = "PER_SECOND",
        default_value_t = 5_000
    )]
    pub reads_rate: u32,

    /// Proxies of ours in front: the client is the entry of X-Forwarded-For that the outermost of them wrote
    #[arg(long, env = "FLASHGATE_PROXIES", value_name = "COUNT", default_value_t = 0)]
    pub proxies: u8,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Health, metrics, the document: always let in.
    Operations,
    /// Commit, release, extend: let in before others.
    Ending,
    /// Everything else.
    Beginning,
}

impl Class {
    fn of(path: &str) -> Self {
        match path {
            "/healthz" | "/readyz" | "/openapi.json" => Class::Operations,
            "/api/inventory/confirm" => Class::Ending,
            _ if ["/commit", "/release", "/extend"].iter().any(|end| path.ends_with(end)) => Class::Ending,
            _ => Class::Beginning,
        }
    }
}

/// The bounds, and how much of them is used.
#[derive(Debug)]
pub struct Admission {
    in_flight: AtomicUsize,
    in_flight_max: usize,
    for_beginnings: usize,
    limits: Option<Arc<Limits>>,
    reads: Option<Limit>,
}

impl Admission {
    /// With nothing used.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let places = |count: u32| usize::try_from(count).expect("32 bits fit");
        Admission {
            in_flight: AtomicUsize::new(0),
            in_flight_max: places(settings.in_flight_max),
            for_beginnings: places(settings.in_flight_max.saturating_sub(settings.in_flight_reserved)),
            limits: Limits::new(settings).map(Arc::new),
            reads: Limit::new("reads", settings.reads_rate, 0),
        }
    }

    /// Forgets clients that have been quiet; to be called about once a second.
    pub fn upkeep(&self) {
        if let Some(limits) = &self.limits {
            limits.upkeep();
        }
        let in_flight = u32::try_from(self.in_flight.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        metrics::gauge!(metric::HTTP_IN_FLIGHT).set(in_flight);
    }

    /// How many reads per second are let in while Redis is away; 0: all.
    pub(super) fn reads_rate(&self) -> u32 {
        self.reads.as_ref().map_or(0, Limit::rate)
    }

    /// Counts one of them; where it is refused, how long until one fits.
    pub(super) fn reads_wait(&self) -> Option<Duration> {
        // One limit for all: it protects Postgres, not clients from one another.
        self.reads.as_ref()?.judge(Ipv4Addr::UNSPECIFIED.into()).wait
    }

    fn enter(self: &Arc<Self>, class: Class) -> Option<Place> {
        let bound = match class {
            Class::Beginning => self.for_beginnings,
            Class::Ending | Class::Operations => self.in_flight_max,
        };
        let place = Place(Arc::clone(self));
        // Dropping the place gives it back, also where the bound was passed.
        (self.in_flight.fetch_add(1, Ordering::Relaxed) < bound).then_some(place)
    }
}

/// One of the places in flight; dropped, it is free again.
struct Place(Arc<Admission>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// See the module.
pub(super) async fn layer(State(admission): State<Arc<Admission>>, mut request: Request, next: Next) -> Response {
    let path = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("", MatchedPath::as_str);
    let class = Class::of(path);
    if class == Class::Operations {
        return next.run(request).await;
    }
    let Some(_place) = admission.enter(class) else {
        let label = if class == Class::Ending { "ending" } else { "beginning" };
        metrics::counter!(metric::HTTP_SHED, "class" => label).increment(1);
        return Problem::new(Code::Overloaded, "as many requests are in flight as can be served").into_response();
    };
    let Some(limits) = &admission.limits else {
        return next.run(request).await;
    };
    let edge = Edge::new(limits, &request, class == Class::Ending);
    request.extensions_mut().insert(edge.clone());
    let has_no_body = matches!(*request.method(), Method::GET | Method::HEAD);
    let mut response = match has_no_body.then(|| Edge::judge(request.extensions())) {
        Some(Err(problem)) => problem.into_response(),
        Some(Ok(())) | None => next.run(request).await,
    };
    edge.tell(response.headers_mut());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            in_flight_max: 3,
            in_flight_reserved: 1,
            client_rate: 0,
            client_burst: 0,
            global_rate: 0,
            global_burst: 0,
            reads_rate: 0,
            proxies: 0,
        }
    }

    #[test]
    fn beginnings_are_shed_before_endings() {
        let admission = Arc::new(Admission::new(&settings()));
        let first = admission.enter(Class::Beginning).expect("there is room");
        let _second = admission.enter(Class::Beginning).expect("there is room");
        assert!(admission.enter(Class::Beginning).is_none(), "the last place is kept");
        let _ending = admission.enter(Class::Ending).expect("for this");
        assert!(admission.enter(Class::Ending).is_none());
        drop(first);
        assert!(
            admission.enter(Class::Beginning).is_none(),
            "an ending uses a place too"
        );
        assert!(admission.enter(Class::Ending).is_some());
    }

    #[test]
    fn endings_are_told_by_their_path() {
        for path in [
            "/api/inventory/reservations/{id}/commit",
            "/api/inventory/reservations/{id}/release",
            "/api/inventory/reservations/{id}/extend",
            "/api/inventory/confirm",
            "/api/inventory/release",
        ] {
            assert_eq!(Class::of(path), Class::Ending, "{path}");
        }
        assert_eq!(Class::of("/api/inventory/reservations"), Class::Beginning);
        assert_eq!(Class::of("/readyz"), Class::Operations);
    }
}
