//! What operators ask of sales: the bodies, checked.

use serde::{Deserialize, Serialize};

use crate::domain::id::{Item, LocationId, SaleId, Sku};
use crate::domain::sale::{RedisDown, UserRate};
use crate::domain::text::Text;
use crate::domain::time::Millis;
use crate::http::json::Object;
use crate::http::numbers::{Whole, sent};
use crate::http::problem::Problem;
use crate::ledger::sale::NewSale;
use crate::ledger::sale_patch::SalePatch;

/// Time to pay where the sale says none.
const HOLD_SECONDS: u32 = 900;
/// Longest time to pay where the sale says none.
const HOLD_SECONDS_MAX: u32 = 3_600;
/// How long a reserve waits for durable where the sale says nothing.
const ACK_WAIT_MS: u32 = 1_000;
/// Requests a second and gateway that the ledger decides while Redis is away, where the sale says nothing.
const REDIS_DOWN_RATE: u32 = 1_000;
/// Most attempts a second and user; rates travel in thousandths of 32 bits.
const RATE_MAX: f64 = 1_000_000.0;

/// Units of a sale, and of a limit.
type Units = Whole<1, 1_000_000>;
/// Seconds to pay, up to 30 days.
type HoldSeconds = Whole<1, 2_592_000>;
/// As long as `Prefer: wait` may ask for.
type AckWaitMs = Whole<0, 30_000>;

/// A sale to be made.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct CreateBody {
    #[schema(value_type = String)]
    pub(super) sale_id: SaleId,
    #[schema(value_type = String)]
    sku_id: Sku,
    #[schema(value_type = String)]
    location_id: LocationId,
    /// Units set aside for the sale.
    #[schema(value_type = i64, minimum = 1, maximum = 1_000_000)]
    allocation: Units,
    /// Units a user may hold and have bought.
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 1_000_000)]
    per_user_limit: Option<Units>,
    /// Attempts that one user may make.
    #[schema(value_type = Option<UserRate>)]
    user_rate: Option<Object<UserRate>>,
    /// Time to pay; 900 by default, or `maxHoldSeconds` where that is less.
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 2_592_000)]
    hold_seconds: Option<HoldSeconds>,
    /// Longest time to pay; 3600 by default, or `holdSeconds` where that is more.
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 2_592_000)]
    max_hold_seconds: Option<HoldSeconds>,
    /// Lanes that the sale is spread over; 1 by default, at most all.
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 512)]
    buckets: Option<Whole<1, 512>>,
    /// Not sent: it waits for `start`.
    #[schema(value_type = Option<String>, format = DateTime)]
    starts_at: Option<Millis>,
    /// Not sent: it waits for `stop`.
    #[schema(value_type = Option<String>, format = DateTime)]
    ends_at: Option<Millis>,
    /// How long a reserve waits for durable by default; 1000 by default.
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 30_000)]
    ack_wait_ms: Option<AckWaitMs>,
    /// `refuse` by default. With `ledger` the sale goes on in the ledger while Redis is away, and its lanes bound what
    /// they owe the ledger.
    redis_down: Option<RedisDown>,
    /// Requests a second that each gateway has the ledger decide while Redis is away; 1000 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 1_000_000)]
    redis_down_rate: Option<Units>,
    /// Units that may be accepted and not durable, over all buckets, and are kept back while Redis is away; by default a
    /// tenth of the allocation, in each bucket no less than 5 and than `perUserLimit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 1_000_000)]
    undurable_max: Option<Units>,
}

/// What is to change; what is not sent stays, null clears.
#[derive(Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct PatchBody {
    /// The new total.
    #[serde(deserialize_with = "sent", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = i64, minimum = 1, maximum = 1_000_000)]
    allocation: Option<Units>,
    #[serde(deserialize_with = "sent", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 1_000_000)]
    per_user_limit: Option<Option<Units>>,
    #[serde(deserialize_with = "sent", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<UserRate>)]
    user_rate: Option<Option<Object<UserRate>>>,
    #[serde(deserialize_with = "sent", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = i64, minimum = 1, maximum = 2_592_000)]
    hold_seconds: Option<HoldSeconds>,
    #[serde(deserialize_with = "sent", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    ends_at: Option<Option<Millis>>,
    #[serde(deserialize_with = "sent", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = i64, minimum = 0, maximum = 30_000)]
    ack_wait_ms: Option<AckWaitMs>,
    #[serde(deserialize_with = "sent", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = RedisDown)]
    redis_down: Option<RedisDown>,
    #[serde(deserialize_with = "sent", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = i64, minimum = 1, maximum = 1_000_000)]
    redis_down_rate: Option<Units>,
    /// Null: a tenth of the allocation.
    #[serde(deserialize_with = "sent", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 1_000_000)]
    undurable_max: Option<Option<Units>>,
}

