//! What reconciliation decides, without I/O: which difference it may correct by itself, and which a person must see.
//!
//! A count is judged by [`judge_count`], an order's state by [`judge_order`]. What is done about a verdict, and how it is
//! told, is the ledger's business.

use serde::{Deserialize, Serialize};

use super::reservation::Status;

/// What is compared with the ledger's figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReportKind {
    /// Balances with the sums of their events.
    Ledger,
    /// On hand with what a warehouse counted.
    Warehouse,
    /// On hand with what a seller says that there is.
    SellerFeed,
    /// Reservations with what became of their orders.
    OrderState,
    /// Redis with the ledger, all the time.
    Live,
}

impl ReportKind {
    const ALL: [ReportKind; 5] = [
        ReportKind::Ledger,
        ReportKind::Warehouse,
        ReportKind::SellerFeed,
        ReportKind::OrderState,
        ReportKind::Live,
    ];

    /// The word in reports and rows.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ReportKind::Ledger => "ledger",
            ReportKind::Warehouse => "warehouse",
            ReportKind::SellerFeed => "seller_feed",
            ReportKind::OrderState => "order_state",
            ReportKind::Live => "live",
        }
    }

    /// The kind with this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// Why a difference is not corrected by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Review {
    /// It is larger than may be corrected without a person.
    OverThreshold,
    /// The units that are missing are promised: reserved, unavailable or set aside for a sale that keeps them.
    Promised,
    /// The events do not lead to what they say themselves: one is missing, or was altered.
    EventsIncomplete,
    /// Money and units have to be settled by a person.
    NeedsDecision,
    /// The correction was begun, and nobody knows how it ended.
    Undecided,
    /// No delta puts it right: a recovery does, or a person.
    Unrepairable,
    /// To look closely would have kept buyers waiting.
    TookTooLong,
}

impl Review {
    /// The word in reports and rows.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Review::OverThreshold => "over_threshold",
            Review::Promised => "promised",
            Review::EventsIncomplete => "events_incomplete",
            Review::NeedsDecision => "needs_decision",
            Review::Undecided => "undecided",
            Review::Unrepairable => "unrepairable",
            Review::TookTooLong => "took_too_long",
        }
    }
}

/// Why a sale froze by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FreezeCause {
    /// Redis gave out units that the ledger does not have.
    OversellAttempt,
    /// Redis and the ledger differ by more than is corrected without a person.
    Drift,
}

impl FreezeCause {
    /// The word in answers, rows and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            FreezeCause::OversellAttempt => "oversell_attempt",
            FreezeCause::Drift => "drift",
        }
    }

    /// The cause with this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [FreezeCause::OversellAttempt, FreezeCause::Drift]
            .into_iter()
            .find(|cause| cause.as_str() == word)
    }
}

/// Units by which a sale of this allocation may drift and be corrected while it sells: `units`, or `permille` thousandths
/// of the allocation where that is more.
#[must_use]
pub fn drift_max(allocation: i64, units: i64, permille: u16) -> i64 {
    let share = i128::from(allocation.max(0)) * i128::from(permille) / 1_000;
    units.max(i64::try_from(share).unwrap_or(i64::MAX))
}

/// What to do about a counted line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountVerdict {
    /// It is as expected.
    Agrees,
    /// On hand moves by so many units.
    Correct(i64),
    /// A person must look.
    Review(Review),
}

/// Judges a line: `expected` units were on hand when `counted` were found, `there` may go now, those that a sale would
/// have to give included, and up to `units_max` are corrected without a person.
#[must_use]
pub fn judge_count(expected: i64, counted: i64, there: i64, units_max: i64) -> CountVerdict {
    let delta = counted.saturating_sub(expected);
    if delta == 0 {
        CountVerdict::Agrees
    } else if delta.saturating_abs() > units_max {
        CountVerdict::Review(Review::OverThreshold)
    } else if delta.saturating_neg() > there {
        CountVerdict::Review(Review::Promised)
    } else {
        CountVerdict::Correct(delta)
    }
}

/// What became of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OrderState {
    /// The money is there.
    Paid,
    /// Nothing is wanted any more.
    Cancelled,
    /// The goods have left.
    Shipped,
    /// The money went back.
    Refunded,
}

impl OrderState {
    const ALL: [OrderState; 4] = [
        OrderState::Paid,
        OrderState::Cancelled,
        OrderState::Shipped,
        OrderState::Refunded,
    ];

    /// The word in requests, rows and causes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            OrderState::Paid => "paid",
            OrderState::Cancelled => "cancelled",
            OrderState::Shipped => "shipped",
            OrderState::Refunded => "refunded",
        }
    }

    /// The state with this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Whether the buyer has a right to the units.
    #[must_use]
    pub fn is_owed(self) -> bool {
        matches!(self, OrderState::Paid | OrderState::Shipped)
    }
}

/// An order's hold on an item, as the ledger has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Where it stands.
    pub status: Status,
    /// All its units came back; where the buyer has a right to them: before he got it.
    pub returned: bool,
    /// It ended before the order got its state, and the order has other units: the buyer changed the cart.
    pub dropped: bool,
    /// Whether it was made after the order got its state, which then says nothing of it.
    pub later: Later,
}

