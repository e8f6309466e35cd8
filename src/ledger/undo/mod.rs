//! Undo: an adjustment that takes a wrong one back, by an event of its own that names the other.
//!
//! Nothing is taken out of the ledger. An adjustment is undone once, and asking again gives the first answer. An undo
//! takes no units that are reserved or damaged by now; those that a sale has set aside it takes as an adjustment does.
//! It is not undone itself: adjust.
//!
//! A count that was made after the wrong adjustment has put it right: such a one is not undone as well. For a count that
//! comes late, what was undone has never been (`recon::count::shelf`).

mod reversal;

use serde_json::{Value, json};
use uuid::Uuid;

use self::reversal::look;
use super::adjust::{Adjustment, CallBack};
use super::approval::{Approval, Asked, waiting_undo};
use super::connection::Connection;
use super::once::{By, Claim, Key, claim};
use super::retry::retried;
use super::sale::{Locked, lock_sale_of};
use super::{Ledger, LedgerError};
use crate::domain::balance::Balance;
use crate::domain::id::Item;
use crate::domain::time::Millis;

/// What came of an undo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undone {
    /// Done now.
    Done(Adjustment),
    /// Done before; this was the answer.
    Replayed(Adjustment),
    /// No such event.
    UnknownEvent,
    /// It is no adjustment, or an undo.
    NotUndoable,
    /// A count that was made since, at this moment, has put on hand right.
    Counted(Millis),
    /// Units that it brought are promised by now, or gone.
    Insufficient {
        /// Units that it would take.
        wanted: i64,
        /// What is there.
        found: Balance,
    },
    /// Units must come back from a sale's lanes first: [`Ledger::take_back`], then again.
    Short {
        /// Units that it would take.
        wanted: i64,
        /// What must come back.
        short: CallBack,
    },
    /// A sale of the item has set units aside that it needs and gives none at this moment, for it is being stopped:
    /// again, soon.
    SetAside(Item),
    /// A second person has to agree.
    Pending {
        /// What waits.
        approval: Box<Approval>,
        /// It was asked before.
        replayed: bool,
    },
    /// The key belongs to another request.
    KeyReused,
}

impl Ledger {
    /// Takes back the adjustment of this event, once; or leaves it to a second person, where the policy wants one. What
    /// a sale has set aside is taken from the sale, where nothing else is left.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn undo(
        &self,
        event_id: i64,
        note: Option<&str>,
        by: &By,
        key: Option<&Key>,
    ) -> Result<Undone, LedgerError> {
        let mut on_sale = None;
        loop {
            match retried!(self, self.undo_once(event_id, note, by, key, on_sale.as_ref()))? {
                // The sale is locked before the adjustment, so it starts over.
                Undone::SetAside(item) if on_sale.is_none() => on_sale = Some(item),
                Undone::Pending { approval, .. } if approval.is_overdue => {
                    self.expire_approvals().await?;
                }
                undone => return Ok(undone),
            }
        }
    }

    async fn undo_once(
        &self,
        event_id: i64,
        note: Option<&str>,
        by: &By,
        key: Option<&Key>,
        on_sale: Option<&Item>,
    ) -> Result<Undone, LedgerError> {
        let mut tx = self.begin().await?;
        // The event itself says what was answered before, so the key need only belong to no other request.
        if let Some(key) = key
            && claim(&mut tx, key, false, Uuid::new_v4()).await? == Claim::Reused
        {
            return Ok(Undone::KeyReused);
        }
        let sale = match on_sale {
            Some(item) => lock_sale_of(&mut tx, item).await?,
            None => None,
        };
        let answer = self.undo_or_ask(&mut tx, event_id, sale, note, by).await?;
        // What is refused keeps no key.
        if matches!(answer, Undone::Done(_) | Undone::Replayed(_) | Undone::Pending { .. }) {
            tx.commit().await?;
        }
        Ok(answer)
    }

    async fn undo_or_ask(
        &self,
        tx: &mut Connection,
        event_id: i64,
        sale: Option<Locked>,
        note: Option<&str>,
        by: &By,
    ) -> Result<Undone, LedgerError> {
        let reversal = match look(tx, event_id).await? {
            Ok(reversal) => reversal,
            Err(answer) => return Ok(answer),
        };
        // Asked before: that is the answer, also where its units have gone meanwhile.
        if let Some(approval) = waiting_undo(tx, event_id).await? {
            return Ok(Undone::Pending {
                approval: Box::new(approval),
                replayed: true,
            });
        }
        if let Some(answer) = reversal.stands_in_the_way() {
            return Ok(answer);
        }
        let id = Uuid::new_v4();
        let after = reversal.foresee();
        Ok(match self.approval.wants(reversal.delta(), &after) {
            Some(why) => {
                let asked = Asked {
                    ask: &reversal.ask(note),
                    undoes: Some(event_id),
                    why,
                    before: &reversal.found,
                    after: &after,
                };
                Undone::Pending {
                    approval: Box::new(self.insert_approval(tx, id, asked, by).await?),
                    replayed: false,
                }
            }
            None => reversal.carry_out(tx, id, sale, note, by, json!({})).await?,
        })
    }
}

/// Takes back the adjustment of this event, to which a second person has agreed as `metadata` says. The item's sale is
/// locked where it may give units.
pub(super) async fn take_back(
    tx: &mut Connection,
    id: Uuid,
    event_id: i64,
    sale: Option<Locked>,
    note: Option<&str>,
    by: &By,
    metadata: Value,
) -> Result<Undone, LedgerError> {
    let reversal = match look(tx, event_id).await? {
        Ok(reversal) => reversal,
        Err(answer) => return Ok(answer),
    };
    match reversal.stands_in_the_way() {
        Some(answer) => Ok(answer),
        None => reversal.carry_out(tx, id, sale, note, by, metadata).await,
    }
}
