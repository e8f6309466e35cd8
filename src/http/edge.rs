//! Edge limits (off by default): requests per second of one client and of all, before Redis is asked.
//!
//! A limit is judged after the request was found valid, because 400 wins over 429 ([`super::admission::admit`]). Endings
//! are exempt from the limit of all: they outrank beginnings.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use axum::extract::{ConnectInfo, Request};
use axum::http::{Extensions, HeaderMap, HeaderValue};

use super::admission::Settings;
use super::code::Code;
use super::limit::{Limit, Verdict};
use super::problem::Problem;
use crate::metric;

/// The limits of one router.
#[derive(Debug)]
pub(super) struct Limits {
    client: Option<Limit>,
    global: Option<Limit>,
    proxies: usize,
}

impl Limits {
    /// `None` where none is set.
    pub(super) fn new(settings: &Settings) -> Option<Self> {
        let client = Limit::new("client", settings.client_rate, settings.client_burst);
        let global = Limit::new("global", settings.global_rate, settings.global_burst);
        (client.is_some() || global.is_some()).then(|| Limits {
            client,
            global,
            proxies: settings.proxies.into(),
        })
    }

    /// Forgets clients that have been quiet.
    pub(super) fn upkeep(&self) {
        self.client.iter().chain(&self.global).for_each(Limit::upkeep);
    }
}

/// The edge limits as they stand for one request.
#[derive(Clone, Debug)]
pub(super) struct Edge(Arc<EdgeInner>);

#[derive(Debug)]
struct EdgeInner {
    limits: Arc<Limits>,
    client: Option<IpAddr>,
    is_ending: bool,
    told: OnceLock<Vec<Verdict>>,
}

impl Edge {
    /// For this request, which nobody has judged yet.
    pub(super) fn new(limits: &Arc<Limits>, request: &Request, is_ending: bool) -> Self {
        Edge(Arc::new(EdgeInner {
            limits: Arc::clone(limits),
            client: client_of(request, limits.proxies),
            is_ending,
            told: OnceLock::new(),
        }))
    }

    /// Counts the request against the limits of its router, if it has any.
    ///
    /// # Errors
    /// 429 `RATE_LIMITED`, with the time after which one more fits.
    pub(super) fn judge(extensions: &Extensions) -> Result<(), Problem> {
        let Some(Edge(edge)) = extensions.get::<Edge>() else {
            return Ok(());
        };
        let verdicts = edge.told.get_or_init(|| edge.verdicts());
        let Some(refused) = verdicts.iter().find(|verdict| verdict.wait.is_some()) else {
            return Ok(());
        };
        metrics::counter!(metric::HTTP_RATE_LIMITED, "policy" => refused.policy).increment(1);
        let detail = format!("the {} limit of {} per second is used up", refused.policy, refused.rate);
        Err(Problem::new(Code::RateLimited, detail)
            .with("policy", refused.policy)
            .retry_after(refused.wait.unwrap_or_default()))
    }

    /// Adds `RateLimit-Policy` and `RateLimit` to the answer, where limits were judged.
    pub(super) fn tell(&self, headers: &mut HeaderMap) {
        let verdicts = self.0.told.get().map(Vec::as_slice).unwrap_or_default();
        let list = |item: fn(&Verdict) -> String| verdicts.iter().map(item).collect::<Vec<_>>().join(", ");
        for (name, text) in [
            ("ratelimit-policy", list(Verdict::policy_item)),
            ("ratelimit", list(Verdict::state_item)),
        ] {
            if let Ok(value) = HeaderValue::from_str(&text)
                && !text.is_empty()
            {
                headers.insert(name, value);
            }
        }
    }
}

impl EdgeInner {
    /// Narrow before wide: a client past its own limit does not use up what is for all.
    fn verdicts(&self) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        if let (Some(limit), Some(client)) = (&self.limits.client, self.client) {
            verdicts.push(limit.judge(client));
        }
        let is_refused = verdicts.iter().any(|verdict| verdict.wait.is_some());
        if let Some(limit) = &self.limits.global
            && !self.is_ending
            && !is_refused
        {
            verdicts.push(limit.judge(IpAddr::from([0, 0, 0, 0])));
        }
        verdicts
    }
}

/// The client's address: the peer, or what the outermost of our own proxies saw. A client can write entries of its own
/// before that one, so they are counted from the end.
fn client_of(request: &Request, proxies: usize) -> Option<IpAddr> {
    let peer = request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
        .map(|ConnectInfo(peer)| peer.ip());
    let Some(back) = proxies.checked_sub(1) else {
        return peer;
    };
    let headers = request.headers().get_all("x-forwarded-for").iter();
    let entries: Vec<&str> = headers
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .collect();
    let entry = entries
        .iter()
        .rev()
        .nth(back)
        .and_then(|entry| entry.trim().parse().ok());
    entry.or(peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_what_our_outermost_proxy_saw() {
        let request = |forwarded: &str| {
            let mut request = Request::builder().header("x-forwarded-for", forwarded);
            let peer: SocketAddr = "10.0.0.9:1".parse().expect("an address");
            request.extensions_mut().expect("it is valid").insert(ConnectInfo(peer));
            request.body(axum::body::Body::empty()).expect("a request")
        };
        let client =
            |forwarded: &str, proxies| client_of(&request(forwarded), proxies).expect("an address").to_string();
        assert_eq!(client("1.1.1.1", 0), "10.0.0.9");
        assert_eq!(client("6.6.6.6, 1.1.1.1", 1), "1.1.1.1");
        assert_eq!(client("6.6.6.6, 1.1.1.1, 10.0.0.8", 2), "1.1.1.1");
        assert_eq!(client("nonsense", 1), "10.0.0.9");
        assert_eq!(client("1.1.1.1", 2), "10.0.0.9");
    }
}
