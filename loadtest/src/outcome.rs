//! What an answer means to the buyer. Everything the contract foresees is a word;
//! whatever it does not foresee is [`End::Error`], and one of those fails the run.

use crate::retry::may_retry;

/// The calls of the journey; goose names the requests after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Look,
    Reserve,
    Commit,
    Release,
}

impl Step {
    /// The request's name in goose's report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Look => "look",
            Self::Reserve => "reserve",
            Self::Commit => "commit",
            Self::Release => "release",
        }
    }
}

/// How a journey ends; every journey has exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Committed,
    Released,
    WalkedAway,
    SoldOut,
    Limited,
    NotLive,
    Expired,
    Rejected,
    /// "Not now" three times.
    GaveUp,
    /// An answer that the contract does not foresee.
    Error,
}

impl End {
    /// All of them, in the order of the summary.
    pub(crate) const ALL: [Self; 10] = [
        Self::Committed,
        Self::Released,
        Self::WalkedAway,
        Self::SoldOut,
        Self::Limited,
        Self::NotLive,
        Self::Expired,
        Self::Rejected,
        Self::GaveUp,
        Self::Error,
    ];

    /// The key in the summary.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Released => "released",
            Self::WalkedAway => "walkedAway",
            Self::SoldOut => "soldOut",
            Self::Limited => "limited",
            Self::NotLive => "notLive",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
            Self::GaveUp => "gaveUp",
            Self::Error => "errors",
        }
    }
}

/// What one answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The item's page is there.
    Looked,
    /// Reserved, and in the ledger.
    Durable,
    /// Reserved; the ledger follows.
    Accepted,
    /// "Not now": may be asked again.
    Busy,
    /// The journey is over.
    Ends(End),
}

/// The outcome of `step` for an HTTP status (`None`: no answer) and the word in
/// the body: a problem's `code`, a reservation's `status`, empty for an item.
pub(crate) fn classify(step: Step, status: Option<u16>, word: &str) -> Outcome {
    let Some(status) = status.filter(|&status| !may_retry(Some(status))) else {
        return Outcome::Busy;
    };
    let end = match (step, status, word) {
        (Step::Look, 200, "") => return Outcome::Looked,
        (Step::Reserve, 201, "RESERVED") => return Outcome::Durable,
        (Step::Reserve, 202, "RESERVED") => return Outcome::Accepted,
        // The first: a replay under the same key, after the reservation has ended.
        (Step::Reserve | Step::Release, 200, "EXPIRED") | (Step::Commit, 409, "RESERVATION_EXPIRED") => End::Expired,
        (Step::Reserve, 200, "REJECTED") | (Step::Commit | Step::Release, 409, "RESERVATION_REJECTED") => End::Rejected,
        (Step::Reserve, 409, "INSUFFICIENT_STOCK") => End::SoldOut,
        (Step::Reserve, 409, "USER_LIMIT_EXCEEDED") => End::Limited,
        (Step::Reserve, 409, "SALE_NOT_LIVE") | (Step::Commit, 409, "SALE_FROZEN") => End::NotLive,
        (Step::Commit, 200, "COMMITTED") => End::Committed,
        (Step::Release, 200, "RELEASED") => End::Released,
        _ => End::Error,
    };
    Outcome::Ends(end)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{Outcome, Step, classify};

    fn word_of(outcome: Outcome) -> &'static str {
        match outcome {
            Outcome::Looked => "looked",
            Outcome::Durable => "durable",
            Outcome::Accepted => "accepted",
            Outcome::Busy => "busy",
            Outcome::Ends(end) => end.word(),
        }
    }

    #[test]
    fn every_answer_means_what_it_means_to_the_k6_script() {
        let vectors: Value = serde_json::from_str(include_str!("../vectors.json")).expect("vectors.json is JSON");
        let steps = [Step::Look, Step::Reserve, Step::Commit, Step::Release];
        for answer in vectors["answers"].as_array().expect("a list") {
            let text = |key: &str| answer[key].as_str().expect("text");
            let step = steps.into_iter().find(|step| step.name() == text("step"));
            let status = answer["status"].as_u64().and_then(|n| u16::try_from(n).ok());
            // k6 says 0 where there was no answer.
            let status = status.filter(|&status| status != 0);
            let outcome = classify(step.expect("a step"), status, text("word"));
            assert_eq!(word_of(outcome), text("outcome"), "{answer}");
        }
    }
}
