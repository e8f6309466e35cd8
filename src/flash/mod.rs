//! Live stock in Redis: lanes, buckets, scripts, batchers and queues. The only user of the Redis client.
//!
//! [`Flash`] decides who gets a unit, in one atomic step per batch of requests that also appends the outcome to the
//! lane's queue. It knows nothing of Postgres: the worker carries the queue there and brings grants back.

mod batcher;
mod call;
mod cluster;
mod deliver;
mod delivered;
mod desk;
mod error;
mod keys;
mod lane;
mod look;
mod node;
mod notice;
mod queue;
mod reach;
mod recover;
mod redis;
mod refusals;
mod reply;
mod reserve;
mod script;
mod slots;
mod soldout;
mod subscribe;
mod visit;
mod waiters;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use uuid::Uuid;

use self::batcher::Pace;
use self::delivered::DeliveredGrants;
use self::keys::LaneKeys;
use self::lane::Lane;
use self::redis::{Apart, Redis};
use self::refusals::Refusals;
use self::soldout::SoldOut;
use crate::clock::Clock;
use crate::domain::lane::{Epoch, LaneNo};
use crate::domain::outcome::Durability;
use crate::domain::reservation_id::{CALL_MAX, IdKey, ReservationId};
use crate::domain::time::Millis;

pub use self::deliver::{Delivery, GRANTS_STEP, Parcel};
pub use self::desk::{DryAsk, Verdict};
pub use self::error::FlashError;
pub use self::lane::Health;
pub use self::look::{LaneFigures, LaneView, Peeked};
pub use self::notice::{Notice, SettledCall};
pub use self::queue::QueueReader;
pub use self::reach::Waiting;
pub use self::recover::{BUYERS_CALL, Closed, LaneMeta, SaleImage};
pub use self::refusals::Refused;
pub use self::reserve::Outcome;
pub use self::soldout::Mark;
pub use self::visit::Visit;
pub use self::waiters::DurableWatch;

/// How to use Redis.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `redis://…`, `redis-cluster://…`, `rediss://…`.
    pub url: String,
    /// Most requests a script call, 1 to 128.
    pub batch_max: usize,
    /// Most calls in flight a lane; 1 makes the batcher clock itself.
    pub calls_max: usize,
    /// Most requests that wait for a lane's batcher.
    pub waiting_max: usize,
    /// Most reservations of a lane that may wait for the ledger.
    pub queue_max: u64,
    /// Longest time a command may take.
    pub command_timeout: Duration,
    /// Longest time a request waits for units from other buckets.
    pub dry_wait: Duration,
}

impl Settings {
    /// The defaults, for this address.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Settings {
            url: url.to_owned(),
            batch_max: CALL_MAX,
            calls_max: 1,
            waiting_max: 8_192,
            queue_max: 500_000,
            command_timeout: Duration::from_millis(1_000),
            dry_wait: Duration::from_millis(2_000),
        }
    }

    /// Whether Redis can be looked for at all.
    ///
    /// # Errors
    /// The address can't be read.
    pub fn check(&self) -> Result<(), FlashError> {
        node::config(&self.url).map(|_| ())
    }
}

/// What a database is called and how large it is: the ledger knows.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// Prefix of the keys.
    pub namespace: String,
    /// Number of lanes.
    pub lanes: u16,
    /// Keys the MAC of ids.
    pub id_key: IdKey,
}

/// The live stock. Clones share everything.
#[derive(Clone, Debug)]
pub struct Flash {
    inner: Arc<Inner>,
}

/// Shared by the clones; fields are reached through `Deref`.
#[derive(Debug)]
pub struct Inner {
    settings: Settings,
    gateway: Uuid,
    id_key: IdKey,
    clock: Arc<Clock>,
    redis: Redis,
    lanes: Vec<Arc<Lane>>,
    sold_out: Arc<SoldOut>,
    delivered: DeliveredGrants,
    refusals: Refusals,
    desk: mpsc::Sender<DryAsk>,
    dry_asks: Mutex<Option<mpsc::Receiver<DryAsk>>>,
}

