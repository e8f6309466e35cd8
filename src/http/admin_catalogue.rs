//! The catalogue, written: locations, SKUs, and safety stock that a location has for itself.
//!
//! A PUT replaces what was there: what is not sent is not known, or 0. The answer is what stands there now.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Gateway;
use super::author::{Author, answer, key_reused, unknown_location, unknown_sku};
use super::json::Json;
use super::numbers::{Units, Whole};
use super::params::Path;
use super::problem::Problem;
use crate::domain::id::{Item, LocationId, Sku};
use crate::domain::text::Text;
use crate::ledger::catalogue::{CatalogueSku, Location, Put};

/// What people call something.
type Name = Text<255>;

/// The admin listener's paths.
pub(super) fn routes() -> OpenApiRouter<Arc<Gateway>> {
    OpenApiRouter::new()
        .routes(routes!(put_location))
        .routes(routes!(put_sku))
        .routes(routes!(put_safety_stock))
}

/// What a location is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
enum LocationKind {
    Warehouse,
    Store,
    FulfillmentCenter,
    Region,
    SellerLocation,
}

impl LocationKind {
    fn as_str(self) -> &'static str {
        match self {
            LocationKind::Warehouse => "warehouse",
            LocationKind::Store => "store",
            LocationKind::FulfillmentCenter => "fulfillment_center",
            LocationKind::Region => "region",
            LocationKind::SellerLocation => "seller_location",
        }
    }
}

/// A place where stock lies.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct LocationBody {
    #[schema(value_type = String, max_length = 255)]
    name: Name,
    kind: LocationKind,
    /// The region that it serves.
    #[schema(value_type = String, max_length = 255)]
    region: Name,
    /// Degrees north.
    #[schema(minimum = -90, maximum = 90)]
    latitude: Option<f64>,
    /// Degrees east.
    #[schema(minimum = -180, maximum = 180)]
    longitude: Option<f64>,
    /// Per parcel, in the shop's currency.
    #[schema(minimum = 0)]
    shipping_cost: Option<f64>,
    /// From order to hand-over.
    #[schema(minimum = 0)]
    handling_hours: Option<f64>,
    /// Parcels.
    #[schema(value_type = Option<i64>, minimum = 0)]
    daily_capacity: Option<Whole<0, 1_000_000_000>>,
    /// Higher is preferred; 0 by default.
    #[serde(default)]
    priority: i32,
    /// It ships.
    active: bool,
}

/// A location as it stands.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct StoredLocation {
    location_id: String,
    #[serde(flatten)]
    location: LocationBody,
}

/// How shoppers see stock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
enum Display {
    /// As numbers.
    Exact,
    /// As "there is some".
    Limited,
}

/// A SKU.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct SkuBody {
    #[schema(value_type = Option<String>, max_length = 255)]
    name: Option<Name>,
    display: Display,
    /// Units at which stock counts as low.
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 1_000_000)]
    low_stock_threshold: Option<Units>,
    /// Units kept back at each location that sets none apart; 0 by default.
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 1_000_000)]
    safety_stock: Option<Units>,
}

/// A SKU as it stands.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct StoredSku {
    sku_id: String,
    #[serde(flatten)]
    sku: SkuBody,
}

/// Safety stock at one location.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct SafetyStockBody {
    /// Units kept back here; null or not sent: the SKU's number holds again.
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 1_000_000)]
    safety_stock: Option<Units>,
}

/// Safety stock at one location, as it stands.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct StoredSafetyStock {
    sku_id: String,
    location_id: String,
    #[serde(flatten)]
    stock: SafetyStockBody,
}

/// Makes or replaces a location.
#[utoipa::path(put, path = "/admin/locations/{locationId}", tag = "Admin", params(("locationId" = String, Path)),
    request_body = LocationBody, responses((status = 200, body = StoredLocation)))]
