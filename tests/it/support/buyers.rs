//! Buyers who never rest: each reserves, pays now and then, lets go of the rest, and asks again under the same key when
//! told to come back. What they are told is written down with the time of asking and of hearing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::door::{Buy, Door, PATIENCE, Told, until};

/// Between two requests of a buyer.
const PACE: Duration = Duration::from_millis(5);
/// Reservations that a buyer has at once.
const HELD_MAX: usize = 2;
/// One in so many is paid for.
const PAID_EVERY: usize = 24;

/// One request to reserve a unit, and its answer.
#[derive(Debug, Clone)]
pub(crate) struct Deed {
    pub(crate) buyer: usize,
    pub(crate) begun: Instant,
    pub(crate) heard: Instant,
    /// Units that the buyer held or had bought when he asked.
    pub(crate) had: usize,
    pub(crate) told: Told,
}

/// What became of a buyer's reservations of one unit each.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) made: usize,
    pub(crate) committed: usize,
    pub(crate) released: usize,
}

/// Buyers of one SKU.
pub(crate) struct Buyers {
    stop: Arc<AtomicBool>,
    deeds: Arc<Mutex<Vec<Deed>>>,
    tasks: Vec<JoinHandle<Account>>,
}

impl Deed {
    /// It got a unit that nobody had.
    pub(crate) fn sold(&self) -> bool {
        matches!(self.told.status, 201 | 202) && !self.told.replayed
    }

    /// The problem's code.
    pub(crate) fn code(&self) -> &str {
        self.told.body["code"].as_str().unwrap_or_default()
    }
}

impl Buyers {
    /// So many of them, each asking at these doors in turn.
    pub(crate) fn start(doors: &[Door], sku: &'static str, count: usize) -> Buyers {
        let (stop, deeds) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let tasks = (0..count)
            .map(|number| {
                let buyer = Buyer {
                    number,
                    sku,
                    doors: doors.to_vec(),
                    stop: Arc::clone(&stop),
                    deeds: Arc::clone(&deeds),
                    held: Vec::new(),
                    account: Account::default(),
                };
                tokio::spawn(buyer.live())
            })
            .collect();
        Buyers { stop, deeds, tasks }
    }

    /// What was asked after `since` and has been answered, once that is at least `count` requests.
    pub(crate) async fn after(&self, since: Instant, count: usize) -> Vec<Deed> {
        until("buyers", async || {
            let deeds = self.deeds.lock().expect("nobody panics with it");
            let later: Vec<Deed> = deeds.iter().filter(|deed| deed.begun > since).cloned().collect();
            (later.len() >= count).then_some(later)
        })
        .await
    }

    /// Lets them finish: nothing is held any more. All that they were told, and their accounts as one.
    pub(crate) async fn stop(self) -> (Vec<Deed>, Account) {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Account::default();
        for task in self.tasks {
            let account = task.await.expect("no buyer panics");
            sum.made += account.made;
            sum.committed += account.committed;
            sum.released += account.released;
        }
        let deeds = self.deeds.lock().expect("nobody panics with it").clone();
        (deeds, sum)
    }
}

struct Buyer {
    number: usize,
    sku: &'static str,
    doors: Vec<Door>,
    stop: Arc<AtomicBool>,
    deeds: Arc<Mutex<Vec<Deed>>>,
    /// Reservations, and whether each is to be paid for.
    held: Vec<(String, bool)>,
    account: Account,
}

impl Buyer {
    async fn live(mut self) -> Account {
        let mut n = 0;
        while !self.is_over() {
            n += 1;
            if let Some(id) = self.reserve(n).await {
                self.account.made += 1;
                self.held.push((id, (n + self.number).is_multiple_of(PAID_EVERY)));
            }
            while self.held.len() > HELD_MAX {
                let (id, pays) = self.held.remove(0);
                self.end(&id, pays).await;
            }
            tokio::time::sleep(PACE).await;
        }
        for (id, pays) in std::mem::take(&mut self.held) {
            self.end(&id, pays).await;
        }
        self.account
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    async fn reserve(&mut self, n: usize) -> Option<String> {
        let order = format!("{}-{}-{n}", self.sku, self.number);
        let buy = Buy::of(&order)
            .sku(self.sku)
            .user(&format!("u{}", self.number))
            .key(&order);
        let since = Instant::now();
        for attempt in 0.. {
            let begun = Instant::now();
            let told = self.doors[(n + attempt) % self.doors.len()].reserve(&buy).await;
            let deed = Deed {
                buyer: self.number,
                begun,
                heard: Instant::now(),
                had: self.held.len() + self.account.committed,
                told: told.clone(),
            };
            self.deeds.lock().expect("nobody panics with it").push(deed);
            match told.status {
                201 | 202 => return Some(told.id()),
                // Nothing is held for whom the limit sends away.
                409 => return None,
                429 if self.is_over() => return None,
                429 | 503 => assert!(since.elapsed() < PATIENCE, "still no answer: {told:?}"),
                _ => panic!("{told:?}"),
            }
            tokio::time::sleep(PACE).await;
        }
        None
    }

    async fn end(&mut self, id: &str, pays: bool) {
        let since = Instant::now();
        for attempt in 0.. {
            let door = &self.doors[attempt % self.doors.len()];
            let told = if pays {
                door.commit(id).await
            } else {
                door.release(id).await
            };
            match (told.status, told.body["code"].as_str()) {
                (200, _) if pays => self.account.committed += 1,
                (200, _) => self.account.released += 1,
                (503, _) | (409, Some("SALE_FROZEN")) => {
                    assert!(since.elapsed() < PATIENCE, "still no answer: {told:?}");
                    tokio::time::sleep(PACE).await;
                    continue;
                }
                _ => panic!("{told:?}"),
            }
            return;
        }
    }
}
