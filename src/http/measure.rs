//! Counts and times every answer, by route and code.

use std::time::Duration;

use axum::extract::MatchedPath;
use axum::response::Response;
use metrics::{Label, SharedString};

use super::problem::Problem;
use crate::metric;

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

/// Counts an answer that took so long. Paths that don't exist count as one route: their number is not ours.
pub(super) fn count(route: Option<&MatchedPath>, response: &Response, took: Duration) {
    let route = match route {
        Some(path) => SharedString::from(path.as_str().to_owned()),
        None => SharedString::const_str("none"),
    };
    let code = match response.extensions().get::<Problem>() {
        Some(problem) => problem.code().as_str(),
        None if response.status().is_success() => "OK",
        None => "NOT_READY",
    };
    let level = response
        .extensions()
        .get::<Level>()
        .map_or("none", |level| level.as_str());
    let labels = |name, value| {
        vec![
            Label::new("route", route.clone()),
            Label::from_static_parts(name, value),
        ]
    };
    metrics::counter!(metric::HTTP_RESPONSES, labels("code", code)).increment(1);
    metrics::histogram!(metric::HTTP_SECONDS, labels("level", level)).record(took);
}
