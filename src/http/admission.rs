//! Admission: what is refused before any work is done for it.
//!
//! Past [`Settings::in_flight_max`] requests at a time, new ones get `OVERLOADED`; the last
//! [`Settings::in_flight_reserved`] places are for endings alone, so that beginnings are shed first. Long before that,
//! beginnings are shed past a bound that follows the delay in this process (`super::overload`). Rates are
//! `super::edge`'s, but for that of reads while Redis is away, which `super::reads` asks for here.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{Extensions, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::edge::{Edge, Limits};
use super::gate::overloaded;
use super::limit::Limit;
use super::overload::{Bound, Range};
use super::problem::Problem;
use crate::metric;

/// How much is let in.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Settings {
    /// Most requests served at a time; more answer OVERLOADED
    #[arg(long, env = "FLASHGATE_IN_FLIGHT_MAX", value_name = "COUNT", default_value_t = 8_192,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub in_flight_max: u32,

    /// How many of these are kept for commit, release and extend; below in_flight_max
    #[arg(
        long,
        env = "FLASHGATE_IN_FLIGHT_RESERVED",
        value_name = "COUNT",
        default_value_t = 1_024
    )]
    pub in_flight_reserved: u32,

    /// Delay in this process from which on fewer reservations and reads are let in; 0: never
    #[arg(long, env = "FLASHGATE_DELAY_TARGET_MS", value_name = "MS", default_value_t = 20,
          value_parser = clap::value_parser!(u64).range(0..=10_000))]
    pub delay_target_ms: u64,

    /// So many of these are let in at a time, whatever the delay
    #[arg(long, env = "FLASHGATE_IN_FLIGHT_MIN", value_name = "COUNT", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub in_flight_min: u32,

    /// So many at first, and again after a quiet time: what a burst that nobody saw coming finds
    #[arg(long, env = "FLASHGATE_IN_FLIGHT_START", value_name = "COUNT", default_value_t = 1_024,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub in_flight_start: u32,

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
    pub(super) bound: Bound,
    limits: Option<Arc<Limits>>,
    reads: Option<Limit>,
}

impl Admission {
    /// With nothing used.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let places = |count: u32| usize::try_from(count).expect("32 bits fit");
        let for_beginnings = settings.in_flight_max.saturating_sub(settings.in_flight_reserved);
        let target = Duration::from_millis(settings.delay_target_ms);
        Admission {
            in_flight: AtomicUsize::new(0),
            in_flight_max: places(settings.in_flight_max),
            bound: Bound::new(&Range {
                least: places(settings.in_flight_min.min(for_beginnings)),
                start: places(settings.in_flight_start.min(for_beginnings)),
                most: places(for_beginnings),
                target,
            }),
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
        let bound = u32::try_from(self.bound.now()).unwrap_or(u32::MAX);
        metrics::gauge!(metric::HTTP_BEGINNINGS_MAX).set(bound);
    }

