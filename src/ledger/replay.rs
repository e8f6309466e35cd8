//! Replay: what a SKU or an order was at an instant, from its events alone.
//!
//! Every event is read again in order and its deltas are added up; nothing is taken from the balance, nor from an
//! image. Where a sum and the image beside it differ, the replay says so and goes on from the image. What it tells of an
//! instant stays so: it waits for everyone who may still add an event of that instant.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::TryStreamExt;
use serde::Serialize;
use uuid::Uuid;

use super::catalogue::SAFETY_STOCK;
use super::events::{Event, EventRow, all_ended, columns};
use super::post::EventType;
use super::{Ledger, LedgerError};
use crate::domain::balance::Image;
use crate::domain::id::{Item, LocationId, OrderId, Sku};
use crate::domain::reservation_id::ReservationId;
use crate::domain::time::Millis;

/// Breaks that a replay tells of; one is enough to look for the cause.
const BREAKS_MAX: usize = 100;
/// Whoever may still add an event of an instant has begun before it; that no transaction of ours lives so long is certain.
const NEAR_MS: i64 = 3_600_000;
/// Longest wait for transactions that were under way at the instant: a statement of ours may take as long.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// What is replayed.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A SKU at one location, or at all.
    Stock(Sku, Option<LocationId>),
    /// An order's reservations.
    Order(OrderId),
}

/// What came of a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replay {
    /// What was.
    Told(Replayed),
    /// By Postgres' clock it is only this late.
    NotYet(Millis),
    /// A transaction that was under way at the instant has not ended, and may still add an event of it.
    Unsettled,
}

/// What was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replayed {
    /// The instant; what happened within its millisecond is in.
    pub at: Millis,
    /// Events that were read.
    pub events: u64,
    /// Of a SKU: its stock, by location.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stock: Vec<StockThen>,
    /// Of an order: its reservations, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reservations: Vec<ReservationThen>,
    /// Where the ledger contradicts itself; at most 100.
    pub breaks: Vec<Break>,
}

/// Stock of a SKU at a location.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StockThen {
    /// Which.
    pub sku_id: String,
    /// Where.
    pub location_id: String,
    /// How much.
    pub balance: Image,
    /// Units of it that were not offered to shoppers.
    pub safety_stock: i64,
    /// The last event that led there.
    pub event_id: i64,
    /// When it happened.
    pub since: Millis,
}

/// A reservation, and what was left of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReservationThen {
    /// Which.
    pub reservation_id: String,
    /// Of what.
    pub sku_id: String,
    /// Where.
    pub location_id: String,
    /// Units promised to it.
    pub reserved: i64,
    /// Units sold to it.
    pub sold: i64,
    /// Of these, units that came back.
    pub returned: i64,
    /// The kind of the last event.
    pub last: String,
    /// The last event.
    pub event_id: i64,
    /// When it happened.
    pub since: Millis,
}

/// An event whose image before it is not the sum of all deltas so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Break {
    /// The event.
    pub event_id: i64,
    /// The sum.
    pub sum: Image,
    /// Its image.
    pub before: Image,
}

impl Ledger {
    /// Replays up to `at`; none: up to now.
    ///
    /// # Errors
    /// The ledger can't be read.
    pub async fn replay(&self, subject: &Subject, at: Option<Millis>) -> Result<Replay, LedgerError> {
        let mut now = self.now().await?;
        let at = at.unwrap_or(now);
        if at > now {
            return Ok(Replay::NotYet(now));
        }
        if now.0 - at.0 < NEAR_MS {
            while now == at {
                tokio::time::sleep(Duration::from_millis(1)).await;
                now = self.now().await?;
            }
            let mut connection = self.pool.acquire().await?;
            let ended = all_ended(&mut connection, WAIT_MAX).await?;
            connection.keep();
            if ended.is_none() {
                return Ok(Replay::Unsettled);
            }
        }
        let until = at.to_utc().checked_add_signed(TimeDelta::milliseconds(1));
        let mut fold = Fold::default();
        let (sql, keys) = subject.statement();
        let mut connection = self.pool.acquire().await?;
        // One statement sees one instant, and its rows come as they are read: no page, no gap, no memory.
        let mut rows = sqlx::query_as::<_, EventRow>(&sql)
            .bind(keys.0)
            .bind(keys.1)
            .bind(until.unwrap_or(DateTime::<Utc>::MAX_UTC))
            .fetch(&mut connection);
        while let Some(row) = rows.try_next().await? {
            fold.add(&row.read()?);
        }
        drop(rows);
        connection.keep();
        Ok(Replay::Told(fold.finish(at, subject)))
    }
}

