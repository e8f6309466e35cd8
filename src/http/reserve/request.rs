//! What a request to reserve says, and the hashes that name it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;

use crate::domain::choice::{Point, ShipTo};
use crate::domain::entry::{Slip, SlipKeys};
use crate::domain::id::{Item, LocationId, OrderId, Sku, UserId};
use crate::domain::key::{Fingerprint, KeyHash};
use crate::domain::quantity::{QUANTITY_MAX, Quantity};
use crate::domain::reservation::{Ack, Line, Reservation, Status};
use crate::domain::reservation_id::ReservationId;
use crate::domain::sale::Sale;
use crate::domain::text::Text;
use crate::domain::time::Millis;
use crate::domain::trace::TraceId;
use crate::http::json::Object;
use crate::http::problem::Problem;

/// Longest time to pay that any sale can allow, in seconds: 30 days.
const TTL_SECONDS_MAX: u32 = 30 * 24 * 3600;
/// Most lines of a cart, as asked for and as split.
pub(super) const LINES_MAX: usize = 100;
/// How long a lane holds a cart's line for the transaction that makes the cart, in ms.
const PART_TTL_MS: u32 = 5_000;

/// A reservation: of one line (`skuId`, `locationId`, `quantity`), or of a cart (`lines`).
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Reserve {
    /// The shop's order.
    #[schema(value_type = String)]
    order_id: OrderId,
    #[schema(value_type = Option<String>)]
    sku_id: Option<Sku>,
    /// Without one the gateway chooses.
    #[schema(value_type = Option<String>)]
    location_id: Option<LocationId>,
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1_000_000)]
    quantity: Option<Quantity>,
    /// A cart: all of them or none. Lines on the same item count together.
    #[schema(value_type = Option<Vec<ReserveLine>>, min_items = 1, max_items = 100)]
    lines: Option<Vec<Object<ReserveLine>>>,
    /// The buyer; without one, the order is its own. A sale with a limit or a rate per user needs it.
    #[schema(value_type = Option<String>)]
    user_id: Option<UserId>,
    /// Time to pay, at most the sale's `maxHoldSeconds`, without a sale 3600; without it, the sale's `holdSeconds`,
    /// without a sale 900.
    #[schema(minimum = 1)]
    ttl_seconds: Option<u32>,
    /// Where the parcel goes: for the choice of a location.
    #[schema(value_type = Option<Destination>)]
    ship_to: Option<Object<Destination>>,
    /// A line may come from several locations where no single one has enough.
    #[serde(default)]
    allow_split: bool,
    /// In the place of the header `Idempotency-Key`.
    pub(super) idem_key: Option<String>,
}

/// A line of a cart.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ReserveLine {
    #[schema(value_type = String)]
    sku_id: Sku,
    /// Without one the gateway chooses.
    #[schema(value_type = Option<String>)]
    location_id: Option<LocationId>,
    #[schema(value_type = u32, minimum = 1, maximum = 1_000_000)]
    quantity: Quantity,
}

/// A point in degrees, or a region as locations name theirs.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Destination {
    #[schema(minimum = -90, maximum = 90)]
    latitude: Option<f64>,
    #[schema(minimum = -180, maximum = 180)]
    longitude: Option<f64>,
    #[schema(value_type = Option<String>, max_length = 128)]
    region: Option<Text<128>>,
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
            sku_id: Some(verb.sku_id),
            location_id: verb.location_id,
            quantity: Some(verb.qty),
            lines: None,
            user_id: verb.user_id,
            ttl_seconds: None,
            ship_to: None,
            allow_split: false,
            idem_key: verb.idem_key,
        }
    }
}

impl Destination {
    fn check(self) -> Result<ShipTo, Problem> {
        match (self.latitude, self.longitude, self.region) {
            (Some(latitude), Some(longitude), None) => {
                if !(-90.0..=90.0).contains(&latitude) {
                    return Err(Problem::invalid("shipTo.latitude", "must be -90 to 90"));
                }
                if !(-180.0..=180.0).contains(&longitude) {
                    return Err(Problem::invalid("shipTo.longitude", "must be -180 to 180"));
                }
                Ok(ShipTo::Point(Point { latitude, longitude }))
            }
            (None, None, Some(region)) => Ok(ShipTo::Region(region.into_string())),
            _ => Err(Problem::invalid("shipTo", "must be latitude and longitude, or region")),
        }
    }
}

