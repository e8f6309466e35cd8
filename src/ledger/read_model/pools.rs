//! The connections that reads use: few, read-only, and none of those on which reservations become durable.
//!
//! A replica that does not answer is left alone for a while, and the primary read instead.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::ledger::LedgerError;
use crate::ledger::connections::Connections;

/// How long a replica that did not answer is left alone.
const REST: Duration = Duration::from_secs(2);

/// Where reads go.
#[derive(Clone, Debug)]
pub(in crate::ledger) struct ReadPools {
    primary: Connections,
    replica: Option<Replica>,
}

#[derive(Clone, Debug)]
struct Replica {
    pool: Connections,
    rests_until: Arc<Mutex<Option<Instant>>>,
}

impl ReadPools {
    pub(in crate::ledger) fn new(primary: Connections, replica: Option<Connections>) -> Self {
        ReadPools {
            primary,
            replica: replica.map(|pool| Replica {
                pool,
                rests_until: Arc::default(),
            }),
        }
    }

    /// The primary.
    pub(in crate::ledger) fn primary(&self) -> &Connections {
        &self.primary
    }

    /// The replica, where there is one that answered when it was last asked.
    pub(in crate::ledger) fn replica(&self) -> Option<&Connections> {
        let replica = self.replica.as_ref()?;
        let rests_until = *replica.rests_until.lock().unwrap_or_else(PoisonError::into_inner);
        rests_until
            .is_none_or(|until| Instant::now() >= until)
            .then_some(&replica.pool)
    }

    /// Leaves the replica alone for a while, for what it said.
    pub(in crate::ledger) fn rest(&self, error: &LedgerError) {
        let Some(replica) = &self.replica else { return };
        tracing::warn!(%error, "the read replica does not answer; the primary is read");
        *replica.rests_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + REST);
    }

    pub(in crate::ledger) async fn close(&self) {
        self.primary.close().await;
        if let Some(replica) = &self.replica {
            replica.pool.close().await;
        }
    }
}
