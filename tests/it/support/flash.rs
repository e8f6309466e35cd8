//! A deployment of lanes in a real Redis, and gateways on it, for the tests of the Redis half.
//!
//! A [`Rig`] plays the ledger's part: it recovers the lanes and numbers the grants. Its clock runs an hour behind the
//! lanes, so a lane's time stands still at [`OPENED`] until the test moves it: times are exact, and nothing sleeps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flashgate::clock::Clock;
use flashgate::domain::entry::{Body, Entry};
use flashgate::domain::grant::Grant;
use flashgate::domain::lane::{Cursor, Epoch, LaneNo, Nonce};
use flashgate::domain::outcome::Decision;
use flashgate::domain::record::Record;
use flashgate::domain::reservation_id::{IdKey, Place};
use flashgate::domain::sale::{LaneSettings, SaleState};
use flashgate::domain::time::Millis;
use flashgate::flash::{Closed, Delivery, Deployment, Flash, FlashError, Parcel, Settings};
use fred::prelude::{Builder, Client, ClientLike, Config};
use fred::types::Value;
use uuid::Uuid;

pub(crate) use super::buy::{Buy, sale};
use super::servers;

/// When the lanes open: their time until it is moved.
pub(crate) const OPENED: Millis = Millis(1_900_000_000_000);
/// How far the gateways' clock is behind the lanes.
const BEHIND_MS: i64 = 3_600_000;
/// The lane of most tests.
pub(crate) const LANE: LaneNo = LaneNo(0);
/// The most that anything here is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Settings of a sale that refuses nobody but for want of units.
pub(crate) const OPEN: LaneSettings = LaneSettings {
    state: SaleState::Live,
    per_user_limit: 0,
    rate_milli: 0,
    rate_burst: 0,
    hold_ms: 60_000,
    hold_max_ms: 3_600_000,
    ends_at_ms: 0,
    undurable_max: 0,
};

/// Lanes, and a gateway that owns them.
pub(crate) struct Rig {
    pub(crate) flash: Flash,
    pub(crate) clock: Arc<Clock>,
    pub(crate) url: String,
    pub(crate) deployment: Deployment,
    pub(crate) epoch: Epoch,
    /// Number of each lane's last grant.
    pub(crate) granted: Vec<i64>,
}

impl Rig {
    /// One open lane in a database of its own.
    pub(crate) async fn start() -> Rig {
        Rig::at(&servers::shared().await.redis(), 1).await
    }

    /// Open lanes in the Redis at `url`.
    pub(crate) async fn at(url: &str, lanes: u16) -> Rig {
        let deployment = Deployment {
            namespace: format!("{:08x}", rand::random::<u32>()),
            lanes,
            id_key: IdKey([7; 32]),
        };
        let clock = Arc::new(Clock::new());
        set_clock(&clock, Millis(OPENED.0 - BEHIND_MS));
        let flash = connected(Settings::new(url), &deployment, &clock).await;
        let mut rig = Rig {
            flash,
            clock,
            url: url.to_owned(),
            deployment,
            epoch: 0,
            granted: vec![0; lanes.into()],
        };
        rig.reopen(|_| async {}).await;
        rig
    }

    /// Closes every lane under the next epoch, does `meanwhile`, and opens them again.
    pub(crate) async fn reopen<F: Future<Output = ()>>(&mut self, meanwhile: impl FnOnce(Flash) -> F) {
        self.epoch += 1;
        let visit = self.flash.visit(LANE).await.expect("Redis answers");
        visit.load_scripts().await.expect("the scripts load");
        visit.leave().await;
        for lane in self.flash.lane_numbers() {
            let closed = self.flash.close_lane(lane, self.epoch).await.expect("Redis answers");
            assert!(matches!(closed, Closed::Was { .. }), "{closed:?}");
        }
        meanwhile(self.flash.clone()).await;
        for lane in self.flash.lane_numbers() {
            let grant_no = self.granted[usize::from(lane.0)];
            let opened = self
                .flash
                .open_lane(lane, self.epoch, self.first_nonce(), grant_no, OPENED);
            assert!(opened.await.expect("Redis answers"));
            self.flash.adopt_lane(lane, self.epoch, 0);
        }
    }

    /// What the first entry of this epoch names as its predecessor.
    pub(crate) fn first_nonce(&self) -> Nonce {
        Nonce([
            9,
            9,
            9,
            9,
            9,
            9,
            9,
            u8::try_from(self.epoch).expect("tests recover rarely"),
        ])
    }

