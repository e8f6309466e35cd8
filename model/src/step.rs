//! What can happen, one word each, and which of it the protocol does by itself.

use std::fmt;

use crate::world::{Buyer, LaneNo, Nonce};

/// One atomic step: a script call, a transaction, a fault, or what a gateway remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A client's request leaves a gateway with what that knows of the lane.
    Send { gateway: u8, buyer: Buyer },
    /// `lua/reserve.lua` runs for it; its reply comes, or not.
    Reserve { gateway: u8, buyer: Buyer, reply: bool },
    /// `worker/owner.rs::serve_epoch` begins.
    Serve { gateway: u8, lane: LaneNo },
    /// The writer reads what follows its cursor, and checks the chain.
    Read { gateway: u8, lane: LaneNo },
    /// `ledger/apply/mod.rs::apply`; the reply comes, or not.
    Apply { gateway: u8, lane: LaneNo, reply: bool },
    /// `worker/telling.rs`.
    Tell { gateway: u8, lane: LaneNo },
    /// `ledger/grants/mod.rs::number_grants`.
    Number { gateway: u8, lane: LaneNo },
    /// The granter reads the next grant.
    Pick { gateway: u8, lane: LaneNo },
    /// `lua/grant.lua` runs for it; the reply comes, or not.
    Deliver { gateway: u8, lane: LaneNo, reply: bool },
    /// `ledger/lane.rs::claim_lanes`.
    Claim { gateway: u8, lane: LaneNo },
    /// `worker/recovery.rs::adopt`.
    Adopt { gateway: u8, lane: LaneNo },
    /// `worker/recovery.rs::under_lock` gets the lock.
    Recover { gateway: u8, called_for: bool },
    /// The recovery's next step.
    Recovering { gateway: u8, to: &'static str },
    /// A release or a commit looks at its row (and, where endings are quick, writes).
    End { id: Nonce, commit: bool },
    /// It writes.
    Ended { id: Nonce },
    /// `ledger/expiry.rs::expire_due`: the pulse beats.
    Beat { gateway: u8 },
    /// What was overdue at the last beat ends.
    Expire { gateway: u8 },
    /// An hour passes, with a ledger or without.
    Hour { silent: bool },
    /// `worker/mover.rs::look` begins.
    Look { gateway: u8 },
    /// It reads the next thing.
    Looking { gateway: u8 },
    /// It answers, or asks for units.
    Verdict { gateway: u8 },
    /// A client that waits for the mover gives up.
    GiveUp { buyer: Buyer },
    /// `ledger/sale_life.rs::enter`: the sale is stopped.
    Stop,
    /// `ledger/sale_life.rs::finish_drain`.
    Drain,
    /// Redis is copied.
    Save,
    /// The copy takes over.
    StepBack { cache: bool },
    /// Redis forgets.
    Flush { cache: bool },
    /// Redis restarts with its data.
    Restart,
    /// A gateway dies and comes back as another one.
    Crash { gateway: u8 },
    /// The session that holds the recovery lock dies.
    LoseLock,
    /// Postgres is copied.
    SaveLedger,
    /// The copy takes over.
    FallBack,
}

impl Step {
    /// The protocol does it by itself: it is no fault, no client's and no operator's, and does not wait for time.
    #[must_use]
    pub fn own(self) -> bool {
        match self {
            Step::Reserve { reply, .. } | Step::Apply { reply, .. } | Step::Deliver { reply, .. } => reply,
            Step::Recover { called_for, .. } => called_for,
            Step::Send { .. }
            | Step::End { .. }
            | Step::Hour { .. }
            | Step::Stop
            | Step::Save
            | Step::StepBack { .. }
            | Step::Flush { .. }
            | Step::Restart
            | Step::Crash { .. }
            | Step::LoseLock
            | Step::SaveLedger
            | Step::FallBack => false,
            _ => true,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lost = |reply: &bool| if *reply { "" } else { ", and the reply is lost" };
        match self {
            Step::Send { gateway, buyer } => write!(f, "gateway {gateway} sends buyer {buyer}'s request"),
            Step::Reserve { buyer, reply, .. } => write!(f, "reserve.lua runs for buyer {buyer}{}", lost(reply)),
            Step::Serve { gateway, lane } => write!(f, "gateway {gateway} begins to serve lane {lane}"),
            Step::Read { gateway, lane } => write!(f, "gateway {gateway}'s writer reads lane {lane}"),
            Step::Apply { gateway, lane, reply } => {
                write!(f, "gateway {gateway}'s writer applies to lane {lane}{}", lost(reply))
            }
            Step::Tell { gateway, lane } => write!(f, "gateway {gateway}'s writer tells who waits for lane {lane}"),
            Step::Number { gateway, lane } => write!(f, "gateway {gateway} numbers lane {lane}'s grants"),
            Step::Pick { gateway, lane } => write!(f, "gateway {gateway} picks lane {lane}'s next grant"),
            Step::Deliver { gateway, lane, reply } => {
                write!(f, "grant.lua runs for gateway {gateway} in lane {lane}{}", lost(reply))
            }
            Step::Claim { gateway, lane } => write!(f, "gateway {gateway} claims lane {lane}"),
            Step::Adopt { gateway, lane } => write!(f, "gateway {gateway} adopts lane {lane}"),
            Step::Recover {
                gateway,
                called_for: true,
            } => write!(f, "gateway {gateway} begins a recovery"),
            Step::Recover { gateway, .. } => write!(f, "gateway {gateway} begins a recovery, uncalled for"),
            Step::Recovering { gateway, to } => write!(f, "gateway {gateway}'s recovery: {to}"),
            Step::End { id, commit: true } => write!(f, "a commit of {id} looks"),
            Step::End { id, .. } => write!(f, "a release of {id} looks"),
            Step::Ended { id } => write!(f, "the ending of {id} is written"),
            Step::Beat { gateway } => write!(f, "gateway {gateway} beats, and is about to expire"),
            Step::Expire { gateway } => write!(f, "gateway {gateway} expires what is due"),
            Step::Hour { silent: true } => write!(f, "an hour passes without a ledger"),
            Step::Hour { .. } => write!(f, "an hour passes"),
            Step::Look { gateway } => write!(f, "gateway {gateway}'s mover begins to look"),
            Step::Looking { gateway } => write!(f, "gateway {gateway}'s mover reads on"),
            Step::Verdict { gateway } => write!(f, "gateway {gateway}'s mover decides"),
            Step::GiveUp { buyer } => write!(f, "buyer {buyer} gives up"),
            Step::Stop => write!(f, "the sale is stopped"),
            Step::Drain => write!(f, "the sale is drained"),
            Step::Save => write!(f, "redis is copied"),
            Step::StepBack { cache: true } => write!(f, "redis steps back to its copy, scripts kept"),
            Step::StepBack { .. } => write!(f, "redis steps back to its copy, scripts lost"),
            Step::Flush { cache: true } => write!(f, "redis is flushed, scripts kept"),
            Step::Flush { .. } => write!(f, "redis comes back empty"),
            Step::Restart => write!(f, "redis restarts with its data"),
            Step::Crash { gateway } => write!(f, "gateway {gateway} dies"),
            Step::LoseLock => write!(f, "the recovery lock's session dies"),
            Step::SaveLedger => write!(f, "postgres is copied"),
            Step::FallBack => write!(f, "postgres falls back to its copy"),
        }
    }
}
