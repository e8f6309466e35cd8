//! The durable record in Postgres: balances, reservations, events, sales, lanes and grants.
//!
//! The only user of sqlx. Every change of a balance goes through [`post`], which writes the event beside it; every
//! statement opens with its own name. Locks are taken in one order, so that nothing deadlocks but by accident, and
//! what does is retried: lane → sale → sale_bucket → adjustment → inventory_reservation → inventory_key →
//! inventory_balance → inventory_event → sale_tally → lane_grant, rows of one table sorted by their key (a writer's
//! buckets come last: whoever has the lane has them). What is only
//! ever inserted (inventory_return, transfer) comes last; an approval is locked first. The snapshot and the alerts are
//! written by one transaction at a time, which locks nothing else (an advisory lock says whose turn it is). A count's row
//! in reconciliation_report stands before the balances, reconciliation_discrepancy and count_mark after the events, and
//! order_state is never held together with any of these. An alarm is inserted last; who takes it away does so before the
//! sale is locked.

pub mod adjust;
pub mod apply;
pub mod approval;
pub mod audit;
pub mod balance;
pub mod catalogue;
mod claims;
mod column;
mod connection;
mod connections;
pub mod deployment;
mod endings;
mod error;
pub mod events;
mod expiry;
pub mod extend;
pub mod fallback;
mod foresee;
pub mod grants;
pub mod holders;
mod image;
mod key_lookup;
pub mod lane;
mod newer_sale;
pub mod once;
mod partition;
pub mod places;
pub mod post;
pub mod quarantine;
pub mod read_model;
mod reason;
pub mod recall;
pub mod recon;
pub mod recovery;
pub mod replay;
mod rescue;
mod reservation;
mod retry;
pub mod returns;
pub mod route;
pub mod sale;
pub mod sale_clock;
pub mod sale_figures;
pub mod sale_life;
pub mod sale_patch;
mod sale_row;
mod snapshot;
mod stall;
mod take;
pub mod transfer;
pub mod undo;

use sqlx::postgres::PgConnectOptions;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use deployment::Deployment;
pub use endings::{EndAnswer, EndAsk, GrantTicket};
pub use error::{LedgerError, OfOneSale};
pub use expiry::ExpireRun;
pub use extend::{ExtendAnswer, ExtendAsk, HOLD_MAX_MS, PAYMENT_STARTED};
pub use key_lookup::KeyFound;
pub use newer_sale::CallBack;
pub use partition::Upkeep;
pub use rescue::{LaneRescue, Scattered};
pub use snapshot::BuyerPage;
pub use stall::Beat;
pub use take::{HOLD_MS, Short, TakeAnswer, TakeAsk};

use connection::Transaction;
use connections::Connections;
use expiry::DueWalk;
use read_model::ReadPools;

/// How to reach Postgres.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `postgres://…`; a Unix socket where Postgres is local.
    pub url: String,
    /// A replica of it, for reads that may be some seconds old.
    pub read_url: Option<String>,
    /// Most connections of this process, reads of pages aside.
    pub connections_max: u32,
    /// Most connections for these reads, to each of the two.
    pub read_connections_max: u32,
    /// Longest wait for a free connection, and for a new one.
    pub acquire_timeout: Duration,
    /// Longest time a statement may take.
    pub statement_timeout: Duration,
    /// How long a transaction may be left open over what ours wait for: [`Ledger::holders`].
    pub lock_patience: Duration,
    /// Which adjustments wait for a second person.
    pub approval: approval::Settings,
    /// What reconciliation may do by itself.
    pub recon: recon::Settings,
    /// How much more time a reservation may get.
    pub extend: extend::Settings,
}

impl Settings {
    /// The defaults, for this address.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Settings {
            url: url.to_owned(),
            read_url: None,
            connections_max: 24,
            read_connections_max: 4,
            acquire_timeout: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(30),
            lock_patience: Duration::from_secs(2),
            approval: approval::Settings::default(),
            recon: recon::Settings::default(),
            extend: extend::Settings::default(),
        }
    }
}

/// How long a statement over connections of its own may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As long as any.
    Usual,
    /// Somebody waits for it, or it has to go on: 10 s, twice what a request is answered within.
    Waited,
    /// Others act where it is late: 3 s.
    Urgent,
    /// It may as well fail: 3 s, and half a second for a lock that somebody keeps.
    Tried,
}

impl Pace {
    fn statement_max(self) -> Duration {
        match self {
            Pace::Usual => Duration::MAX,
            Pace::Waited => Duration::from_secs(10),
            Pace::Urgent | Pace::Tried => Duration::from_secs(3),
        }
    }
}

