//! Stock: what lies where, and what of it a shopper may have.
//!
//! `available` counts units set aside for a sale until they are reserved.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::{MethodRouter, get};
use serde::{Deserialize, Serialize};

use super::{Consistency, LetIn};
use crate::domain::balance::Balance;
use crate::domain::id::{LocationId, Sku};
use crate::domain::time::Millis;
use crate::http::Gateway;
use crate::http::author::{unknown_location, unknown_sku};
use crate::http::json::Json;
use crate::http::params::{Path, Query};
use crate::http::problem::Problem;
use crate::ledger::read_model::stock::StockAt;

/// Which stock.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    #[param(value_type = String)]
    sku_id: Sku,
    /// Not sent: totals, and each location.
    #[param(value_type = Option<String>)]
    location_id: Option<LocationId>,
    /// `strong`: from the ledger.
    #[param(inline)]
    consistency: Option<Consistency>,
}

/// How fresh.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct Freshness {
    /// `strong`: from the ledger.
    #[param(inline)]
    consistency: Option<Consistency>,
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
pub(super) struct StockBody {
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
    /// `snapshot` or `ledger`.
    source: &'static str,
    /// `true` while live stock is away and reads are limited.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    degraded: bool,
}

/// Stock of a SKU in short, over all locations.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SkuStockBody {
    sku_id: String,
    available: i64,
    reserved: i64,
    sold: i64,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Millis,
    /// `true` while live stock is away and reads are limited.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    degraded: bool,
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
fn total<'a>(balances: impl IntoIterator<Item = &'a Balance>) -> Units {
    balances.into_iter().fold(Units::default(), |sum, balance| {
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
    (status = 503, description = "`READS_LIMITED` while live stock is away, `LEDGER_UNAVAILABLE`"),
))]
pub(super) async fn get_stock(
    State(gateway): State<Arc<Gateway>>,
    Query(wanted): Query<Wanted>,
    let_in: LetIn,
) -> Result<Json<StockBody>, Problem> {
    let seen = gateway.reads.sku(&wanted.sku_id, wanted.consistency).await?;
    let stock = seen.stock.as_ref().ok_or_else(|| unknown_sku(wanted.sku_id.as_str()))?;
    let (units, locations) = match &wanted.location_id {
        None => {
            let units = total(stock.places.iter().map(|place| &place.balance));
            (units, Some(stock.places.iter().map(AtLocation::from).collect()))
        }
        Some(location) => {
            let place = stock.places.iter().find(|place| place.location == *location);
            if place.is_none() {
                check_location(&gateway, location).await?;
            }
            (place.map_or_else(Units::default, |place| place.balance.into()), None)
        }
    };
    Ok(Json(StockBody {
        sku_id: wanted.sku_id.to_string(),
        location_id: wanted.location_id.map(|location| location.to_string()),
        units,
        locations,
        as_of: seen.as_of,
        source: seen.source.as_str(),
        degraded: let_in.degraded,
    }))
}

/// Whether there is such a location.
///
/// # Errors
/// 404.
pub(super) async fn check_location(gateway: &Gateway, location: &LocationId) -> Result<(), Problem> {
    let (is_known, _) = gateway.reads.locations.get(location).await?;
    if is_known {
        return Ok(());
    }
    Err(unknown_location(location.as_str()))
}

impl From<&StockAt> for AtLocation {
    fn from(place: &StockAt) -> Self {
        AtLocation {
            location_id: place.location.to_string(),
            units: place.balance.into(),
        }
    }
}

/// Stock of a SKU in short.
#[utoipa::path(get, path = "/api/inventory/{skuId}", tag = "Reading", params(("skuId" = String, Path), Freshness), responses(
    (status = 200, body = SkuStockBody),
    (status = 404, description = "`UNKNOWN_SKU`"),
    (status = 503, description = "`READS_LIMITED` while live stock is away, `LEDGER_UNAVAILABLE`"),
))]
pub(super) async fn get_sku(
    State(gateway): State<Arc<Gateway>>,
    Path(sku): Path<Sku>,
    Query(freshness): Query<Freshness>,
    let_in: LetIn,
) -> Result<Json<SkuStockBody>, Problem> {
    let seen = gateway.reads.sku(&sku, freshness.consistency).await?;
    let stock = seen.stock.as_ref().ok_or_else(|| unknown_sku(sku.as_str()))?;
    let units = total(stock.places.iter().map(|place| &place.balance));
    Ok(Json(SkuStockBody {
        sku_id: sku.to_string(),
        available: units.available,
        reserved: units.reserved,
        sold: units.sold,
        updated_at: stock.updated_at,
        degraded: let_in.degraded,
    }))
}

/// The same of a SKU that is named like a verb.
pub(super) fn get_verb(verb: &'static str) -> MethodRouter<Arc<Gateway>> {
    get(
        move |gateway: State<Arc<Gateway>>, freshness: Query<Freshness>, let_in: LetIn| {
            let sku = Sku::try_from(verb).expect("a few letters are an id");
            get_sku(gateway, Path(sku), freshness, let_in)
        },
    )
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
        let sum = total(&[balance(1, 5), balance(10, 5)]);
        assert_eq!((sum.on_hand, sum.safety_stock, sum.available), (11, 10, 5));
    }
}
