//! `Prefer` (RFC 7240): how long the caller waits for a durable answer.
//!
//! A preference is a wish: what can't be read is ignored, never refused, and of one that is repeated the first counts.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

/// Longest wait, whatever is asked for: proxies in between give up at 30 to 60 s.
pub const WAIT_MAX: Duration = Duration::from_secs(30);

/// What the caller prefers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefer {
    wait: Option<Duration>,
    respond_async: bool,
}

impl Prefer {
    /// How long to wait for a durable answer: not at all for `respond-async`, else as asked, else `default`.
    #[must_use]
    pub fn wait_or(self, default: Duration) -> Duration {
        if self.respond_async {
            return Duration::ZERO;
        }
        self.wait.unwrap_or(default).min(WAIT_MAX)
    }

    fn read(&mut self, header: &str) {
        for preference in unquoted_split(header, ',') {
            // Parameters after `;` belong to preferences that we don't know.
            let Some(token) = unquoted_split(preference, ';').next() else {
                continue;
            };
            let (name, value) = token.split_once('=').unwrap_or((token, ""));
            let (name, value) = (name.trim(), value.trim().trim_matches('"'));
            if name.eq_ignore_ascii_case("respond-async") {
                self.respond_async = true;
            } else if name.eq_ignore_ascii_case("wait") && self.wait.is_none() {
                self.wait = seconds(value);
            }
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Prefer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let mut prefer = Prefer::default();
        for header in parts.headers.get_all("prefer") {
            prefer.read(header.to_str().unwrap_or_default());
        }
        Ok(prefer)
    }
}

/// Splits at `separator` outside of quoted strings.
fn unquoted_split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        let was_escaped = std::mem::take(&mut escaped);
        match c {
            '\\' if quoted && !was_escaped => escaped = true,
            '"' if !was_escaped => quoted = !quoted,
            _ => {}
        }
        c == separator && !quoted
    })
}

/// Digits, with or without a fraction; nothing that floats know beside that (signs, exponents, infinities).
fn seconds(text: &str) -> Option<Duration> {
    let is_decimal = text.bytes().all(|b| b.is_ascii_digit() || b == b'.') && text.bytes().any(|b| b.is_ascii_digit());
    let seconds: f64 = is_decimal.then(|| text.parse().ok())??;
    Duration::try_from_secs_f64(seconds.min(WAIT_MAX.as_secs_f64())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferences_are_read_as_wishes() {
        let default = Duration::from_secs(1);
        let table: &[(&[&str], u64)] = &[
            (&[], 1000),
            (&["wait=0.25"], 250),
            (&["wait=0"], 0),
            (&["WAIT = \"2\""], 2000),
            (&["wait=5", "wait=7"], 5000),
            (&["handling=lenient, wait=3; x=1"], 3000),
            (&["foo=\"a, wait=9\", wait=3"], 3000),
            (&["foo=\"a\\\", wait=9\", wait=3"], 3000),
            (&["wait=3600"], 30_000),
            (&["wait=999999999999999999999999999999999999"], 30_000),
            (&["respond-async, wait=5"], 0),
            (&["return=minimal", "Respond-Async"], 0),
            (
                &[
                    "wait",
                    "wait=-1",
                    "wait=abc",
                    "wait=1e3",
                    "wait=inf",
                    "wait=1.2.3",
                    "wait=.",
                    ", ,",
                ],
                1000,
            ),
        ];
        for (headers, ms) in table {
            let mut prefer = Prefer::default();
            headers.iter().for_each(|header| prefer.read(header));
            assert_eq!(prefer.wait_or(default), Duration::from_millis(*ms), "{headers:?}");
        }
    }
}