impl Subject {
    fn statement(&self) -> (String, (&str, Option<&str>)) {
        let (which, keys) = match self {
            Subject::Stock(sku, location) => (
                "e.sku_id = $1 AND ($2::text IS NULL OR e.location_id = $2)",
                (sku.as_str(), location.as_ref().map(LocationId::as_str)),
            ),
            Subject::Order(order) => (
                "e.reservation_id IN (SELECT reservation_id FROM inventory_reservation WHERE order_id = $1
                     UNION SELECT reservation_id FROM inventory_reservation_cold WHERE order_id = $1)
                 AND $2::text IS NULL",
                (order.as_str(), None),
            ),
        };
        let sql = format!(
            concat!(
                "-- replay.events\nSELECT ",
                columns!(),
                " FROM inventory_movement e WHERE {which} AND e.created_at < $3 ORDER BY e.event_id"
            ),
            which = which,
        );
        (sql, keys)
    }
}

#[derive(Default)]
struct Fold {
    events: u64,
    stock: BTreeMap<Item, StockThen>,
    reservations: Vec<ReservationThen>,
    places: BTreeMap<Uuid, usize>,
    breaks: Vec<Break>,
}

impl Fold {
    fn add(&mut self, event: &Event) {
        self.events += 1;
        let delta = event.after.minus(&event.before);
        let then = self.stock.entry(event.item.clone()).or_insert_with(|| StockThen {
            sku_id: event.item.sku.to_string(),
            location_id: event.item.location.to_string(),
            balance: Image::default(),
            safety_stock: 0,
            event_id: event.id,
            since: event.created_at,
        });
        if then.balance != event.before && self.breaks.len() < BREAKS_MAX {
            self.breaks.push(Break {
                event_id: event.id,
                sum: then.balance,
                before: event.before,
            });
        }
        then.balance = event.after;
        // A release may give the same word as its reason.
        if event.event_type == EventType::Adjusted.as_str() && event.reason.as_deref() == Some(SAFETY_STOCK) {
            then.safety_stock -= event.quantity_delta;
        }
        (then.event_id, then.since) = (event.id, event.created_at);
        let Some(id) = event.reservation_id else { return };
        let place = *self.places.entry(id).or_insert_with(|| {
            self.reservations.push(ReservationThen {
                reservation_id: ReservationId(id).to_string(),
                sku_id: event.item.sku.to_string(),
                location_id: event.item.location.to_string(),
                reserved: 0,
                sold: 0,
                returned: 0,
                last: String::new(),
                event_id: 0,
                since: event.created_at,
            });
            self.reservations.len() - 1
        });
        let then = &mut self.reservations[place];
        then.reserved += delta.reserved;
        then.sold += delta.sold;
        then.returned += delta.returned;
        then.last.clone_from(&event.event_type);
        (then.event_id, then.since) = (event.id, event.created_at);
    }

    /// An order's events are some of each item's, so they tell nothing of stock, and neither their images of each other.
    fn finish(self, at: Millis, subject: &Subject) -> Replayed {
        let mut replayed = Replayed {
            at,
            events: self.events,
            ..Replayed::default()
        };
        match subject {
            Subject::Stock(..) => {
                replayed.stock = self.stock.into_values().collect();
                replayed.breaks = self.breaks;
            }
            Subject::Order(_) => replayed.reservations = self.reservations,
        }
        replayed
    }
}
