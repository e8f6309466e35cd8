//! Which grants are in force in their lanes, for those who answer only then.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// Grants remembered: some seconds' worth at the highest rate.
const REMEMBERED_MAX: usize = 65_536;

/// Ids of grants that were delivered lately.
#[derive(Debug, Default)]
pub(crate) struct DeliveredGrants {
    recent: Mutex<(HashSet<i64>, VecDeque<i64>)>,
    bell: Notify,
}

impl DeliveredGrants {
    /// Remembers these, and wakes who waits for them.
    pub(crate) fn mark(&self, ids: impl IntoIterator<Item = i64>) {
        let mut guard = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let (set, order) = &mut *guard;
        for id in ids {
            if set.insert(id) {
                order.push_back(id);
            }
        }
        while order.len() > REMEMBERED_MAX {
            if let Some(oldest) = order.pop_front() {
                set.remove(&oldest);
            }
        }
        drop(guard);
        self.bell.notify_waiters();
    }

    /// Waits up to `within` for this grant; false when it was not heard of by then.
    pub(crate) async fn wait(&self, id: i64, within: Duration) -> bool {
        let known = || {
            self.recent
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .0
                .contains(&id)
        };
        let heard = async {
            loop {
                let bell = self.bell.notified();
                tokio::pin!(bell);
                bell.as_mut().enable();
                if known() {
                    return;
                }
                bell.await;
            }
        };
        tokio::time::timeout(within, heard).await.is_ok()
    }
}
