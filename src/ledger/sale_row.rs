//! How a sale is read from its row.

use std::num::NonZeroU32;

use chrono::{DateTime, Utc};

use super::LedgerError;
use crate::domain::id::{Item, LocationId, SaleId, Sku};
use crate::domain::lane::LaneNo;
use crate::domain::sale::{RedisDown, Sale, SaleState, UserRate};
use crate::domain::time::Millis;

/// The columns of a sale, under the alias `s`.
macro_rules! sale_columns {
    () => {
        "s.sale_no, s.sale_id, s.sku_id, s.location_id, s.state::text AS state, s.thaws_to::text AS thaws_to,
         s.allocation, s.per_user_limit, s.rate_per_second, s.rate_burst, s.hold_ms, s.hold_max_ms, s.lanes,
         s.starts_at, s.ends_at, s.ack_wait_ms, s.redis_down, s.redis_down_rate, s.undurable_max, s.drained"
    };
}
pub(super) use sale_columns;

/// A sale's row.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct SaleRow {
    sale_no: i32,
    sale_id: String,
    sku_id: String,
    location_id: String,
    state: String,
    thaws_to: Option<String>,
    allocation: i64,
    per_user_limit: Option<i32>,
    rate_per_second: Option<f64>,
    rate_burst: Option<i32>,
    hold_ms: i64,
    hold_max_ms: i64,
    lanes: Vec<i16>,
    starts_at: Option<DateTime<Utc>>,
    ends_at: Option<DateTime<Utc>>,
    ack_wait_ms: i32,
    redis_down: String,
    redis_down_rate: i32,
    undurable_max: Option<i32>,
    drained: bool,
}

/// An item as rows name it.
pub(super) fn read_item(sku: &str, location: &str) -> Result<Item, LedgerError> {
    let broken = |_| LedgerError::Broken(format!("{sku} at {location} is no item"));
    Ok(Item {
        sku: Sku::try_from(sku).map_err(broken)?,
        location: LocationId::try_from(location).map_err(broken)?,
    })
}

impl SaleRow {
    pub(super) fn read(self) -> Result<Sale, LedgerError> {
        let broken = |what: &str| LedgerError::Broken(format!("sale {} has no readable {what}", self.sale_no));
        let state = |word: &str| SaleState::parse(word).ok_or_else(|| broken("state"));
        let number = |value: i64| u32::try_from(value).map_err(|_| broken("numbers"));
        let rate = match (self.rate_per_second, self.rate_burst) {
            (Some(per_second), Some(burst)) => Some(UserRate {
                per_second,
                burst: number(burst.into())?,
            }),
            _ => None,
        };
        Ok(Sale {
            no: self.sale_no,
            id: SaleId::try_from(self.sale_id.as_str()).map_err(|_| broken("id"))?,
            item: read_item(&self.sku_id, &self.location_id)?,
            state: state(&self.state)?,
            thaws_to: self.thaws_to.as_deref().map(state).transpose()?,
            allocation: self.allocation,
            per_user_limit: self.per_user_limit.map(|limit| number(limit.into())).transpose()?,
            user_rate: rate,
            hold_ms: number(self.hold_ms)?,
            hold_max_ms: number(self.hold_max_ms)?,
            lanes: self.lanes.iter().map(|lane| LaneNo::from_i16(*lane)).collect(),
            starts_at: self.starts_at.map(Millis::from),
            ends_at: self.ends_at.map(Millis::from),
            ack_wait_ms: number(self.ack_wait_ms.into())?,
            redis_down: RedisDown::parse(&self.redis_down).ok_or_else(|| broken("choice"))?,
            redis_down_rate: number(self.redis_down_rate.into())?,
            undurable_max: match self.undurable_max {
                Some(max) => NonZeroU32::new(number(max.into())?),
                None => None,
            },
            drained: self.drained,
        })
    }
}