/// A line that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) sku: Sku,
    /// As sent, or as chosen.
    pub(super) location: Option<LocationId>,
    /// At most 1,000,000.
    pub(super) quantity: Quantity,
}

/// What a request wants.
#[derive(Debug)]
pub(super) enum Wanted {
    Line(Wish),
    /// At least two lines, no two of which name the same.
    Cart(Vec<Wish>),
}

/// Who asks, how, and under which names.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) order: OrderId,
    pub(super) user: Option<UserId>,
    ttl_ms: u32,
    pub(super) ship_to: Option<ShipTo>,
    pub(super) allow_split: bool,
    /// The client sent a key of its own.
    pub(super) explicit: bool,
    pub(super) key: KeyHash,
    pub(super) fingerprint: Fingerprint,
    pub(super) trace: TraceId,
    /// The order's line of the first item that it was wanted of, which mostly is the only one.
    line: OnceLock<(Item, KeyHash)>,
}

impl Asked {
    pub(super) fn new(body: Reserve, key: Option<String>, trace: TraceId) -> Result<(Self, Wanted), Problem> {
        if body
            .ttl_seconds
            .is_some_and(|ttl| !(1..=TTL_SECONDS_MAX).contains(&ttl))
        {
            return Err(Problem::invalid(
                "ttlSeconds",
                "must be at least 1 and at most the sale's maxHoldSeconds",
            ));
        }
        let wanted = wanted(body.lines, body.sku_id, body.location_id, body.quantity)?;
        let ship_to = body.ship_to.map(|Object(to)| to.check()).transpose()?;
        let user = body.user_id.as_ref().map_or("", UserId::as_str);
        let order = body.order_id.as_str();
        let ttl = body.ttl_seconds.map_or_else(String::new, |ttl| ttl.to_string());
        let mut parts: Vec<Cow<'_, str>> = Vec::with_capacity(8);
        let derived = match &wanted {
            Wanted::Line(wish) => {
                let location = wish.location.as_ref().map_or("", LocationId::as_str);
                parts.extend([order, wish.sku.as_str(), location, user].map(Cow::from));
                parts.extend([wish.quantity.units().to_string(), ttl].map(Cow::from));
                KeyHash::order_line(order, wish.sku.as_str(), location)
            }
            Wanted::Cart(wishes) => {
                parts.extend(["cart", order, user].map(Cow::from));
                parts.push(ttl.into());
                for wish in wishes {
                    let location = wish.location.as_ref().map_or("", LocationId::as_str);
                    parts.extend([wish.sku.as_str(), location].map(Cow::from));
                    parts.push(wish.quantity.units().to_string().into());
                }
                KeyHash::cart(order)
            }
        };
        if ship_to.is_some() || body.allow_split {
            parts.push(format!("{ship_to:?} {}", body.allow_split).into());
        }
        let line = match &wanted {
            Wanted::Line(Wish {
                sku,
                location: Some(location),
                ..
            }) => {
                let item = Item {
                    sku: sku.clone(),
                    location: location.clone(),
                };
                OnceLock::from((item, derived))
            }
            _ => OnceLock::new(),
        };
        let asked = Asked {
            explicit: key.is_some(),
            key: key.map_or(derived, |key| KeyHash::explicit("reserve", &key)),
            fingerprint: Fingerprint::of(&parts.iter().map(AsRef::as_ref).collect::<Vec<&str>>()),
            order: body.order_id,
            user: body.user_id,
            ttl_ms: body.ttl_seconds.unwrap_or(0) * 1000,
            ship_to,
            allow_split: body.allow_split,
            trace,
            line,
        };
        Ok((asked, wanted))
    }

    /// Time to pay in ms, where one was asked for.
    pub(super) fn ttl_ms(&self) -> Option<i64> {
        (self.ttl_ms > 0).then_some(self.ttl_ms.into())
    }

    /// As it travels, now that its item is known.
    pub(super) fn slip(&self, item: &Item, quantity: Quantity) -> Slip {
        let keys = SlipKeys {
            explicit: self.explicit,
            key: self.key,
            line: self.line(item),
            fingerprint: self.fingerprint,
        };
        Slip::new(&self.order, self.user.as_ref(), quantity, self.ttl_ms, keys, self.trace)
    }

