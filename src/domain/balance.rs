//! The balance of a SKU at a location, and what of it a shopper may have.

use serde::Serialize;

/// Units of one SKU at one location.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Balance {
    /// Physically there, damaged ones included.
    pub on_hand: i64,
    /// Promised to durable reservations that have not ended.
    pub reserved: i64,
    /// There, but not for sale.
    pub unavailable: i64,
    /// Not offered to shoppers.
    pub safety_stock: i64,
    /// Set aside for a sale; still available to shoppers until reserved.
    pub escrowed: i64,
    /// Cumulative.
    pub sold: i64,
    /// Cumulative.
    pub damaged: i64,
    /// Cumulative.
    pub returned: i64,
}

/// What events say of a balance: everything in it that units move in and out of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EventImage)]
pub struct Image {
    /// Physically there, damaged ones included.
    pub on_hand: i64,
    /// Promised to durable reservations that have not ended.
    pub reserved: i64,
    /// There, but not for sale.
    pub unavailable: i64,
    /// Set aside for a sale.
    pub escrowed: i64,
    /// Cumulative.
    pub sold: i64,
    /// Cumulative.
    pub damaged: i64,
    /// Cumulative.
    pub returned: i64,
}

impl Image {
    /// With a further change.
    #[must_use]
    pub fn plus(&self, delta: &Image) -> Image {
        Image {
            on_hand: self.on_hand + delta.on_hand,
            reserved: self.reserved + delta.reserved,
            unavailable: self.unavailable + delta.unavailable,
            escrowed: self.escrowed + delta.escrowed,
            sold: self.sold + delta.sold,
            damaged: self.damaged + delta.damaged,
            returned: self.returned + delta.returned,
        }
    }

    /// What changed since `before`.
    #[must_use]
    pub fn minus(&self, before: &Image) -> Image {
        Image {
            on_hand: self.on_hand - before.on_hand,
            reserved: self.reserved - before.reserved,
            unavailable: self.unavailable - before.unavailable,
            escrowed: self.escrowed - before.escrowed,
            sold: self.sold - before.sold,
            damaged: self.damaged - before.damaged,
            returned: self.returned - before.returned,
        }
    }
}

impl Balance {
    /// What events say of it.
    #[must_use]
    pub fn image(&self) -> Image {
        Image {
            on_hand: self.on_hand,
            reserved: self.reserved,
            unavailable: self.unavailable,
            escrowed: self.escrowed,
            sold: self.sold,
            damaged: self.damaged,
            returned: self.returned,
        }
    }

    /// `on_hand - reserved - unavailable - safety_stock`, never below 0.
    #[must_use]
    pub fn available(&self) -> i64 {
        (self.on_hand - self.reserved - self.unavailable - self.safety_stock).max(0)
    }

    /// What may be reserved, set aside for a sale or sent elsewhere: nothing of what is promised, set aside or kept back.
    /// Below 0 where the safety stock is not there.
    #[must_use]
    pub fn free(&self) -> i64 {
        self.on_hand - self.reserved - self.unavailable - self.escrowed - self.safety_stock
    }

    /// Units that no promise, damage or sale covers, safety stock too: what a correction may take away.
    #[must_use]
    pub fn unpromised(&self) -> i64 {
        (self.on_hand - self.reserved - self.unavailable - self.escrowed).max(0)
    }
}
