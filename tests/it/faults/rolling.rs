//! Gateways are replaced one by one while clients go on, also by a release whose scripts are others: whoever asks again
//! loses nothing, and is never refused for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flashgate::drill::history::{
    Action, Fault, Healed, History, Kind, Line, Loses, Operation, Outcome, Recorder, Settled,
};
use flashgate::drill::wire::Wire;
use flashgate::ledger::{self, Ledger};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::gateways::{epochs, gateway_of, until_one_owns_all};
use super::redis;
use crate::drill::client::{Client, Notes, judged};
use crate::support::door::{Door, until};
use crate::support::gateway::{Child, LANES, migrate};
use crate::support::release::{CACHED, other_release};
use crate::support::servers::{Home, Private, home};
use crate::support::socket::{RESERVATIONS, line, put_on_sale};

const CLIENTS: u32 = 8;
const UNITS: i64 = 4_000;
const USERS: u32 = 2_000;
/// Requests between two replacements.
const BETWEEN: u64 = 60;
/// The lanes of a gateway that says that it leaves are taken faster than those of one that is silent for 3 s.
const TAKEN_WITHIN: Duration = Duration::from_millis(2_500);

/// Two gateways, each behind an address that stays, and the two releases that they can be of.
struct Fleet {
    servers: Private,
    gateways: [(Option<Child>, Wire); 2],
    old: PathBuf,
    new: PathBuf,
    home: Home,
}

impl Fleet {
    /// Of the old release, with a sale that clients can begin to buy.
    async fn start() -> Fleet {
        let (servers, home) = (Private::start().await, home());
        migrate(&servers.postgres.url()).await;
        let old = PathBuf::from(env!("CARGO_BIN_EXE_flashgate"));
        let (redis_url, database_url) = (servers.redis.url(), servers.postgres.url());
        let one = Child::of(&old, &redis_url, &database_url).await;
        let extra = json!({"buckets": LANES, "draft": true});
        put_on_sale(&one, "rolled", UNITS, extra).await;
        let other = Child::of(&old, &redis_url, &database_url).await;
        let before = async |child: Child| {
            let wire = Wire::to(child.public, 1).await.expect("a port");
            (Some(child), wire)
        };
        Fleet {
            gateways: [before(one).await, before(other).await],
            new: other_release(home.path()),
            servers,
            old,
            home,
        }
    }

    fn child(&self, number: usize) -> &Child {
        self.gateways[number].0.as_ref().expect("it runs")
    }

    /// The gateways as clients know them.
    fn doors(&self) -> Vec<Door> {
        let (redis_url, database_url) = (self.servers.redis.url(), self.servers.postgres.url());
        let at = |(_, wire): &(_, Wire)| Door::at(wire.address(), wire.address(), &redis_url, &database_url);
        self.gateways.iter().map(at).collect()
    }

    /// Stops a gateway in order, and starts one of this release in its place.
    async fn replace(&mut self, number: usize, release: &Path) {
        let child = self.gateways[number].0.take().expect("it runs");
        let stays = self.child(1 - number);
        let gone = gateway_of(&stays.pool, &child).await;
        child.stop().await;
        self.gateways[number].1.lead_nowhere();
        let left = Instant::now();
        let known: i64 = sqlx::query_scalar("SELECT count(*) FROM gateway WHERE gateway_id = $1")
            .bind(gone)
            .fetch_one(&stays.pool)
            .await
            .expect("Postgres answers");
        assert_eq!(known, 0, "it has said that it leaves");
        until_one_owns_all(&stays.pool, &[gone]).await;
        assert!(left.elapsed() < TAKEN_WITHIN, "{:?}", left.elapsed());

        let child = Child::of(release, &self.servers.redis.url(), &self.servers.postgres.url()).await;
        self.gateways[number].1.lead_to(child.public);
        self.gateways[number].0 = Some(child);
    }

    async fn cached_scripts(&mut self) -> u32 {
        let info = self.servers.redis.say("INFO").expect("Redis answers");
        let count = info
            .lines()
            .find_map(|line| line.strip_prefix("number_of_cached_scripts:"));
        count.expect("it counts them").trim().parse().expect("a number")
    }
}

/// Clients at work, and what they see.
struct Load {
    notes: Arc<Notes>,
    history: PathBuf,
    clients: Vec<JoinHandle<()>>,
    stop: CancellationToken,
    fault: Fault,
}

impl Load {
    async fn start(fleet: &Fleet, fault: &str) -> Load {
        let history = fleet.home.path().join("history.jsonl");
        let recorder = Recorder::create(&history).expect("a file");
        let notes = Arc::new(Notes::new(recorder, Notes::stopwatch(fleet.child(0)).await));
        notes.admin(fleet.child(0), "rolled", Action::Start, UNITS).await;
        let stop = CancellationToken::new();
        let client = |number| Client {
            number,
            doors: fleet.doors(),
            sku: "rolled",
            users: USERS,
            notes: Arc::clone(&notes),
            stop: stop.clone(),
        };
        let clients = (0..CLIENTS).map(|number| tokio::spawn(client(number).live(u32::MAX)));
        let load = Load {
            history,
            clients: clients.collect(),
            stop,
            fault: Fault {
                fault: fault.to_owned(),
                round: 1,
                from: notes.watch.now(),
                to: notes.watch.now(),
                loses: Loses::Nothing,
            },
            notes,
        };
        load.goes_on().await;
        load
    }

    /// Waits until it has gone on for a while.
    async fn goes_on(&self) {
        let from = self.notes.count();
        until("busy clients", async || {
            (self.notes.count() >= from + BETWEEN).then_some(())
        })
        .await;
    }

