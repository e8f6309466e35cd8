//! A quantity of units that a request may ask for.

use serde::{Deserialize, Serialize};

/// Largest quantity on input, in units.
pub const QUANTITY_MAX: u32 = 1_000_000;

/// 1 to 1,000,000 whole units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "u32")]
pub struct Quantity(u32);

/// The number is not a quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a whole number from 1 to {QUANTITY_MAX}")]
pub struct QuantityError;

impl Quantity {
    /// The number of units.
    #[must_use]
    pub fn units(self) -> u32 {
        self.0
    }
}

impl TryFrom<i64> for Quantity {
    type Error = QuantityError;
    fn try_from(units: i64) -> Result<Self, QuantityError> {
        match u32::try_from(units) {
            Ok(units) if (1..=QUANTITY_MAX).contains(&units) => Ok(Quantity(units)),
            _ => Err(QuantityError),
        }
    }
}

impl From<Quantity> for u32 {
    fn from(quantity: Quantity) -> u32 {
        quantity.0
    }
}

impl From<Quantity> for i64 {
    fn from(quantity: Quantity) -> i64 {
        quantity.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_1_to_a_million_is_a_quantity() {
        for bad in [0, -1, 1_000_001, i64::MAX, i64::MIN] {
            assert_eq!(Quantity::try_from(bad), Err(QuantityError));
        }
        assert_eq!(Quantity::try_from(1_000_000).map(Quantity::units), Ok(QUANTITY_MAX));
    }
}