    /// A lane has decided, so long after the request was read.
    pub(super) fn decided(&self, after: Duration) {
        self.bound.decided(after);
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

    /// Takes one of the places in flight, unless all are taken.
    fn enter(self: &Arc<Self>, class: Class) -> Option<Place> {
        // Dropping the place gives it back, also where there was none left.
        let place = Place(Arc::clone(self));
        let in_flight = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let most = match class {
            Class::Beginning => self.bound.most(),
            Class::Ending | Class::Operations => self.in_flight_max,
        };
        (in_flight < most).then_some(place)
    }

    fn turn_away(&self, class: Class, cause: &'static str) -> Problem {
        let label = if class == Class::Ending { "ending" } else { "beginning" };
        metrics::counter!(metric::HTTP_SHED, "class" => label, "cause" => cause).increment(1);
        overloaded(self.bound.turn_away())
    }
}

/// One of the places in flight; dropped, it is free again.
#[derive(Debug)]
struct Place(Arc<Admission>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A beginning's turn under the bound that follows the delay, over when it is dropped. It is taken when the request is
/// whole: whoever is slow to send it holds a place in flight, and no turn.
#[derive(Clone, Debug)]
pub(super) struct Turn(Arc<TurnInner>);

#[derive(Debug)]
struct TurnInner {
    admission: Arc<Admission>,
    taken: AtomicBool,
}

impl Turn {
    fn new(admission: &Arc<Admission>) -> Self {
        Turn(Arc::new(TurnInner {
            admission: Arc::clone(admission),
            taken: AtomicBool::new(false),
        }))
    }

    /// Takes the turn of a request that has one to take.
    ///
    /// # Errors
    /// 503 `OVERLOADED`.
    fn take(extensions: &Extensions) -> Result<(), Problem> {
        let Some(Turn(turn)) = extensions.get::<Turn>() else {
            return Ok(());
        };
        if !turn.admission.bound.enter() {
            return Err(turn.admission.turn_away(Class::Beginning, "delay"));
        }
        turn.taken.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for TurnInner {
    fn drop(&mut self) {
        if *self.taken.get_mut() {
            self.admission.bound.leave();
        }
    }
}

/// Lets in a request with which nothing is wrong.
///
/// # Errors
/// 503 `OVERLOADED`, 429 `RATE_LIMITED`.
pub(super) fn admit(extensions: &Extensions) -> Result<(), Problem> {
    Turn::take(extensions)?;
    Edge::judge(extensions)
}

/// Lets in a request without a body: a handler's last parameter, after those that say what is wrong with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admitted;

impl<S: Sync> FromRequestParts<S> for Admitted {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        admit(&parts.extensions).map(|()| Admitted)
    }
}

/// See the module.
pub(super) async fn layer(State(admission): State<Arc<Admission>>, mut request: Request, next: Next) -> Response {
    let path = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("", MatchedPath::as_str);
    let has_no_body = matches!(*request.method(), Method::GET | Method::HEAD);
    let class = match Class::of(path) {
        // Who reads the stock of a SKU that is named `release` ends nothing.
        Class::Ending if has_no_body => Class::Beginning,
        class => class,
    };
    if class == Class::Operations {
        return next.run(request).await;
    }
    let Some(_place) = admission.enter(class) else {
        return admission.turn_away(class, "in_flight").into_response();
    };
    // Held here: a handler lets go of the request long before it answers.
    let turn = (class == Class::Beginning).then(|| Turn::new(&admission));
    if let Some(turn) = &turn {
        request.extensions_mut().insert(turn.clone());
    }
    let edge = admission
        .limits
        .as_ref()
        .map(|limits| Edge::new(limits, &request, class == Class::Ending));
    if let Some(edge) = &edge {
        request.extensions_mut().insert(edge.clone());
    }
    let mut response = next.run(request).await;
    if let Some(edge) = edge {
        edge.tell(response.headers_mut());
    }
    drop(turn);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            in_flight_max: 3,
            in_flight_reserved: 1,
            in_flight_min: 1,
            in_flight_start: 2,
            delay_target_ms: 20,
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
    fn a_turn_lasts_until_the_answer() {
        let admission = Arc::new(Admission::new(&settings()));
        let turns: Vec<Turn> = (0..3).map(|_| Turn::new(&admission)).collect();
        let take = |turn: &Turn| {
            let mut extensions = Extensions::new();
            extensions.insert(turn.clone());
            Turn::take(&extensions)
        };
        assert!(take(&turns[0]).is_ok() && take(&turns[1]).is_ok());
        let refused = take(&turns[2]).expect_err("there are two places");
        assert_eq!(refused.code(), crate::http::code::Code::Overloaded);
        drop(turns);
        assert!(take(&Turn::new(&admission)).is_ok());
        assert!(Turn::take(&Extensions::new()).is_ok(), "who has none needs none");
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
