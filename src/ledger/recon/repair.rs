//! What a person does about a report: repairs what waits in it, or closes it with a word.
//!
//! A repair looks anew, under the locks: what was found before may have changed. A count that a newer one has
//! overtaken is not applied any more. What takes two people takes another one than who sent the count.

use uuid::Uuid;

use super::count::{correction, mark, shelves};
use super::judge::Stands;
use super::report::{Discrepancy, Report};
use super::restore::{Looked, Restore};
use crate::domain::difference::Figure;
use crate::domain::id::{Item, LocationId, Sku};
use crate::domain::reconciliation::ReportKind;
use crate::domain::reservation::Ending;
use crate::domain::trace::TraceId;
use crate::ledger::adjust::{CallBack, Refused, take_from_sale};
use crate::ledger::connection::Connection;
use crate::ledger::once::By;
use crate::ledger::post::post;
use crate::ledger::retry::retried;
use crate::ledger::sale::lock_sale_of;
use crate::ledger::sale_row::read_item;
use crate::ledger::{EndAnswer, EndAsk, GrantTicket, Ledger, LedgerError};

/// What became of a difference that waited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repaired {
    /// It is corrected, by this event where there is one.
    Corrected {
        /// The event.
        event_id: Option<i64>,
        /// Units on their way to lanes.
        tickets: Vec<GrantTicket>,
    },
    /// A newer count is in the balance, or what the order is by now asks for nothing.
    Superseded,
    /// Units must come back from a sale's lanes first: [`Ledger::take_back`], then again.
    Short(CallBack),
    /// It can't be corrected, for this reason.
    Left(String),
}

