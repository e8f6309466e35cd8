//! Stock, read: what lies where, and what of it a shopper may have.
//!
//! Answers come from the ledger and say so; `available` counts units set aside for a sale until they are reserved.

use std::sync::Arc;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Gateway;
use super::author::{unknown_location, unknown_sku};
use super::json::Json;
use super::params::{Path, Query};
use super::problem::Problem;
use crate::domain::balance::Balance;
use crate::domain::id::{LocationId, Sku};
use crate::domain::time::Millis;
use crate::ledger::balance::Stock;

/// The public listener's paths.
pub(super) fn routes() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new().routes(routes!(get_stock)).routes(routes!(get_sku))
}

/// Which stock.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct Wanted {
    #[param(value_type = String)]
    sku_id: Sku,
    /// Not sent: totals, and each location.
    #[param(value_type = Option<String>)]
    location_id: Option<LocationId>,
    /// `strong`: from the ledger.
    #[serde(rename = "consistency")]
    #[param(inline)]
    _consistency: Option<Consistency>,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct WantedInShort {
    /// `strong`: from the ledger.
    #[serde(rename = "consistency")]
    #[param(inline)]
    _consistency: Option<Consistency>,
}

/// How fresh an answer has to be.
#[derive(Clone, Copy, Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
enum Consistency {
    /// The ledger's.
    Strong,
}

/// Units.
#[derive(Clone, Copy, Debug, Default, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct Units {
    /// Physically there, damaged ones included.
    on_hand: i64,
    /// Promised to reservations that have not ended.
    reserved: i64,
    /// There, but not for sale.
    unavailable: i64,
    /// Not offered to shoppers.
    safety_stock: i64,
    /// `onHand - reserved - unavailable - safetyStock`, never below 0.
    available: i64,
    /// Cumulative.
    sold: i64,
    /// Cumulative.
    damaged: i64,
    /// Cumulative.
    returned: i64,
}

/// Stock at one location.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct AtLocation {
    location_id: String,
    #[serde(flatten)]
    units: Units,
}

/// Stock of a SKU.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Stock)]
struct StockBody {
    sku_id: String,
    /// Where one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    location_id: Option<String>,
    #[serde(flatten)]
    units: Units,
    /// Where none was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    locations: Option<Vec<AtLocation>>,
    /// When it was so.
    #[schema(value_type = String, format = DateTime)]
    as_of: Millis,
    /// `ledger`.
    source: &'static str,
}

/// Stock of a SKU in short, over all locations.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct SkuStockBody {
    sku_id: String,
    available: i64,
    reserved: i64,
    sold: i64,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Millis,
}

impl From<Balance> for Units {
    fn from(balance: Balance) -> Self {
        Units {
            on_hand: balance.on_hand,
            reserved: balance.reserved,
            unavailable: balance.unavailable,
            safety_stock: balance.safety_stock,
            available: balance.available(),
            sold: balance.sold,
            damaged: balance.damaged,
            returned: balance.returned,
        }
    }
}

/// The sum over locations: what one lacks in safety stock, another can't make up for.
fn total(locations: &[(LocationId, Balance)]) -> Units {
    locations.iter().fold(Units::default(), |sum, (_, balance)| {
        let units = Units::from(*balance);
        Units {
            on_hand: sum.on_hand + units.on_hand,
            reserved: sum.reserved + units.reserved,
            unavailable: sum.unavailable + units.unavailable,
            safety_stock: sum.safety_stock + units.safety_stock,
            available: sum.available + units.available,
            sold: sum.sold + units.sold,
            damaged: sum.damaged + units.damaged,
            returned: sum.returned + units.returned,
        }
    })
}

/// Stock of a SKU at a location, or at all.
#[utoipa::path(get, path = "/api/inventory", tag = "Reading", params(Wanted), responses(
    (status = 200, body = StockBody),
    (status = 404, description = "`UNKNOWN_SKU`, `UNKNOWN_LOCATION`"),
))]
async fn get_stock(
    State(gateway): State<Arc<Gateway>>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<StockBody>, Problem> {
    let location = wanted.location_id.as_ref();
    match gateway.ledger.stock(&wanted.sku_id, location).await? {
        Stock::UnknownSku => Err(unknown_sku(wanted.sku_id.as_str())),
        Stock::UnknownLocation => Err(unknown_location(location.map_or("", LocationId::as_str))),
        Stock::Known { locations, as_of, .. } => Ok(Json(StockBody {
            sku_id: wanted.sku_id.to_string(),
            location_id: location.map(LocationId::to_string),
            units: total(&locations),
            locations: location
                .is_none()
                .then(|| locations.into_iter().map(AtLocation::from).collect()),
            as_of,
            source: "ledger",
        })),
    }
}

impl From<(LocationId, Balance)> for AtLocation {
    fn from((location, balance): (LocationId, Balance)) -> Self {
        AtLocation {
            location_id: location.to_string(),
            units: balance.into(),
        }
    }
}

/// Stock of a SKU in short.
#[utoipa::path(get, path = "/api/inventory/{skuId}", tag = "Reading", params(("skuId" = String, Path), WantedInShort), responses(
    (status = 200, body = SkuStockBody),
    (status = 404, description = "`UNKNOWN_SKU`"),
))]
async fn get_sku(
    State(gateway): State<Arc<Gateway>>,
    Path(sku): Path<Sku>,
    Query(_): Query<WantedInShort>,
) -> Result<Json<SkuStockBody>, Problem> {
    let Stock::Known {
        locations, updated_at, ..
    } = gateway.ledger.stock(&sku, None).await?
    else {
        return Err(unknown_sku(sku.as_str()));
    };
    let units = total(&locations);
    Ok(Json(SkuStockBody {
        sku_id: sku.to_string(),
        available: units.available,
        reserved: units.reserved,
        sold: units.sold,
        updated_at,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_location_lacks_is_not_taken_from_another() {
        let balance = |on_hand, safety_stock| Balance {
            on_hand,
            safety_stock,
            ..Balance::default()
        };
        let location = |id: &str| LocationId::try_from(id).expect("an id");
        let sum = total(&[(location("a"), balance(1, 5)), (location("b"), balance(10, 5))]);
        assert_eq!((sum.on_hand, sum.safety_stock, sum.available), (11, 10, 5));
    }
}
