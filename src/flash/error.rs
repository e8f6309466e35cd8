//! What can keep the live stock from answering.

use crate::domain::bytes::Malformed;
use crate::domain::entry::EntryError;

/// Redis could not answer, or its answer does not count.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FlashError {
    /// Redis is away or too slow; what it did with a call in flight is unknown.
    #[error("redis is unavailable: {0}")]
    Unavailable(String),
    /// Redis answers that it does no such thing now: it is loading, full, a replica, or the lane is on its way to
    /// another node.
    #[error("redis refuses at the moment: {0}")]
    Refused(String),
    /// The node does not know a script: it restarted or was promoted, and its lanes must be recovered first.
    #[error("the lane's node has lost its scripts")]
    NotLoaded,
    /// The lane is not at our epoch, is closed, or is behind what we have seen of it.
    #[error("the lane is not open at our epoch")]
    Stale,
    /// Too many requests wait for the lane.
    #[error("too many requests wait for the lane")]
    Overloaded,
    /// Whether any bucket has the units could not be found out in time.
    #[error("the buckets could not be compared in time")]
    Undecided,
    /// An answer does not mean what it must: a defect.
    #[error("redis answered unexpectedly: {0}")]
    Broken(String),
}

/// How replies begin that say "not now".
const REFUSALS: [&str; 13] = [
    "OOM",
    "READONLY",
    "LOADING",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "ASK",
    "MOVED",
    "UNBLOCKED",
    "BUSY",
    "MISCONF",
    "NOREPLICAS",
    "NOMASTERLINK",
];

impl From<Malformed> for FlashError {
    fn from(error: Malformed) -> Self {
        FlashError::Broken(error.to_string())
    }
}

impl From<EntryError> for FlashError {
    fn from(error: EntryError) -> Self {
        FlashError::Broken(format!("an entry of a queue: {error}"))
    }
}

impl From<fred::error::Error> for FlashError {
    fn from(error: fred::error::Error) -> Self {
        use fred::error::ErrorKind;
        let details = error.details();
        if details.starts_with("NOSCRIPT") {
            return FlashError::NotLoaded;
        }
        let word = details.split_whitespace().next().unwrap_or_default();
        if REFUSALS.contains(&word) {
            return FlashError::Refused(details.to_owned());
        }
        match error.kind() {
            ErrorKind::InvalidArgument | ErrorKind::InvalidCommand | ErrorKind::Parse => {
                FlashError::Broken(details.to_owned())
            }
            ErrorKind::Unknown if is_reply(details) => FlashError::Broken(details.to_owned()),
            kind => FlashError::Unavailable(format!("{}: {details}", kind.to_str())),
        }
    }
}

/// Whether an error is the server's reply, which begins with a word in capitals; the client's own words tell of
/// connections that broke under it.
fn is_reply(details: &str) -> bool {
    let word = details.split_whitespace().next().unwrap_or_default();
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
}

#[cfg(test)]
mod tests {
    use fred::error::{Error, ErrorKind};

    use super::FlashError;

    fn of(details: &'static str) -> FlashError {
        Error::new(ErrorKind::Unknown, details).into()
    }

    #[test]
    fn only_a_reply_of_the_server_is_a_defect() {
        assert!(matches!(of("ERR user_script:7: boom"), FlashError::Broken(_)));
        assert!(matches!(of("NOSCRIPT No matching script"), FlashError::NotLoaded));
        assert!(matches!(of("LOADING Redis is loading"), FlashError::Refused(_)));
        // What a reader is told whose server has become a replica.
        assert!(matches!(of("UNBLOCKED force unblock"), FlashError::Refused(_)));
        for own in [
            "Failed to route command.",
            "Too many failed write attempts.",
            "No response!",
        ] {
            assert!(matches!(of(own), FlashError::Unavailable(_)), "{own}");
        }
    }
}
