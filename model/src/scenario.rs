//! The bounds under which the protocol is checked. Each lets a few things happen as often as it takes for them to meet,
//! and is searched whole.

use crate::config::Bound::{
    Claims, Commits, Crashes, Flushes, Hours, LedgerFalls, LedgerSaves, LostLocks, LostReplies, Moves, Recoveries,
    Releases, Restarts, Saves, Sends, SilentHours, StepsBack, Stops,
};
use crate::config::Config;

/// Two owners of one lane, and replies of both servers that get lost.
#[must_use]
pub fn two_owners() -> Config {
    Config::new(2, 2, &[1])
        .with(Sends, 3)
        .with(Releases, 1)
        .with(Claims, 1)
        .with(LostReplies, 1)
}

/// A client that repeats what it got no reply to.
#[must_use]
pub fn repeated() -> Config {
    Config::new(1, 1, &[2]).with(Sends, 2).with(LostReplies, 1)
}

/// The same, and Redis steps back.
#[must_use]
pub fn repeated_to_older_data() -> Config {
    repeated().with(Saves, 1).with(StepsBack, 1)
}

/// Redis steps back while two gateways sell, and goes on from there.
#[must_use]
pub fn older_data() -> Config {
    Config::new(2, 2, &[1]).with(Sends, 2).with(Saves, 1).with(StepsBack, 1)
}

/// The same, with more requests and a unit that comes back.
#[must_use]
pub fn forked() -> Config {
    Config::new(2, 2, &[2])
        .with(Sends, 3)
        .with(Releases, 1)
        .with(Saves, 1)
        .with(StepsBack, 1)
}

/// Redis steps back behind a grant.
#[must_use]
pub fn grants_and_older_data() -> Config {
    Config::new(1, 2, &[2])
        .with(Sends, 2)
        .with(Releases, 1)
        .with(Saves, 1)
        .with(StepsBack, 1)
}

/// The same with two grants, of which one's reply is lost.
#[must_use]
pub fn grants_in_doubt() -> Config {
    Config::new(1, 2, &[2])
        .with(Sends, 2)
        .with(Releases, 2)
        .with(LostReplies, 1)
        .with(Saves, 1)
        .with(StepsBack, 1)
}

/// Redis comes back empty, or is flushed, and a gateway dies.
#[must_use]
pub fn empty_redis() -> Config {
    Config::new(2, 2, &[1]).with(Sends, 2).with(Flushes, 1).with(Crashes, 1)
}

/// Redis restarts and has kept everything but its scripts.
#[must_use]
pub fn restarted_redis() -> Config {
    Config::new(2, 2, &[1])
        .with(Sends, 2)
        .with(Restarts, 1)
        .with(LostReplies, 1)
}

/// A recovery that nothing called for, while all is well and owners change.
#[must_use]
pub fn uncalled_recovery() -> Config {
    Config::new(2, 2, &[1])
        .with(Sends, 2)
        .with(Releases, 1)
        .with(Recoveries, 1)
        .with(Claims, 1)
}

/// Two recoveries at once, since the lock of the first was lost.
#[must_use]
pub fn two_recoverers() -> Config {
    Config::new(2, 2, &[1])
        .with(Sends, 2)
        .with(Recoveries, 1)
        .with(LostLocks, 1)
}

/// The same, and then a third.
#[must_use]
pub fn three_recoverers() -> Config {
    Config::new(2, 1, &[1])
        .with(Sends, 1)
        .with(Recoveries, 2)
        .with(LostLocks, 1)
}

/// Two recoveries at once, and Redis steps back at any time.
#[must_use]
pub fn two_recoverers_and_older_data() -> Config {
    Config::new(2, 2, &[1])
        .with(Sends, 2)
        .with(LostLocks, 1)
        .with(Saves, 1)
        .with(StepsBack, 1)
}

/// Two recoveries at once, and Redis is emptied at any time.
#[must_use]
pub fn two_recoverers_and_empty_redis() -> Config {
    Config::new(2, 1, &[1])
        .with(Sends, 1)
        .with(LostLocks, 1)
        .with(Flushes, 1)
}

/// Two buckets, and buyers who find theirs dry, with two movers.
#[must_use]
pub fn two_movers() -> Config {
    Config::new(2, 2, &[0, 1]).with(Sends, 2).with(Moves, 1)
}

/// Two buckets, and a unit that comes back.
#[must_use]
pub fn mover() -> Config {
    Config::new(1, 2, &[0, 1])
        .with(Sends, 2)
        .with(Moves, 1)
        .with(Releases, 1)
}

/// Two buckets that are recovered while units are between them.
#[must_use]
pub fn mover_and_recovery() -> Config {
    Config::new(1, 1, &[0, 1])
        .with(Sends, 1)
        .with(Moves, 1)
        .with(Recoveries, 1)
}

/// Two buckets of a sale that is stopped while units are between them.
#[must_use]
pub fn mover_and_stop() -> Config {
    Config::new(1, 2, &[0, 1]).with(Sends, 1).with(Moves, 1).with(Stops, 1)
}

/// A sale is stopped while reservations end.
#[must_use]
pub fn stop() -> Config {
    Config::new(1, 2, &[2])
        .with(Sends, 2)
        .with(Releases, 1)
        .with(Stops, 1)
        .with_slow_endings()
}

/// A release, a commit and an expiry of one reservation.
#[must_use]
pub fn endings() -> Config {
    Config::new(1, 1, &[1])
        .with(Sends, 1)
        .with(Releases, 1)
        .with(Commits, 1)
        .with(Hours, 2)
        .with_slow_endings()
}

/// A deadline that passes while no ending can be taken.
#[must_use]
pub fn silence() -> Config {
    Config::new(2, 1, &[1])
        .with(Sends, 1)
        .with(Commits, 1)
        .with(Hours, 2)
        .with(SilentHours, 2)
}

/// Postgres falls back to what a standby has of it.
#[must_use]
pub fn ledger_falls_back() -> Config {
    Config::new(1, 2, &[1])
        .with(Sends, 3)
        .with(Releases, 2)
        .with(LedgerSaves, 1)
        .with(LedgerFalls, 1)
}

/// The same, while units are between buckets.
#[must_use]
pub fn ledger_falls_back_under_a_mover() -> Config {
    Config::new(1, 2, &[0, 1])
        .with(Sends, 2)
        .with(Moves, 1)
        .with(LedgerSaves, 1)
        .with(LedgerFalls, 1)
}
