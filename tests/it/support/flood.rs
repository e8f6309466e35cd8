//! Far more requests than a gateway can serve: an open loop from a thread of its own, which sends what is due whether
//! or not anything was answered, as far as its connections are free.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::LocalSet;

/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Buyers of one unit of `hot` each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flood {
    pub(crate) at: SocketAddr,
    /// Begins the names of its orders.
    pub(crate) name: &'static str,
    pub(crate) connections: usize,
    pub(crate) per_second: f64,
    pub(crate) lasting: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Flooded {
    /// Answers 201 and 202.
    pub(crate) granted: usize,
    /// Answers 429 and 503 that say when to come back.
    pub(crate) shed: usize,
    /// Everything else, word by word.
    pub(crate) odd: Vec<String>,
    /// From the sending to the answer, of what was granted.
    pub(crate) took: Vec<Duration>,
    /// From the first request to the last answer.
    pub(crate) lasted: Duration,
}

impl Flooded {
    pub(crate) fn per_second(&self) -> f64 {
        let granted = u32::try_from(self.granted).expect("not so many");
        f64::from(granted) / self.lasted.as_secs_f64()
    }
}

/// The 95th percentile; zero of nothing.
pub(crate) fn p95(took: &mut [Duration]) -> Duration {
    took.sort_unstable();
    took.get(took.len() * 95 / 100).copied().unwrap_or_default()
}

/// Begins it.
pub(crate) fn start(flood: Flood) -> JoinHandle<Flooded> {
    // Each connection is a file, and the usual limit is 1,024.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit can be read");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("it can be raised as far as the system allows");
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, run(flood))
    })
}

/// Waits for it without holding up the test's own runtime.
pub(crate) async fn ended(flood: JoinHandle<Flooded>) -> Flooded {
    let joined = tokio::task::spawn_blocking(|| flood.join())
        .await
        .expect("it is joined");
    joined.expect("the flood does not panic")
}

async fn run(flood: Flood) -> Flooded {
    let mut streams = Vec::with_capacity(flood.connections);
    for _ in 0..flood.connections {
        streams.push(TcpStream::connect(flood.at).await.expect("it listens"));
    }
    let (next, flooded) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(Flooded::default())));
    let begin = Instant::now();
    let clients = streams.into_iter().map(|stream| {
        let (next, flooded) = (Rc::clone(&next), Rc::clone(&flooded));
        tokio::task::spawn_local(client(flood, stream, begin, next, flooded))
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.expect("no client panics");
    }
    let mut flooded = flooded.take();
    flooded.lasted = begin.elapsed();
    flooded
}

async fn client(
    flood: Flood,
    mut stream: TcpStream,
    begin: Instant,
    next: Rc<Cell<u32>>,
    flooded: Rc<RefCell<Flooded>>,
) {
    loop {
        let number = next.replace(next.get() + 1);
        let due = Duration::from_secs_f64(f64::from(number) / flood.per_second);
        if due > flood.lasting || begin.elapsed() > flood.lasting {
            return;
        }
        tokio::time::sleep_until((begin + due).into()).await;
        let body = format!(
            r#"{{"orderId":"{name}-{number}","skuId":"hot","locationId":"wh1","quantity":1,"userId":"{name}-{number}"}}"#,
            name = flood.name
        );
        let request = format!(
            "POST /api/inventory/reservations HTTP/1.1\r\nhost: it\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let sent = Instant::now();
        let answer = tokio::time::timeout(ANSWER_MAX, exchange(&mut stream, request.as_bytes())).await;
        let mut flooded = flooded.borrow_mut();
        match answer {
            Ok(Some(answer)) if is_granted(&answer) => {
                flooded.granted += 1;
                flooded.took.push(sent.elapsed());
            }
            Ok(Some(answer)) if is_shed(&answer) => flooded.shed += 1,
            Ok(answer) => {
                flooded
                    .odd
                    .push(answer.unwrap_or_else(|| "a broken connection".to_owned()));
                return;
            }
            Err(_) => {
                flooded.odd.push("no answer".to_owned());
                return;
            }
        }
    }
}

fn is_granted(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 201 ") || answer.starts_with("HTTP/1.1 202 ")
}

/// Refused as the contract wants it.
fn is_shed(answer: &str) -> bool {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
    let seconds = header("retry-after: ").and_then(|seconds| seconds.parse::<u32>().ok());
    let body: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let trace = body["traceId"].as_str().unwrap_or("none");
    (head.starts_with("HTTP/1.1 503 ") && body["code"] == "OVERLOADED" || head.starts_with("HTTP/1.1 429 "))
        && body["retryable"] == true
        && header("content-type: ") == Some("application/problem+json")
        && header("traceparent: ").is_some_and(|parent| parent.contains(trace))
        && seconds.is_some_and(|seconds| seconds >= 1)
}

/// One request and its answer, which has a Content-Length; none where the connection broke.
async fn exchange(stream: &mut TcpStream, request: &[u8]) -> Option<String> {
    stream.write_all(request).await.ok()?;
    let mut read = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
        let text = std::str::from_utf8(&read).ok()?;
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
            if body.len() >= length.parse().ok()? {
                return Some(text.to_owned());
            }
        }
    }
}
