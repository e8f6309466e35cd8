//! The frame around the handlers, on real sockets: connections that are slow, silent, too many or won't end, and what
//! is refused before any work is done. Neither Redis nor Postgres is needed: nobody gets that far.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use flashgate::clock::Clock;
use flashgate::domain::reservation_id::IdKey;
use flashgate::flash::{self, Flash};
use flashgate::http::admission::{self, Admission};
use flashgate::http::listen::{self, Settings};
use flashgate::http::{self, Gateway};
use flashgate::ledger::{self, Ledger};
use flashgate::metric;
use reqwest::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::socket::{Heard, RESERVATIONS, send};

const JSON: (&str, &str) = ("content-type", "application/json");
pub(crate) const LINE: &str = r#"{"orderId":"o1","skuId":"a","locationId":"wh1","quantity":1}"#;
/// A path that ends something, of a reservation that never was.
const COMMIT: &str = "/api/inventory/reservations/none/commit";

/// Far beyond what anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A router behind a listener.
pub(crate) struct Served {
    pub(crate) at: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

pub(crate) async fn serve(router: Router, settings: Settings) -> Served {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let at = listener.local_addr().expect("it is bound");
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let running =
        tokio::spawn(async move { listen::serve("test", listener, (None, router), &settings, stopped).await });
    Served { at, stop, running }
}

impl Served {
    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.at).await.expect("it is accepted")
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.running).await;
        ended.expect("it ends in time").expect("it does not panic");
    }
}

pub(crate) fn settings() -> Settings {
    Settings {
        connections_max: 100,
        header_timeout_ms: 300,
        drain_ms: 5_000,
    }
}

pub(crate) fn hello() -> Router {
    Router::new().route("/", get(async || "hello"))
}

/// Everything that comes until the other side closes.
pub(crate) async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    // A reset is an end too.
    read.expect("the connection is closed in time").ok();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_ends_a_head_is_cut_off() {
    let served = serve(hello(), settings()).await;
    for start in [
        "",
        "P",
        "PRI * HTTP/2.0\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx-slow: ",
        "GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\n",
    ] {
        let began = Instant::now();
        let mut stream = served.connect().await;
        stream.write_all(start.as_bytes()).await.expect("it is sent");
        let heard = rest(&mut stream).await;
        assert!(began.elapsed() >= Duration::from_millis(250), "{start:?} is waited for");
        let answers = heard.matches("HTTP/1.1 200 OK").count();
        assert_eq!(answers, start.matches("\r\n\r\n").count(), "{start:?}: {heard}");
    }
    served.stop().await;
}

