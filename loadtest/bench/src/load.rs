//! Loads that wrk can't make: an open loop at a fixed rate, whose latencies are counted from the instant at which each
//! request was due, whether or not it could be sent then; a loop with a gate; a number of orders.
//!
//! It runs on a thread of its own. A request is due to the millisecond, as the runtime's timer is, so an open loop
//! overstates latencies by up to 1 ms and never understates them.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::Failure;
use crate::histogram::Histogram;
use crate::http::{Connection, request};

/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(40);
/// How often a closed gate is looked at.
const GATE_LOOK: Duration = Duration::from_millis(1);
/// Longest time to open a connection.
const OPENING: Duration = Duration::from_secs(3);
/// How long after its end an open loop still sends what was due before.
const LATE_MAX: Duration = Duration::from_secs(1);

/// When requests go out.
#[derive(Clone, Debug)]
pub(crate) enum Pace {
    /// An open loop: so many per second, for so many seconds. Who finds all connections waiting is late, not left out.
    Rate { per_second: f64, seconds: f64 },
    /// A closed loop while the gate is open.
    Gate(Gate),
    /// So many, as a closed loop.
    Count(u64),
}

/// What holds a closed loop, lets it go, or ends it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<AtomicU8>);

impl Gate {
    const SHUT: u8 = 0;
    const OPEN: u8 = 1;
    const OVER: u8 = 2;

    pub(crate) fn set_open(&self, open: bool) {
        self.0
            .store(if open { Gate::OPEN } else { Gate::SHUT }, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        self.0.store(Gate::OVER, Ordering::Relaxed);
    }
}

/// Who asks for what.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) address: SocketAddr,
    pub(crate) connections: usize,
    /// 8 characters that no other run has.
    pub(crate) tag: String,
    pub(crate) sku: String,
    /// The header `Prefer`; without it the sale says how long to wait.
    pub(crate) prefer: Option<&'static str>,
    pub(crate) pace: Pace,
    /// When all of them are due to be paid; without it the sale says how long they have.
    pub(crate) payable_until: Option<Instant>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Answers 2xx.
    pub(crate) granted: u64,
    /// Answers 429 and 503: refused before anything was decided.
    pub(crate) shed: u64,
    /// Other answers.
    pub(crate) refused: u64,
    /// Requests whose answer never came.
    pub(crate) unknown: u64,
    /// Requests that were due in an open loop; those that could not be sent up to a second after its end never were.
    pub(crate) due: f64,
    /// From the first to the last request.
    pub(crate) sent_for: Duration,
    /// Latencies of what was granted, counted from the instant at which it was due.
    pub(crate) from_due: Histogram,
    /// The same, counted from the sending: where the generator itself could not keep up.
    pub(crate) from_sent: Histogram,
}

impl Report {
    /// All requests.
    pub(crate) fn sent(&self) -> u64 {
        self.granted + self.shed + self.refused + self.unknown
    }

    /// Requests per second that really went out.
    pub(crate) fn rate(&self) -> f64 {
        as_f64(self.sent()) / self.sent_for.as_secs_f64().max(1e-3)
    }

    fn answered(&mut self, status: u16, from_due: Duration, from_sent: Duration) {
        match status {
            200..=299 => {
                self.granted += 1;
                self.from_due.add(micros(from_due));
                self.from_sent.add(micros(from_sent));
            }
            429 | 503 => self.shed += 1,
            _ => self.refused += 1,
        }
    }
}

/// Counts fit: a run has some millions of requests.
pub(crate) fn as_f64(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Begins it; the report comes when the last answer has.
pub(crate) fn start(plan: Plan) -> JoinHandle<Result<Report, Failure>> {
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, run(plan))
    })
}

/// Waits for a load without blocking the runtime.
///
/// # Errors
/// It could not connect.
pub(crate) async fn report(load: JoinHandle<Result<Report, Failure>>) -> Result<Report, Failure> {
    tokio::task::spawn_blocking(|| load.join().map_err(|_| "the load panicked")).await??
}

struct Shared {
    plan: Plan,
    next: Cell<u64>,
    begin: Cell<Instant>,
    last: Cell<Instant>,
    report: RefCell<Report>,
}