    /// Lets the clients end, and judges what they saw and what the ledger has; how often they had to ask again.
    async fn judge(mut self, fleet: Fleet) -> usize {
        self.fault.to = self.notes.watch.now();
        let note = |line: Line| self.notes.recorder.append(&line).expect("room");
        note(Line::Fault(self.fault));
        let healed = self.notes.watch.now();
        note(Line::Healed(Healed { healed, round: 1 }));
        self.stop.cancel();
        for client in self.clients {
            client.await.expect("every client got an answer");
        }
        for number in 0..2 {
            fleet.child(number).settled().await;
        }
        let settled = self.notes.watch.now();
        note(Line::Settled(Settled {
            settled,
            round: 1,
            backlog: 0,
            drift: 0,
        }));
        self.notes.recorder.flush().expect("room");

        let history = History::open(&self.history).expect("it was written");
        let ledger = Ledger::new(&ledger::Settings::new(&fleet.servers.postgres.url())).expect("an address");
        assert_eq!(judged(&ledger, &history).await.violations, []);
        ledger.close().await;
        assert_counted(&history, fleet.child(0)).await;
        for (child, _) in fleet.gateways {
            child.expect("it runs").stop().await;
        }
        let unknown = history.operations.iter().filter(|op| op.outcome == Outcome::Unknown);
        unknown.count()
    }
}

/// Asserts that every order whose buyer was told of a reservation has that one and no other, and nobody else any.
async fn assert_counted(history: &History, door: &Door) {
    let heard = history.operations.iter().filter(|op| op.kind == Kind::Reserve);
    let told = |op: &Operation| Some((op.order_id.as_ref()?.to_string(), op.reservation_id?.0));
    let mut heard: Vec<(String, Uuid)> = heard.filter_map(told).collect();
    heard.sort_unstable();
    heard.dedup();
    let mut rows: Vec<(String, Uuid)> = sqlx::query_as("SELECT order_id, reservation_id FROM inventory_reservation")
        .fetch_all(&door.pool)
        .await
        .expect("Postgres answers");
    rows.sort_unstable();
    assert_eq!(rows, heard);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_to_other_scripts_and_back_loses_nothing() {
    let mut fleet = Fleet::start().await;
    let before = epochs(fleet.child(0)).await;
    let load = Load::start(&fleet, "a rolling restart").await;
    assert_eq!(fleet.cached_scripts().await, CACHED.0);
    let (old, new) = (fleet.old.clone(), fleet.new.clone());
    for (number, release) in [(0, &new), (1, &new), (0, &old), (1, &old), (1, &new), (0, &new)] {
        fleet.replace(number, release).await;
        assert_eq!(
            fleet.cached_scripts().await,
            CACHED.0 + CACHED.1,
            "both releases' scripts"
        );
        load.goes_on().await;
    }
    assert_eq!(epochs(fleet.child(0)).await, before, "no lane had to be recovered");
    let asked_again = load.judge(fleet).await;
    assert!(asked_again > 0, "nobody noticed anything");
}

/// With the scripts goes the word that the lanes were recovered: they are, by whichever release comes first, and the
/// other one loads its own.
#[tokio::test(flavor = "multi_thread")]
async fn scripts_that_are_flushed_while_two_releases_serve_lose_nothing() {
    let mut fleet = Fleet::start().await;
    let new = fleet.new.clone();
    fleet.replace(1, &new).await;
    let load = Load::start(&fleet, "flushed scripts").await;
    for _ in 0..3 {
        let before = epochs(fleet.child(0)).await;
        redis(&fleet.servers.redis.url(), "SCRIPT", vec!["FLUSH".into()]).await;
        until("lanes that are recovered", async || {
            let now = epochs(fleet.child(0)).await;
            now.iter().zip(&before).all(|(now, then)| now != then).then_some(())
        })
        .await;
        load.goes_on().await;
    }
    load.judge(fleet).await;
}

/// Everything that comes until the other side closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.expect("it is closed in order");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// It waits for the ledger when the gateway is told to end, and the gateway itself has to carry it there.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_flight_is_answered_by_the_gateway_that_ends() {
    let servers = Private::start().await;
    let database_url = servers.postgres.url();
    migrate(&database_url).await;
    let gateway = Child::over(&servers.redis.url(), &database_url).await;
    gateway.sell("s", 10, json!({})).await;
    gateway.until_drained().await;
    let (public, pool) = (gateway.public, gateway.pool.clone());

    let mut locked = pool.begin().await.expect("Postgres answers");
    let lock = "LOCK TABLE inventory_reservation IN SHARE MODE";
    sqlx::query(lock).execute(&mut *locked).await.expect("nobody writes");
    let body = line("in-flight", "hot", json!({})).to_string();
    let mut idle = TcpStream::connect(public).await.expect("it listens");
    let mut asking = TcpStream::connect(public).await.expect("it listens");
    let request = format!(
        "POST {RESERVATIONS} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nprefer: wait=10\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    asking.write_all(request.as_bytes()).await.expect("it is sent");
    until("the reservation", async || {
        (gateway.sale("s").await["remaining"] == 9).then_some(())
    })
    .await;
    gateway.signal(Signal::SIGTERM);
    assert_eq!(rest(&mut idle).await, "", "who asks for nothing is closed at once");
    assert!(TcpStream::connect(public).await.is_err(), "it takes nobody any more");
    locked.rollback().await.expect("Postgres answers");

    let heard = rest(&mut asking).await;
    assert!(heard.starts_with("HTTP/1.1 201 "), "{heard}");
    assert!(
        heard.to_ascii_lowercase().contains("\r\nconnection: close\r\n"),
        "{heard}"
    );
    assert!(heard.contains(r#""ack":"durable""#), "{heard}");
    gateway.stop().await;
}