/// A sale begins, and everybody connects before the first of them is taken.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_connects_at_once() {
    let listener = listen::bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
    let at = listener.local_addr().expect("it is bound");
    let crowd = futures::future::try_join_all((0..400).map(|_| TcpStream::connect(at)));
    let connected = tokio::time::timeout(PATIENCE, crowd).await;
    let connected = connected
        .expect("nobody is left to try again")
        .expect("nobody is refused");
    assert_eq!(connected.len(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_has_a_bounded_size() {
    let served = serve(hello(), settings()).await;
    let mut stream = served.connect().await;
    let head = format!("GET / HTTP/1.1\r\nhost: a\r\nx-large: {}\r\n\r\n", "x".repeat(40_000));
    // It may be refused before it is all sent.
    stream.write_all(head.as_bytes()).await.ok();
    assert!(!rest(&mut stream).await.contains("200 OK"));
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_http_are_spoken() {
    let served = serve(hello(), settings()).await;
    let url = format!("http://{}/", served.at);
    for (client, version) in [
        (reqwest::Client::builder().http1_only(), reqwest::Version::HTTP_11),
        (
            reqwest::Client::builder().http2_prior_knowledge(),
            reqwest::Version::HTTP_2,
        ),
    ] {
        let client = client.build().expect("a client");
        for _ in 0..3 {
            let response = client.get(&url).send().await.expect("an answer");
            assert_eq!(response.version(), version);
            assert_eq!(response.text().await.expect("a body"), "hello");
        }
    }
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_waits_for_another_to_end() {
    let few = Settings {
        connections_max: 1,
        header_timeout_ms: 60_000,
        ..settings()
    };
    let served = serve(hello(), few).await;
    let first = served.connect().await;
    let mut second = served.connect().await;
    let ask = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    second.write_all(ask).await.expect("the kernel takes it");
    let early = tokio::time::timeout(Duration::from_millis(200), second.readable()).await;
    assert!(early.is_err(), "nobody serves it while the first is there");
    drop(first);
    assert!(rest(&mut second).await.ends_with("hello"));
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_requests_end_and_takes_no_more() {
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (Arc::clone(&begun), Arc::clone(&go_on));
    let slow = Router::new().route(
        "/",
        get(async move || {
            tell.notify_one();
            wait.notified().await;
            "at last"
        }),
    );
    let served = serve(slow, settings()).await;
    let mut idle = served.connect().await;
    let mut busy = served.connect().await;
    busy.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .expect("sent");
    begun.notified().await;
    served.stop.cancel();
    assert_eq!(rest(&mut idle).await, "", "who asks for nothing is closed at once");
    assert!(TcpStream::connect(served.at).await.is_err(), "nobody listens any more");
    go_on.notify_one();
    assert!(rest(&mut busy).await.ends_with("at last"));
    served.stop().await;
}

/// A whole frame of HTTP/2, without a payload that matters here: 9 bytes of head (length 3, type 1, flags 1, stream 4).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("it is short");
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_tells_who_speaks_http_2_to_go_away() {
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    let served = serve(hello(), settings()).await;
    let mut stream = served.connect().await;
    let hello = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &[])].concat();
    stream.write_all(&hello).await.expect("sent");
    let mut first = [0; 9];
    stream.read_exact(&mut first).await.expect("its settings");
    assert_eq!(first[3], SETTINGS);
    let mut settings_of_it = vec![0; usize::from(first[2])];
    stream.read_exact(&mut settings_of_it).await.expect("its settings");
    served.stop.cancel();

    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    read.expect("the connection is closed in time")
        .expect("it is closed in order");
    let mut kinds = Vec::new();
    let mut frames = bytes.as_slice();
    while let [_, _, length, kind, rest @ ..] = frames {
        kinds.push(*kind);
        frames = &rest[5 + usize::from(*length)..];
    }
    assert!(kinds.contains(&GOAWAY), "{kinds:?}");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_cuts_what_does_not_end() {
    let stuck = Router::new().route("/", get(std::future::pending::<()>));
    let served = serve(
        stuck,
        Settings {
            drain_ms: 200,
            ..settings()
        },
    )
    .await;
    let mut stream = served.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .expect("sent");
    tokio::time::sleep(Duration::from_millis(50)).await;
    let began = Instant::now();
    served.stop().await;
    assert!(began.elapsed() >= Duration::from_millis(150), "it got its time");
    assert!(began.elapsed() < Duration::from_secs(10), "and no more");
    assert_eq!(rest(&mut stream).await, "");
}

pub(crate) fn open() -> admission::Settings {
    admission::Settings {
        in_flight_max: 100,
        in_flight_reserved: 10,
        in_flight_min: 10,
        in_flight_start: 10,
        delay_target_ms: 0,
        client_rate: 0,
        client_burst: 0,
        global_rate: 0,
        global_burst: 0,
        reads_rate: 0,
        proxies: 0,
    }
}

/// The public paths of a gateway whose Redis and Postgres are both away.
pub(crate) async fn gateway(admission: &admission::Settings) -> Served {
    // Port 9 (discard) is nobody's.
    let ledger = ledger::Settings {
        acquire_timeout: Duration::from_millis(200),
        ..ledger::Settings::new("postgres://flashgate@127.0.0.1:9/none")
    };
    let ledger = Ledger::new(&ledger).expect("an address");
    let deployment = flash::Deployment {
        namespace: "none".to_owned(),
        lanes: 1,
        id_key: IdKey([7; 32]),
    };
    let settings_of_flash = flash::Settings::new("redis://127.0.0.1:9");
    let flash = Flash::start(settings_of_flash, &deployment, Arc::new(Clock::new()), Uuid::new_v4());
    let gateway = Gateway::new(
        ledger,
        Arc::new(Admission::new(admission)),
        metric::install(),
        rand::random,
    );
    gateway.flash.set(flash.expect("an address"));
    serve(http::public(&Arc::new(gateway)), settings()).await
}

impl Served {
    pub(crate) async fn reserve(&self, headers: &[(&str, &str)], body: &str) -> Heard {
        let headers: Vec<_> = headers.iter().copied().chain([JSON]).collect();
        send(self.at, Method::POST, RESERVATIONS, &headers, body.to_owned()).await
    }

    /// A request whose body does not come: it stays in flight.
    pub(crate) async fn hang(&self) -> TcpStream {
        let mut stream = self.connect().await;
        let head = format!(
            "POST {RESERVATIONS} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{{"
        );
        stream.write_all(head.as_bytes()).await.expect("it is sent");
        stream
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_past_its_limit_is_told_when_to_come_back() {
    let served = gateway(&admission::Settings {
        client_rate: 1,
        client_burst: 2,
        ..open()
    })
    .await;
    let broken = served.reserve(&[], "{").await;
    assert_eq!(
        broken.problem(),
        (400, "INVALID_REQUEST".into()),
        "400 wins, and is not counted"
    );
    assert_eq!(broken.header("ratelimit"), None);
    for remaining in [1, 0] {
        let heard = served.reserve(&[], LINE).await;
        assert_eq!(
            heard.problem(),
            (503, "LEDGER_UNAVAILABLE".into()),
            "it gets as far as that"
        );
        assert_eq!(heard.header("ratelimit-policy"), Some("\"client\";q=2;w=2"));
        let told = format!("\"client\";r={remaining};");
        assert!(
            heard
                .header("ratelimit")
                .is_some_and(|told_now| told_now.starts_with(&told)),
            "{heard:?}"
        );
    }
    for (method, path) in [
        (Method::POST, RESERVATIONS),
        (Method::GET, "/api/inventory?skuId=a"),
        (Method::POST, COMMIT),
    ] {
        let heard = send(
            served.at,
            method,
            path,
            &[JSON],
            LINE.replace(LINE, if path == COMMIT { "{}" } else { LINE }),
        )
        .await;
        assert_eq!(heard.problem(), (429, "RATE_LIMITED".into()), "{path}");
        assert_eq!(heard.header("retry-after"), Some("1"));
        assert_eq!(heard.body()["policy"], "client");
    }
    // What is wrong with a request comes first, wherever it stands; each path is limited all the same.
    let by_id = COMMIT.strip_suffix("/commit").expect("it ends so");
    let (extend, returns) = (format!("{by_id}/extend"), format!("{by_id}/returns"));
    for (path, good, bad) in [
        (RESERVATIONS, LINE, &["{", "{}", r#"{"orderId":"o","lines":[]}"#][..]),
        (
            "/api/inventory/reserve",
            r#"{"orderId":"o","skuId":"a","locationId":"b","qty":1}"#,
            &["{}"],
        ),
        (COMMIT, "{}", &[r#"{"idemKey":""}"#]),
        (
            "/api/inventory/confirm",
            r#"{"reservationId":"x"}"#,
            &[r#"{"reservationId":"x","idemKey":""}"#],
        ),
        (
            "/api/inventory/release",
            r#"{"reservationId":"x"}"#,
            &[r#"{"reservationId":"x","idemKey":""}"#],
        ),
        (&extend, r#"{"ttlSeconds":60}"#, &[r#"{"ttlSeconds":0}"#]),
        (
            &returns,
            r#"{"returnId":"r","quantity":1,"condition":"sellable"}"#,
            &[r#"{"returnId":"r","quantity":1,"lines":[],"condition":"sellable"}"#],
        ),
    ] {
        let post = async |body: &str| send(served.at, Method::POST, path, &[JSON], body.to_owned()).await;
        assert_eq!(post(good).await.problem(), (429, "RATE_LIMITED".into()), "{path}");
        for body in bad {
            assert_eq!(
                post(body).await.problem(),
                (400, "INVALID_REQUEST".into()),
                "{path} {body}"
            );
        }
    }
    for (good, bad) in [
        ("/api/inventory?skuId=a", "/api/inventory?skuId=a&colour=red"),
        ("/api/inventory/a", "/api/inventory/a?colour=red"),
        ("/api/inventory/reserve", "/api/inventory/reserve?colour=red"),
        ("/api/inventory/availability?skuIds=a", "/api/inventory/availability"),
        ("/api/orders/o/inventory-status", "/api/orders/%20/inventory-status"),
        (
            "/api/read-model/orders/o/inventory-status",
            "/api/read-model/orders/%20/inventory-status",
        ),
        (by_id, ""),
    ] {
        let get = async |path: &str| send(served.at, Method::GET, path, &[], "").await.problem();
        assert_eq!(get(good).await, (429, "RATE_LIMITED".into()), "{good}");
        if !bad.is_empty() {
            assert_eq!(get(bad).await, (400, "INVALID_REQUEST".into()), "{bad}");
        }
    }
    let health = send(served.at, Method::GET, "/healthz", &[], "").await;
    assert_eq!(health.status, 200, "operations are never limited");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_behind_our_proxy_are_told_apart() {
    let limited = admission::Settings {
        client_rate: 1,
        client_burst: 1,
        proxies: 1,
        ..open()
    };
    let served = gateway(&limited).await;
    let from = async |forwarded| served.reserve(&[("x-forwarded-for", forwarded)], LINE).await.status;
    assert_eq!(from("1.1.1.1").await, 503);
    assert_eq!(
        from("9.9.9.9, 1.1.1.1").await,
        429,
        "what a client writes itself does not count"
    );
    assert_eq!(from("1.1.1.1, 2.2.2.2").await, 503);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_all_leaves_endings_alone() {
    let served = gateway(&admission::Settings {
        global_rate: 1,
        global_burst: 1,
        reads_rate: 0,
        ..open()
    })
    .await;
    assert_eq!(served.reserve(&[], LINE).await.status, 503);
    let heard = served.reserve(&[], LINE).await;
    assert_eq!(heard.problem(), (429, "RATE_LIMITED".into()));
    assert_eq!(heard.body()["policy"], "global");
    let ending = send(served.at, Method::POST, COMMIT, &[JSON], "{}").await;
    assert_eq!(ending.problem(), (404, "UNKNOWN_RESERVATION".into()));
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beginnings_are_shed_while_endings_still_fit() {
    let served = gateway(&admission::Settings {
        in_flight_max: 2,
        in_flight_reserved: 1,
        in_flight_min: 10,
        in_flight_start: 10,
        delay_target_ms: 0,
        ..open()
    })
    .await;
    let mut hanging = Vec::new();
    let shed = async || {
        // One that came while a look had the place was sent away.
        hanging.push(served.hang().await);
        let heard = served.reserve(&[], LINE).await;
        (heard.problem() == (503, "OVERLOADED".into())).then_some(())
    };
    crate::support::door::until("the one place is taken", shed).await;
    let ending = send(served.at, Method::POST, COMMIT, &[JSON], "{}").await;
    assert_eq!(ending.problem(), (404, "UNKNOWN_RESERVATION".into()));
    drop(hanging);
    let fits = async || (served.reserve(&[], LINE).await.problem().1 == "LEDGER_UNAVAILABLE").then_some(());
    crate::support::door::until("a client that left gives its place back", fits).await;
    served.stop().await;
}
