//! Buyers of lanes that nothing happens to, who are never refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Stage;
use crate::faults::crowd::Heard;
use crate::support::door::{Buy, Door, until};

const BETWEEN_ORDERS: Duration = Duration::from_millis(40);
/// A user can hold so many reservations.
const ORDERS_A_USER: usize = 60;

/// Buyers at work, one at each gateway. The first answer that is no reservation fails the test.
pub(super) struct Steady {
    stop: CancellationToken,
    got: Arc<AtomicUsize>,
    buyers: JoinSet<Vec<Heard>>,
}

impl Steady {
    pub(super) fn start(stage: &Stage, users: &[String]) -> Steady {
        let mut steady = Steady {
            stop: CancellationToken::new(),
            got: Arc::default(),
            buyers: JoinSet::new(),
        };
        for (n, door) in [&stage.one, &stage.other].into_iter().enumerate() {
            let users: Vec<String> = users.iter().skip(n).step_by(2).cloned().collect();
            assert!(!users.is_empty());
            let (stop, got) = (steady.stop.clone(), Arc::clone(&steady.got));
            steady.buyers.spawn(buy((**door).clone(), users, stop, got));
        }
        steady
    }

    /// Waits until `more` further orders were accepted.
    pub(super) async fn buys(&self, more: usize) {
        let from = self.got.load(Ordering::Relaxed);
        until("lanes that go on", async || {
            (self.got.load(Ordering::Relaxed) >= from + more).then_some(())
        })
        .await;
    }

    pub(super) async fn leave(self) -> Vec<Heard> {
        self.stop.cancel();
        self.buyers.join_all().await.into_iter().flatten().collect()
    }
}

async fn buy(door: Door, users: Vec<String>, stop: CancellationToken, got: Arc<AtomicUsize>) -> Vec<Heard> {
    let mut heard = Vec::new();
    while !stop.is_cancelled() && heard.len() < users.len() * ORDERS_A_USER {
        let user = &users[heard.len() % users.len()];
        let order = format!("{user}-{}", heard.len());
        let told = door.reserve(&Buy::of(&order).key(&order).user(user)).await;
        assert!(
            [201, 202].contains(&told.status),
            "{order} of a lane that lives: {}",
            told.body
        );
        got.fetch_add(1, Ordering::Relaxed);
        heard.push(Heard { order, told });
        tokio::time::sleep(BETWEEN_ORDERS).await;
    }
    heard
}