/// When an order made a reservation, seen from the state that it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Later {
    /// Before it.
    No,
    /// After it, in the place of one of the same item, or of nothing at all: the state may mean it.
    Anew,
    /// After it, beside others.
    Besides,
}

/// What to do about a reservation of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderVerdict {
    /// It is as it must be.
    Agrees,
    /// The units are the buyer's.
    Commit,
    /// The units are nobody's.
    Release,
    /// A person must look.
    Review,
}

/// Judges a reservation of an order that has this state.
#[must_use]
pub fn judge_order(state: OrderState, held: Held) -> OrderVerdict {
    match (state.is_owed(), held.status) {
        (_, _) if held.later == Later::Besides => OrderVerdict::Agrees,
        (false, _) if held.later == Later::Anew => OrderVerdict::Agrees,
        (true, Status::Reserved) if held.later == Later::Anew => OrderVerdict::Review,
        (true, Status::Reserved) => OrderVerdict::Commit,
        (true, Status::Committed) if held.returned => OrderVerdict::Review,
        (true, Status::Committed) => OrderVerdict::Agrees,
        (true, Status::Released) if held.dropped => OrderVerdict::Agrees,
        (true, Status::Released | Status::Expired | Status::Rejected) => OrderVerdict::Review,
        (false, Status::Reserved) => OrderVerdict::Release,
        (false, Status::Committed) if !held.returned => OrderVerdict::Review,
        (false, _) => OrderVerdict::Agrees,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_difference_of_free_units_is_corrected() {
        let judge = |counted, there| judge_count(100, counted, there, 10);
        assert_eq!(judge(100, 0), CountVerdict::Agrees);
        assert_eq!(judge(110, 0), CountVerdict::Correct(10));
        assert_eq!(judge(90, 10), CountVerdict::Correct(-10));
        assert_eq!(judge(90, 9), CountVerdict::Review(Review::Promised));
        assert_eq!(judge(89, 100), CountVerdict::Review(Review::OverThreshold));
        assert_eq!(judge(111, 100), CountVerdict::Review(Review::OverThreshold));
    }

    #[test]
    fn what_is_safe_is_done_and_the_rest_is_shown() {
        use OrderState::{Cancelled, Paid, Refunded, Shipped};
        use OrderVerdict::{Agrees, Commit, Release, Review};
        use Status::{Committed, Expired, Rejected, Released, Reserved};
        let plain = |status| Held {
            status,
            returned: false,
            dropped: false,
            later: Later::No,
        };
        for (status, owed, not_owed) in [
            (Reserved, Commit, Release),
            (Committed, Agrees, Review),
            (Released, Review, Agrees),
            (Expired, Review, Agrees),
            (Rejected, Review, Agrees),
        ] {
            for (state, verdict) in [
                (Paid, owed),
                (Shipped, owed),
                (Cancelled, not_owed),
                (Refunded, not_owed),
            ] {
                assert_eq!(judge_order(state, plain(status)), verdict, "{state:?} {status:?}");
            }
        }
        let returned = Held {
            returned: true,
            ..plain(Committed)
        };
        assert_eq!(judge_order(Refunded, returned), Agrees);
        assert_eq!(judge_order(Paid, returned), Review);
        let dropped = |status| Held {
            dropped: true,
            ..plain(status)
        };
        assert_eq!(judge_order(Paid, dropped(Released)), Agrees);
        assert_eq!(judge_order(Paid, dropped(Expired)), Review);
    }

    #[test]
    fn a_state_says_nothing_of_what_came_after_it() {
        use OrderState::{Cancelled, Paid};
        use OrderVerdict::{Agrees, Review};
        let made = |status, later| Held {
            status,
            returned: false,
            dropped: false,
            later,
        };
        for status in [Status::Reserved, Status::Committed] {
            assert_eq!(judge_order(Cancelled, made(status, Later::Anew)), Agrees);
            assert_eq!(judge_order(Cancelled, made(status, Later::Besides)), Agrees);
            assert_eq!(judge_order(Paid, made(status, Later::Besides)), Agrees);
        }
        assert_eq!(judge_order(Paid, made(Status::Reserved, Later::Anew)), Review);
        assert_eq!(judge_order(Paid, made(Status::Committed, Later::Anew)), Agrees);
    }

    #[test]
    fn words_are_read_back() {
        for kind in ReportKind::ALL {
            assert_eq!(ReportKind::parse(kind.as_str()), Some(kind));
        }
        for state in OrderState::ALL {
            assert_eq!(OrderState::parse(state.as_str()), Some(state));
        }
        assert_eq!(ReportKind::parse("redis"), None);
        for cause in [FreezeCause::OversellAttempt, FreezeCause::Drift] {
            assert_eq!(FreezeCause::parse(cause.as_str()), Some(cause));
        }
    }

    #[test]
    fn a_large_sale_may_drift_by_more() {
        assert_eq!(drift_max(500, 10, 1), 10);
        assert_eq!(drift_max(1_000_000, 10, 1), 1_000);
        assert_eq!(drift_max(1_000_000, 0, 0), 0);
        assert_eq!(drift_max(i64::MAX, 10, 1_000), i64::MAX);
    }
}
