//! What clients ask for, and what is on sale.

use std::sync::Arc;

use flashgate::domain::entry::Slip;
use flashgate::domain::id::{Item, LocationId, SaleId, Sku};
use flashgate::domain::key::{Fingerprint, KeyHash};
use flashgate::domain::lane::LaneNo;
use flashgate::domain::sale::{RedisDown, Sale, SaleState};
use flashgate::domain::trace::TraceId;

/// A request to buy, in the words of a client.
#[derive(Clone, Debug)]
pub(crate) struct Buy {
    order: String,
    user: Option<String>,
    quantity: u32,
    ttl_ms: u32,
    key: Option<String>,
}

impl Buy {
    /// One unit, without a key.
    pub(crate) fn of(user: &str, order: &str) -> Buy {
        Buy {
            user: Some(user.to_owned()),
            ..Buy::anonymous(order)
        }
    }

    /// One unit for nobody in particular.
    pub(crate) fn anonymous(order: &str) -> Buy {
        Buy {
            order: order.to_owned(),
            user: None,
            quantity: 1,
            ttl_ms: 0,
            key: None,
        }
    }

    pub(crate) fn units(mut self, quantity: u32) -> Buy {
        self.quantity = quantity;
        self
    }

    pub(crate) fn ttl_ms(mut self, ttl_ms: u32) -> Buy {
        self.ttl_ms = ttl_ms;
        self
    }

    pub(crate) fn key(mut self, key: &str) -> Buy {
        self.key = Some(key.to_owned());
        self
    }

    pub(crate) fn slip(&self) -> Slip {
        let line = KeyHash::order_line(&self.order, "sku", "");
        let user = self.user.as_deref().unwrap_or("");
        let (quantity, ttl_ms) = (self.quantity.to_string(), self.ttl_ms.to_string());
        Slip {
            explicit_key: self.key.is_some(),
            quantity: self.quantity,
            ttl_ms: self.ttl_ms,
            key: self
                .key
                .as_deref()
                .map_or(line, |key| KeyHash::explicit("reserve", key)),
            line,
            fingerprint: Fingerprint::of(&[&self.order, user, &quantity, &ttl_ms]),
            trace: TraceId([5; 16]),
            order: self.order.clone(),
            user: self.user.clone(),
        }
    }
}

/// A sale with buckets in these lanes. What it allows stands in its lanes.
pub(crate) fn sale(no: i32, lanes: &[LaneNo]) -> Arc<Sale> {
    Arc::new(Sale {
        no,
        id: SaleId::try_from(format!("sale-{no}")).expect("an id"),
        item: Item {
            sku: Sku::try_from("sku").expect("an id"),
            location: LocationId::try_from("here").expect("an id"),
        },
        state: SaleState::Live,
        thaws_to: None,
        allocation: 0,
        per_user_limit: None,
        user_rate: None,
        hold_ms: 0,
        hold_max_ms: 0,
        lanes: lanes.to_vec(),
        starts_at: None,
        ends_at: None,
        ack_wait_ms: 0,
        redis_down: RedisDown::Refuse,
        redis_down_rate: 1_000,
        undurable_max: None,
        drained: false,
    })
}
