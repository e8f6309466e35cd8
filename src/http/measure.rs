//! Counts and times every answer, by route and code.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::extract::MatchedPath;
use axum::response::Response;
use metrics::{Counter, Histogram, Label, SharedString};

use super::problem::Problem;
use crate::metric::{self, Handles};

/// How far a reservation had come when it was answered: a handler puts it among the response's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// In the queue.
    Accepted,
    /// In the ledger.
    Durable,
}

impl Level {
    /// As the label says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Accepted => "accepted",
            Level::Durable => "durable",
        }
    }
}

/// What answers are counted by, route by route.
#[derive(Debug, Default)]
pub(super) struct Measures(RwLock<HashMap<String, Arc<Measure>>>);

#[derive(Debug)]
struct Measure {
    route: SharedString,
    responses: Handles<Counter>,
    seconds: Handles<Histogram>,
}

impl Measures {
    /// Counts an answer that took so long. Paths that don't exist count as one route: their number is not ours.
    pub(super) fn count(&self, route: Option<&MatchedPath>, response: &Response, took: Duration) {
        let code = match response.extensions().get::<Problem>() {
            Some(problem) => problem.code().as_str(),
            None if response.status().is_success() => "OK",
            None => "NOT_READY",
        };
        let level = response.extensions().get::<Level>();
        self.of(route.map_or("none", MatchedPath::as_str)).count(
            code,
            level.map_or("none", |level| level.as_str()),
            took,
        );
    }

    fn of(&self, route: &str) -> Arc<Measure> {
        if let Some(known) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(route) {
            return Arc::clone(known);
        }
        let mut routes = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let known = routes.entry(route.to_owned());
        Arc::clone(known.or_insert_with(|| Arc::new(Measure::new(route))))
    }
}

impl Measure {
    fn new(route: &str) -> Self {
        Measure {
            route: SharedString::from(route.to_owned()),
            responses: Handles::default(),
            seconds: Handles::default(),
        }
    }

    fn count(&self, code: &'static str, level: &'static str, took: Duration) {
        let labels = |name, value| {
            vec![
                Label::new("route", self.route.clone()),
                Label::from_static_parts(name, value),
            ]
        };
        let responses = || metrics::counter!(metric::HTTP_RESPONSES, labels("code", code));
        let seconds = || metrics::histogram!(metric::HTTP_SECONDS, labels("level", level));
        self.responses.of(code, responses).increment(1);
        self.seconds.of(level, seconds).record(took);
    }
}
