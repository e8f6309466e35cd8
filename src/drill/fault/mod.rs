//! The faults: what is broken, for how long, and what that may cost.
//!
//! Each is really caused. A fault *strikes*, which leaves a wound, and the wound is *mended* some time later: what an
//! operator or a supervisor would do, such as starting a dead server again. All else the stack has to do by itself.

mod clock;
mod data;
mod limits;
mod poison;
mod process;
mod replica;
mod traffic;

use std::path::Path;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

use self::process::Pids;
use super::DrillError;
use super::history::Loses;
use super::shop::Shelf;
use super::stack::Stack;
use super::wire::Trouble;
use crate::ledger::Ledger;

macro_rules! faults {
    ($($name:ident $word:literal $loses:ident $what:literal,)*) => {
        /// What can be broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault {
            $(#[doc = $what] $name,)*
        }

        impl Fault {
            /// All of them, in the order in which a drill goes through them.
            pub const ALL: &'static [Fault] = &[$(Fault::$name,)*];

            /// Its name on the command line and in tables.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Fault::$name => $word,)* }
            }

            /// What is done, in words.
            #[must_use]
            pub fn what(self) -> &'static str {
                match self { $(Fault::$name => $what,)* }
            }

            /// What it may cost, at worst.
            #[must_use]
            pub fn loses(self) -> Loses {
                match self { $(Fault::$name => Loses::$loses,)* }
            }
        }
    };
}

faults! {
    KillGateway "kill_gateway" Nothing "a gateway is killed; the other one has to do its work",
    KillRedis "kill_redis" Accepted "Redis is killed, and started again with its AOF",
    KillPostgres "kill_postgres" Nothing "Postgres is killed, and started again",
    PauseGateway "pause_gateway" Nothing "a gateway stands still for 5 s, then goes on",
    PauseRedis "pause_redis" Nothing "Redis stands still for 5 s, then goes on",
    PausePostgres "pause_postgres" Nothing "Postgres and its backends stand still for 5 s, then go on",
    FlushRedis "flush_redis" Accepted "FLUSHALL; the scripts stay",
    EmptyRedis "empty_redis" Accepted "Redis is killed, and started again with an empty directory",
    CutAof "cut_aof" Accepted "Redis is killed, and its last AOF increment cut at a random byte",
    UnreadableRedis "unreadable_redis" Accepted "Redis is killed, and the base file of its AOF spoiled so that it can't load it",
    OlderRedis "older_redis" Accepted "Redis is killed, and started again with its files of some seconds ago",
    LaggingReplica "lagging_replica" Accepted "Redis is killed, and a replica that is some seconds behind promoted",
    DemotedRedis "demoted_redis" Accepted "Redis follows a replica that was behind, then is promoted again; its scripts stay",
    KillClients "kill_clients" Nothing "CLIENT KILL of every connection to Redis, several times",
    EndBackends "end_backends" Nothing "pg_terminate_backend of every connection to Postgres, several times",
    LoseRedisReplies "lose_redis_replies" Nothing "replies of Redis are dropped, with their connections",
    DelayRedisReplies "delay_redis_replies" Nothing "replies of Redis take up to 1.5 s longer",
    SplitRedisReplies "split_redis_replies" Nothing "replies of Redis come in small pieces",
    LosePostgresReplies "lose_postgres_replies" Nothing "replies of Postgres are dropped, with their connections",
    DelayPostgresReplies "delay_postgres_replies" Nothing "replies of Postgres take longer",
    SplitPostgresReplies "split_postgres_replies" Nothing "replies of Postgres come in small pieces",
    SilencePostgres "silence_postgres" Nothing "connections to Postgres carry nothing more and don't end; new ones work",
    FullRedis "full_redis" Nothing "Redis is at maxmemory, then has room again",
    FullDisk "full_disk" Nothing "Postgres' disk is full, then has room again",
    ClockAhead "clock_ahead" Nothing "a gateway's clock jumps ahead by 5 min, and later back",
    ClockBehind "clock_behind" Nothing "a gateway's clock jumps back by 5 min, and later ahead",
    PoisonEntry "poison_entry" Nothing "an entry is queued that Postgres can't store",
    TwoAtOnce "two_at_once" Accepted "two of the faults at the same time",
}

/// Those that can come together, by what they strike: one of each at most. They strike in this order, for some ask a
/// server first that another one stops.
const PAIRABLE: [&[Fault]; 4] = [
    &[Fault::KillGateway],
    &[
        Fault::LoseRedisReplies,
        Fault::LosePostgresReplies,
        Fault::SilencePostgres,
    ],
    &[
        Fault::KillRedis,
        Fault::PauseRedis,
        Fault::FlushRedis,
        Fault::EmptyRedis,
    ],
    &[Fault::KillPostgres, Fault::PausePostgres],
];

/// What a fault has to work on.
pub(super) struct Scene<'a> {
    pub(super) stack: &'a mut Stack,
    pub(super) ledger: &'a Ledger,
    pub(super) chance: &'a mut StdRng,
    /// A sale that asks nobody who they are.
    pub(super) shelf: &'a Shelf,
}

/// What a fault left behind.
#[derive(Debug)]
pub(super) enum Wound {
    /// Nothing that anybody has to mend.
    Over,
    RedisDead,
    PostgresDead,
    /// These stand still.
    Asleep(Pids),
    /// Something happens on the wires.
    Wires,
    RedisFull,
    DiskFull,
    /// The clock in this file is wrong.
    Clock(std::path::PathBuf),
}