async fn put_location(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<LocationId>,
    author: Author,
    Json(body): Json<LocationBody>,
) -> Result<Response, Problem> {
    check(&body)?;
    let key = author.key("location", id.as_str(), &body)?;
    let location = Location {
        id: id.clone(),
        name: body.name.as_str().to_owned(),
        kind: body.kind.as_str().to_owned(),
        region: body.region.as_str().to_owned(),
        latitude: body.latitude,
        longitude: body.longitude,
        shipping_cost: body.shipping_cost,
        handling_hours: body.handling_hours,
        daily_capacity: body.daily_capacity.map(Whole::get),
        priority: body.priority,
        active: body.active,
    };
    let put = gateway.ledger.put_location(&location, key.as_ref()).await?;
    let stored = StoredLocation {
        location_id: id.to_string(),
        location: body,
    };
    told(put, &author, "", id.as_str(), Json(stored))
}

/// Makes or replaces a SKU.
#[utoipa::path(put, path = "/admin/skus/{skuId}", tag = "Admin", params(("skuId" = String, Path)),
    request_body = SkuBody, responses((status = 200, body = StoredSku)))]
async fn put_sku(
    State(gateway): State<Arc<Gateway>>,
    Path(sku): Path<Sku>,
    author: Author,
    Json(body): Json<SkuBody>,
) -> Result<Response, Problem> {
    let key = author.key("sku", sku.as_str(), &body)?;
    let put = CatalogueSku {
        sku: sku.clone(),
        name: body.name.as_ref().map(|name| name.as_str().to_owned()),
        exact: body.display == Display::Exact,
        low_stock_threshold: body.low_stock_threshold.map(Units::get),
        safety_stock: body.safety_stock.map_or(0, Units::get),
    };
    let put = gateway.ledger.put_sku(&put, &author.by(), key.as_ref()).await?;
    let stored = StoredSku {
        sku_id: sku.to_string(),
        sku: body,
    };
    told(put, &author, sku.as_str(), "", Json(stored))
}

/// Sets the safety stock of a SKU at one location apart from the SKU's.
#[utoipa::path(put, path = "/admin/skus/{skuId}/locations/{locationId}", tag = "Admin",
    params(("skuId" = String, Path), ("locationId" = String, Path)), request_body = SafetyStockBody, responses(
        (status = 200, body = StoredSafetyStock),
        (status = 404, description = "`UNKNOWN_SKU`, `UNKNOWN_LOCATION`"),
))]
async fn put_safety_stock(
    State(gateway): State<Arc<Gateway>>,
    Path((sku, location)): Path<(Sku, LocationId)>,
    author: Author,
    Json(body): Json<SafetyStockBody>,
) -> Result<Response, Problem> {
    let key = author.key("safety_stock", &format!("{sku}\n{location}"), &body)?;
    let item = Item { sku, location };
    let units = body.safety_stock.map(Units::get);
    let put = gateway
        .ledger
        .put_safety_stock(&item, units, &author.by(), key.as_ref())
        .await?;
    let stored = StoredSafetyStock {
        sku_id: item.sku.to_string(),
        location_id: item.location.to_string(),
        stock: body,
    };
    told(put, &author, item.sku.as_str(), item.location.as_str(), Json(stored))
}

fn check(body: &LocationBody) -> Result<(), Problem> {
    let inside = |field: &str, value: Option<f64>, least: f64, most: f64| match value {
        Some(value) if !(least..=most).contains(&value) => {
            Err(Problem::invalid(field, format!("must be from {least} to {most}")))
        }
        _ => Ok(()),
    };
    inside("latitude", body.latitude, -90.0, 90.0)?;
    inside("longitude", body.longitude, -180.0, 180.0)?;
    inside("shippingCost", body.shipping_cost, 0.0, 1e9)?;
    inside("handlingHours", body.handling_hours, 0.0, 1e6)
}

fn told<T: Serialize>(
    put: Put,
    author: &Author,
    sku: &str,
    location: &str,
    stored: Json<T>,
) -> Result<Response, Problem> {
    match put {
        Put::Done => {
            tracing::info!(trace = %author.trace, operator = author.operator, sku, location, "the catalogue was changed");
            Ok(answer(stored, false))
        }
        Put::Replayed => Ok(answer(stored, true)),
        Put::KeyReused => Err(key_reused()),
        Put::UnknownSku => Err(unknown_sku(sku)),
        Put::UnknownLocation => Err(unknown_location(location)),
    }
}