impl Ledger {
    /// Repairs a difference of `report` that waits, in `by`'s name. Units that a count did not find and a sale has set
    /// aside are taken from the sale, where nothing else is left.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn repair(&self, report: &Report, found: &Discrepancy, by: &By) -> Result<Repaired, LedgerError> {
        let item = match (&found.sku, &found.location) {
            (Some(sku), Some(location)) => Some(read_item(sku, location)?),
            _ => None,
        };
        let repaired = match (report.kind, &item) {
            (ReportKind::Warehouse | ReportKind::SellerFeed, Some(item)) => {
                // It writes down what it does in the transaction that does it.
                return retried!(self, self.repair_count(report, found, item, by));
            }
            (ReportKind::Ledger, Some(item)) => self.repair_balance(report, item, by).await?,
            (ReportKind::OrderState, _) => self.repair_order(found, by).await?,
            (ReportKind::Live, _) => Repaired::Left("it takes a comparison with Redis".to_owned()),
            _ => Repaired::Left("it names no item".to_owned()),
        };
        match &repaired {
            Repaired::Corrected { event_id, .. } => self.resolve(found.id, "corrected", *event_id, None, by).await?,
            Repaired::Superseded => self.resolve(found.id, "superseded", None, None, by).await?,
            Repaired::Short(_) | Repaired::Left(_) => {}
        }
        Ok(repaired)
    }

    /// Closes a difference that waits: a person has settled it elsewhere.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn close_discrepancy(&self, id: i64, note: &str, by: &By) -> Result<(), LedgerError> {
        self.resolve(id, "closed", None, Some(note), by).await
    }

    async fn resolve(
        &self,
        id: i64,
        status: &str,
        event_id: Option<i64>,
        note: Option<&str>,
        by: &By,
    ) -> Result<(), LedgerError> {
        let mut connection = self.pool.acquire().await?;
        resolve(&mut connection, id, status, event_id, note, by).await?;
        connection.keep();
        Ok(())
    }

    async fn repair_count(
        &self,
        report: &Report,
        found: &Discrepancy,
        item: &Item,
        by: &By,
    ) -> Result<Repaired, LedgerError> {
        let (Some(counted_at), Some(count_id)) = (report.counted_at, &report.count_id) else {
            return Err(LedgerError::Broken(format!(
                "report {} of a count without one",
                report.id
            )));
        };
        let Figure::Number(counted) = found.found else {
            return Err(LedgerError::Broken(format!("units of discrepancy {}", found.id)));
        };
        let (sku, location): (&Sku, &LocationId) = (&item.sku, &item.location);
        let since = self.since(counted_at, location, std::iter::once(sku)).await?;
        let mut tx = self.begin().await?;
        let sale = lock_sale_of(&mut tx, item).await?;
        let shelf = shelves(&mut tx, location, &[sku], &since).await?.remove(0);
        if shelf.marked_at.is_some_and(|at| at >= counted_at.to_utc()) {
            resolve(&mut tx, found.id, "superseded", None, None, by).await?;
            tx.commit().await?;
            return Ok(Repaired::Superseded);
        }
        let delta = counted - shelf.expected;
        if self.approval.is_large(delta) && by.operator.as_deref() == Some(report.operator.as_str()) {
            return Ok(Repaired::Left(format!(
                "{} counted it; so many units take another person",
                report.operator
            )));
        }
        let balance = shelf.balance();
        match take_from_sale(&mut tx, -delta - balance.unpromised(), balance, sale, by).await? {
            None => {}
            Some(Refused::Short(short)) => return Ok(Repaired::Short(short)),
            Some(Refused::SetAside) => {
                return Ok(Repaired::Left(
                    "a sale that is being stopped has the units: again, when it has ended".to_owned(),
                ));
            }
            Some(Refused::Insufficient) => {
                let there = balance.unpromised() + balance.escrowed;
                return Ok(Repaired::Left(format!(
                    "{} units are missing, and {there} are neither reserved nor unavailable",
                    -delta
                )));
            }
        }
        let mut event_id = None;
        if delta != 0 {
            event_id = Some(post(&mut tx, &[correction(item, delta, count_id, by)]).await?[0].event_id);
        }
        mark(&mut tx, location, std::slice::from_ref(sku), counted_at, report.id).await?;
        if !resolve(&mut tx, found.id, "corrected", event_id, None, by).await? {
            return Ok(Repaired::Left("somebody else has settled it".to_owned()));
        }
        tx.commit().await?;
        Ok(Repaired::Corrected {
            event_id,
            tickets: Vec::new(),
        })
    }

    async fn repair_balance(&self, report: &Report, item: &Item, by: &By) -> Result<Repaired, LedgerError> {
        let restore = Restore {
            item,
            report: report.id,
            units_max: None,
            by,
        };
        Ok(match self.restore(&restore).await? {
            Looked::Agrees => Repaired::Corrected {
                event_id: None,
                tickets: Vec::new(),
            },
            Looked::Restored(event_id) => Repaired::Corrected {
                event_id: Some(event_id),
                tickets: Vec::new(),
            },
            Looked::Left(why) => Repaired::Left(format!(
                "{}: what the events say does not fit reservations, sales or promises; `flashgate verify` names each",
                why.as_str()
            )),
        })
    }

    /// Asks once more for the ending that the order's state calls for, if its newest still does.
    async fn repair_order(&self, found: &Discrepancy, by: &By) -> Result<Repaired, LedgerError> {
        match self.stands(found).await? {
            Stands::Same => {}
            Stands::Settled => return Ok(Repaired::Superseded),
            Stands::Otherwise => {
                return Ok(Repaired::Left(
                    "the order has another reservation by now: look at it, then close this".to_owned(),
                ));
            }
        }
        let ending = match &found.expected {
            Figure::Words(_) if found.found == Figure::from("returned") => {
                return Ok(Repaired::Left(
                    "the units came back: reserve anew, or refund, then close it".to_owned(),
                ));
            }
            Figure::Words(word) if word == "COMMITTED" => Ending::Commit,
            Figure::Words(word) if word == "RELEASED" => Ending::Release,
            _ => {
                return Ok(Repaired::Left(
                    "the units have to come back: take the return, then close it".to_owned(),
                ));
            }
        };
        let Some(reservation) = found.reservation else {
            return Ok(Repaired::Left(
                "the order has no reservation; settle it, then close it".to_owned(),
            ));
        };
        let ask = EndAsk {
            id: reservation,
            ending,
            detail: (ending == Ending::Release).then(|| found.cause.clone()),
            key: None,
            trace: by.trace.unwrap_or(TraceId(*Uuid::new_v4().as_bytes())),
            operator: by.operator.clone(),
            unless_in_cart: false,
            from_newer_sales: false,
        };
        Ok(match self.end(&[ask]).await?.pop() {
            Some(EndAnswer::Done { tickets, .. }) => Repaired::Corrected {
                event_id: None,
                tickets,
            },
            Some(EndAnswer::Refused(reservation) | EndAnswer::Short(reservation)) => Repaired::Left(format!(
                "the reservation is {}: refund, or reserve anew, then close it",
                reservation.status.as_str()
            )),
            Some(EndAnswer::Frozen) => Repaired::Left("its sale is frozen".to_owned()),
            _ => Repaired::Left("the reservation is not in the ledger".to_owned()),
        })
    }
}

/// Whether it waited until now.
async fn resolve(
    connection: &mut Connection,
    id: i64,
    status: &str,
    event_id: Option<i64>,
    note: Option<&str>,
    by: &By,
) -> Result<bool, LedgerError> {
    let done = sqlx::query(
        "-- recon.resolve
         UPDATE reconciliation_discrepancy SET status = $2, event_id = coalesce($3, event_id), note = $4, operator = $5,
             resolved_at = clock_timestamp() WHERE discrepancy_id = $1 AND status = 'manual_review'",
    )
    .bind(id)
    .bind(status)
    .bind(event_id)
    .bind(note)
    .bind(by.operator.as_deref())
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}
