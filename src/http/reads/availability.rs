//! Availability: what a listing page shows of many SKUs at once.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::State;
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};

use super::stock::check_location;
use super::{Consistency, LetIn};
use crate::domain::id::{LocationId, Sku};
use crate::domain::time::Millis;
use crate::http::Gateway;
use crate::http::json::Json;
use crate::http::params::Query;
use crate::http::problem::Problem;
use crate::ledger::read_model::stock::{SkuStock, StockAt};

/// Most SKUs of one request.
const SKUS_MAX: usize = 100;

/// Which SKUs.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Up to 100, with commas between them. Those that don't exist are left out of the answer.
    #[param(value_type = String)]
    sku_ids: Skus,
    /// Not sent: over all locations that ship. Of one, a store for instance: what is there.
    #[param(value_type = Option<String>)]
    location_id: Option<LocationId>,
    /// `strong`: from the ledger.
    #[param(inline)]
    consistency: Option<Consistency>,
}

/// Distinct SKUs, in the order in which they came.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Skus(Vec<Sku>);

impl TryFrom<String> for Skus {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut skus = Vec::new();
        let mut known = HashSet::new();
        for part in text.split(',') {
            let sku = Sku::try_from(part).map_err(|error| format!("{part:?} {error}"))?;
            if known.insert(sku.clone()) {
                skus.push(sku);
            }
        }
        if skus.len() > SKUS_MAX {
            return Err(format!("{} SKUs; at most {SKUS_MAX}", skus.len()));
        }
        Ok(Skus(skus))
    }
}

/// What a listing shows.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Availability)]
pub(super) struct AvailabilityBody {
    /// In the order in which they were asked for.
    items: Vec<ItemBody>,
    /// When it was so.
    #[schema(value_type = String, format = DateTime)]
    as_of: Millis,
    /// `true` while live stock is away and reads are limited.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    degraded: bool,
}

/// A SKU on a listing.
#[derive(Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AvailableItem)]
struct ItemBody {
    sku_id: String,
    display: Display,
    /// Units, where the SKU shows exact numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    available: Option<i64>,
    /// From order to hand-over at the quickest location that has it, in days begun; where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery_days: Option<i32>,
}

/// What shoppers are told of a SKU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
enum Display {
    /// There is enough.
    InStock,
    /// Few are left, or the SKU is set to say no more than this.
    Limited,
    /// None is left.
    SoldOut,
}

impl ItemBody {
    fn of(sku: &Sku, stock: &SkuStock, location: Option<&LocationId>) -> Self {
        let ships = |place: &&StockAt| place.active && location.is_none_or(|location| place.location == *location);
        let places: Vec<&StockAt> = stock.places.iter().filter(ships).collect();
        let available: i64 = places.iter().map(|place| place.balance.available()).sum();
        let is_low = stock
            .low_stock_threshold
            .is_some_and(|threshold| available <= threshold);
        let display = match available {
            0 => Display::SoldOut,
            _ if is_low || !stock.exact => Display::Limited,
            _ => Display::InStock,
        };
        let have_some = places.iter().filter(|place| place.balance.available() > 0);
        ItemBody {
            sku_id: sku.to_string(),
            display,
            available: stock.exact.then_some(available),
            delivery_days: have_some.filter_map(|place| place.delivery_days).min(),
        }
    }
}

/// What a listing page shows: for up to 100 SKUs, whether there is some, and how soon it is there.
#[utoipa::path(get, path = "/api/inventory/availability", tag = "Reading", params(Wanted), responses(
    (status = 200, body = AvailabilityBody),
    (status = 404, description = "`UNKNOWN_LOCATION`"),
    (status = 503, description = "`READS_LIMITED` while live stock is away, `LEDGER_UNAVAILABLE`"),
))]
pub(super) async fn get_availability(
    State(gateway): State<Arc<Gateway>>,
    Query(wanted): Query<Wanted>,
    let_in: LetIn,
) -> Result<Json<AvailabilityBody>, Problem> {
    let Skus(skus) = &wanted.sku_ids;
    let location = wanted.location_id.as_ref();
    if let Some(location) = location {
        check_location(&gateway, location).await?;
    }
    let all = try_join_all(skus.iter().map(|sku| gateway.reads.sku(sku, wanted.consistency))).await?;
    let items = skus.iter().zip(&all).filter_map(|(sku, seen)| {
        let stock = seen.stock.as_ref()?;
        Some(ItemBody::of(sku, stock, location))
    });
    Ok(Json(AvailabilityBody {
        items: items.collect(),
        as_of: all.iter().map(|seen| seen.as_of).min().unwrap_or_default(),
        degraded: let_in.degraded,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::balance::Balance;

    fn place(id: &str, on_hand: i64, active: bool, delivery_days: Option<i32>) -> StockAt {
        StockAt {
            location: LocationId::try_from(id).expect("an id"),
            balance: Balance {
                on_hand,
                ..Balance::default()
            },
            active,
            delivery_days,
        }
    }

    fn stock(places: Vec<StockAt>) -> SkuStock {
        SkuStock {
            exact: true,
            low_stock_threshold: Some(5),
            updated_at: Millis(0),
            places,
        }
    }

    fn told(stock: &SkuStock, location: Option<&str>) -> (Display, Option<i64>, Option<i32>) {
        let location = location.map(|id| LocationId::try_from(id).expect("an id"));
        let item = ItemBody::of(&Sku::try_from("a").expect("an id"), stock, location.as_ref());
        (item.display, item.available, item.delivery_days)
    }

    #[test]
    fn the_display_follows_what_ships() {
        let all = stock(vec![
            place("far", 4, true, Some(3)),
            place("near", 2, true, Some(1)),
            place("shut", 100, false, Some(0)),
            place("empty", 0, true, Some(0)),
        ]);
        assert_eq!(told(&all, None), (Display::InStock, Some(6), Some(1)));
        assert_eq!(told(&all, Some("far")), (Display::Limited, Some(4), Some(3)));
        for nothing in ["shut", "empty", "elsewhere"] {
            assert_eq!(
                told(&all, Some(nothing)),
                (Display::SoldOut, Some(0), None),
                "{nothing}"
            );
        }
        let coarse = SkuStock {
            exact: false,
            low_stock_threshold: None,
            ..all
        };
        assert_eq!(told(&coarse, None), (Display::Limited, None, Some(1)));
        assert_eq!(told(&coarse, Some("empty")), (Display::SoldOut, None, None));
    }

    #[test]
    fn a_list_of_skus_is_bounded_and_has_each_once() {
        let list = |text: String| Skus::try_from(text).map(|Skus(skus)| skus.len());
        assert_eq!(list("a,b,a".to_owned()), Ok(2));
        for bad in [String::new(), "a,,b".to_owned(), "a, b".to_owned()] {
            assert!(list(bad.clone()).is_err(), "{bad:?}");
        }
        let of = |count: usize| (0..count).map(|n| format!("s{n}")).collect::<Vec<_>>().join(",");
        assert_eq!(list(of(SKUS_MAX)), Ok(SKUS_MAX));
        assert!(list(of(SKUS_MAX + 1)).is_err());
    }
}
