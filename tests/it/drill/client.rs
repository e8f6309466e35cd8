//! Clients that write down what they ask and hear, and nothing else: a reservation is asked for again under its key until
//! there is an answer to keep, then paid, let go, prolonged, looked at, or forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flashgate::domain::id::{LocationId, OrderId, SaleId, Sku, UserId};
use flashgate::domain::reservation_id::ReservationId;
use flashgate::domain::time::Millis;
use flashgate::drill::check::{Bounds, Verdict, judge};
use flashgate::drill::history::{Action, History, Kind, Line, Operation, Outcome, Recorder, Stopwatch};
use flashgate::ledger::Ledger;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::door::{Buy, Door, Told};

/// Who has no answer after so long would give up: twice what a single request may take, for a machine that is busy.
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);
/// Between two attempts of which nothing is known.
const AGAIN: Duration = Duration::from_millis(20);
/// Reservations that a client lets lie before it ends the oldest.
const PENDING_MAX: usize = 2;

/// What the clients share.
pub(crate) struct Notes {
    pub(crate) recorder: Recorder,
    pub(crate) watch: Stopwatch,
    next: AtomicU64,
}

pub(crate) struct Client {
    pub(crate) number: u32,
    pub(crate) doors: Vec<Door>,
    pub(crate) sku: &'static str,
    pub(crate) users: u32,
    pub(crate) notes: Arc<Notes>,
    /// Ends it before its time.
    pub(crate) stop: CancellationToken,
}

impl Notes {
    pub(crate) fn new(recorder: Recorder, watch: Stopwatch) -> Notes {
        Notes {
            recorder,
            watch,
            next: AtomicU64::new(0),
        }
    }

    /// A stopwatch that shows the time of this gateway's Postgres.
    pub(crate) async fn stopwatch(door: &Door) -> Stopwatch {
        let now: chrono::DateTime<chrono::Utc> = sqlx::query_scalar("SELECT clock_timestamp()")
            .fetch_one(&door.pool)
            .await
            .expect("Postgres tells the time");
        Stopwatch::start(Millis::from(now))
    }

    /// Operations so far.
    pub(crate) fn count(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    fn asked(&self, kind: Kind) -> Operation {
        Operation::asked(self.next.fetch_add(1, Ordering::Relaxed), kind, self.watch.now())
    }

    fn heard(&self, mut op: Operation, told: Option<&Told>) -> Operation {
        op.returned = Some(self.watch.now());
        if let Some(told) = told {
            fill(&mut op, told);
        }
        let line = Line::Operation(Box::new(op));
        self.recorder.append(&line).expect("room");
        let Line::Operation(op) = line else {
            unreachable!("it is one")
        };
        *op
    }

    /// An admin's start or stop of a sale with so many units.
    pub(crate) async fn admin(&self, door: &Door, sale: &str, action: Action, units: i64) {
        let mut op = self.asked(Kind::Sale);
        op.sale_id = SaleId::try_from(sale).ok();
        op.action = Some(action);
        op.allocation = (action == Action::Start).then_some(units);
        let word = if action == Action::Start { "start" } else { "stop" };
        let told = door.act(sale, word).await;
        self.heard(op, Some(&told));
        told.expect(200);
    }
}

/// What the judge says of a history and the ledger after it.
pub(crate) async fn judged(ledger: &Ledger, history: &History) -> Verdict {
    let account = ledger.account().await.expect("it can be read");
    judge(history, &account, &Bounds::default())
}

/// What an answer says, in the words of a history.
fn fill(op: &mut Operation, told: &Told) {
    op.status = Some(told.status);
    op.outcome = match told.status {
        200..300 => Outcome::Ok,
        400 | 404 | 409 | 422 => Outcome::Refused,
        _ => Outcome::Unknown,
    };
    op.code = read(&told.body["code"]);
    op.available = read(&told.body["available"]);
    op.replayed = told.replayed;
    if op.outcome == Outcome::Ok && op.kind != Kind::Sale {
        op.reservation_id = read(&told.body["reservationId"]);
        op.reservation_status = read(&told.body["status"]);
        op.ack = read(&told.body["ack"]);
        op.cause = read(&told.body["cause"]);
        op.restocked = read(&told.body["restocked"]);
        op.rescued = read(&told.body["rescued"]).unwrap_or_default();
    }
}

fn read<T: DeserializeOwned>(value: &Value) -> Option<T> {
    serde_json::from_value(value.clone()).ok()
}

impl Client {
    /// Asks so often, each time until it has an answer to keep.
    pub(crate) async fn live(self, requests: u32) {
        let mut random = StdRng::seed_from_u64(self.number.into());
        let mut pending: Vec<ReservationId> = Vec::new();
        for n in (0..requests).take_while(|_| !self.stop.is_cancelled()) {
            let got = self.reserve(n, &mut random).await;
            let refused = got.is_none();
            pending.extend(got);
            if pending.len() > PENDING_MAX || (refused && !pending.is_empty()) {
                let id = pending.remove(0);
                self.go_on(id, &mut random).await;
            }
        }
    }

