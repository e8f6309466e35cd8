//! What is checked: how much there is of everything, how often what can go wrong does, and which defence is left out.

/// A part of the protocol that can be left out, to see that the model finds what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Defence {
    /// A recovery raises the lane's epoch in Postgres before anything else (`ledger/recovery.rs::raise_epoch`). Left out:
    /// the ledger learns of it when the lane opens.
    EpochFirst,
    /// A lane is closed before its survivors are collected (`worker/recovery.rs::under_lock`).
    CloseFirst,
    /// The cursor is compared when it is set (`ledger/apply/begin.rs::begin`).
    CursorCompared,
    /// Nonces: an entry names its predecessor, the cursor its entry, a notice its call (`worker/writer.rs::decode`).
    Nonces,
    /// A script refuses a lane that is behind what its caller has seen (`lua/reserve.lua`, `lua/grant.lua`).
    SeenFence,
    /// A lane skips grants that it has (`lua/grant.lua`).
    KnownGrantsSkipped,
    /// A lane and the ledger refuse grants with a gap before them (`lua/grant.lua`, `ledger/apply/delivered.rs`).
    GapsRefused,
    /// Survivors that do not follow the cursor count only as far as units suffice (`ledger/apply/decide.rs::against`).
    UnitsSuffice,
    /// A grant gets its number late, under the lock of its sale (`ledger/grants/mod.rs::number_grants`). Left out: a number
    /// whatever became of the sale.
    NumberedLate,
    /// Nothing expires for a deadline after the last beat of the pulse (`ledger/expiry.rs`).
    PulseFirst,
    /// A recoverer looks again whether the lane is still its own before it writes and opens (`lua/rebuild.lua`,
    /// `lua/open.lua`, `ledger/recovery.rs::open_lane`).
    RecheckedToOpen,
    /// The mover reads the marks twice, around the counters (`worker/mover.rs::look`).
    ReadTwice,
    /// The mover asks what is between the counters (`ledger/grants/look.rs::units_in_motion`).
    MotionAsked,
    /// Endings ask for the status again under the row's lock (`ledger/endings/mod.rs`).
    StatusAsked,
    /// The ledger refuses a second reservation under a key (`ledger/claims.rs`).
    KeysClaimed,
    /// The lane remembers its buyers (`lua/record.lua`).
    BuyersRecorded,
    /// An owner that finds its lane gone says so (`worker/granter.rs::new`).
    GoneNoticed,
    /// An idle writer asks whether the ledger still stands at its cursor (`worker/writer.rs::check_lane`).
    IdleLedgerAsked,
    /// A lane whose queue does not continue the ledger is not adopted again (`flash/lane.rs::fork`).
    ForkRemembered,
    /// An idle granter asks which grants its lane has (`worker/granter.rs::look_again`).
    InForceAsked,
    /// What a recovery finds delivered counts also where the ledger has forgotten its number
    /// (`ledger/apply/delivered.rs::take_rows`).
    KnownByContent,
}

impl Defence {
    /// All of them.
    pub const ALL: [Defence; 21] = [
        Defence::EpochFirst,
        Defence::CloseFirst,
        Defence::CursorCompared,
        Defence::Nonces,
        Defence::SeenFence,
        Defence::KnownGrantsSkipped,
        Defence::GapsRefused,
        Defence::UnitsSuffice,
        Defence::NumberedLate,
        Defence::PulseFirst,
        Defence::RecheckedToOpen,
        Defence::ReadTwice,
        Defence::MotionAsked,
        Defence::StatusAsked,
        Defence::KeysClaimed,
        Defence::BuyersRecorded,
        Defence::GoneNoticed,
        Defence::IdleLedgerAsked,
        Defence::ForkRemembered,
        Defence::InForceAsked,
        Defence::KnownByContent,
    ];
}

/// What happens so many times at most. Together they bound the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Bound {
    /// Requests that clients send.
    Sends,
    /// Replies that get lost, of Redis or Postgres; what was asked is done.
    LostReplies,
    /// Moments at which Redis is copied: a replica that lags, a snapshot.
    Saves,
    /// That copy takes over, its script cache emptied or not.
    StepsBack,
    /// Redis forgets all, its script cache too or not.
    Flushes,
    /// Redis restarts and has kept its data; its script cache is empty.
    Restarts,
    /// A recovery that nothing called for.
    Recoveries,
    /// The session that holds the recovery lock dies, and its gateway does not notice.
    LostLocks,
    /// A gateway dies and comes back as another one.
    Crashes,
    /// A lane is claimed from an owner that is only slow.
    Claims,
    /// Clients that release what they hold.
    Releases,
    /// Clients that commit what they hold.
    Commits,
    /// Units that the mover asks for.
    Moves,
    /// The sale is stopped.
    Stops,
    /// Hours that pass with a ledger.
    Hours,
    /// Hours that pass without one.
    SilentHours,
    /// Moments at which Postgres is copied.
    LedgerSaves,
    /// That copy takes over: a standby that lagged.
    LedgerFalls,
}

/// How many bounds there are.
pub const BOUNDS: usize = Bound::LedgerFalls as usize + 1;

/// A model with bounds.
#[derive(Clone, Debug)]
pub struct Config {
    /// Lanes, each with a bucket of the sale.
    pub lanes: u8,
    /// Gateways.
    pub gateways: u8,
    /// Buyers, each with one key; the home of buyer `n` is lane `n` modulo `lanes`.
    pub buyers: u8,
    /// Units in each lane at first.
    pub units: Vec<i8>,
    /// How often each thing happens.
    pub bounds: [u8; BOUNDS],
    /// What is left out.
    pub without: Option<Defence>,
    /// Endings are two steps: they look, then they write.
    pub slow_endings: bool,
}

impl Config {
    /// One lane with `units`, `gateways` and `buyers`, where nothing happens yet.
    #[must_use]
    pub fn new(gateways: u8, buyers: u8, units: &[i8]) -> Self {
        let lanes = u8::try_from(units.len()).expect("a few lanes");
        let bounds = [0; BOUNDS];
        Config {
            lanes,
            gateways,
            buyers,
            units: units.to_vec(),
            bounds,
            without: None,
            slow_endings: false,
        }
    }

    /// Lets `what` happen `times` times.
    #[must_use]
    pub fn with(mut self, what: Bound, times: u8) -> Self {
        self.bounds[what as usize] = times;
        self
    }

    /// Endings look in one step and write in another.
    #[must_use]
    pub fn with_slow_endings(mut self) -> Self {
        self.slow_endings = true;
        self
    }

    /// Leaves a defence out.
    #[must_use]
    pub fn without(mut self, defence: Defence) -> Self {
        self.without = Some(defence);
        self
    }

    /// The defence is in place.
    #[must_use]
    pub fn has(&self, defence: Defence) -> bool {
        self.without != Some(defence)
    }
}
