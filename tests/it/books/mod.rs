//! The books: whatever moves stock, in any order and all at once, leaves them as a small model in memory has them.
//!
//! [`every_movement_does_what_the_book_says`] plays random sequences through a gateway and compares every figure after
//! each step. `BOOKS_FIRST`, `BOOKS_SEQUENCES` and `BOOKS_STEPS` say which, how many and how long; a sequence that fails
//! names its seed, and `BOOKS_SEED` plays that one again.

mod book;
mod check;
mod checkout;
mod choice;
mod crowd;
mod movements;
mod orders;
mod people;
mod repeat;
mod sales;

use std::env;
use std::panic::AssertUnwindSafe;

use flashgate::ledger::{self, Ledger};
use futures::{FutureExt, StreamExt, stream};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use self::book::{Book, PLACES};
use crate::support::door::{Door, PATIENCE, Told};
use crate::support::gateway::{Whole, migrate};
use crate::support::servers::shared;

/// Most units that one person may adjust by hand here.
const UNITS_ALONE: i64 = 12;
/// Largest difference that a count corrects here.
const UNITS_CORRECTED: i64 = 9;
/// Sequences that are played at once: each waits for the ledger most of its time.
const AT_ONCE: usize = 4;

/// A sequence on SKUs of its own.
struct Play {
    door: Door,
    ledger: Ledger,
    random: StdRng,
    seed: u64,
    /// Begins every name of this sequence.
    name: String,
    next: usize,
    book: Book,
    /// What was done, to be read where it fails.
    log: Vec<String>,
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// A gateway that asks for a second person early.
async fn open() -> (Whole, Ledger) {
    let (redis_url, database_url) = (shared().await.redis(), shared().await.database().await);
    migrate(&database_url).await;
    let whole = Whole::changed(&redis_url, &database_url, |settings| {
        settings.ledger.approval.approval_units_max = u32::try_from(UNITS_ALONE).expect("few");
        settings.ledger.recon.correct_units_max = UNITS_CORRECTED;
    })
    .await;
    whole.until_open().await;
    let own = ledger::Settings {
        connections_max: 2,
        ..ledger::Settings::new(&database_url)
    };
    (whole, Ledger::new(&own).expect("an address"))
}

impl Play {
    async fn run(door: Door, ledger: Ledger, seed: u64, steps: usize) {
        let name = format!("b{seed:x}");
        let mut play = Play {
            door,
            ledger,
            random: StdRng::seed_from_u64(seed),
            seed,
            book: Book::new(&name),
            name,
            next: 0,
            log: Vec::new(),
        };
        play.stock_up().await;
        for _ in 0..steps {
            play.step().await;
            play.check().await;
        }
        play.close().await;
    }

    /// Locations, SKUs, and units of each at each.
    async fn stock_up(&mut self) {
        for place in 0..PLACES {
            self.put_place(place, true).await;
        }
        for sku in self.book.skus.clone() {
            let path = format!("/admin/skus/{sku}");
            self.door.put(&path, json!({"display": "exact"})).await.expect(200);
        }
        for item in 0..self.book.items.len() {
            self.receive(item).await;
        }
        self.check().await;
    }

    async fn put_place(&self, place: usize, active: bool) {
        let path = format!("/admin/locations/{}", self.book.locations[place]);
        let body = json!({"name": "A place", "kind": "warehouse", "region": "eu", "priority": place,
                          "active": active});
        self.door.put(&path, body).await.expect(200);
    }

    async fn step(&mut self) {
        self.book.step += 1;
        match self.random.random_range(0..157) {
            0..26 => self.reserve_line().await,
            26..38 => self.reserve_cart().await,
            38..50 => self.commit().await,
            50..57 => self.release().await,
            57..60 => self.extend().await,
            60..67 => self.expire().await,
            67..73 => self.pay_late().await,
            73..81 => self.give_back().await,
            81..84 => {
                let item = self.any_item();
                self.receive(item).await;
            }
            84..95 => self.adjust().await,
            95..98 => self.transfer().await,
            98..102 => self.count().await,
            102..104 => self.mark().await,
            104..107 => self.undo().await,
            107..111 => self.decide().await,
            111..114 => self.keep_back().await,
            114..117 => self.hear().await,
            117..133 => self.steer().await,
            133..149 => self.reserve_anywhere().await,
            _ => self.shut().await,
        }
    }

    fn any_item(&mut self) -> usize {
        self.random.random_range(0..self.book.items.len())
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    /// A name that was not used before.
    fn fresh(&mut self, what: &str) -> String {
        self.next += 1;
        format!("{}-{what}{}", self.name, self.next)
    }

    fn note(&mut self, what: impl Into<String>) {
        self.log.push(format!("{}: {}", self.book.step, what.into()));
    }

    /// Asks until the answer is one to keep; and whether it was asked more than once.
    async fn insist(&self, mut ask: impl AsyncFnMut() -> Told) -> (Told, bool) {
        let since = std::time::Instant::now();
        let mut again = false;
        loop {
            let told = ask().await;
            if told.status != 503 {
                return (told, again);
            }
            assert!(since.elapsed() < PATIENCE, "still no answer: {told:?}");
            again = true;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// Posts to the admin listener as this person, until there is an answer to keep.
    async fn post_as(&self, person: &str, path: &str, body: &Value) -> (Told, bool) {
        let headers = [("x-operator", person)];
        let ask = async || {
            self.door
                .admin_with(reqwest::Method::POST, path, body.clone(), &headers)
                .await
        };
        self.insist(ask).await
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("BOOKS_SEED={}: {:#?}\n{}", self.seed, self.book, self.log.join("\n"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_movement_does_what_the_book_says() {
    let (whole, ledger) = open().await;
    let one = number("BOOKS_SEED");
    let count = number("BOOKS_SEQUENCES").unwrap_or(20);
    let steps = usize::try_from(number("BOOKS_STEPS").unwrap_or(50)).expect("few");
    let first = one.unwrap_or_else(|| number("BOOKS_FIRST").unwrap_or(1));
    let seeds = first..first + if one.is_some() { 1 } else { count };
    let played = stream::iter(seeds)
        .map(|seed| {
            let play = AssertUnwindSafe(Box::pin(Play::run((*whole).clone(), ledger.clone(), seed, steps)));
            async move { play.catch_unwind().await.is_err().then_some(seed) }
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(async |failed| failed)
        .collect::<Vec<u64>>()
        .await;
    assert_eq!(played, [0; 0], "play these again, each with BOOKS_SEED");
    whole.settled().await;
    whole.stop().await;
}
