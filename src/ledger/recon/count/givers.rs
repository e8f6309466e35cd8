//! Sales that give what a count did not find.

use std::collections::BTreeSet;

use crate::domain::balance::Balance;
use crate::domain::id::{SaleId, Sku};
use crate::domain::sale::SaleState;
use crate::ledger::LedgerError;
use crate::ledger::adjust::{CallBack, Refused, take_from_sale};
use crate::ledger::connection::Connection;
use crate::ledger::once::By;
use crate::ledger::sale::Locked;

/// The sales that are locked for a count.
#[derive(Default)]
pub(super) struct Givers<'a> {
    pub(super) locked: Vec<Locked>,
    /// Those that give nothing.
    pub(super) keep: Option<&'a BTreeSet<SaleId>>,
}

/// What became of units that are missing.
pub(super) enum Given {
    /// They are free, or the sale has given them.
    All,
    /// They lie in the sale's lanes.
    Later(CallBack),
    /// The sale is not locked, or it is being stopped.
    NotLocked,
    /// The sale keeps them.
    Nothing,
}

impl Givers<'_> {
    /// Has the SKU's sale give what is missing from the balance that was found like this.
    pub(super) async fn give(
        &mut self,
        tx: &mut Connection,
        sku: &Sku,
        missing: i64,
        found: Balance,
        by: &By,
    ) -> Result<Given, LedgerError> {
        let sale = self.locked.iter().position(|kept| kept.sale.item.sku == *sku);
        let sale = sale.map(|at| self.locked.swap_remove(at));
        if let Some(Locked { sale, .. }) = &sale
            && missing > 0
            && (sale.state == SaleState::Frozen || self.keep.is_some_and(|keep| keep.contains(&sale.id)))
        {
            return Ok(Given::Nothing);
        }
        Ok(match take_from_sale(tx, missing, found, sale, by).await? {
            None => Given::All,
            Some(Refused::Short(short)) => Given::Later(short),
            Some(Refused::SetAside) => Given::NotLocked,
            Some(Refused::Insufficient) => Given::Nothing,
        })
    }
}
