//! What clients say to the gateways and what they hear: each request is a line of the history.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde_json::Value;

use super::gateway::Addresses;
use super::history::{Action, Kind, Line, Moment, Operation, Outcome, Recorder, Stopwatch};
use crate::domain::reservation::{Ack, Cause, Status};

/// A client gives up. Longer than the pause of a server, so that some answers of a paused one are still heard.
const ANSWER_MAX: Duration = Duration::from_secs(6);

/// All gateways, and the history of what they were asked.
#[derive(Debug)]
pub(super) struct Web {
    http: Client,
    gateways: Vec<Arc<RwLock<Addresses>>>,
    recorder: Recorder,
    stopwatch: Stopwatch,
    next: AtomicU64,
    /// When the newest reservation that became durable was asked for, in µs of the history.
    durable_us: AtomicI64,
}

/// A request, as its client means it.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) operation: Operation,
    pub(super) path: String,
    pub(super) body: Value,
    pub(super) prefer: Option<&'static str>,
}

impl Ask {
    /// One of this kind.
    pub(super) fn of(kind: Kind, path: impl Into<String>, body: Value) -> Ask {
        Ask {
            operation: Operation::asked(0, kind, Moment::default()),
            path: path.into(),
            body,
            prefer: None,
        }
    }
}

impl Web {
    pub(super) fn new(
        gateways: Vec<Arc<RwLock<Addresses>>>,
        recorder: Recorder,
        stopwatch: Stopwatch,
    ) -> reqwest::Result<Web> {
        Ok(Web {
            http: Client::builder().timeout(ANSWER_MAX).build()?,
            gateways,
            recorder,
            stopwatch,
            next: AtomicU64::new(1),
            durable_us: AtomicI64::new(-1),
        })
    }

    pub(super) fn gateways(&self) -> u32 {
        u32::try_from(self.gateways.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn now(&self) -> Moment {
        self.stopwatch.now()
    }

    /// Whether a reservation that was asked for after this moment has become durable.
    pub(super) fn goes_on_after(&self, moment: Moment) -> bool {
        self.durable_us.load(Ordering::Relaxed) > moment.mono_us
    }

    /// Adds a line to the history.
    pub(super) fn write(&self, line: &Line) -> io::Result<()> {
        self.recorder.append(line)
    }

    /// Everything written so far can be read.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.recorder.flush()
    }

    /// Asks a gateway; what its client knows afterwards, which is in the history too.
    ///
    /// # Errors
    /// The history can't be written.
    pub(super) async fn ask(&self, gateway: u32, ask: &Ask) -> io::Result<Operation> {
        let mut told = Operation {
            op: self.next.fetch_add(1, Ordering::Relaxed),
            gateway,
            invoked: self.now(),
            ..ask.operation.clone()
        };
        let (method, is_admin) = match (told.kind, told.action) {
            (Kind::Get, _) => (Method::GET, false),
            (Kind::Sale, Some(Action::Patch)) => (Method::PATCH, true),
            (Kind::Sale, _) => (Method::POST, true),
            _ => (Method::POST, false),
        };
        let at = self.address(gateway, is_admin);
        let mut request = self.http.request(method.clone(), format!("http://{at}{}", ask.path));
        if method != Method::GET {
            request = request.json(&ask.body);
        }
        if let Some(key) = &told.key {
            request = request.header("idempotency-key", key);
        }
        if let Some(prefer) = ask.prefer {
            request = request.header("prefer", prefer);
        }
        let heard = async {
            let response = request.send().await?;
            let replayed = response.headers().get("idempotent-replayed").is_some();
            Ok::<_, reqwest::Error>((response.status(), replayed, response.json::<Value>().await?))
        };
        if let Ok((status, replayed, body)) = heard.await {
            note(&mut told, status, replayed, &body);
        }
        told.returned = Some(self.now());
        if told.kind == Kind::Reserve && told.outcome == Outcome::Ok && told.ack == Some(Ack::Durable) {
            self.durable_us.fetch_max(told.invoked.mono_us, Ordering::Relaxed);
        }
        self.write(&Line::Operation(Box::new(told.clone())))?;
        Ok(told)
    }

    /// Asks the admin listener for what is no operation of the history; none where it does not answer 2xx.
    pub(super) async fn admin(&self, gateway: u32, method: Method, path: &str, body: Option<Value>) -> Option<Value> {
        let at = self.address(gateway, true);
        let mut request = self.http.request(method, format!("http://{at}{path}"));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.ok()?;
        if !response.status().is_success() {
            return None;
        }
        response.json().await.ok()
    }

    fn address(&self, gateway: u32, is_admin: bool) -> SocketAddr {
        let index = usize::try_from(gateway).unwrap_or(usize::MAX);
        let addresses = *self.gateways[index].read().unwrap_or_else(PoisonError::into_inner);
        if is_admin { addresses.admin } else { addresses.public }
    }
}

/// Takes over what an answer says.
fn note(told: &mut Operation, status: StatusCode, replayed: bool, body: &Value) {
    told.status = Some(status.as_u16());
    told.outcome = match status.as_u16() {
        200..=299 => Outcome::Ok,
        400 | 404 | 409 | 422 => Outcome::Refused,
        _ => Outcome::Unknown,
    };
    told.replayed = replayed;
    told.code = body["code"].as_str().map(str::to_owned);
    told.available = body["available"].as_i64();
    told.rescued = body["rescued"].as_bool().unwrap_or(false);
    told.restocked = body["restocked"].as_bool();
    told.cause = serde_json::from_value::<Cause>(body["cause"].clone()).ok();
    if told.kind == Kind::Sale {
        return;
    }
    if told.outcome == Outcome::Ok {
        told.reservation_status = body["status"].as_str().and_then(Status::parse);
        told.ack = serde_json::from_value::<Ack>(body["ack"].clone()).ok();
        told.quantity = told.quantity.or_else(|| body["quantity"].as_i64());
        if let Some(id) = body["reservationId"].as_str() {
            told.reservation_id = id.parse().ok().or(told.reservation_id);
        }
    }
}
