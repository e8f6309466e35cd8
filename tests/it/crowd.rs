//! A crowd at one sale: nobody is sold what is not there, nobody is told "sold out" who could have been served, and in
//! the end every unit is sold or back.
//!
//! Sized by `CROWD_REQUESTS`, `CROWD_USERS`, `CROWD_UNITS` and `CROWD_BUCKETS`. Where `CROWD_DEV` names the `dev.json` of
//! a running `flashgate dev`, the crowd goes there, and not to two gateways of its own.

use std::collections::HashSet;
use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flashgate::drill::check::interval::{Book, Refusal};
use flashgate::ledger::{self, Ledger};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::support::door::{Buy, Door, PATIENCE, Told, until};
use crate::support::gateway::Whole;
use crate::support::servers::shared;
use crate::support::socket::put_on_sale;

/// Requests under way at once.
const CLIENTS: usize = 48;
/// Reservations that a client lets lie before it ends the oldest.
const PENDING_MAX: usize = 3;
/// Between two attempts of a client that was told to come back.
const AGAIN: Duration = Duration::from_millis(20);

/// How big the crowd is.
#[derive(Debug, Clone, Copy)]
struct Size {
    requests: usize,
    users: usize,
    units: i64,
    buckets: u16,
}

/// What becomes of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Pay,
    LetGo,
    /// He is gone; it lapses after a second.
    Lapse,
    /// He is gone; it stays until the shop closes.
    Lie,
}

/// What the clients of a crowd share.
struct Crowd {
    doors: Vec<Door>,
    sku: String,
    size: Size,
    /// Running shares of the users: a few come again and again.
    shares: Vec<f64>,
    next: AtomicUsize,
    retried: AtomicUsize,
}

/// A client's notes.
#[derive(Default)]
struct Notes {
    book: Book<Instant>,
    paid: i64,
    let_go: i64,
    lapsing: i64,
    lying: Vec<String>,
    ids: Vec<String>,
    limited: usize,
}

fn number(name: &str, default: usize) -> usize {
    env::var(name).map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number"))
    })
}

impl Size {
    fn of(requests: usize, users: usize, units: usize, buckets: usize) -> Size {
        Size {
            requests: number("CROWD_REQUESTS", requests),
            users: number("CROWD_USERS", users),
            units: i64::try_from(number("CROWD_UNITS", units)).expect("a small number"),
            buckets: u16::try_from(number("CROWD_BUCKETS", buckets)).expect("a small number"),
        }
    }
}

impl Crowd {
    fn new(doors: Vec<Door>, sku: &str, size: Size) -> Arc<Crowd> {
        let shares = (1..=size.users).scan(0.0, |sum, rank| {
            *sum += 1.0 / f64::from(u32::try_from(rank).expect("few users"));
            Some(*sum)
        });
        Arc::new(Crowd {
            doors,
            sku: sku.to_owned(),
            size,
            shares: shares.collect(),
            next: AtomicUsize::new(0),
            retried: AtomicUsize::new(0),
        })
    }