impl std::ops::Deref for Flash {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl Flash {
    /// Connects in the background and starts a batcher for each lane. Every lane is suspect until recovery adopts it.
    ///
    /// # Errors
    /// The address can't be read.
    pub fn start(
        settings: Settings,
        deployment: &Deployment,
        clock: Arc<Clock>,
        gateway: Uuid,
    ) -> Result<Self, FlashError> {
        let keys: Vec<LaneKeys> = (0..deployment.lanes)
            .map(|no| LaneKeys::new(&deployment.namespace, LaneNo(no)))
            .collect();
        let metas: Vec<String> = keys.iter().map(LaneKeys::meta).collect();
        let redis = Redis::connect(&settings.url, &metas, settings.command_timeout)?;
        let pace = Pace {
            batch_max: settings.batch_max.clamp(1, CALL_MAX),
            calls_max: settings.calls_max.max(1),
            queue_max: settings.queue_max,
        };
        let mut lanes = Vec::new();
        for (no, keys) in (0..deployment.lanes).map(LaneNo).zip(keys) {
            let (tx, rx) = mpsc::channel(settings.waiting_max);
            let lane = Arc::new(Lane::new(no, keys, tx));
            tokio::spawn(batcher::run(
                Arc::clone(&lane),
                redis.clone(),
                Arc::clone(&clock),
                pace.clone(),
                rx,
            ));
            lanes.push(lane);
        }
        let (desk, dry_asks) = mpsc::channel(settings.waiting_max);
        let patterns = ["notice", "delivered"].map(|channel| format!("fg:{{{}-*}}:{channel}", deployment.namespace));
        let messages = subscribe::subscribe(&redis, settings.command_timeout, patterns.into());
        let inner = Inner {
            settings,
            gateway,
            id_key: deployment.id_key.clone(),
            clock,
            redis,
            lanes,
            sold_out: Arc::new(SoldOut::default()),
            delivered: DeliveredGrants::default(),
            refusals: Refusals::default(),
            desk,
            dry_asks: Mutex::new(Some(dry_asks)),
        };
        let flash = Flash { inner: Arc::new(inner) };
        tokio::spawn(listen(Arc::downgrade(&flash.inner), messages));
        Ok(flash)
    }

    /// Waits up to `within` until the call that made this reservation is durable; none when it was not heard of.
    pub async fn wait_durable(&self, id: ReservationId, within: Duration) -> Option<Durability> {
        let waiters = &self.lanes.get(usize::from(id.lane().0))?.waiters;
        DurableWatch::asked(waiters, id.place()).wait(within).await
    }

    /// Waits up to `within` until the grant is in force; false when it was not heard of.
    pub async fn wait_delivered(&self, grant_id: i64, within: Duration) -> bool {
        self.delivered.wait(grant_id, within).await
    }

