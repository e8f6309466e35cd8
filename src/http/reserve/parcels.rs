//! How many parcels each location has today: what the choice of a location weighs against its daily capacity.
//!
//! It is a scan of all that was reserved today, and a few parcels more or less choose no other place. So it is counted
//! beside the requests, which take what was counted last, however old, and never wait for it but for the first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::domain::id::LocationId;
use crate::ledger::LedgerError;

/// From one count to the next, at least.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// And as many times as long as the last one took.
const REST: u32 = 10;
/// How long the first one is waited for; until it is there, no capacity is taken as used.
const FIRST_WITHIN: Duration = Duration::from_millis(250);

/// Parcels of today, by location.
pub(super) type Counts = Arc<HashMap<LocationId, i64>>;

/// The last count.
#[derive(Debug)]
pub(super) struct Parcels {
    told: watch::Sender<Option<Counts>>,
    /// When it is to be counted again; `None`: it is being counted.
    due: Mutex<Option<Instant>>,
}

impl Default for Parcels {
    fn default() -> Self {
        Parcels {
            told: watch::Sender::new(None),
            due: Mutex::new(Some(Instant::now())),
        }
    }
}

impl Parcels {
    /// What was counted last, having seen to it that it is counted again in time.
    pub(super) async fn counts<F>(self: &Arc<Self>, count: impl FnOnce() -> F) -> Counts
    where
        F: Future<Output = Result<HashMap<LocationId, i64>, LedgerError>> + Send + 'static,
    {
        if self.is_due() {
            let (parcels, counted) = (Arc::clone(self), count());
            tokio::spawn(async move { parcels.tell(counted).await });
        }
        let mut told = self.told.subscribe();
        if let Ok(Ok(counts)) = tokio::time::timeout(FIRST_WITHIN, told.wait_for(Option::is_some)).await {
            return counts.clone().unwrap_or_default();
        }
        // Whoever comes next need not wait as long.
        self.told.send_if_modified(|told| {
            let first = told.is_none();
            told.get_or_insert_default();
            first
        });
        Counts::default()
    }

    /// Of all who find that it is due, one is to count.
    fn is_due(&self) -> bool {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        due.take_if(|at| *at <= Instant::now()).is_some()
    }

    async fn tell(&self, counted: impl Future<Output = Result<HashMap<LocationId, i64>, LedgerError>>) {
        let began = Instant::now();
        match counted.await {
            Ok(counts) => drop(self.told.send_replace(Some(Arc::new(counts)))),
            Err(error) => {
                tracing::warn!(%error, "today's parcels could not be counted: locations are chosen by an older count");
            }
        }
        let rest = rest(began.elapsed());
        *self.due.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + rest);
    }
}

/// Until the next count, after one that took so long.
fn rest(took: Duration) -> Duration {
    AGAIN_AFTER.max(took * REST)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Counted = Result<HashMap<LocationId, i64>, LedgerError>;

    fn counted(parcels: i64) -> Counted {
        Ok(HashMap::from([(LocationId::try_from("wh1").expect("an id"), parcels)]))
    }

    async fn wh1(parcels: &Arc<Parcels>, count: impl Future<Output = Counted> + Send + 'static) -> Option<i64> {
        parcels.counts(|| count).await.values().next().copied()
    }

    /// As if the time had come.
    async fn fall_due(parcels: &Parcels) {
        while parcels.due.lock().expect("no panic").is_none() {
            tokio::task::yield_now().await;
        }
        *parcels.due.lock().expect("no panic") = Some(Instant::now());
    }

    #[tokio::test]
    async fn a_count_under_way_is_waited_for_by_nobody_but_the_first_and_not_long() {
        let parcels = Arc::new(Parcels::default());
        let (done, first) = tokio::sync::oneshot::channel();
        let first = async { first.await.expect("is sent") };
        assert_eq!(wh1(&parcels, first).await, None);
        assert_eq!(wh1(&parcels, async { panic!("one counts at a time") }).await, None);
        done.send(counted(1)).expect("somebody counts");
        fall_due(&parcels).await;
        assert_eq!(
            wh1(&parcels, std::future::pending()).await,
            Some(1),
            "the last one serves"
        );
    }

    #[tokio::test]
    async fn a_count_is_not_made_again_before_its_time() {
        let parcels = Arc::new(Parcels::default());
        assert_eq!(wh1(&parcels, async { counted(1) }).await, Some(1));
        assert_eq!(wh1(&parcels, async { panic!("it is not due") }).await, Some(1));
        let due = (*parcels.due.lock().expect("no panic")).expect("it has been counted");
        assert!(due > Instant::now());
        assert_eq!(rest(Duration::from_millis(1)), AGAIN_AFTER);
        assert_eq!(rest(Duration::from_secs(20)), Duration::from_secs(200));
    }

    #[tokio::test]
    async fn a_count_that_fails_leaves_the_last_one() {
        let parcels = Arc::new(Parcels::default());
        assert_eq!(wh1(&parcels, async { counted(1) }).await, Some(1));
        fall_due(&parcels).await;
        let failed = async { Err(LedgerError::Broken("in a test".to_owned())) };
        assert_eq!(wh1(&parcels, failed).await, Some(1));
        fall_due(&parcels).await;
        assert_eq!(wh1(&parcels, std::future::pending()).await, Some(1));
    }
}