    /// All requests, by so many clients at once.
    async fn come(self: &Arc<Self>) -> Notes {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let crowd = Arc::clone(self);
                tokio::spawn(async move { crowd.client(client).await })
            })
            .collect();
        let mut all = Notes::default();
        for client in clients {
            let notes = client.await.expect("no client panics");
            all.book.merge(notes.book);
            all.paid += notes.paid;
            all.let_go += notes.let_go;
            all.lapsing += notes.lapsing;
            all.lying.extend(notes.lying);
            all.ids.extend(notes.ids);
            all.limited += notes.limited;
        }
        all
    }

    async fn client(&self, client: usize) -> Notes {
        let mut random = StdRng::seed_from_u64(u64::try_from(client).expect("few clients"));
        let (mut notes, mut pending) = (Notes::default(), Vec::new());
        loop {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            if n >= self.size.requests {
                break;
            }
            let units = random.random_range(1..=3);
            let fate = match random.random_range(0..100) {
                0..5 => Fate::Pay,
                5..95 => Fate::LetGo,
                95..98 => Fate::Lapse,
                _ => Fate::Lie,
            };
            let point = random.random_range(0.0..self.shares[self.shares.len() - 1]);
            let user = self.shares.partition_point(|share| *share <= point);
            let got = self.reserve(n, user, units, fate, &mut notes).await;
            let refused = got.is_none();
            pending.extend(got.map(|id| (id, units, fate)));
            // Whoever is refused moves on: or all units would lie with the clients, and nobody would contend.
            if pending.len() > PENDING_MAX || (refused && !pending.is_empty()) {
                let (id, units, fate) = pending.remove(0);
                self.end(id, units, fate, &mut notes).await;
            }
        }
        for (id, units, fate) in pending {
            self.end(id, units, fate, &mut notes).await;
        }
        notes
    }

    /// Pays or lets go, until there is an answer to keep.
    async fn close(&self, id: &str, pays: bool, mut n: usize) -> Told {
        let since = Instant::now();
        loop {
            let door = &self.doors[n % self.doors.len()];
            let told = if pays {
                door.commit(id).await
            } else {
                door.release(id).await
            };
            if told.status != 503 {
                return told;
            }
            assert!(since.elapsed() < PATIENCE, "still no answer: {told:?}");
            self.retried.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(AGAIN).await;
            n += 1;
        }
    }

    async fn reserve(&self, n: usize, user: usize, units: i64, fate: Fate, notes: &mut Notes) -> Option<String> {
        let order = format!("{}-{n}", self.sku);
        let buy = Buy::of(&order)
            .sku(&self.sku)
            .user(&format!("u{user}"))
            .units(units)
            .key(&order);
        let buy = if fate == Fate::Lapse { buy.ttl(1) } else { buy };
        let first = Instant::now();
        let (begun, told) = loop {
            let begun = Instant::now();
            if let Some(told) = self.doors[n % self.doors.len()].try_reserve(&buy).await
                && told.status != 503
            {
                break (begun, told);
            }
            assert!(first.elapsed() < PATIENCE, "request {n} has no answer");
            self.retried.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(AGAIN).await;
        };
        let heard = Instant::now();
        match told.problem() {
            // Any of its attempts may have been the one that took the units.
            (201 | 202, _) => {
                notes.book.granted(first, units);
                notes.ids.push(told.id());
                return Some(told.id());
            }
            // It lapsed before the answer came through.
            (200, _) if told.body["status"] == "EXPIRED" => {
                notes.book.granted(first, units);
                notes.ids.push(told.id());
                notes.lapsing += units;
            }
            (409, "INSUFFICIENT_STOCK") => {
                let available = told.body["available"].as_i64().expect("a count");
                assert!((0..units).contains(&available), "{units} were asked for: {told:?}");
                notes.book.refused(Refusal { begun, heard, units });
            }
            (409, "USER_LIMIT_EXCEEDED") => notes.limited += 1,
            _ => panic!("request {n}: {told:?}"),
        }
        None
    }

    async fn end(&self, id: String, units: i64, fate: Fate, notes: &mut Notes) {
        let n = notes.ids.len();
        match fate {
            Fate::Pay => {
                self.close(&id, true, n).await.expect(200);
                notes.paid += units;
            }
            Fate::LetGo => {
                let told = self.close(&id, false, n).await.expect(200);
                notes.let_go += units;
                if told.get("restocked").is_none() {
                    notes.book.released(Instant::now(), units);
                }
            }
            Fate::Lapse => notes.lapsing += units,
            Fate::Lie => {
                notes.lying.push(id);
            }
        }
    }

    async fn sale(&self) -> Value {
        self.doors[0].sale(&self.sku).await
    }

    /// Runs it all and looks at the end.
    async fn run(self: &Arc<Self>) {
        let size = self.size;
        let limits = json!({"buckets": size.buckets, "perUserLimit": 40});
        put_on_sale(&self.doors[0], &self.sku, size.units, limits).await;
        let notes = self.come().await;
        let unique: HashSet<&String> = notes.ids.iter().collect();
        assert_eq!(unique.len(), notes.ids.len(), "no reservation answers two requests");
        let lies = notes.book.lies(|_| Some(size.units));
        assert_eq!(lies, [], "refusals by their places, and what was free");
        let refused = notes.book.refusals();
        assert!(refused > 0, "the crowd is too small to sell out");
        let closing = notes.lying.iter().map(|id| self.close(id, false, 0));
        let mut late = 0;
        for told in futures::future::join_all(closing).await {
            late += told.expect(200)["quantity"].as_i64().expect("units");
        }
        until("the last expiry", async || {
            (self.sale().await["counts"]["expired"] == notes.lapsing).then_some(())
        })
        .await;
        self.doors[0].settled().await;
        let sale = self.sale().await;
        let counted = ["committed", "released", "expired", "rejected"].map(|name| sale["counts"][name].as_i64());
        assert_eq!(counted, [notes.paid, notes.let_go + late, notes.lapsing, 0].map(Some));
        assert_eq!(
            sale["counts"]["accepted"],
            notes.paid + notes.let_go + late + notes.lapsing
        );
        let left = size.units - notes.paid;
        assert_eq!(sale["remaining"], left, "every unit is sold or back");
        self.at_rest(left).await;
        tracing::info!(
            ?size,
            reservations = notes.ids.len(),
            refused,
            limited = notes.limited,
            retried = self.retried.load(Ordering::Relaxed),
            "a crowd has gone"
        );
    }

    /// At rest, every refused quantity exceeds what is free, over all buckets; and what is free can be had at once.
    async fn at_rest(&self, left: i64) {
        let buy = |order: &str, units: i64| {
            Buy::of(&format!("{}-{order}", self.sku))
                .sku(&self.sku)
                .user(order)
                .units(units)
        };
        let over = self.doors[0].insist(&buy("over", left + 1)).await;
        let limited = left + 1 > 40;
        let code = if limited {
            "USER_LIMIT_EXCEEDED"
        } else {
            "INSUFFICIENT_STOCK"
        };
        assert_eq!(over.problem(), (409, code));
        assert!(limited || over.body["available"] == left, "{over:?}");
        let (mut rest, mut n) = (left, 0);
        while rest > 0 {
            let units = rest.min(40);
            n += 1;
            let told = self.doors[n % self.doors.len()]
                .insist(&buy(&format!("rest{n}"), units))
                .await;
            assert!(matches!(told.status, 201 | 202), "{units} of {rest} are free: {told:?}");
            rest -= units;
        }
        let told = self.doors[0].insist(&buy("none", 1)).await;
        assert_eq!(
            (told.problem(), &told.body["available"]),
            ((409, "INSUFFICIENT_STOCK"), &json!(0))
        );
        self.doors[0].settled().await;
    }
}

