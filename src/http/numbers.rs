//! Numbers in bodies that have bounds of their own, and fields that may be null.

use serde::{Deserialize, Deserializer, Serialize};

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub(super) struct Whole<const MIN: i64, const MAX: i64>(i64);

/// Units, none included: 0 to 1,000,000.
pub(super) type Units = Whole<0, 1_000_000>;

/// The number is out of bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a whole number from {0} to {1}")]
pub(super) struct OutOfBounds(i64, i64);

impl<const MIN: i64, const MAX: i64> Whole<MIN, MAX> {
    /// The number.
    pub(super) fn get(self) -> i64 {
        self.0
    }

    /// The number, of a type whose bounds are below 2^32.
    ///
    /// # Panics
    /// `MIN` or `MAX` is out of 32 bits: fails to compile.
    pub(super) fn get_u32(self) -> u32 {
        const { assert!(MIN >= 0 && MAX <= u32::MAX as i64) };
        u32::try_from(self.0).expect("within bounds that 32 bits hold")
    }
}

impl<const MIN: i64, const MAX: i64> TryFrom<i64> for Whole<MIN, MAX> {
    type Error = OutOfBounds;

    fn try_from(number: i64) -> Result<Self, OutOfBounds> {
        if (MIN..=MAX).contains(&number) {
            Ok(Whole(number))
        } else {
            Err(OutOfBounds(MIN, MAX))
        }
    }
}

impl<const MIN: i64, const MAX: i64> From<Whole<MIN, MAX>> for i64 {
    fn from(whole: Whole<MIN, MAX>) -> i64 {
        whole.0
    }
}

/// A field that was sent: with `T = Option<_>`, null is a value of its own.
pub(super) fn sent<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Patch {
        #[serde(default, deserialize_with = "sent")]
        limit: Option<Option<Whole<1, 5>>>,
        #[serde(default, deserialize_with = "sent")]
        units: Option<Units>,
    }

    #[test]
    fn null_is_told_from_nothing_and_numbers_keep_their_bounds() {
        let parse = |text: &str| serde_json::from_str::<Patch>(text).map_err(|e| e.to_string());
        let of = |limit, units| Ok(Patch { limit, units });
        assert_eq!(parse("{}"), of(None, None));
        assert_eq!(parse(r#"{"limit":null}"#), of(Some(None), None));
        assert_eq!(
            parse(r#"{"limit":5,"units":0}"#),
            of(Some(Some(Whole(5))), Some(Whole(0)))
        );
        for bad in [
            r#"{"units":null}"#,
            r#"{"limit":0}"#,
            r#"{"limit":6}"#,
            r#"{"units":1.5}"#,
            r#"{"units":"1"}"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
