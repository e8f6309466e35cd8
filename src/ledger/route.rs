//! Where requests to reserve go: which item, and which sale of it.
//!
//! Where the caller names no location, a SKU's only one is taken; among several, closed ones too, the gateway chooses. Whether a
//! sale sells now is for its lane to say.

use std::collections::HashMap;

use super::sale_row::{SaleRow, read_item, sale_columns};
use super::{Ledger, LedgerError};
use crate::domain::id::{Item, LocationId, Sku};
use crate::domain::sale::Sale;

/// What decides where a request goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteAsk {
    /// What is wanted.
    pub sku: Sku,
    /// From where, if that matters.
    pub location: Option<LocationId>,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Route {
    /// No such SKU.
    UnknownSku,
    /// No such location.
    UnknownLocation,
    /// The SKU lies at no active location or at several: one is to be chosen.
    Several,
    /// To this item.
    Item {
        /// What and where.
        item: Item,
        /// Its newest sale, which may be over.
        sale: Option<Box<Sale>>,
    },
}

/// Whether there is such a SKU, whether there is such a location, and which one the request is about, if that is plain.
type Found = (bool, bool, Option<String>);

impl Ledger {
    /// The items and the sales that these requests are about, each at its location or wherever its SKU lies. As many
    /// requests as there are cost two statements.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn routes(&self, asks: &[RouteAsk]) -> Result<Vec<Route>, LedgerError> {
        let mut routes = Vec::with_capacity(asks.len());
        for (ask, (sku_known, location_known, location)) in asks.iter().zip(self.route_places(asks).await?) {
            routes.push(match location {
                _ if !sku_known => Route::UnknownSku,
                _ if !location_known => Route::UnknownLocation,
                None => Route::Several,
                Some(location) => Route::Item {
                    item: read_item(ask.sku.as_str(), &location)?,
                    sale: None,
                },
            });
        }
        let newest = self.newest_sales(&routes).await?;
        for route in &mut routes {
            if let Route::Item { item, sale } = route {
                *sale = newest.get(item).cloned().map(Box::new);
            }
        }
        Ok(routes)
    }

    async fn route_places(&self, asks: &[RouteAsk]) -> Result<Vec<Found>, LedgerError> {
        let skus: Vec<&str> = asks.iter().map(|ask| ask.sku.as_str()).collect();
        let locations: Vec<Option<&str>> = asks
            .iter()
            .map(|ask| ask.location.as_ref().map(LocationId::as_str))
            .collect();
        Ok(sqlx::query_as(
            "-- route.places: two are enough to know that there are several. One that is closed counts: what a request got
             -- there before is found where there is a choice
             SELECT EXISTS (SELECT 1 FROM sku WHERE sku_id = a.sku_id),
                 a.location_id IS NULL OR EXISTS (SELECT 1 FROM location WHERE location_id = a.location_id),
                 coalesce(a.location_id, (
                     SELECT min(location_id) FROM (
                         SELECT location_id, l.active FROM inventory_balance b JOIN location l USING (location_id)
                         WHERE b.sku_id = a.sku_id LIMIT 2) two
                     HAVING count(*) = 1 AND bool_and(active)))
             FROM UNNEST($1::text[], $2::text[]) WITH ORDINALITY AS a (sku_id, location_id, place) ORDER BY place",
        )
        .bind(skus)
        .bind(locations)
        .fetch_all(&self.pool)
        .await?)
    }

    /// An item's newest sale is the one that is not over, if any, for it has one at a time.
    async fn newest_sales(&self, routes: &[Route]) -> Result<HashMap<Item, Sale>, LedgerError> {
        let items = || {
            routes.iter().filter_map(|route| match route {
                Route::Item { item, .. } => Some(item),
                _ => None,
            })
        };
        let rows: Vec<SaleRow> = sqlx::query_as(concat!(
            "-- route.sales\nSELECT ",
            sale_columns!(),
            " FROM UNNEST($1::text[], $2::text[]) AS a (sku_id, location_id) CROSS JOIN LATERAL (
                 SELECT * FROM sale WHERE sku_id = a.sku_id AND location_id = a.location_id
                 ORDER BY sale_no DESC LIMIT 1) s"
        ))
        .bind(items().map(|item| item.sku.as_str()).collect::<Vec<_>>())
        .bind(items().map(|item| item.location.as_str()).collect::<Vec<_>>())
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|row| row.read().map(|sale| (sale.item.clone(), sale)))
            .collect()
    }
}
