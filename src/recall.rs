//! Units that a change needs and a sale has set aside, called back from the sale's lanes.
//!
//! The ledger says what is needed and asks the lanes by grants; this waits for them, within bounds, on behalf of a
//! request or of a command. Whoever gives up leaves nothing behind: what came back and nobody took is granted again
//! ([`Ledger::regrant_recalled`]).

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::id::SaleId;
use crate::flash::Flash;
use crate::ledger::recall::TakeBack;
use crate::ledger::{GrantTicket, Ledger, LedgerError};

/// Times that lanes are asked for one change: what the first answers leave out lies in other lanes by then, or is held.
const ASKS_MAX: usize = 2;
/// Between two looks at what has become durable.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The asking for one change, bounded in number and time.
#[derive(Debug)]
pub struct Recall {
    deadline: Instant,
    asks: usize,
}

/// What came of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recalled {
    /// The change may be tried again.
    Back,
    /// Buyers hold so many units that the rest is too little.
    Held(i64),
    /// The lanes could not be reached in time.
    Late,
}

impl Recall {
    /// Not asked yet.
    #[must_use]
    pub fn within(limit: Duration) -> Self {
        Recall {
            deadline: Instant::now() + limit,
            asks: 0,
        }
    }

    /// Waits until the sale can do with an allocation of only `allocation`.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn take_back(
        &mut self,
        ledger: &Ledger,
        flash: &Flash,
        sale: &SaleId,
        allocation: i64,
    ) -> Result<Recalled, LedgerError> {
        if Instant::now() >= self.deadline {
            return Ok(Recalled::Late);
        }
        let grants = match ledger.take_back(sale, allocation, self.asks < ASKS_MAX).await? {
            TakeBack::Asked(grants) => {
                self.asks += 1;
                grants
            }
            TakeBack::Waiting(grants) => grants,
            TakeBack::Ready => return Ok(Recalled::Back),
            TakeBack::Refused { held } => return Ok(Recalled::Held(held)),
        };
        Ok(if taken_back(ledger, flash, &grants, self.deadline).await? {
            Recalled::Back
        } else {
            Recalled::Late
        })
    }
}

/// Waits until these take-backs are durable; false where the deadline came first.
///
/// # Errors
/// The ledger could not find out.
pub async fn taken_back(
    ledger: &Ledger,
    flash: &Flash,
    grants: &[GrantTicket],
    deadline: Instant,
) -> Result<bool, LedgerError> {
    let ids: Vec<i64> = grants.iter().map(|ticket| ticket.grant_id).collect();
    loop {
        nudge(flash, grants);
        if ledger.grants_left(&ids).await?.is_empty() {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Tells the lanes of these grants to look for them.
pub fn nudge(flash: &Flash, grants: &[GrantTicket]) {
    let lanes: BTreeSet<_> = grants.iter().map(|ticket| ticket.lane).collect();
    for lane in lanes {
        flash.nudge_grants(lane);
    }
}