async fn run(plan: Plan) -> Result<Report, Failure> {
    let mut connections = Vec::with_capacity(plan.connections);
    for _ in 0..plan.connections {
        connections.push(timeout(OPENING, Connection::open(plan.address)).await??);
    }
    let begin = Instant::now();
    let shared = Rc::new(Shared {
        plan,
        next: Cell::new(0),
        begin: Cell::new(begin),
        last: Cell::new(begin),
        report: RefCell::default(),
    });
    let clients: Vec<_> = connections
        .into_iter()
        .map(|connection| tokio::task::spawn_local(Rc::clone(&shared).client(connection)))
        .collect();
    for client in clients {
        client.await??;
    }
    let mut report = shared.report.take();
    report.sent_for = shared.last.get() - begin;
    if let Pace::Rate { per_second, seconds } = shared.plan.pace {
        report.due = per_second * seconds;
    }
    Ok(report)
}

impl Shared {
    async fn client(self: Rc<Self>, mut connection: Connection) -> io::Result<()> {
        let more = self
            .plan
            .prefer
            .map_or_else(String::new, |prefer| format!("Prefer: {prefer}\r\n"));
        while let Some((number, due)) = self.turn().await {
            let body = order(&self.plan.tag, number, &self.plan.sku, self.plan.payable_until);
            let bytes = request("POST", "/api/inventory/reservations", &more, &body);
            let sent = Instant::now();
            self.last.set(sent);
            let answer = timeout(ANSWER_MAX, connection.exchange(&bytes)).await;
            let status = match &answer {
                Ok(Ok((status, _))) => Some(*status),
                _ => None,
            };
            if let Some(status) = status {
                let now = Instant::now();
                self.report.borrow_mut().answered(status, now - due, now - sent);
            } else {
                self.report.borrow_mut().unknown += 1;
                connection = Connection::open(self.plan.address).await?;
            }
        }
        Ok(())
    }

    /// The next request's number and when it is due, at that time; none when no more are.
    async fn turn(&self) -> Option<(u64, Instant)> {
        let draw = || {
            let number = self.next.get();
            self.next.set(number + 1);
            number
        };
        match &self.plan.pace {
            Pace::Rate { per_second, seconds } => {
                let number = draw();
                let after = as_f64(number) / per_second;
                if after >= *seconds {
                    return None;
                }
                let (due, now) = (self.begin.get() + Duration::from_secs_f64(after), Instant::now());
                if now > self.begin.get() + Duration::from_secs_f64(*seconds) + LATE_MAX {
                    return None;
                }
                if due > now {
                    sleep_until(due).await;
                }
                Some((number, due))
            }
            Pace::Count(count) => {
                let number = draw();
                (number < *count).then(|| (number, Instant::now()))
            }
            Pace::Gate(gate) => loop {
                match gate.0.load(Ordering::Relaxed) {
                    Gate::OPEN => return Some((draw(), Instant::now())),
                    Gate::SHUT => sleep(GATE_LOOK).await,
                    _ => return None,
                }
            },
        }
    }
}

/// The same order as `loadtest/wrk/bench.lua` makes on its thread 0.
fn order(tag: &str, number: u64, sku: &str, payable_until: Option<Instant>) -> String {
    let name = format!("{tag}0{number:016}");
    let time_to_pay = payable_until.map_or_else(String::new, |until| {
        let seconds = until.saturating_duration_since(Instant::now()).as_secs().max(1);
        format!(r#","ttlSeconds":{seconds}"#)
    });
    format!(
        r#"{{"orderId":"o{name}","skuId":"{sku}","locationId":"wh1","quantity":1,"userId":"u{name}"{time_to_pay}}}"#
    )
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Duration, Report, order};

    #[test]
    fn only_what_was_granted_has_a_latency() {
        let mut report = Report {
            unknown: 1,
            ..Report::default()
        };
        let ms = Duration::from_millis;
        report.answered(201, ms(20), ms(10));
        report.answered(503, ms(1), ms(1));
        report.answered(409, ms(1), ms(1));
        assert_eq!(
            (report.granted, report.shed, report.refused, report.sent()),
            (1, 1, 1, 4)
        );
        assert!((20.0..20.3).contains(&report.from_due.percentile_ms(1)));
        assert!((10.0..10.2).contains(&report.from_sent.percentile_ms(99)));
    }

    #[test]
    fn ids_have_26_characters() {
        let body: serde_json::Value = serde_json::from_str(&order("r0000001", 7, "hot", None)).expect("JSON");
        assert_eq!(body["orderId"].as_str().map(str::len), Some(26));
        assert_eq!(body["userId"].as_str().map(str::len), Some(26));
    }
}
