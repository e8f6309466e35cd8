//! Instants, in milliseconds since 1970 UTC: the unit of every lane, every row and every answer.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::de::Error as _;
use serde::{Deserialize, Serialize, Serializer};

/// The year 10000: what comes later has no RFC 3339.
const END: Millis = Millis(253_402_300_800_000);

/// An instant: milliseconds since 1970-01-01T00:00:00Z, by Postgres' clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub i64);

impl Millis {
    /// This instant moved by `ms`, without wrapping.
    #[must_use]
    pub fn plus_ms(self, ms: i64) -> Self {
        Millis(self.0.saturating_add(ms))
    }

    /// As chrono's type; instants chrono can't hold become its nearest end.
    #[must_use]
    pub fn to_utc(self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.0).unwrap_or(if self.0 < 0 {
            DateTime::<Utc>::MIN_UTC
        } else {
            DateTime::<Utc>::MAX_UTC
        })
    }
}

impl From<DateTime<Utc>> for Millis {
    fn from(at: DateTime<Utc>) -> Self {
        Millis(at.timestamp_millis())
    }
}

impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.to_utc().to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// From RFC 3339 alone, and of the years that Postgres, a lane and every answer can hold.
impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let at = DateTime::parse_from_rfc3339(&text)
            .map_err(|error| D::Error::custom(format_args!("must be a date and time as RFC 3339 has them: {error}")))?;
        let at = Millis(at.timestamp_millis());
        if !(Millis(0)..END).contains(&at) {
            return Err(D::Error::custom("must be between the years 1970 and 9999"));
        }
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_reads_as_rfc_3339_with_milliseconds() {
        assert_eq!(Millis(1_700_000_000_007).to_string(), "2023-11-14T22:13:20.007Z");
        let back: Millis = serde_json::from_str("\"2023-11-14T22:13:20.007Z\"").expect("parses");
        assert_eq!(back, Millis(1_700_000_000_007));
    }

    #[test]
    fn an_instant_is_read_as_rfc_3339_and_of_its_years_alone() {
        let read = |text: &str| serde_json::from_str::<Millis>(&format!("\"{text}\"")).ok();
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2023-11-14T23:13:20.007+01:00", 1_700_000_000_007),
            ("9999-12-31T23:59:59.999Z", END.0 - 1),
        ] {
            assert_eq!(read(text), Some(Millis(ms)), "{text}");
        }
        for text in [
            "1969-12-31T23:59:59.9999Z",
            "9999-12-31T23:59:59.999-00:01",
            "0001-01-01T00:00:00Z",
            "-5000-01-01T00:00:00Z",
            "+12000-01-01T00:00:00Z",
            "2023-1-1T00:00:00Z",
            "2023-11-14T22:13:20",
            "2023-11-14",
            "",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        assert!(serde_json::from_str::<Millis>("1700000000007").is_err());
    }
}
