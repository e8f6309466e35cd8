//! Free text that clients send along: notes, reasons, payment ids, names.

use serde::{Deserialize, Serialize};

/// Text of 1 to `MAX` bytes without control characters: it goes into rows, logs and pages as it is, and Postgres
/// takes no NUL.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Text<const MAX: usize>(String);

/// Why a text is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// It is empty or too long.
    #[error("must be 1 to {0} bytes long")]
    Length(usize),
    /// It holds a control character.
    #[error("may not hold control characters")]
    Control,
}

impl<const MAX: usize> Text<MAX> {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, owned.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

impl<const MAX: usize> TryFrom<String> for Text<MAX> {
    type Error = TextError;
    fn try_from(text: String) -> Result<Self, TextError> {
        if text.is_empty() || text.len() > MAX {
            return Err(TextError::Length(MAX));
        }
        if text.chars().any(char::is_control) {
            return Err(TextError::Control);
        }
        Ok(Text(text))
    }
}

impl<const MAX: usize> TryFrom<&str> for Text<MAX> {
    type Error = TextError;
    fn try_from(text: &str) -> Result<Self, TextError> {
        Self::try_from(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_long_texts_are_refused() {
        assert_eq!(Text::<4>::try_from(""), Err(TextError::Length(4)));
        assert_eq!(Text::<4>::try_from("abcde"), Err(TextError::Length(4)));
        for bad in ["a\0b", "a\nb", "\u{7f}"] {
            assert_eq!(Text::<9>::try_from(bad), Err(TextError::Control), "{bad:?}");
        }
        assert_eq!(
            Text::<9>::try_from("grün").map(Text::into_string).as_deref(),
            Ok("grün")
        );
    }
}
