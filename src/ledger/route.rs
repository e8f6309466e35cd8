//! Where a request to reserve goes: which item, and which sale of it.
//!
//! Where the caller names no location, a SKU's only one is taken; among several, closed ones too, the gateway chooses. Whether a
//! sale sells now is for its lane to say.

use super::sale_row::{SaleRow, sale_columns};
use super::{Ledger, LedgerError};
use crate::domain::id::{Item, LocationId, Sku};
use crate::domain::sale::Sale;

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

impl Ledger {
    /// The item and the sale that a request for `sku`, at `location` or wherever it lies, is about.
    ///
    /// # Errors
    /// The ledger could not find out.
    pub async fn route(&self, sku: &Sku, location: Option<&LocationId>) -> Result<Route, LedgerError> {
        let (sku_known, location_known): (bool, bool) = sqlx::query_as(
            "-- route.known
             SELECT EXISTS (SELECT 1 FROM sku WHERE sku_id = $1),
                 $2::text IS NULL OR EXISTS (SELECT 1 FROM location WHERE location_id = $2)",
        )
        .bind(sku.as_str())
        .bind(location.map(LocationId::as_str))
        .fetch_one(&self.pool)
        .await?;
        if !sku_known {
            return Ok(Route::UnknownSku);
        }
        if !location_known {
            return Ok(Route::UnknownLocation);
        }
        let location = match location {
            Some(location) => location.clone(),
            None => match self.only_location(sku).await? {
                Some(location) => location,
                None => return Ok(Route::Several),
            },
        };
        let row: Option<SaleRow> = sqlx::query_as(concat!(
            "-- route.sale: the newest is the one that is not over, if any, for an item has one at a time\nSELECT ",
            sale_columns!(),
            " FROM sale s WHERE sku_id = $1 AND location_id = $2 ORDER BY sale_no DESC LIMIT 1"
        ))
        .bind(sku.as_str())
        .bind(location.as_str())
        .fetch_optional(&self.pool)
        .await?;
        Ok(Route::Item {
            item: Item {
                sku: sku.clone(),
                location,
            },
            sale: row.map(|row| row.read().map(Box::new)).transpose()?,
        })
    }

    async fn only_location(&self, sku: &Sku) -> Result<Option<LocationId>, LedgerError> {
        let places: Vec<(String, bool)> = sqlx::query_as(
            "-- route.places: two are enough to know that there are several. One that is closed counts: what a request got
             -- there before is found where there is a choice
             SELECT location_id, l.active FROM inventory_balance b JOIN location l USING (location_id)
             WHERE b.sku_id = $1 LIMIT 2",
        )
        .bind(sku.as_str())
        .fetch_all(&self.pool)
        .await?;
        let [(only, true)] = places.as_slice() else {
            return Ok(None);
        };
        LocationId::try_from(only.as_str())
            .map(Some)
            .map_err(|e| LedgerError::Broken(format!("location {only:?} {e}")))
    }
}
