//! What a request to reserve says, and the hashes that name it.

use serde::Deserialize;

use crate::domain::entry::{Slip, SlipKeys};
use crate::domain::id::{Item, LocationId, OrderId, Sku, UserId};
use crate::domain::key::{Fingerprint, KeyHash};
use crate::domain::quantity::Quantity;
use crate::domain::trace::TraceId;
use crate::http::problem::Problem;

/// Longest time to pay that any sale can allow, in seconds: 30 days.
const TTL_SECONDS_MAX: u32 = 30 * 24 * 3600;

/// A reservation of one line.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Reserve {
    /// The shop's order.
    #[schema(value_type = String)]
    pub(super) order_id: OrderId,
    #[schema(value_type = String)]
    pub(super) sku_id: Sku,
    /// Without one: the SKU's only location, else the one with a sale, else 400.
    #[schema(value_type = Option<String>)]
    pub(super) location_id: Option<LocationId>,
    #[schema(value_type = u32, minimum = 1, maximum = 1_000_000)]
    pub(super) quantity: Quantity,
    /// The buyer; without one, the order is its own.
    #[schema(value_type = Option<String>)]
    pub(super) user_id: Option<UserId>,
    /// Time to pay, at most the sale's `maxHoldSeconds`; without it, the sale's `holdSeconds`.
    #[schema(minimum = 1)]
    pub(super) ttl_seconds: Option<u32>,
    /// In the place of the header `Idempotency-Key`.
    pub(super) idem_key: Option<String>,
}

/// A reservation in the verb style.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ReserveVerb {
    #[schema(value_type = String)]
    order_id: OrderId,
    #[schema(value_type = String)]
    sku_id: Sku,
    #[schema(value_type = Option<String>)]
    location_id: Option<LocationId>,
    #[schema(value_type = u32, minimum = 1, maximum = 1_000_000)]
    qty: Quantity,
    #[schema(value_type = Option<String>)]
    user_id: Option<UserId>,
    /// In the place of the header `Idempotency-Key`.
    pub(super) idem_key: Option<String>,
}

impl From<ReserveVerb> for Reserve {
    fn from(verb: ReserveVerb) -> Self {
        Reserve {
            order_id: verb.order_id,
            sku_id: verb.sku_id,
            location_id: verb.location_id,
            quantity: verb.qty,
            user_id: verb.user_id,
            ttl_seconds: None,
            idem_key: verb.idem_key,
        }
    }
}

/// A request, with its names.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) order: OrderId,
    pub(super) sku: Sku,
    /// As sent.
    pub(super) location: Option<LocationId>,
    pub(super) user: Option<UserId>,
    pub(super) quantity: Quantity,
    ttl_ms: u32,
    /// The client sent a key of its own.
    pub(super) explicit: bool,
    pub(super) key: KeyHash,
    pub(super) fingerprint: Fingerprint,
    pub(super) trace: TraceId,
}

impl Asked {
    pub(super) fn new(body: Reserve, key: Option<String>, trace: TraceId) -> Result<Self, Problem> {
        if body
            .ttl_seconds
            .is_some_and(|ttl| !(1..=TTL_SECONDS_MAX).contains(&ttl))
        {
            return Err(Problem::invalid(
                "ttlSeconds",
                "must be at least 1 and at most the sale's maxHoldSeconds",
            ));
        }
        let location = body.location_id.as_ref().map_or("", LocationId::as_str);
        let user = body.user_id.as_ref().map_or("", UserId::as_str);
        let (order, sku) = (body.order_id.as_str(), body.sku_id.as_str());
        let quantity = body.quantity.units().to_string();
        let ttl = body.ttl_seconds.map_or_else(String::new, |ttl| ttl.to_string());
        let fingerprint = Fingerprint::of(&[order, sku, location, user, &quantity, &ttl]);
        let line = KeyHash::order_line(order, sku, location);
        Ok(Asked {
            explicit: key.is_some(),
            key: key.map_or(line, |key| KeyHash::explicit("reserve", &key)),
            fingerprint,
            order: body.order_id,
            sku: body.sku_id,
            location: body.location_id,
            user: body.user_id,
            quantity: body.quantity,
            ttl_ms: body.ttl_seconds.unwrap_or(0) * 1000,
            trace,
        })
    }

    /// As it travels, now that its item is known.
    pub(super) fn slip(&self, item: &Item) -> Slip {
        let line = KeyHash::order_line(self.order.as_str(), item.sku.as_str(), item.location.as_str());
        let keys = SlipKeys {
            explicit: self.explicit,
            key: self.key,
            line,
            fingerprint: self.fingerprint,
        };
        Slip::new(
            &self.order,
            self.user.as_ref(),
            self.quantity,
            self.ttl_ms,
            keys,
            self.trace,
        )
    }
}
