//! A sale in both halves, real ones, that is served step by step or by a gateway's workers.

use std::sync::Arc;
use std::time::Duration;

use flashgate::clock::Clock;
use flashgate::domain::difference::{Difference, Kind};
use flashgate::domain::entry::{Entry, Slip};
use flashgate::domain::key::{Fingerprint, KeyHash};
use flashgate::domain::lane::LaneNo;
use flashgate::domain::outcome::Decision;
use flashgate::domain::reservation::Ending;
use flashgate::domain::reservation_id::ReservationId;
use flashgate::domain::sale::Sale;
use flashgate::domain::trace::TraceId;
use flashgate::flash::{self, Delivery, Flash, FlashError, LaneMeta, Parcel};
use flashgate::health::Health;
use flashgate::ledger::apply::{Applied, Batch};
use flashgate::ledger::grants::Numbered;
use flashgate::ledger::{EndAnswer, EndAsk};
use flashgate::worker::verify::{Report, verify};
use flashgate::worker::{Context, Roles, pulse, recovery};
use fred::prelude::{Builder, Client, ClientLike, Config};
use fred::types::{ClusterHash, CustomCommand, Value};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::support::ledger::Desk;
use crate::support::servers::shared;

pub(super) const UNITS: i64 = 100;
pub(super) const LIMIT: u32 = 3;

/// 100 units of `hot` at `wh1`, all of them in the live sale `hot`, spread over two lanes.
pub(super) struct Fair {
    pub(super) desk: Desk,
    pub(super) context: Context,
    pub(super) sale: Arc<Sale>,
    namespace: String,
    redis: Client,
}

impl Fair {
    pub(super) async fn open() -> Fair {
        Fair::at(&shared().await.redis()).await
    }

    /// With the Redis at `url`.
    pub(super) async fn at(url: &str) -> Fair {
        let desk = Desk::open().await;
        let deployment = desk.ledger.deployment().await.expect("is migrated");
        let namespace = deployment.namespace.clone();
        let clock = Arc::new(Clock::new());
        let deployment = flash::Deployment {
            namespace: deployment.namespace,
            lanes: deployment.lanes,
            id_key: deployment.id_key,
        };
        let flash = Flash::start(flash::Settings::new(url), &deployment, Arc::clone(&clock), desk.owner);
        let context = Context {
            ledger: desk.ledger.clone(),
            flash: flash.expect("the URL is good"),
            clock,
            health: Arc::new(Health::default()),
            stop: CancellationToken::new(),
            gateway: desk.owner,
            name: "fair".into(),
        };
        let config = Config::from_url(url).expect("the URL is good");
        let redis = Builder::from_config(config).build().expect("a client");
        redis.init().await.expect("Redis answers");
        while !context.flash.is_connected() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        pulse::run_once(&context).await.expect("Postgres answers");
        recovery::run_once(&context).await.expect("recovers");
        let sale = Arc::new(desk.sale("hot", UNITS, Some(LIMIT), 2).await);
        let fair = Fair {
            desk,
            context,
            sale,
            namespace,
            redis,
        };
        fair.settle().await;
        fair
    }

    /// With what a sale has after a while: reservations that are open, sold, released and expired; some of it neither
    /// delivered nor durable.
    pub(super) async fn busy() -> Fair {
        let fair = Fair::open().await;
        let mut ids = Vec::new();
        for n in 0..12 {
            let key = (n % 2 == 0).then(|| format!("k{n}"));
            ids.push(
                fair.reserve(&format!("u{}", n % 8), &format!("o{n}"), 1, key.as_deref())
                    .await,
            );
        }
        fair.settle().await;
        fair.end(ids[0], Ending::Commit).await;
        fair.end(ids[1], Ending::Release).await;
        fair.end(ids[2], Ending::Release).await;
        fair.desk
            .run("UPDATE inventory_reservation SET expires_at = now() - interval '1 minute' WHERE order_id IN ('o3', 'o4')")
            .await;
        let expired = fair.desk.ledger.expire_due(100).await.expect("expires");
        assert_eq!(expired.expired, 2);
        fair.settle().await;
        fair.end(ids[5], Ending::Release).await;
        fair.end(ids[6], Ending::Release).await;
        fair.number(fair.home("u6")).await;
        fair.reserve("u1", "late1", 2, None).await;
        fair.reserve("late", "late2", 1, Some("late")).await;
        fair
    }