/// Why something is done to a sale.
#[derive(Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ActBody {
    /// Goes to the log.
    #[schema(value_type = Option<String>, max_length = 255)]
    pub(super) reason: Option<Text<255>>,
}

impl CreateBody {
    /// The sale, checked as far as that needs no clock.
    pub(super) fn read(&self) -> Result<NewSale, Problem> {
        check_rate(self.user_rate.as_ref())?;
        if let (Some(start), Some(end)) = (self.starts_at, self.ends_at)
            && end <= start
        {
            return Err(ends_too_early());
        }
        let (hold, most) = match (self.hold_seconds, self.max_hold_seconds) {
            (Some(hold), Some(most)) => (hold.get_u32(), most.get_u32()),
            (Some(hold), None) => (hold.get_u32(), HOLD_SECONDS_MAX.max(hold.get_u32())),
            (None, Some(most)) => (HOLD_SECONDS.min(most.get_u32()), most.get_u32()),
            (None, None) => (HOLD_SECONDS, HOLD_SECONDS_MAX),
        };
        if hold > most {
            return Err(hold_too_long(most));
        }
        Ok(NewSale {
            id: self.sale_id.clone(),
            item: Item {
                sku: self.sku_id.clone(),
                location: self.location_id.clone(),
            },
            allocation: self.allocation.get(),
            per_user_limit: self.per_user_limit.map(Units::get_u32),
            user_rate: self.user_rate.map(|Object(rate)| rate),
            hold_ms: hold * 1_000,
            hold_max_ms: most * 1_000,
            buckets: self
                .buckets
                .map_or(1, |buckets| u16::try_from(buckets.get()).expect("at most 512 buckets")),
            starts_at: self.starts_at,
            ends_at: self.ends_at,
            ack_wait_ms: self.ack_wait_ms.map_or(ACK_WAIT_MS, AckWaitMs::get_u32),
            redis_down: self.redis_down.unwrap_or_default(),
            redis_down_rate: self.redis_down_rate.map_or(REDIS_DOWN_RATE, Units::get_u32),
            undurable_max: self.undurable_max.map(Units::get_u32),
        })
    }
}

impl PatchBody {
    /// The patch, checked as far as that needs neither the sale nor a clock.
    pub(super) fn read(&self) -> Result<SalePatch, Problem> {
        check_rate(self.user_rate.as_ref().and_then(Option::as_ref))?;
        Ok(SalePatch {
            allocation: self.allocation.map(Units::get),
            per_user_limit: self.per_user_limit.map(|limit| limit.map(Units::get_u32)),
            user_rate: self.user_rate.map(|rate| rate.map(|Object(rate)| rate)),
            hold_ms: self.hold_seconds.map(|hold| hold.get_u32() * 1_000),
            ends_at: self.ends_at,
            ack_wait_ms: self.ack_wait_ms.map(AckWaitMs::get_u32),
            redis_down: self.redis_down,
            redis_down_rate: self.redis_down_rate.map(Units::get_u32),
            undurable_max: self.undurable_max.map(|max| max.map(Units::get_u32)),
        })
    }
}

/// 400: the sale would end before it starts, or before now.
pub(super) fn ends_too_early() -> Problem {
    Problem::invalid("endsAt", "must be after now and after startsAt")
}

/// 400: the time to pay exceeds the sale's longest.
pub(super) fn hold_too_long(max_seconds: u32) -> Problem {
    Problem::invalid(
        "holdSeconds",
        format!("must be at most maxHoldSeconds, which is {max_seconds}"),
    )
}

fn check_rate(rate: Option<&Object<UserRate>>) -> Result<(), Problem> {
    let Some(&Object(UserRate { per_second, burst })) = rate else {
        return Ok(());
    };
    if !(0.001..=RATE_MAX).contains(&per_second) {
        return Err(Problem::invalid(
            "userRate.perSecond",
            format!("must be from 0.001 to {RATE_MAX}"),
        ));
    }
    Units::try_from(i64::from(burst))
        .map(|_| ())
        .map_err(|error| Problem::invalid("userRate.burst", error))
}
