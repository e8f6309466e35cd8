//! A flash sale: its settings, its states and the only ways between them.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::id::{Item, SaleId};
use super::lane::LaneNo;
use super::time::Millis;

/// Where a sale stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SaleState {
    /// Made, without a start.
    Draft,
    /// Starts by itself.
    Scheduled,
    /// Sells.
    Live,
    /// Reserve is refused, endings work.
    Paused,
    /// Only reads and releases; deadlines stand still.
    Frozen,
    /// Over.
    Ended,
}

impl SaleState {
    /// The word in answers, rows and lanes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            SaleState::Draft => "draft",
            SaleState::Scheduled => "scheduled",
            SaleState::Live => "live",
            SaleState::Paused => "paused",
            SaleState::Frozen => "frozen",
            SaleState::Ended => "ended",
        }
    }

    /// The state with this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        use SaleState::{Draft, Ended, Frozen, Live, Paused, Scheduled};
        [Draft, Scheduled, Live, Paused, Frozen, Ended]
            .into_iter()
            .find(|state| state.as_str() == word)
    }
}

/// What an operator, or the clock, does to a sale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SaleAction {
    /// Begin to sell.
    Start,
    /// Refuse new reservations.
    Pause,
    /// Sell again.
    Resume,
    /// Stop everything but reads and releases.
    Freeze,
    /// Back to the state before the freeze.
    Unfreeze,
    /// End it.
    Stop,
}

impl SaleAction {
    /// The word in the path.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            SaleAction::Start => "start",
            SaleAction::Pause => "pause",
            SaleAction::Resume => "resume",
            SaleAction::Freeze => "freeze",
            SaleAction::Unfreeze => "unfreeze",
            SaleAction::Stop => "stop",
        }
    }

    /// The action with this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        use SaleAction::{Freeze, Pause, Resume, Start, Stop, Unfreeze};
        [Start, Pause, Resume, Freeze, Unfreeze, Stop]
            .into_iter()
            .find(|action| action.as_str() == word)
    }
}

/// What an action finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaleStep {
    /// The sale goes to this state.
    To(SaleState),
    /// It is in force already.
    InForce,
    /// The action does not fit the state.
    Invalid,
}

/// The state machine: what `action` does in `state`; `thaws_to` is the state before a freeze.
#[must_use]
pub fn step(state: SaleState, thaws_to: Option<SaleState>, action: SaleAction) -> SaleStep {
    use SaleState::{Draft, Ended, Frozen, Live, Paused, Scheduled};
    use SaleStep::{InForce, Invalid, To};
    match (action, state) {
        (SaleAction::Start, Draft | Scheduled) | (SaleAction::Resume, Paused) => To(Live),
        (SaleAction::Start | SaleAction::Resume, Live) => InForce,
        (SaleAction::Pause, Live) => To(Paused),
        (SaleAction::Pause, Paused) => InForce,
        (SaleAction::Freeze, Draft | Scheduled | Live | Paused) => To(Frozen),
        (SaleAction::Freeze, Frozen) => InForce,
        (SaleAction::Unfreeze, Frozen) => thaws_to.map_or(Invalid, To),
        (SaleAction::Unfreeze, Draft | Scheduled | Live | Paused) => InForce,
        (SaleAction::Stop, Ended) => InForce,
        (SaleAction::Stop, _) => To(Ended),
        _ => Invalid,
    }
}

/// Attempts that one user may make, as a token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserRate {
    /// Attempts a second; fractions allowed.
    pub per_second: f64,
    /// Attempts at once.
    pub burst: u32,
}

/// What serves a sale while Redis is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RedisDown {
    /// Nothing: reserve answers 503.
    #[default]
    Refuse,
    /// The ledger, at a lower ceiling. Until then the sale's lanes bound what they owe the ledger.
    Ledger,
}

impl RedisDown {
    /// The word in answers and rows.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            RedisDown::Refuse => "refuse",
            RedisDown::Ledger => "ledger",
        }
    }

    /// The choice with this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [RedisDown::Refuse, RedisDown::Ledger]
            .into_iter()
            .find(|choice| choice.as_str() == word)
    }
}

/// Least that a lane may owe the ledger, in units: so few are on their way in the calmest sale.
const UNDURABLE_MIN: u32 = 5;

/// A sale as the ledger has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sale {
    /// Short name, in Redis keys and queue entries.
    pub no: i32,
    /// The shop's name for it.
    pub id: SaleId,
    /// What is sold, and from where.
    pub item: Item,
    /// Where it stands.
    pub state: SaleState,
    /// The state that unfreeze returns to.
    pub thaws_to: Option<SaleState>,
    /// Units of the sale, sold ones included.
    pub allocation: i64,
    /// Units a user may hold and have bought.
    pub per_user_limit: Option<u32>,
    /// Attempts that one user may make.
    pub user_rate: Option<UserRate>,
    /// Default time to pay, in ms.
    pub hold_ms: u32,
    /// Longest time to pay, counted from creation, in ms.
    pub hold_max_ms: u32,
    /// The lane of each bucket.
    pub lanes: Vec<LaneNo>,
    /// When it starts by itself.
    pub starts_at: Option<Millis>,
    /// When it ends by itself.
    pub ends_at: Option<Millis>,
    /// How long a reserve waits for durable by default, in ms.
    pub ack_wait_ms: u32,
    /// What serves it while Redis is away.
    pub redis_down: RedisDown,
    /// Requests a second that a gateway has the ledger decide then.
    pub redis_down_rate: u32,
    /// Units that may be accepted and not durable, over all lanes; none: a tenth of the allocation. Counts only where the
    /// ledger serves the sale while Redis is away.
    pub undurable_max: Option<NonZeroU32>,
    /// Ended, and every unsold unit is back in the balance.
    pub drained: bool,
}