    /// How long ago the earliest call was made here that somebody asked to watch and that the ledger is not known to be
    /// past: it is at least so far behind.
    #[must_use]
    pub fn lag(&self, lane: LaneNo) -> Duration {
        self.lane(lane)
            .waiters
            .oldest()
            .map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Wakes the granter of a lane.
    pub fn nudge_grants(&self, lane: LaneNo) {
        self.lane(lane).grants.notify_one();
    }

    /// Ends when the lane's granter is nudged.
    pub async fn grants_nudged(&self, lane: LaneNo) {
        self.lane(lane).grants.notified().await;
    }

    /// The asks of requests whose home bucket is dry; the mover takes them, once.
    #[must_use]
    pub fn take_desk(&self) -> Option<mpsc::Receiver<DryAsk>> {
        self.dry_asks.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Requests refused by each sale since the last call.
    #[must_use]
    pub fn take_refusals(&self) -> std::collections::HashMap<i32, Refused> {
        self.refusals.take()
    }

    /// Takes back counts that could not be stored.
    pub fn return_refusals(&self, sale_no: i32, refused: Refused) {
        self.refusals.give_back(sale_no, refused);
    }

    /// Whether a lane can be used.
    #[must_use]
    pub fn health(&self, lane: LaneNo) -> Health {
        *self.lane(lane).health.borrow()
    }

    /// The epoch of an open lane, waiting up to `within` for it.
    ///
    /// # Errors
    /// `Stale`: it is not open.
    pub async fn open_epoch(&self, lane: LaneNo, within: Duration) -> Result<Epoch, FlashError> {
        self.lane(lane).open_epoch(within).await
    }

    /// Whether any lane's server is connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.lanes.iter().any(|lane| self.reaches(lane))
    }

    /// Whether every lane's server is connected.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.lanes.iter().all(|lane| self.reaches(lane))
    }

    fn reaches(&self, lane: &Lane) -> bool {
        self.redis.is_connected_to(&lane.keys.meta())
    }

    /// A reader of the lane's queue, on a connection of its own.
    #[must_use]
    pub fn queue_reader(&self, lane: LaneNo) -> QueueReader {
        let timeout = self.settings.command_timeout + Duration::from_secs(1);
        QueueReader::new(Apart::new(self.redis.clone(), self.lane(lane).keys.queue(), timeout))
    }

    /// Where each lane stands, if it is open.
    ///
    /// # Errors
    /// Redis can't be asked.
    pub async fn mark(&self, lane: LaneNo) -> Result<Option<Mark>, FlashError> {
        soldout::read_mark(&self.redis, self.lane(lane)).await
    }

    /// Postgres' time now, or none before it was measured.
    #[must_use]
    pub fn now(&self) -> Option<Millis> {
        self.clock.now()
    }

    /// The secret that keys reservation ids.
    #[must_use]
    pub fn id_key(&self) -> &IdKey {
        &self.id_key
    }

    /// This process, as others know it.
    #[must_use]
    pub fn gateway(&self) -> Uuid {
        self.gateway
    }

    /// The lanes.
    pub fn lane_numbers(&self) -> impl Iterator<Item = LaneNo> + use<> {
        (0..u16::try_from(self.lanes.len()).expect("lanes are at most 512")).map(LaneNo)
    }

    fn lane(&self, lane: LaneNo) -> &Arc<Lane> {
        &self.lanes[usize::from(lane.0)]
    }

    /// Reports what an error says about the lane, and passes it on.
    fn noted(&self, lane: &Lane, epoch: Epoch, error: FlashError) -> FlashError {
        if matches!(error, FlashError::Stale | FlashError::NotLoaded) {
            lane.suspect(epoch);
        }
        error
    }

    /// Closes the connection.
    pub async fn quit(&self) {
        self.redis.quit().await;
    }
}

/// Tells the local waiters what other gateways publish, until this gateway is gone.
async fn listen(flash: std::sync::Weak<Inner>, mut messages: mpsc::Receiver<(String, Vec<u8>)>) {
    while let Some((channel, payload)) = messages.recv().await {
        let Some(flash) = flash.upgrade() else { return };
        if channel.ends_with(":delivered") {
            let ids = payload
                .chunks_exact(8)
                .map(|id| i64::from_be_bytes(id.try_into().expect("chunks of 8 bytes")));
            flash.delivered.mark(ids);
        } else if let Some(lane) = flash.lanes.iter().find(|lane| lane.keys.notice() == channel) {
            match Notice::unpack(&payload) {
                Ok(notice) if notice.from != flash.gateway => {
                    lane.waiters.tell(&notice);
                    if let Some(last) = notice.calls.last() {
                        lane.saw(notice.epoch, last.seq);
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, channel, "a notice can't be read"),
            }
        }
    }
}
