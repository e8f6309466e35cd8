//! Connections: from a listener that the caller owns to a router, until the caller says stop.
//!
//! Every wait is bounded: for a first request, for a head, for idle connections, for those in flight at the end. More
//! connections than [`Settings::connections_max`] wait in the kernel's queue.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Version};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::gate::Gate;
use crate::metric;

/// Longest head of a request, in bytes: all our headers fit ten times.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most requests at a time on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// A silent HTTP/2 peer is asked for life this often, and dropped when it does not answer as long.
const PING: Duration = Duration::from_secs(20);
/// Connections that the kernel keeps until they are taken; it lowers this to what it allows (on Linux
/// `net.core.somaxconn`, 4,096). The usual 128 are full within a millisecond of a sale's start, and whoever comes then
/// is answered by nobody until it tries again a second later.
const BACKLOG: u32 = 65_535;
/// Pause after `accept` failed (out of files, say), so that the failure does not eat a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// When no more than this part of the connections is left, they are for one request each.
const FEW_PART: usize = 16;

/// How connections are served.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Settings {
    /// Most open connections per listener; more wait in the kernel's queue
    #[arg(long, env = "FLASHGATE_CONNECTIONS_MAX", value_name = "COUNT", default_value_t = 10_000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections_max: u32,

    /// Longest time until a request's head is complete, also between two on one connection
    #[arg(long, env = "FLASHGATE_HEADER_TIMEOUT_MS", value_name = "MS", default_value_t = 30_000,
          value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    pub header_timeout_ms: u64,

    /// After a stop signal: longest time for requests in flight to end by themselves
    #[arg(long, env = "FLASHGATE_DRAIN_MS", value_name = "MS", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(0..=600_000))]
    pub drain_ms: u64,
}

/// Longest time between cutting the connections and giving up on their tasks.
const CUT_MAX: Duration = Duration::from_secs(2);

/// A listener on which a crowd can connect at once.
///
/// # Errors
/// The address can't be used.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Connections of the process before linger in the kernel: they must not keep the next one from its address.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stop`, then takes no more, lets requests in flight end for [`Settings::drain_ms`], and cuts what is
/// left. `name` labels the metrics; `gate` stands before the router, where there is one.
pub async fn serve(
    name: &'static str,
    listener: TcpListener,
    (gate, router): (Option<Gate>, Router),
    settings: &Settings,
    stop: CancellationToken,
) {
    let server = Server::new(name, gate, router, settings);
    server.accept(listener, &stop).await;
    server.drain(Duration::from_millis(settings.drain_ms)).await;
}

struct Server {
    name: &'static str,
    gate: Option<Arc<Gate>>,
    router: Router,
    http: auto::Builder<TokioExecutor>,
    places: Arc<Semaphore>,
    /// With fewer places left, connections are for one request each.
    few_places: usize,
    head_timeout: Duration,
    graceful: GracefulShutdown,
    tasks: TaskTracker,
    cut: CancellationToken,
}

impl Server {
    fn new(name: &'static str, gate: Option<Gate>, router: Router, settings: &Settings) -> Self {
        let head_timeout = Duration::from_millis(settings.header_timeout_ms);
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(head_timeout)
            .max_buf_size(HEAD_BYTES_MAX);
        http.http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).expect("16 KiB fit"))
            .max_concurrent_streams(STREAMS_MAX);
        let places = usize::try_from(settings.connections_max).expect("32 bits fit");
        Server {
            name,
            gate: gate.map(Arc::new),
            router,
            http,
            places: Arc::new(Semaphore::new(places)),
            few_places: places / FEW_PART,
            head_timeout,
            graceful: GracefulShutdown::new(),
            tasks: TaskTracker::new(),
            cut: CancellationToken::new(),
        }
    }

    async fn accept(&self, listener: TcpListener, stop: &CancellationToken) {
        loop {
            let next = async {
                let place = Arc::clone(&self.places).acquire_owned().await;
                (place.expect("nobody closes the semaphore"), listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                next = next => next,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let connection = self.connection(stream, peer);
                    let gauge = metrics::gauge!(metric::HTTP_CONNECTIONS, "listener" => self.name);
                    self.tasks.spawn(async move {
                        gauge.increment(1.0);
                        connection.await;
                        gauge.decrement(1.0);
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, listener = self.name, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// One connection, from its first byte to its end.
    fn connection(&self, stream: TcpStream, peer: SocketAddr) -> impl Future<Output = ()> + use<> {
        // Answers are small and written whole: waiting for more to send would only add delay.
        stream.set_nodelay(true).ok();
        let asked = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&asked);
        let (gate, router, places) = (self.gate.clone(), self.router.clone(), Arc::clone(&self.places));
        let (streams, few) = (Arc::new(AtomicUsize::new(0)), self.few_places);
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            seen.store(true, Ordering::Relaxed);
            let stream = Stream::begin(&streams);
            let (gate, router) = (gate.clone(), router.clone());
            let crowded = places.available_permits() < few && request.version() < Version::HTTP_2;
            async move {
                let refused = gate.as_ref().and_then(|gate| gate.refuse(&request, stream.before));
                let mut response = match (refused, &gate) {
                    (Some(response), Some(gate)) if !crowded => {
                        tokio::time::sleep(gate.hold()).await;
                        response
                    }
                    (Some(response), _) => response,
                    (None, _) => answer(router, request, peer).await?,
                };
                if crowded {
                    // Others wait to be let in: who has been served makes room.
                    response
                        .headers_mut()
                        .insert(CONNECTION, HeaderValue::from_static("close"));
                }
                drop(stream);
                Ok::<_, Infallible>(response)
            }
        });
        let connection = self.http.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = self.graceful.watch(connection);
        let (cut, head_timeout) = (self.cut.clone(), self.head_timeout);
        async move {
            // hyper's own timeout starts when it knows the protocol: who never says enough to tell would stay for good.
            let silent = async {
                tokio::time::sleep(head_timeout).await;
                if asked.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, %peer, "a connection broke");
                },
                () = silent => tracing::debug!(%peer, "a connection never asked for anything"),
                () = cut.cancelled() => {}
            }
        }
    }

    async fn drain(self, soft: Duration) {
        self.tasks.close();
        if tokio::time::timeout(soft, self.graceful.shutdown()).await.is_err() {
            tracing::warn!(
                listener = self.name,
                connections = self.tasks.len(),
                "cutting connections that don't end"
            );
        }
        self.cut.cancel();
        tokio::time::timeout(CUT_MAX, self.tasks.wait()).await.ok();
    }
}

/// A request of a connection, and how many of it there were before.
struct Stream {
    of: Arc<AtomicUsize>,
    before: usize,
}

impl Stream {
    fn begin(of: &Arc<AtomicUsize>) -> Self {
        let before = of.fetch_add(1, Ordering::Relaxed);
        Stream {
            of: Arc::clone(of),
            before,
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.of.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn answer(router: Router, request: hyper::Request<Incoming>, peer: SocketAddr) -> Result<Response, Infallible> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(ConnectInfo(peer));
    router.oneshot(request).await
}