/// Through two gateways over eight lanes, or through the `dev` that is named.
async fn crowd(size: Size) {
    if let Ok(path) = env::var("CROWD_DEV") {
        let text = std::fs::read_to_string(&path).expect("CROWD_DEV can be read");
        let dev: Value = serde_json::from_str(&text).expect("CROWD_DEV is JSON");
        let text = |name: &str| {
            dev[name]
                .as_str()
                .unwrap_or_else(|| panic!("{name} is in CROWD_DEV"))
                .to_owned()
        };
        let at = |name: &str| text(name).parse().expect("an address");
        let door = Door::at(at("listen"), at("adminListen"), &text("redisUrl"), &text("databaseUrl"));
        let sku = format!("crowd-{:08x}", rand::random::<u32>());
        return Crowd::new(vec![door], &sku, size).run().await;
    }
    let (redis_url, database_url) = (shared().await.redis(), shared().await.database().await);
    let ledger = Ledger::new(&ledger::Settings::new(&database_url)).expect("an address");
    ledger.migrate(8).await.expect("migrates");
    ledger.close().await;
    let one = Whole::over(&redis_url, &database_url).await;
    let other = Whole::over(&redis_url, &database_url).await;
    Crowd::new(vec![(*one).clone(), (*other).clone()], "crowd", size)
        .run()
        .await;
    other.stop().await;
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_at_one_bucket_is_served_fairly() {
    crowd(Size::of(1_500, 500, 120, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_at_four_buckets_is_served_fairly() {
    crowd(Size::of(1_500, 500, 120, 4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_at_eight_buckets_is_served_fairly() {
    crowd(Size::of(3_000, 1_000, 250, 8)).await;
}