    async fn reserve(&self, n: u32, random: &mut StdRng) -> Option<ReservationId> {
        let order = format!("{}-{}-{n}", self.sku, self.number);
        let (user, units) = (
            format!("u{}", random.random_range(0..self.users)),
            random.random_range(1..=2),
        );
        let mut buy = Buy::of(&order).sku(self.sku).user(&user).units(units).key(&order);
        if random.random_bool(0.1) {
            buy = buy.ttl(1);
        }
        if random.random_bool(0.3) {
            buy = buy.prefer("respond-async");
        }
        let repeats = random.random_bool(0.1);
        let mut got = None;
        let since = Instant::now();
        for attempt in 0.. {
            let (gateway, door) = self.door(usize::try_from(n).expect("few") + attempt);
            let mut op = self.notes.asked(Kind::Reserve);
            (op.client, op.gateway) = (self.number, gateway);
            op.key = Some(order.clone());
            op.order_id = OrderId::try_from(order.as_str()).ok();
            op.user_id = UserId::try_from(user.as_str()).ok();
            op.sku_id = Sku::try_from(self.sku).ok();
            op.location_id = LocationId::try_from("wh1").ok();
            op.quantity = Some(units);
            let told = door.try_reserve(&buy).await;
            let op = self.notes.heard(op, told.as_ref());
            got = got.or(op.reservation_id);
            match op.outcome {
                Outcome::Unknown => again(since, &order, told.as_ref()).await,
                // Another gateway must answer the same.
                Outcome::Ok if repeats && !op.replayed => {}
                _ => break,
            }
        }
        got
    }

    fn door(&self, n: usize) -> (u32, &Door) {
        let at = n % self.doors.len();
        (u32::try_from(at).expect("few"), &self.doors[at])
    }

    /// What becomes of a reservation.
    async fn go_on(&self, id: ReservationId, random: &mut StdRng) {
        let (kind, verb) = match random.random_range(0..100) {
            0..6 => (Kind::Commit, "commit"),
            6..75 => (Kind::Release, "release"),
            75..82 => (Kind::Extend, "extend"),
            82..95 => (Kind::Get, ""),
            _ => return,
        };
        let since = Instant::now();
        for attempt in 0.. {
            let (gateway, door) = self.door(attempt);
            let mut op = self.notes.asked(kind);
            (op.client, op.gateway, op.reservation_id) = (self.number, gateway, Some(id));
            let path = format!("/api/inventory/reservations/{id}/{verb}");
            let told = match kind {
                Kind::Get => door.try_get(path.trim_end_matches('/')).await,
                Kind::Extend => door.try_shop(&path, &json!({"ttlSeconds": 60})).await,
                _ => door.try_shop(&path, &json!({})).await,
            };
            if self.notes.heard(op, told.as_ref()).outcome != Outcome::Unknown {
                break;
            }
            again(since, &path, told.as_ref()).await;
        }
    }
}

/// Pauses before what was asked for at `since` is asked for again.
async fn again(since: Instant, what: &str, told: Option<&Told>) {
    assert!(since.elapsed() < ANSWERED_WITHIN, "{what} has no answer yet: {told:?}");
    tokio::time::sleep(AGAIN).await;
}
