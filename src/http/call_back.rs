//! Units that a correction needs and a sale has set aside: called back from the sale's lanes, or waited for where it is
//! being stopped.

use std::collections::BTreeMap;

use futures::future::join_all;
use tokio::time::Instant;

use super::Gateway;
use super::admin_sales::{IN_FORCE_MAX, late};
use super::author::promised;
use super::problem::Problem;
use super::reserve::{CHANGE_LOOK, CHANGE_WITHIN, changing};
use crate::domain::id::SaleId;
use crate::ledger::adjust::CallBack;
use crate::recall::{Recall, Recalled};

/// Sales that are asked at the same time.
const AT_ONCE: usize = 8;

/// The calls for one correction, bounded in number and time.
#[derive(Debug)]
pub(super) struct CallsBack {
    /// Since when it waits for a stop.
    stopping: Option<Instant>,
    recalls: BTreeMap<SaleId, Recall>,
}

impl CallsBack {
    /// None yet.
    pub(super) fn begin() -> Self {
        CallsBack {
            stopping: None,
            recalls: BTreeMap::new(),
        }
    }

    /// Returns when the correction may be tried again.
    ///
    /// # Errors
    /// Buyers hold the units, or the lanes can't be reached in time.
    pub(super) async fn call_back(&mut self, gateway: &Gateway, short: &CallBack, wanted: i64) -> Result<(), Problem> {
        let recall = self.recalls.entry(short.sale.clone()).or_insert_with(begin);
        match called_back(gateway, recall, short).await? {
            None => Ok(()),
            Some(held) => Err(promised(wanted, &short.found)
                .with("saleId", short.sale.as_str())
                .with("held", held)),
        }
    }

    /// Returns when the correction may be tried again, with those sales whose buyers hold the units.
    ///
    /// # Errors
    /// The lanes can't be reached in time.
    pub(super) async fn call_back_all(
        &mut self,
        gateway: &Gateway,
        short: &[CallBack],
    ) -> Result<Vec<SaleId>, Problem> {
        let mut keep = Vec::new();
        for some in short.chunks(AT_ONCE) {
            let asks = some.iter().map(|short| {
                let mut recall = self.recalls.remove(&short.sale).unwrap_or_else(begin);
                async move {
                    let held = called_back(gateway, &mut recall, short).await;
                    (short.sale.clone(), recall, held)
                }
            });
            for (sale, recall, held) in join_all(asks).await {
                if held?.is_some() {
                    keep.push(sale.clone());
                }
                self.recalls.insert(sale, recall);
            }
        }
        Ok(keep)
    }

    /// Returns when a sale that is being stopped may have given its units up.
    ///
    /// # Errors
    /// It takes longer than a moment.
    pub(super) async fn wait_for_stop(&mut self) -> Result<(), Problem> {
        if self.stopping.get_or_insert_with(Instant::now).elapsed() >= CHANGE_WITHIN {
            return Err(changing("the item's sale is being stopped; nothing was corrected"));
        }
        tokio::time::sleep(CHANGE_LOOK).await;
        Ok(())
    }
}

fn begin() -> Recall {
    Recall::within(IN_FORCE_MAX)
}

/// Asks one sale; units that its buyers hold, where they do.
async fn called_back(gateway: &Gateway, recall: &mut Recall, short: &CallBack) -> Result<Option<i64>, Problem> {
    let (sale, allocation) = (&short.sale, short.allocation);
    match recall
        .take_back(&gateway.ledger, &gateway.flash, sale, allocation)
        .await?
    {
        Recalled::Back => Ok(None),
        Recalled::Held(held) => Ok(Some(held)),
        Recalled::Late => Err(late(
            gateway,
            "units of a sale could not be called back in time; nothing was corrected",
        )),
    }
}