    /// Another gateway on the same lanes.
    pub(crate) async fn gateway(&self) -> Flash {
        self.gateway_with(Settings::new(&self.url)).await
    }

    /// Another gateway on the same lanes, with these settings.
    pub(crate) async fn gateway_with(&self, settings: Settings) -> Flash {
        self.join(self.spare(settings)).await
    }

    /// A gateway that connects in the background and serves no lane yet.
    pub(crate) fn spare(&self, settings: Settings) -> Flash {
        started(settings, &self.deployment, &self.clock)
    }

    /// Has a spare gateway serve the lanes.
    pub(crate) async fn join(&self, flash: Flash) -> Flash {
        until("a connection", async || flash.is_connected()).await;
        for lane in flash.lane_numbers() {
            flash.adopt_lane(lane, self.epoch, 0);
        }
        flash
    }

    pub(crate) fn cursor(&self) -> Cursor {
        Cursor {
            epoch: self.epoch,
            seq: 0,
            nonce: self.first_nonce(),
            total: 0,
        }
    }

    /// Delivers the next grants of the lane; the outcome of each.
    pub(crate) async fn grant_all(&mut self, lane: LaneNo, grants: &[(i32, Grant)]) -> Vec<u32> {
        let last = &mut self.granted[usize::from(lane.0)];
        let first = *last + 1;
        *last += i64::try_from(grants.len()).expect("few grants");
        let last = *last;
        let delivered = self.deliver(lane, first, grants).await;
        assert_eq!(delivered.expect("Redis answers"), Delivery::InForce(last));
        let Some(Body::Grant { delivered, .. }) = self.entries(lane).await.pop().map(|entry| entry.body) else {
            panic!("the last entry is the delivery");
        };
        delivered.iter().map(|grant| grant.outcome).collect()
    }

    /// Delivers the lane's next grant.
    pub(crate) async fn grant(&mut self, sale_no: i32, grant: Grant) -> u32 {
        self.grant_all(LANE, &[(sale_no, grant)]).await[0]
    }

    /// Delivers grants under these numbers, whatever the lane has.
    pub(crate) async fn deliver(
        &self,
        lane: LaneNo,
        first: i64,
        grants: &[(i32, Grant)],
    ) -> Result<Delivery, FlashError> {
        self.flash.deliver(lane, self.cursor(), first, &parcels(grants)).await
    }

    /// Opens a sale in the lane.
    pub(crate) async fn open(&mut self, sale_no: i32, settings: LaneSettings, units: u32) {
        let grants = [(sale_no, Grant::Open(settings)), (sale_no, Grant::Units(units))];
        self.grant_all(LANE, &grants).await;
    }

    /// Moves the lane's time by at least `ms`, with a grant of nothing to `sale_no`; the time exactly.
    pub(crate) async fn pass(&mut self, sale_no: i32, ms: i64) -> Millis {
        let now = self.entries(LANE).await.last().map_or(OPENED, |entry| entry.at);
        set_clock(&self.clock, now.plus_ms(ms));
        self.grant(sale_no, Grant::Units(0)).await;
        set_clock(&self.clock, Millis(OPENED.0 - BEHIND_MS));
        self.entries(LANE).await.last().expect("the grant's").at
    }

    /// One request.
    pub(crate) async fn reserve(&self, sale_no: i32, buy: &Buy) -> Decision {
        self.reserve_all(&[(sale_no, buy.clone())]).await.remove(0)
    }

    /// Requests of one call: the batcher, idle, takes all that were made before it is polled.
    pub(crate) async fn reserve_all(&self, requests: &[(i32, Buy)]) -> Vec<Decision> {
        reserve_all(&self.flash, requests).await
    }

    /// The place of a request that must be accepted.
    pub(crate) async fn place(&self, sale_no: i32, buy: &Buy) -> Place {
        place_of(&self.reserve(sale_no, buy).await)
    }

    /// The whole queue.
    pub(crate) async fn entries(&self, lane: LaneNo) -> Vec<Entry> {
        let start = Cursor {
            epoch: 0,
            seq: 0,
            nonce: Nonce::default(),
            total: 0,
        };
        let raw = self.flash.surviving_entries(lane, start).await.expect("Redis answers");
        raw.iter()
            .map(|raw| Entry::decode(raw).expect("every entry can be read"))
            .collect()
    }

    /// The sale's counter.
    pub(crate) async fn free(&self, sale_no: i32) -> Option<i64> {
        let view = self.flash.look(LANE, &[sale_no], (0, 0), 1, &[]).await;
        view.expect("Redis answers").free[0]
    }

