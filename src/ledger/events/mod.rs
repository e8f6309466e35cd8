//! The event ledger, read: pages of it, oldest first, and what of it is settled.
//!
//! Events are in the order of their ids. Of one item that is the order in which they happened, for an id is drawn under
//! the lock of the balance that changes. A page ends where an event could still show up late (`settled`), so whoever
//! follows `next`, and later takes up from `resume`, sees each event once and misses none.

mod cursor;
mod page;
mod settled;
mod statement;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::LedgerError;
use super::image::{AfterRow, DeltaRow};
use super::sale_row::read_item;
use crate::domain::balance::Image;
use crate::domain::id::{Item, LocationId, OrderId, Sku};
use crate::domain::reservation_id::ReservationId;
use crate::domain::time::Millis;

use super::post::EventType;
pub use cursor::{After, Cursor, NotACursor};
pub(super) use settled::{Settled, all_ended};
pub(super) use statement::WALKED;

/// Which events. What is set must all be so.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Of this SKU.
    pub sku: Option<Sku>,
    /// At this location.
    pub location: Option<LocationId>,
    /// Of this order.
    pub order: Option<OrderId>,
    /// Of this reservation; of a cart: of all its parts.
    pub reservation: Option<ReservationId>,
    /// Of this kind.
    pub event_type: Option<EventType>,
    /// Later than this one.
    pub after: Option<After>,
}

/// Some events.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Oldest first.
    pub events: Vec<Event>,
    /// Ask for those after this one; none: that is all there is so far.
    pub next: Option<Cursor>,
    /// Ask later for what came after this: where this page ends, or where the ledger did. None: it is empty.
    pub resume: Option<Cursor>,
}

/// An event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its number; later ones are greater.
    pub id: i64,
    /// Its kind, as `inventory_reserved`.
    pub event_type: String,
    /// What moved.
    pub item: Item,
    /// Units, signed.
    pub quantity_delta: i64,
    /// The balance before it.
    pub before: Image,
    /// The balance after it.
    pub after: Image,
    /// Why.
    pub reason: Option<String>,
    /// What it refers to outside.
    pub reference_id: Option<String>,
    /// Whose units.
    pub reservation_id: Option<Uuid>,
    /// Of which order.
    pub order_id: Option<String>,
    /// Who did it, where a person did.
    pub operator: Option<String>,
    /// In which trace.
    pub trace_id: Option<Uuid>,
    /// When.
    pub created_at: Millis,
    /// What else there is to know.
    pub metadata: Option<serde_json::Value>,
}

impl Event {
    fn cursor(&self) -> Cursor {
        Cursor {
            id: self.id,
            at: self.created_at,
        }
    }
}

/// What every statement here reads of an event `e`.
macro_rules! columns {
    () => {
        "e.event_id, e.event_type::text AS event_type, e.sku_id, e.location_id, e.quantity_delta, e.on_hand_delta, \
         e.reserved_delta, e.unavailable_delta, e.escrowed_delta, e.sold_delta, e.damaged_delta, e.returned_delta, \
         e.on_hand, e.reserved, e.unavailable, e.escrowed, e.sold, e.damaged, e.returned, e.reason, e.reference_id, \
         e.reservation_id, e.order_id, e.operator, e.trace_id, e.created_at, e.metadata"
    };
}
pub(super) use columns;

#[derive(sqlx::FromRow)]
pub(super) struct EventRow {
    event_id: i64,
    event_type: String,
    sku_id: String,
    location_id: String,
    quantity_delta: i64,
    #[sqlx(flatten)]
    delta: DeltaRow,
    #[sqlx(flatten)]
    after: AfterRow,
    reason: Option<String>,
    reference_id: Option<String>,
    reservation_id: Option<Uuid>,
    order_id: Option<String>,
    operator: Option<String>,
    trace_id: Option<Uuid>,
    created_at: DateTime<Utc>,
    metadata: Option<serde_json::Value>,
}

impl EventRow {
    pub(super) fn read(self) -> Result<Event, LedgerError> {
        let after = self.after.read();
        Ok(Event {
            id: self.event_id,
            event_type: self.event_type,
            item: read_item(&self.sku_id, &self.location_id)?,
            quantity_delta: self.quantity_delta,
            before: after.minus(&self.delta.read()),
            after,
            reason: self.reason,
            reference_id: self.reference_id,
            reservation_id: self.reservation_id,
            order_id: self.order_id,
            operator: self.operator,
            trace_id: self.trace_id,
            created_at: self.created_at.into(),
            metadata: self.metadata,
        })
    }
}
