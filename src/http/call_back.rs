//! Units that a correction needs and a sale has set aside: called back from the sale's lanes, or waited for where it is
//! being stopped.

use tokio::time::Instant;

use super::Gateway;
use super::admin_sales::{ASKS_MAX, IN_FORCE_MAX, late, taken_back};
use super::author::insufficient;
use super::problem::Problem;
use super::reserve::{CHANGE_LOOK, CHANGE_WITHIN, changing};
use crate::ledger::adjust::CallBack;
use crate::ledger::recall::TakeBack;

/// The calls for one correction, bounded in number and time.
#[derive(Debug)]
pub(super) struct CallsBack {
    begun: Instant,
    asks: usize,
}

impl CallsBack {
    /// None yet.
    pub(super) fn begin() -> Self {
        CallsBack {
            begun: Instant::now(),
            asks: 0,
        }
    }

    /// Returns when the correction may be tried again.
    ///
    /// # Errors
    /// Buyers hold the units, or the lanes can't be reached in time.
    pub(super) async fn call_back(&mut self, gateway: &Gateway, short: &CallBack, wanted: i64) -> Result<(), Problem> {
        let CallBack {
            sale,
            allocation,
            found,
        } = short;
        let late = || {
            late(
                gateway,
                "units of a sale could not be called back in time; nothing was adjusted",
            )
        };
        let deadline = self.begun + IN_FORCE_MAX;
        if Instant::now() >= deadline {
            return Err(late());
        }
        let may_ask = self.asks < ASKS_MAX;
        let grants = match gateway.ledger.take_back(sale, *allocation, may_ask).await? {
            TakeBack::Asked(grants) => {
                self.asks += 1;
                grants
            }
            TakeBack::Waiting(grants) => grants,
            TakeBack::Ready => return Ok(()),
            TakeBack::Refused { held } => {
                return Err(insufficient(wanted, found)
                    .with("saleId", sale.as_str())
                    .with("held", held));
            }
        };
        if taken_back(gateway, &grants, deadline).await? {
            Ok(())
        } else {
            Err(late())
        }
    }

    /// Returns when a sale that is being stopped may have given its units up.
    ///
    /// # Errors
    /// It takes longer than a moment.
    pub(super) async fn wait_for_stop(&self) -> Result<(), Problem> {
        if self.begun.elapsed() >= CHANGE_WITHIN {
            return Err(changing("the item's sale is being stopped; nothing was adjusted"));
        }
        tokio::time::sleep(CHANGE_LOOK).await;
        Ok(())
    }
}
