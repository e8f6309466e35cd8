//! Buyers who go on whatever happens, each with one order after the other and a key for each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::door::{Buy, Door, PATIENCE, Told, until};

const BETWEEN_TRIES: Duration = Duration::from_millis(50);
const BETWEEN_ORDERS: Duration = Duration::from_millis(25);

/// Buyers at work.
pub(crate) struct Crowd {
    shared: Arc<Shared>,
    buyers: JoinSet<Vec<Heard>>,
}

#[derive(Default)]
struct Shared {
    stop: CancellationToken,
    got: AtomicUsize,
    /// How often each try failed, by code; `gone` is a broken connection.
    failures: Mutex<BTreeMap<String, usize>>,
}

/// An order, and the answer that its buyer kept.
pub(crate) struct Heard {
    pub(crate) order: String,
    pub(crate) told: Told,
}

impl Crowd {
    /// So many buyers, spread over the gateways; who loses one goes to the next with the same order and key.
    pub(crate) fn gather(buyers: usize, doors: &[&Door]) -> Crowd {
        let shared = Arc::<Shared>::default();
        let doors: Vec<Door> = doors.iter().map(|door| (*door).clone()).collect();
        let mut tasks = JoinSet::new();
        for buyer in 0..buyers {
            tasks.spawn(buy(buyer, doors.clone(), Arc::clone(&shared)));
        }
        Crowd { shared, buyers: tasks }
    }

    /// Waits until `more` further orders were accepted.
    pub(crate) async fn buys(&self, more: usize) {
        let from = self.shared.got.load(Ordering::Relaxed);
        until("buyers who get something", async || {
            (self.shared.got.load(Ordering::Relaxed) >= from + more).then_some(())
        })
        .await;
    }

    /// Waits until a try failed with this code.
    pub(crate) async fn fails_with(&self, code: &str) {
        until(code, async || {
            self.shared
                .failures
                .lock()
                .expect("nobody panics with it")
                .get(code)
                .copied()
        })
        .await;
    }

    /// Lets everyone end the order that they are at.
    pub(crate) async fn leave(self) -> Vec<Heard> {
        self.shared.stop.cancel();
        self.buyers.join_all().await.into_iter().flatten().collect()
    }
}

async fn buy(buyer: usize, doors: Vec<Door>, shared: Arc<Shared>) -> Vec<Heard> {
    let mut door = buyer % doors.len();
    let mut heard = Vec::new();
    for n in 0.. {
        if shared.stop.is_cancelled() {
            break;
        }
        let order = format!("b{buyer}-{n}");
        let wanted = Buy::of(&order).key(&order);
        let since = Instant::now();
        let told = loop {
            let failure = match doors[door].try_reserve(&wanted).await {
                Some(told) if told.status != 503 => break told,
                Some(told) => told.standing(),
                None => {
                    door = (door + 1) % doors.len();
                    "gone".to_owned()
                }
            };
            assert!(since.elapsed() < PATIENCE, "{order} still gets {failure}");
            *shared
                .failures
                .lock()
                .expect("nobody panics with it")
                .entry(failure)
                .or_default() += 1;
            tokio::time::sleep(BETWEEN_TRIES).await;
        };
        shared.got.fetch_add(1, Ordering::Relaxed);
        heard.push(Heard { order, told });
        tokio::time::sleep(BETWEEN_ORDERS).await;
    }
    heard
}

/// Asserts of a sale at rest that every durable answer is still there, that every accepted one is durable by now or
/// known as lost, and that each order holds what it asked for, once. Returns how many were lost.
pub(crate) async fn assert_kept(door: &Door, heard: &[Heard]) -> usize {
    let mut lost = 0;
    for Heard { order, told } in heard {
        assert!([200, 201, 202].contains(&told.status), "{order} got {}", told.body);
        let now = door.reservation(&told.id()).await;
        match (told.standing().as_str(), now.standing().as_str()) {
            (_, "RESERVED durable") => {}
            ("RESERVED accepted", "REJECTED accepted") => {
                assert_eq!(now.body["cause"], "lost", "{order}: {}", now.body);
                lost += 1;
            }
            (was, is) => panic!("{order} was {was} and is {is}: {}", now.body),
        }
    }
    let twice: Vec<(String, i64)> = sqlx::query_as(
        "SELECT order_id, count(*) FROM inventory_reservation WHERE status IN ('RESERVED', 'COMMITTED')
         GROUP BY order_id HAVING count(*) > 1",
    )
    .fetch_all(&door.pool)
    .await
    .expect("Postgres answers");
    assert_eq!(twice, [], "orders that count more than once");
    let ids: BTreeSet<String> = heard.iter().map(|heard| heard.told.id()).collect();
    assert_eq!(ids.len(), heard.len(), "two orders got the same reservation");
    lost
}
