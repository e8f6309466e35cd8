//! How a good client retries: three attempts with the same key, waiting
//! attempt × 300 ms between them, and only where the answer says "not now".

use std::time::Duration;

/// Attempts for one step, the first included.
pub(crate) const ATTEMPTS_MAX: u32 = 3;

/// The wait after the first attempt; the second waits twice as long.
const BACKOFF: Duration = Duration::from_millis(300);

/// Whether to ask again: no answer at all (`None`), 429 or 503.
pub(crate) fn may_retry(status: Option<u16>) -> bool {
    matches!(status, None | Some(429 | 503))
}

/// How long to wait after `attempt` (1, 2, …) failed; `None`: give up.
pub(crate) fn backoff(attempt: u32) -> Option<Duration> {
    (attempt < ATTEMPTS_MAX).then(|| BACKOFF * attempt)
}

#[cfg(test)]
mod tests {
    use super::{ATTEMPTS_MAX, backoff};

    #[test]
    fn a_client_waits_longer_each_time_and_gives_up_after_three_attempts() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../vectors.json")).expect("vectors.json is JSON");
        assert_eq!(vectors["attemptsMax"], ATTEMPTS_MAX);
        let waits: Vec<u64> = (1..ATTEMPTS_MAX)
            .map(|attempt| backoff(attempt).expect("attempts are left"))
            .map(|wait| u64::try_from(wait.as_millis()).expect("a short wait"))
            .collect();
        assert_eq!(vectors["backoffMs"], serde_json::json!(waits));
        assert_eq!(backoff(ATTEMPTS_MAX), None);
    }
}
