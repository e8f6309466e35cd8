//! Where a page begins: a cursor that clients pass back as they got it, or the id of an event they know.
//!
//! A cursor carries its event's time beside its id, so that days before it are not even looked at.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;

use crate::domain::time::Millis;

/// The end of the year 9999, in ms since 1970: every calendar that this meets can hold it, and days around it.
const AT_MAX: i64 = 253_402_300_799_999;

/// The last event of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Its id.
    pub id: i64,
    /// Its time.
    pub at: Millis,
}

/// What a page comes after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// The end of another page.
    Page(Cursor),
    /// This event.
    Event(i64),
}

/// The text is no cursor of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be `next` of a page, or an eventId")]
pub struct NotACursor;

/// The first byte keeps a cursor from reading as an event's id.
impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64URL_NOPAD.encode(format!("e{}.{}", self.id, self.at.0).as_bytes()))
    }
}

impl FromStr for Cursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Self, NotACursor> {
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| NotACursor)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| NotACursor)?;
        let (id, at) = text
            .strip_prefix('e')
            .and_then(|text| text.split_once('.'))
            .ok_or(NotACursor)?;
        let (id, at) = (id.parse().map_err(|_| NotACursor)?, at.parse().map_err(|_| NotACursor)?);
        if !(0..=AT_MAX).contains(&at) {
            return Err(NotACursor);
        }
        Ok(Cursor { id, at: Millis(at) })
    }
}

impl FromStr for After {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Self, NotACursor> {
        text.parse()
            .map(After::Event)
            .or_else(|_| text.parse().map(After::Page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_went() {
        for (id, at) in [(1, 0), (i64::MAX, 1_700_000_000_007), (12, AT_MAX)] {
            let cursor = Cursor { id, at: Millis(at) };
            assert_eq!(cursor.to_string().parse(), Ok(After::Page(cursor)));
        }
        assert_eq!("42".parse(), Ok(After::Event(42)));
        let late = Cursor {
            id: 1,
            at: Millis(i64::MAX),
        };
        assert_eq!(late.to_string().parse::<After>(), Err(NotACursor));
        for bad in ["", "x", "4 2", "ZTE", "ZTEuMg=="] {
            assert_eq!(bad.parse::<After>(), Err(NotACursor), "{bad}");
        }
    }
}