    pub(super) fn home(&self, user: &str) -> LaneNo {
        self.sale.home(&format!("u:{user}"))
    }

    /// Starts a gateway's workers, which serve the lanes from now on.
    pub(super) fn serve(&self) -> TaskTracker {
        flashgate::worker::start(
            &self.context,
            Roles {
                writer: true,
                granter: true,
                expiry: true,
                relay: false,
                reconcile: false,
            },
        )
    }

    pub(super) async fn reserve(&self, user: &str, order: &str, quantity: u32, key: Option<&str>) -> ReservationId {
        match self.try_reserve(user, order, quantity, key).await {
            Decision::Reserved { id, .. } => id,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn try_reserve(&self, user: &str, order: &str, quantity: u32, key: Option<&str>) -> Decision {
        self.take(&self.sale, user, order, quantity, key).await
    }

    /// From any sale that is named as its SKU.
    pub(super) async fn take(
        &self,
        sale: &Arc<Sale>,
        user: &str,
        order: &str,
        quantity: u32,
        key: Option<&str>,
    ) -> Decision {
        let taken = self.try_take(sale, user, order, quantity, key).await;
        taken.expect("Redis answers")
    }

    /// The same, of a lane that may be in recovery.
    pub(super) async fn try_take(
        &self,
        sale: &Arc<Sale>,
        user: &str,
        order: &str,
        quantity: u32,
        key: Option<&str>,
    ) -> Result<Decision, FlashError> {
        let line = KeyHash::order_line(order, sale.id.as_str(), "wh1");
        let slip = Slip {
            explicit_key: key.is_some(),
            quantity,
            ttl_ms: 0,
            key: key.map_or(line, |key| KeyHash::explicit("reserve", key)),
            line,
            fingerprint: Fingerprint::of(&[order, user, &quantity.to_string()]),
            trace: TraceId([5; 16]),
            order: order.to_owned(),
            user: Some(user.to_owned()),
        };
        let outcome = self.context.flash.reserve(sale, &slip, false).await;
        outcome.map(|outcome| outcome.decision)
    }

    pub(super) async fn end(&self, id: ReservationId, ending: Ending) {
        let ask = EndAsk {
            id,
            ending,
            detail: None,
            key: None,
            trace: TraceId([6; 16]),
            operator: None,
            unless_in_cart: false,
            from_newer_sales: false,
        };
        let answer = self.desk.end(ask).await;
        assert!(matches!(answer, EndAnswer::Done { .. }), "{answer:?}");
    }

    pub(super) async fn number(&self, lane: LaneNo) -> usize {
        let row = self.desk.ledger.lane(lane).await.expect("a lane");
        let numbered = self
            .desk
            .ledger
            .number_grants(lane, self.context.gateway, row.epoch, 1_000);
        match numbered.await.expect("numbers") {
            Numbered::Done { numbered, returned } => numbered + returned,
            Numbered::NotOwner => panic!("the lane is ours"),
        }
    }

    /// Makes everything durable and delivers all grants, until nothing is in flight.
    pub(super) async fn settle(&self) {
        loop {
            let mut moved = 0;
            for lane in self.context.flash.lane_numbers() {
                moved += self.write(lane).await + self.number(lane).await + self.deliver(lane).await;
            }
            if moved == 0 {
                return;
            }
        }
    }

    async fn write(&self, lane: LaneNo) -> usize {
        let row = self.desk.ledger.lane(lane).await.expect("a lane");
        let view = self
            .context
            .flash
            .look(lane, &[], (row.epoch, row.cursor.seq), 1_000, &[]);
        let raw = view.await.expect("Redis answers").entries;
        let entries: Vec<Entry> = raw.iter().map(|raw| Entry::decode(raw).expect("an entry")).collect();
        if entries.is_empty() {
            return 0;
        }
        let batch = Batch {
            lane,
            owner: self.context.gateway,
            from: row.cursor,
            entries: &entries,
            id_key: self.context.flash.id_key(),
        };
        let applied = self.desk.ledger.apply(batch).await.expect("applies");
        assert!(matches!(applied, Applied::Done(_)), "{applied:?}");
        entries.len()
    }

    /// Where the lane stands in Redis.
    pub(super) async fn meta(&self, lane: LaneNo) -> LaneMeta {
        let meta = self.context.flash.lane_meta(lane).await;
        meta.expect("Redis answers").expect("a lane")
    }

    pub(super) async fn deliver(&self, lane: LaneNo) -> usize {
        let row = self.desk.ledger.lane(lane).await.expect("a lane");
        let meta = self.meta(lane).await;
        let grants = self
            .desk
            .ledger
            .undelivered(lane, meta.grant_no, 1_000)
            .await
            .expect("reads");
        let Some(first) = grants.first().map(|grant| grant.grant_no) else {
            return 0;
        };
        let parcel = |grant: &flashgate::ledger::grants::NumberedGrant| Parcel {
            sale_no: grant.sale_no,
            body: grant.body.clone(),
        };
        let parcels: Vec<Parcel> = grants.iter().map(parcel).collect();
        let delivered = self.context.flash.deliver(lane, row.cursor, first, &parcels).await;
        assert!(matches!(delivered, Ok(Delivery::InForce(_))), "{delivered:?}");
        grants.len()
    }

    /// The key of something in a lane: `meta`, `queue`, `sale`, `buyers`.
    pub(super) fn key(&self, lane: LaneNo, what: &str) -> String {
        self.key_of(self.sale.no, lane, what)
    }

    /// The same of another sale.
    pub(super) fn key_of(&self, sale_no: i32, lane: LaneNo, what: &str) -> String {
        let prefix = format!("fg:{{{}-{lane}}}", self.namespace);
        match what {
            "meta" | "queue" => format!("{prefix}:{what}"),
            _ => format!("{prefix}:{what}:{sale_no}"),
        }
    }

    pub(super) async fn redis(&self, command: &'static str, args: Vec<Value>) -> Value {
        let command = CustomCommand::new_static(command, ClusterHash::Random, false);
        self.redis.custom(command, args).await.expect("Redis answers")
    }

    /// SQL that evades the constraints that keep the ledger right.
    pub(super) async fn tamper(&self, sql: &str) {
        let sql = format!("BEGIN; SET LOCAL session_replication_role = replica; {sql}; COMMIT");
        self.desk.run(&sql).await;
    }

    pub(super) async fn verify(&self) -> Report {
        let verified = verify(&self.context.ledger, &self.context.flash).await;
        verified.expect("it can be found out")
    }

    /// Nothing differs.
    pub(super) async fn assert_agrees(&self) -> Report {
        let report = self.verify().await;
        assert_eq!(report.exit_code(), 0, "{report}");
        report
    }

    /// Differences of exactly these kinds; those of the first.
    pub(super) async fn assert_finds(&self, kinds: &[Kind]) -> Vec<Difference> {
        let report = self.verify().await;
        assert_eq!(report.exit_code(), 1, "{report}");
        let mut found: Vec<Kind> = report.differences.iter().map(|d| d.kind).collect();
        found.sort_unstable();
        found.dedup();
        let mut expected = kinds.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected, "{report}");
        let first = report.differences.into_iter().filter(|d| d.kind == kinds[0]);
        first.collect()
    }
}
