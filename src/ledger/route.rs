//! Where a request to reserve goes: which item, and which sale of it.
//!
//! Before the gateway can choose among locations, a SKU's only one is taken, else the one with a sale that is not
//! over. Whether the sale sells now is for its lane to say.

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
    /// The SKU lies at no or at several locations, and not at exactly one with a sale: the client must say which.
    Ambiguous,
    /// To this item.
    Item {
        /// What and where.
        item: Item,
        /// Its newest sale, which may be over.
        sale: Option<Sale>,
    },
}

#[derive(sqlx::FromRow)]
struct Place {
    location_id: String,
    on_sale: bool,
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
                None => return Ok(Route::Ambiguous),
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
            sale: row.map(SaleRow::read).transpose()?,
        })
    }

    async fn only_location(&self, sku: &Sku) -> Result<Option<LocationId>, LedgerError> {
        let places: Vec<Place> = sqlx::query_as(
            "-- route.places: two are enough to know that there are several
             SELECT location_id, EXISTS (SELECT 1 FROM sale s WHERE s.sku_id = b.sku_id
                 AND s.location_id = b.location_id AND NOT s.drained) AS on_sale
             FROM inventory_balance b WHERE sku_id = $1 ORDER BY on_sale DESC LIMIT 2",
        )
        .bind(sku.as_str())
        .fetch_all(&self.pool)
        .await?;
        let chosen = match places.as_slice() {
            [only] => only,
            [first, second] if first.on_sale && !second.on_sale => first,
            _ => return Ok(None),
        };
        LocationId::try_from(chosen.location_id.as_str())
            .map(Some)
            .map_err(|e| LedgerError::Broken(format!("location {:?} {e}", chosen.location_id)))
    }
}