    /// As the ledger has it, made in a lane's place.
    pub(super) fn reserved(
        &self,
        sale: &Sale,
        quantity: Quantity,
        id: ReservationId,
        created_at: Millis,
        expires_at: Millis,
    ) -> Reservation {
        Reservation {
            id,
            order: self.order.clone(),
            user: self.user.clone(),
            lines: vec![Line {
                item: sale.item.clone(),
                quantity: quantity.into(),
            }],
            status: Status::Reserved,
            cause: None,
            first: None,
            ack: Ack::Durable,
            expires_at,
            created_at,
            updated_at: created_at,
        }
    }

    /// As a line of a cart travels to its lane: held for a few seconds, under a key that every repeat of the cart
    /// finds again. A derived one, so that it leaves nothing behind when it goes. A time to pay that the sale does not
    /// allow goes along, so that the lane refuses it in its turn: before the stock, after the sale's state.
    pub(super) fn part(&self, item: &Item, quantity: Quantity, hold_max_ms: u32) -> Slip {
        let keys = SlipKeys {
            explicit: false,
            key: self.part_key(item),
            line: self.line(item),
            fingerprint: self.fingerprint,
        };
        let ttl_ms = match self.ttl_ms > hold_max_ms {
            true => self.ttl_ms,
            false => PART_TTL_MS.min(hold_max_ms),
        };
        Slip::new(&self.order, self.user.as_ref(), quantity, ttl_ms, keys, self.trace)
    }

    /// The key of a cart's line in its lane.
    pub(super) fn part_key(&self, item: &Item) -> KeyHash {
        KeyHash::part(self.key, item.sku.as_str(), item.location.as_str())
    }

    /// The order's line of an item.
    pub(super) fn line(&self, item: &Item) -> KeyHash {
        let line_of = |item: &Item| KeyHash::order_line(self.order.as_str(), item.sku.as_str(), item.location.as_str());
        match self.line.get_or_init(|| (item.clone(), line_of(item))) {
            (known, line) if known == item => *line,
            _ => line_of(item),
        }
    }
}

fn wanted(
    lines: Option<Vec<Object<ReserveLine>>>,
    sku: Option<Sku>,
    location: Option<LocationId>,
    quantity: Option<Quantity>,
) -> Result<Wanted, Problem> {
    let missing = |field: &str| Problem::invalid(field, format!("missing field `{field}`"));
    let Some(lines) = lines else {
        return Ok(Wanted::Line(Wish {
            sku: sku.ok_or_else(|| missing("skuId"))?,
            location,
            quantity: quantity.ok_or_else(|| missing("quantity"))?,
        }));
    };
    for (field, is_there) in [
        ("skuId", sku.is_some()),
        ("locationId", location.is_some()),
        ("quantity", quantity.is_some()),
    ] {
        if is_there {
            return Err(Problem::invalid(field, "can't stand beside lines"));
        }
    }
    if lines.is_empty() || lines.len() > LINES_MAX {
        return Err(Problem::invalid("lines", format!("must be 1 to {LINES_MAX} lines")));
    }
    let mut wishes: BTreeMap<(Sku, Option<LocationId>), i64> = BTreeMap::new();
    for Object(line) in lines {
        *wishes.entry((line.sku_id, line.location_id)).or_default() += i64::from(line.quantity);
    }
    let wishes = wishes.into_iter().map(|((sku, location), units)| {
        Ok(Wish {
            sku,
            location,
            quantity: together(units)?,
        })
    });
    let mut wishes = wishes.collect::<Result<Vec<Wish>, Problem>>()?;
    Ok(match wishes.len() {
        1 => Wanted::Line(wishes.remove(0)),
        _ => Wanted::Cart(wishes),
    })
}

/// What lines on the same item ask for together.
pub(super) fn together(units: i64) -> Result<Quantity, Problem> {
    let too_many = |_| {
        let what = format!("must not ask for more than {QUANTITY_MAX} units of one item together");
        Problem::invalid("lines", what)
    };
    Quantity::try_from(units).map_err(too_many)
}
