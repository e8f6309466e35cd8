//! The opaque ids that clients choose: SKU, location, order, user, sale, return, transfer.
//!
//! All are 1 to 128 characters of `A-Z a-z 0-9 . _ : -`, checked once, where they enter. Past the edge there are no
//! bare strings.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Longest id, in characters (all are ASCII, so also bytes).
pub const ID_LENGTH_MAX: usize = 128;

/// SKU ids that would read as other paths of the API.
pub const RESERVED_SKUS: [&str; 5] = ["availability", "events", "reservations", ".", ".."];

/// Why a text is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// It is empty or longer than 128 characters.
    #[error("must be 1 to 128 characters long")]
    Length,
    /// It holds a character that ids may not hold.
    #[error("may only hold A-Z a-z 0-9 . _ : -")]
    Character,
    /// It is a SKU id that the API keeps for itself.
    #[error("is reserved")]
    Reserved,
}

fn check(text: &str) -> Result<(), IdError> {
    if text.is_empty() || text.len() > ID_LENGTH_MAX {
        return Err(IdError::Length);
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
    if text.bytes().all(allowed) {
        Ok(())
    } else {
        Err(IdError::Character)
    }
}

/// Reads an id from where its text stands, without a copy in between.
struct IdVisitor<T>(PhantomData<T>);

impl<T: for<'a> TryFrom<&'a str, Error = IdError>> Visitor<'_> for IdVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::try_from(text).map_err(E::custom)
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $reserved:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text of the id.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<&str> for $name {
            type Error = IdError;
            fn try_from(text: &str) -> Result<Self, IdError> {
                check(text)?;
                let reserved: &[&str] = $reserved;
                if reserved.contains(&text) {
                    return Err(IdError::Reserved);
                }
                Ok($name(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::try_from(text.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.deserialize_str(IdVisitor(PhantomData))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// A sellable variant of a product.
    Sku,
    &RESERVED_SKUS
);
id!(
    /// A place where stock lies.
    LocationId,
    &[]
);
id!(
    /// The shop's order.
    OrderId,
    &[]
);
id!(
    /// The shop's customer.
    UserId,
    &[]
);
id!(
    /// A flash sale.
    SaleId,
    &[]
);
id!(
    /// A return of sold units.
    ReturnId,
    &[]
);
id!(
    /// A transfer between locations.
    TransferId,
    &[]
);

/// A SKU at a location: what is counted, sold and put on sale.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Item {
    /// What.
    pub sku: Sku,
    /// Where.
    pub location: LocationId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked_where_they_enter() {
        assert!(Sku::try_from("a.B_9:-").is_ok());
        assert_eq!(Sku::try_from(""), Err(IdError::Length));
        assert_eq!(Sku::try_from("x".repeat(129)), Err(IdError::Length));
        assert!(Sku::try_from("x".repeat(128)).is_ok());
        for bad in ["a b", "a/b", "ä", "a\0", "a\n"] {
            assert_eq!(Sku::try_from(bad), Err(IdError::Character), "{bad:?}");
        }
        for reserved in RESERVED_SKUS {
            assert_eq!(Sku::try_from(reserved), Err(IdError::Reserved));
            assert!(OrderId::try_from(reserved).is_ok());
        }
    }
}
