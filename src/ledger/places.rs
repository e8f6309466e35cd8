//! Where a SKU lies, and what is known of each place: what the choice of a location is made from.
//!
//! Figures are those of the moment of reading. What a live sale has left is what its lanes had at their cursors; the
//! lane alone knows better, so a sale that seems to have too few is still worth asking.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::sale_row::read_item;
use super::{Ledger, LedgerError};
use crate::domain::choice::{Capacity, Facts, Point};
use crate::domain::id::{Item, LocationId, Sku};
use crate::domain::sale::SaleState;
use crate::domain::time::Millis;

/// Who sells what lies at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// The ledger engine: so many units are free.
    Ledger(i64),
    /// A live sale: so many units were left.
    Sale(i64),
    /// A sale that is being stopped; so many units are free besides.
    Draining(i64),
    /// A sale that does not sell.
    NotLive(SaleState, Option<Millis>),
}

impl Served {
    /// Units that can be had, as far as is known.
    #[must_use]
    pub fn free(self) -> i64 {
        match self {
            Served::Ledger(free) | Served::Sale(free) | Served::Draining(free) => free,
            Served::NotLive(..) => 0,
        }
    }
}

/// A SKU at an active location.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// What and where.
    pub item: Item,
    /// What is known of the location. Parcels of today are left at 0: [`Ledger::parcels_today`].
    pub facts: Facts,
    /// Who sells it.
    pub served: Served,
}

#[derive(sqlx::FromRow)]
struct Row {
    sku_id: String,
    location_id: String,
    free: i64,
    region: String,
    latitude: Option<f64>,
    longitude: Option<f64>,
    shipping_cost: Option<f64>,
    handling_hours: Option<f64>,
    daily_capacity: Option<i64>,
    priority: i32,
    state: Option<String>,
    starts_at: Option<DateTime<Utc>>,
    left_over: i64,
}

impl Ledger {
    /// The active locations at which these SKUs lie, in order of their ids.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn places(&self, skus: &[Sku]) -> Result<Vec<Place>, LedgerError> {
        let rows: Vec<Row> = sqlx::query_as(
            "-- places.of_skus
             SELECT b.sku_id, b.location_id,
                 greatest(0, b.on_hand - b.reserved - b.unavailable - b.escrowed - b.safety_stock) AS free,
                 l.region, l.latitude, l.longitude, l.shipping_cost, l.handling_hours, l.daily_capacity, l.priority,
                 s.state, s.starts_at,
                 coalesce((SELECT sum(greatest(0, counter)) FROM sale_bucket k WHERE k.sale_no = s.sale_no), 0)::int8
                     AS left_over
             FROM inventory_balance b
             JOIN location l USING (location_id)
             LEFT JOIN LATERAL (
                 SELECT sale_no, state::text AS state, starts_at FROM sale s
                 WHERE s.sku_id = b.sku_id AND s.location_id = b.location_id AND NOT s.drained LIMIT 1) s ON true
             WHERE b.sku_id = ANY($1) AND l.active
             ORDER BY b.sku_id COLLATE \"C\", b.location_id COLLATE \"C\"",
        )
        .bind(skus.iter().map(Sku::as_str).collect::<Vec<_>>())
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(Row::read).collect()
    }

    /// Parcels of today, by UTC: reservations that are held or sold, at the locations whose capacity has a bound.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn parcels_today(&self) -> Result<HashMap<LocationId, i64>, LedgerError> {
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "-- places.parcels: reads all of today's partition, so it is asked every few seconds at most
             SELECT location_id, count(*) FROM inventory_reservation
             WHERE created_at >= date_trunc('day', now(), 'UTC') AND status IN ('RESERVED', 'COMMITTED')
                 AND location_id IN (SELECT location_id FROM location WHERE daily_capacity IS NOT NULL)
             GROUP BY location_id",
        )
        .fetch_all(&self.pool)
        .await?;
        let read = |(location, parcels): (String, i64)| {
            LocationId::try_from(location.as_str())
                .map(|location| (location, parcels))
                .map_err(|e| LedgerError::Broken(format!("location {location:?} {e}")))
        };
        rows.into_iter().map(read).collect()
    }
}

impl Row {
    fn read(self) -> Result<Place, LedgerError> {
        let item = read_item(&self.sku_id, &self.location_id)?;
        let point = self.latitude.zip(self.longitude);
        let state = self
            .state
            .as_deref()
            .map(|word| SaleState::parse(word).ok_or_else(|| LedgerError::Broken(format!("a sale that is {word}"))));
        let served = match state.transpose()? {
            None | Some(SaleState::Draft) => Served::Ledger(self.free),
            Some(SaleState::Live) => Served::Sale(self.left_over),
            Some(SaleState::Ended) => Served::Draining(self.free),
            Some(state) => Served::NotLive(state, self.starts_at.map(Millis::from)),
        };
        Ok(Place {
            facts: Facts {
                location: item.location.clone(),
                region: self.region,
                point: point.map(|(latitude, longitude)| Point { latitude, longitude }),
                shipping_cost: self.shipping_cost,
                handling_hours: self.handling_hours,
                capacity: self.daily_capacity.map(|daily| Capacity { daily, used: 0 }),
                priority: self.priority,
            },
            item,
            served,
        })
    }
}