impl Fault {
    /// The fault of this name.
    #[must_use]
    pub fn parse(word: &str) -> Option<Fault> {
        Fault::ALL.iter().copied().find(|fault| fault.as_str() == word)
    }

    /// Whether this machine lets it be caused; else why not.
    ///
    /// # Errors
    /// What is missing.
    pub(super) fn is_possible(self, near: &Path) -> Result<(), String> {
        match self {
            Fault::FullDisk => super::mount::Mount::is_possible(near),
            Fault::ClockAhead | Fault::ClockBehind => clock::library().map(drop),
            _ => Ok(()),
        }
    }

    /// Whether Postgres' data has to lie on a disk that can be filled up.
    pub(super) fn needs_small_disk(self) -> bool {
        self == Fault::FullDisk
    }

    /// The faults that a round really consists of: itself, or two that are drawn.
    pub(super) fn parts(self, chance: &mut StdRng) -> Vec<Fault> {
        match self {
            Fault::TwoAtOnce => {
                let mut victims: Vec<usize> = (0..PAIRABLE.len()).collect();
                victims.shuffle(chance);
                victims.truncate(2);
                victims.sort_unstable();
                let of = |victim: usize| PAIRABLE[victim].choose(chance).copied();
                victims.into_iter().filter_map(of).collect()
            }
            one => vec![one],
        }
    }

    /// How long it stays as it is.
    pub(super) fn lasts(self, chance: &mut StdRng) -> Duration {
        match self {
            Fault::PauseGateway | Fault::PauseRedis | Fault::PausePostgres => Duration::from_secs(5),
            Fault::FullRedis | Fault::FullDisk | Fault::ClockAhead | Fault::ClockBehind => {
                Duration::from_millis(chance.random_range(2_000..4_000))
            }
            Fault::LoseRedisReplies
            | Fault::DelayRedisReplies
            | Fault::SplitRedisReplies
            | Fault::LosePostgresReplies
            | Fault::DelayPostgresReplies
            | Fault::SplitPostgresReplies => Duration::from_millis(chance.random_range(1_500..3_500)),
            _ => Duration::from_millis(chance.random_range(100..1_500)),
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// It can't be done.
    pub(super) async fn strike(self, scene: &mut Scene<'_>) -> Result<Wound, DrillError> {
        match self {
            Fault::KillGateway => process::kill_gateway(scene).await,
            Fault::KillRedis => Ok(process::kill_redis(scene)),
            Fault::KillPostgres => Ok(process::kill_postgres(scene)),
            Fault::PauseGateway => process::pause_gateway(scene).await,
            Fault::PauseRedis => process::pause_redis(scene),
            Fault::PausePostgres => process::pause_postgres(scene),
            Fault::FlushRedis => data::flush(scene),
            Fault::EmptyRedis => data::empty(scene),
            Fault::CutAof => data::cut(scene),
            Fault::UnreadableRedis => data::spoil(scene),
            Fault::OlderRedis => data::step_back(scene).await,
            Fault::LaggingReplica => replica::promote(scene).await,
            Fault::DemotedRedis => replica::demote_and_promote(scene).await,
            Fault::KillClients => traffic::kill_clients(scene).await,
            Fault::EndBackends => traffic::end_backends(scene).await,
            Fault::LoseRedisReplies => Ok(traffic::redis(scene, Trouble::Lossy(12))),
            Fault::DelayRedisReplies => Ok(traffic::redis_late(scene)),
            Fault::SplitRedisReplies => Ok(traffic::redis(scene, Trouble::Split(3))),
            Fault::LosePostgresReplies => Ok(traffic::postgres(scene, Trouble::Lossy(25))),
            Fault::DelayPostgresReplies => Ok(traffic::postgres_late(scene)),
            Fault::SplitPostgresReplies => Ok(traffic::postgres(scene, Trouble::Split(7))),
            Fault::SilencePostgres => Ok(traffic::silence_postgres(scene)),
            Fault::FullRedis => limits::fill_redis(scene),
            Fault::FullDisk => limits::fill_disk(scene),
            Fault::ClockAhead => clock::jump(scene, 300).await,
            Fault::ClockBehind => clock::jump(scene, -300).await,
            Fault::PoisonEntry => poison::queue(scene).await,
            Fault::TwoAtOnce => Ok(Wound::Over),
        }
    }
}

impl Wound {
    /// Whether there is something to mend, and so to wait with.
    pub(super) fn is_open(&self) -> bool {
        !matches!(self, Wound::Over)
    }

    /// Takes away what caused it.
    ///
    /// # Errors
    /// It can't be done.
    pub(super) fn mend(self, stack: &mut Stack) -> Result<(), DrillError> {
        match self {
            Wound::Over => Ok(()),
            Wound::RedisDead => stack.restart_redis(),
            Wound::PostgresDead => stack.restart_postgres(),
            Wound::Asleep(pids) => {
                pids.wake();
                Ok(())
            }
            Wound::Wires => {
                stack.calm();
                Ok(())
            }
            Wound::RedisFull => limits::empty_redis(stack),
            Wound::DiskFull => limits::free_disk(stack),
            Wound::Clock(file) => clock::set(&file, 0),
        }
    }
}