    /// A buyer's record.
    pub(crate) async fn record(&self, sale_no: i32, buyer: &str) -> Record {
        let buyers = [buyer.to_owned()];
        let view = self.flash.look(LANE, &[sale_no], (0, 0), 1, &buyers).await;
        Record::unpack(&view.expect("Redis answers").records[0]).expect("a record")
    }

    /// Everything in the database: hashes by field, streams by entry.
    pub(crate) async fn dump(&self) -> BTreeMap<String, Vec<Vec<u8>>> {
        let client = raw(&self.url).await;
        let mut all = BTreeMap::new();
        for key in ask(&client, "KEYS", &["*"]).await {
            let key = String::from_utf8(key).expect("keys are text");
            let content = if key.ends_with(":queue") {
                ask(&client, "XRANGE", &[&key, "-", "+"]).await
            } else {
                let flat = ask(&client, "HGETALL", &[&key]).await;
                let mut pairs: Vec<Vec<u8>> = flat.chunks(2).map(|pair| pair.join(&b'=')).collect();
                pairs.sort();
                pairs
            };
            all.insert(key, content);
        }
        client.quit().await.expect("it leaves");
        all
    }
}

/// Requests of one call through this gateway.
pub(crate) async fn reserve_all(flash: &Flash, requests: &[(i32, Buy)]) -> Vec<Decision> {
    let ask = |(sale_no, buy): &(i32, Buy)| {
        let (sale, slip) = (sale(*sale_no, &[LANE]), buy.slip());
        async move {
            flash
                .reserve(&sale, &slip, false)
                .await
                .expect("Redis answers")
                .decision
        }
    };
    futures::future::join_all(requests.iter().map(ask)).await
}

/// Where an accepted reservation was made.
pub(crate) fn place_of(decision: &Decision) -> Place {
    match decision {
        Decision::Reserved { id, .. } => id.place(),
        other => panic!("not reserved: {other:?}"),
    }
}

pub(crate) fn parcels(grants: &[(i32, Grant)]) -> Vec<Parcel> {
    let parcel = |(sale_no, grant): &(i32, Grant)| Parcel {
        sale_no: *sale_no,
        body: grant.pack(),
    };
    grants.iter().map(parcel).collect()
}

/// Sets the clock, however far it jumps.
pub(crate) fn set_clock(clock: &Clock, to: Millis) {
    for _ in 0..2 {
        clock.measure(to, Instant::now(), Duration::ZERO);
    }
}

/// A gateway that is connected.
pub(crate) async fn connected(settings: Settings, deployment: &Deployment, clock: &Arc<Clock>) -> Flash {
    let flash = started(settings, deployment, clock);
    until("a connection", async || flash.is_connected()).await;
    flash
}

fn started(settings: Settings, deployment: &Deployment, clock: &Arc<Clock>) -> Flash {
    let gateway = Uuid::from_u128(rand::random());
    Flash::start(settings, deployment, Arc::clone(clock), gateway).expect("the address can be read")
}

/// Waits for something that nobody tells us.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !holds().await {
        assert!(since.elapsed() < PATIENCE, "no sign of {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The name by which `lua/<script>.lua` is called.
pub(crate) fn sha_of(script: &str) -> String {
    let before = [
        include_str!("../../../lua/record.lua"),
        include_str!("../../../lua/entry.lua"),
    ];
    let text = match script {
        "reserve" => include_str!("../../../lua/reserve.lua"),
        "grant" => include_str!("../../../lua/grant.lua"),
        other => panic!("no script {other}"),
    };
    fred::util::sha1_hash(&format!("{}{text}", before.concat()))
}

/// A plain client.
pub(crate) async fn raw(url: &str) -> Client {
    let config = Config::from_url(url).expect("fred reads the URL");
    let client = Builder::from_config(config).build().expect("a client");
    client.init().await.expect("Redis answers");
    client
}

/// The flattened answer to a command.
pub(crate) async fn ask(client: &Client, command: &'static str, args: &[&str]) -> Vec<Vec<u8>> {
    let args: Vec<String> = args.iter().map(ToString::to_string).collect();
    let answer: Value = client.custom(fred::cmd!(command), args).await.expect("Redis answers");
    let mut flat = Vec::new();
    flatten(answer, &mut flat);
    flat
}

fn flatten(value: Value, out: &mut Vec<Vec<u8>>) {
    match value {
        Value::Array(values) => values.into_iter().for_each(|value| flatten(value, out)),
        Value::Null => {}
        other => out.push(other.into_owned_bytes().map(|bytes| bytes.to_vec()).unwrap_or_default()),
    }
}