/// The ledger. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Ledger {
    pool: Connections,
    reads: ReadPools,
    lock_patience: Duration,
    approval: approval::Settings,
    recon: recon::Settings,
    extend: extend::Settings,
    /// How far no event can show up any more.
    settled: Arc<Mutex<events::Settled>>,
    /// Where the expiry goes on.
    due: Arc<DueWalk>,
    /// When batches are taken at once.
    at_once: Arc<take::Pause>,
}

impl Ledger {
    /// A ledger at this address; it connects when it is first asked something.
    ///
    /// # Errors
    /// An address can't be read.
    pub fn new(settings: &Settings) -> Result<Self, LedgerError> {
        let read_only = [("default_transaction_read_only", "on")];
        let reads = |url: &str| connect(settings, url, settings.read_connections_max, &read_only);
        Ok(Ledger {
            pool: connect(settings, &settings.url, settings.connections_max, &[])?,
            reads: ReadPools::new(
                reads(&settings.url)?,
                settings.read_url.as_deref().map(reads).transpose()?,
            ),
            lock_patience: settings.lock_patience,
            approval: settings.approval.clone(),
            recon: settings.recon,
            extend: settings.extend,
            settled: Arc::default(),
            due: Arc::default(),
            at_once: Arc::default(),
        })
    }

    /// The same ledger over other connections.
    fn over(&self, pool: &Connections) -> Ledger {
        Ledger {
            pool: pool.clone(),
            reads: self.reads.clone(),
            lock_patience: self.lock_patience,
            approval: self.approval.clone(),
            recon: self.recon,
            extend: self.extend,
            settled: Arc::clone(&self.settled),
            due: Arc::clone(&self.due),
            at_once: Arc::clone(&self.at_once),
        }
    }

    /// The same ledger over so many connections of its own, opened by the runtime that first needs one: a connection
    /// is served by the runtime that opened it. Each statement is planned once, since of arrays whose length the planner
    /// does not know it would think anew each time, and by indexes: all go by keys, and a plan made while a day was
    /// empty would scan it when it is not.
    #[must_use]
    pub fn apart(&self, connections_max: u32, pace: Pace) -> Ledger {
        let change = |to: PgConnectOptions| match pace {
            Pace::Tried => to.options(PLANNED_ONCE).options([("lock_timeout", HASTE)]),
            _ => to.options(PLANNED_ONCE),
        };
        self.over(&self.pool.apart(connections_max, pace.statement_max(), change))
    }

    async fn begin(&self) -> Result<Transaction, LedgerError> {
        Ok(self.pool.begin().await?)
    }

    /// The same for what goes from sale to sale: a row that somebody keeps locked costs the others half a second.
    async fn begin_in_haste(&self) -> Result<Transaction, LedgerError> {
        let mut tx = self.begin().await?;
        sqlx::query(&format!("-- tx.haste\nSET LOCAL lock_timeout = '{HASTE}'"))
            .execute(&mut *tx)
            .await?;
        Ok(tx)
    }

    /// Gives back the connections; later calls over them fail.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Gives back those of pages, which all that are [apart](Ledger::apart) share.
    pub async fn close_reads(&self) {
        self.reads.close().await;
    }
}

/// Where there is no index a scan seems to cost enough to have it compiled, each time. And on a day of which the planner
/// knows nothing a second index seems to be worth reading whole, for each row.
const PLANNED_ONCE: [(&str, &str); 4] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("jit", "off"),
];

/// The longest wait for a lock of whoever can do without.
const HASTE: &str = "500ms";

/// What our sessions call themselves.
const APPLICATION: &str = "flashgate";

fn connect(
    settings: &Settings,
    url: &str,
    connections_max: u32,
    more: &[(&str, &str)],
) -> Result<Connections, LedgerError> {
    let options = PgConnectOptions::from_str(url)?
        .application_name(APPLICATION)
        .options([
            // One stuck transaction would hold back the oldest snapshot of the whole cluster.
            ("idle_in_transaction_session_timeout", "10000"),
            // A gateway whose host is gone without a word would keep its locks for two hours.
            ("tcp_keepalives_idle", "10"),
            ("tcp_keepalives_interval", "5"),
            ("tcp_keepalives_count", "3"),
            ("tcp_user_timeout", "25000"),
            ("timezone", "UTC"),
        ])
        .options(more.iter().copied());
    let (acquire, statement) = (settings.acquire_timeout, settings.statement_timeout);
    Ok(Connections::new(connections_max, acquire, statement, options))
}