impl Sale {
    /// The lane that serves `buyer`.
    #[must_use]
    pub fn home(&self, buyer: &str) -> LaneNo {
        self.lanes[super::lane::home_bucket(buyer, self.lanes.len())]
    }

    /// Units that each of its lanes may owe the ledger: what a fallback keeps back in the lane's bucket. 0: no bound. No
    /// less than one user may ask for at once, or such a request would wait until nothing else is on its way.
    #[must_use]
    pub fn lane_undurable_max(&self) -> u32 {
        if self.redis_down == RedisDown::Refuse {
            return 0;
        }
        let tenth = u32::try_from(self.allocation.max(0)).unwrap_or(u32::MAX).div_ceil(10);
        let buckets = u32::try_from(self.lanes.len()).unwrap_or(1).max(1);
        let least = UNDURABLE_MIN.max(self.per_user_limit.unwrap_or(0));
        match self.undurable_max {
            Some(max) => max.get().div_ceil(buckets),
            None => tenth.div_ceil(buckets).max(least),
        }
    }

    /// What a lane needs to know of it.
    #[must_use]
    pub fn settings(&self) -> LaneSettings {
        LaneSettings {
            state: self.state,
            per_user_limit: self.per_user_limit.unwrap_or(0),
            rate_milli: self.user_rate.map_or(0, |rate| to_milli(rate.per_second)),
            rate_burst: self.user_rate.map_or(0, |rate| rate.burst),
            hold_ms: self.hold_ms,
            hold_max_ms: self.hold_max_ms,
            ends_at_ms: self.ends_at.map_or(0, |at| u64::try_from(at.0).unwrap_or(0)),
            undurable_max: self.lane_undurable_max(),
        }
    }
}

/// Thousandths, at least one; rates are checked to be positive and at most a million where they enter.
fn to_milli(per_second: f64) -> u32 {
    let milli = (per_second * 1000.0).round().clamp(1.0, f64::from(u32::MAX));
    format!("{milli:.0}").parse().unwrap_or(u32::MAX)
}

/// The settings of a sale that stand in its lanes and change there by numbered entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneSettings {
    /// Only `Live` sells.
    pub state: SaleState,
    /// Units; 0: no limit.
    pub per_user_limit: u32,
    /// Attempts per 1,000 s and user; 0: no rate limit.
    pub rate_milli: u32,
    /// Attempts at once and user.
    pub rate_burst: u32,
    /// Default time to pay, in ms.
    pub hold_ms: u32,
    /// Longest time to pay, in ms.
    pub hold_max_ms: u32,
    /// End of the sale, ms since 1970; 0: none.
    pub ends_at_ms: u64,
    /// Units accepted and not durable that the lane may have; 0: no bound.
    pub undurable_max: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sale_moves_only_along_its_table() {
        use SaleAction::{Freeze, Pause, Resume, Start, Stop, Unfreeze};
        use SaleState::{Draft, Ended, Frozen, Live, Paused, Scheduled};
        use SaleStep::{InForce, Invalid, To};
        let actions = [Start, Pause, Resume, Freeze, Unfreeze, Stop];
        let table = [
            (Draft, [To(Live), Invalid, Invalid, To(Frozen), InForce, To(Ended)]),
            (Scheduled, [To(Live), Invalid, Invalid, To(Frozen), InForce, To(Ended)]),
            (Live, [InForce, To(Paused), InForce, To(Frozen), InForce, To(Ended)]),
            (Paused, [Invalid, InForce, To(Live), To(Frozen), InForce, To(Ended)]),
            (Frozen, [Invalid, Invalid, Invalid, InForce, To(Paused), To(Ended)]),
            (Ended, [Invalid, Invalid, Invalid, Invalid, Invalid, InForce]),
        ];
        for (state, row) in table {
            for (action, expected) in actions.into_iter().zip(row) {
                assert_eq!(step(state, Some(Paused), action), expected, "{action:?} in {state:?}");
            }
            assert_eq!(SaleState::parse(state.as_str()), Some(state));
        }
    }

    #[test]
    fn a_rate_is_kept_in_thousandths() {
        assert_eq!(to_milli(0.5), 500);
        assert_eq!(to_milli(0.000_01), 1);
        assert_eq!(to_milli(1_000_000.0), 1_000_000_000);
    }
}
