//! Anything in any order: random requests, grants, settings, times, settlements and recoveries, answered as a small
//! model answers them, with the very entries that the model would write.

use flashgate::domain::entry::Entry;
use flashgate::domain::grant::Grant;
use flashgate::domain::lane::Cursor;
use flashgate::domain::outcome::Decision;
use flashgate::domain::record::Record;
use flashgate::domain::reservation::Status;
use flashgate::domain::sale::{LaneSettings, SaleState};
use flashgate::flash::{Flash, Notice, SaleImage, Settings};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::flash_model::{LaneModel, actual};
use crate::flash_shadow::{Shadow, retake};
use crate::support::flash::{Buy, LANE, OPEN, Rig, reserve_all};
use crate::support::servers;

const QUEUE_MAX: u64 = 12;

#[derive(Clone, Debug)]
enum Op {
    /// Requests of one call.
    Reserve(Vec<(i32, Buy)>),
    /// Grants of one call.
    Grant(Vec<(i32, What)>),
    /// A delivery of which the first few are known already.
    Repeat { known: i64, fresh: usize },
    /// A delivery that comes too early.
    Gap,
    /// The lane's time moves.
    Pass(i64),
    /// The ledger gets as far as this many entries before the last.
    Settle(u64),
    /// The lane gets a new epoch, written anew or left as it is.
    Recover { rebuild: bool },
}

/// A grant, before the state picks what it is about.
#[derive(Clone, Debug)]
enum What {
    Units(u32),
    Open(LaneSettings),
    Settings(LaneSettings),
    Take(u32),
    Correct(i32),
    End(usize, Status),
    Retake(usize),
    Record { right: bool, which: usize },
    Drop,
}

fn settings() -> impl Strategy<Value = LaneSettings> {
    use SaleState::{Ended, Live, Paused};
    let state = prop_oneof![8 => Just(Live), 1 => Just(Paused), 1 => Just(Ended)];
    let rate = prop_oneof![2 => Just((0, 0)), 1 => Just((1_000, 2))];
    let ends = prop_oneof![6 => Just(0), 1 => Just(1), 3 => Just(3_000_000_000_000)];
    (state, prop_oneof![Just(0), Just(4)], rate, any::<bool>(), ends).prop_map(
        |(state, per_user_limit, (rate_milli, rate_burst), short, ends_at_ms)| LaneSettings {
            state,
            per_user_limit,
            rate_milli,
            rate_burst,
            hold_ms: if short { 9 } else { 60_000 },
            hold_max_ms: if short { 4_000 } else { 3_600_000 },
            ends_at_ms,
            undurable_max: 0,
        },
    )
}

fn request() -> impl Strategy<Value = (i32, Buy)> {
    let sale_no = prop_oneof![6 => Just(1), 2 => Just(2), 1 => Just(3)];
    let buyer = prop_oneof![5 => Just(0), 3 => Just(1), 1 => Just(2), 1 => Just(3)];
    let ttl_ms = prop_oneof![5 => Just(0), 1 => Just(4_001)];
    (
        sale_no,
        buyer,
        0..5,
        proptest::option::weighted(0.4, 0..4),
        1u32..4,
        ttl_ms,
    )
        .prop_map(|(sale_no, buyer, order, key, units, ttl_ms)| {
            let order = format!("o{buyer}{order}");
            let buy = match buyer {
                3 => Buy::anonymous(&order),
                _ => Buy::of(&format!("u{buyer}"), &order),
            };
            let buy = buy.units(units).ttl_ms(ttl_ms);
            (sale_no, key.map_or(buy.clone(), |key| buy.key(&format!("k{key}"))))
        })
}

fn what() -> impl Strategy<Value = What> {
    let status = prop_oneof![Just(Status::Released), Just(Status::Expired), Just(Status::Rejected)];
    prop_oneof![
        4 => (0u32..9).prop_map(What::Units),
        1 => settings().prop_map(What::Open),
        2 => settings().prop_map(What::Settings),
        2 => (0u32..9).prop_map(What::Take),
        1 => (-4i32..4).prop_map(What::Correct),
        6 => (any::<usize>(), status).prop_map(|(which, status)| What::End(which, status)),
        3 => any::<usize>().prop_map(What::Retake),
        2 => (any::<bool>(), any::<usize>()).prop_map(|(right, which)| What::Record { right, which }),
        1 => Just(What::Drop),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => vec(request(), 1..9).prop_map(Op::Reserve),
        6 => vec((1i32..4, what()), 1..6).prop_map(Op::Grant),
        1 => (0i64..4, 0usize..3).prop_map(|(known, fresh)| Op::Repeat { known, fresh }),
        1 => Just(Op::Gap),
        1 => (0i64..3_000).prop_map(Op::Pass),
        2 => (0u64..4).prop_map(Op::Settle),
        1 => any::<bool>().prop_map(|rebuild| Op::Recover { rebuild }),
    ]
}

impl What {
    /// What it is about, as things stand; a sale that is not there is opened.
    fn resolve(self, shadow: &Shadow, sale_no: i32) -> Grant {
        let Some(sale) = shadow.lane.sales.get(&sale_no) else {
            return Grant::Open(OPEN);
        };
        let held: Vec<_> = sale
            .records
            .iter()
            .flat_map(|(buyer, r)| r.live.iter().map(move |live| (buyer, live)))
            .collect();
        let target = None;
        match self {
            What::Units(units) => Grant::Units(units),
            What::Open(settings) => Grant::Open(settings),
            What::Settings(settings) => Grant::Settings(settings),
            What::Take(units) => Grant::Take { units, target },
            What::Correct(delta) => Grant::Correct(delta),
            What::End(which, status) if !held.is_empty() => {
                let (buyer, live) = held[which % held.len()];
                Grant::End {
                    place: live.place,
                    quantity: live.units,
                    status,
                    buyer: buyer.clone(),
                }
            }
            What::Retake(which) if !shadow.made.is_empty() => retake(&shadow.made[which % shadow.made.len()]),
            What::Record { right, which } if !held.is_empty() => {
                let buyer = held[which % held.len()].0.clone();
                let mut record = sale.records[&buyer].clone();
                let old = if right { record.pack() } else { vec![] };
                record.live.pop();
                let new = if record == Record::default() {
                    vec![]
                } else {
                    record.pack()
                };
                Grant::Record { buyer, old, new }
            }
            What::Drop => Grant::Drop,
            What::End(..) | What::Retake(_) | What::Record { .. } => Grant::Units(0),
        }
    }
}

/// Lanes in Redis, and the model beside them.
struct Case {
    rig: Rig,
    gateway: Flash,
    /// The next gateway.
    spare: Flash,
    shadow: Shadow,
}

impl Case {
    async fn new(url: &str) -> Case {
        let rig = Rig::at(url, 1).await;
        Case {
            gateway: rig.gateway_with(settings_at(url)).await,
            spare: rig.spare(settings_at(url)),
            shadow: Shadow::new(&rig, QUEUE_MAX),
            rig,
        }
    }

    /// The entry that was written since the model's last.
    async fn written(&self) -> Option<Entry> {
        let after = (self.shadow.lane.epoch, self.shadow.lane.seq);
        let view = self
            .rig
            .flash
            .look(LANE, &[], after, 9, &[])
            .await
            .expect("Redis answers");
        assert!(view.entries.len() <= 1, "one call, one entry");
        view.entries
            .first()
            .map(|raw| Entry::decode(raw).expect("it can be read"))
    }

    async fn reserve(&mut self, requests: &[(i32, Buy)]) {
        let answers = reserve_all(&self.gateway, requests).await;
        let written = self.written().await;
        let nonce = written.as_ref().map(|entry| entry.nonce).unwrap_or_default();
        let expected = self.shadow.reserve(requests, nonce);
        assert_eq!((&answers, &written), (&expected.0, &expected.1));
        if answers.contains(&Decision::Insufficient { available: 0 }) {
            // It may answer from what it remembers now, and so make a batch into several calls.
            let spare = self.rig.spare(settings_at(&self.rig.url));
            let spare = std::mem::replace(&mut self.spare, spare);
            self.gateway = self.rig.join(spare).await;
        }
    }

    async fn deliver(&mut self, first: i64, grants: &[(i32, Grant)]) {
        let delivery = self.rig.deliver(LANE, first, grants).await.expect("Redis answers");
        self.compare(first, grants, Some(delivery)).await;
    }

    async fn compare(&mut self, first: i64, grants: &[(i32, Grant)], told: Option<flashgate::flash::Delivery>) {
        let written = self.written().await;
        let (nonce, at) = written
            .as_ref()
            .map(|entry| (entry.nonce, entry.at))
            .unwrap_or_default();
        let expected = self.shadow.grant(first, grants, at.max(self.shadow.lane.time), nonce);
        assert_eq!((told.unwrap_or(expected.0), written), (expected.0, expected.1));
    }

    async fn grants(&mut self, whats: Vec<(i32, What)>) {
        let mut grants: Vec<(i32, Grant)> = Vec::new();
        for (sale_no, what) in whats {
            // Nothing follows on a drop within a call.
            if !grants.contains(&(sale_no, Grant::Drop)) {
                let grant = what.resolve(&self.shadow, sale_no);
                grants.push((sale_no, grant));
            }
        }
        self.deliver(self.shadow.lane.grant_no + 1, &grants).await;
    }

    async fn settle(&mut self, before_last: u64) {
        let seq = self.shadow.lane.seq.saturating_sub(before_last);
        let total = self.shadow.settle(seq);
        let cursor = Cursor {
            seq,
            total,
            ..self.rig.cursor()
        };
        let (from, epoch) = (self.rig.flash.gateway(), self.rig.epoch);
        let notice = Notice {
            from,
            epoch,
            calls: vec![],
        };
        self.rig
            .flash
            .settle(LANE, cursor, None, &notice, &[].into())
            .await
            .expect("Redis answers");
    }

    async fn recover(&mut self, rebuild: bool) {
        let (epoch, model) = (self.rig.epoch + 1, self.shadow.lane.clone());
        self.rig.granted[0] = model.grant_no;
        self.rig
            .reopen(async |flash: Flash| {
                for sale_no in (1..4).filter(|_| rebuild) {
                    let Some(sale) = model.sales.get(&sale_no) else {
                        assert!(
                            flash
                                .rebuild_without(LANE, epoch, sale_no)
                                .await
                                .expect("Redis answers")
                        );
                        continue;
                    };
                    let image = SaleImage {
                        sale_no,
                        settings: sale.settings,
                        free: sale.free,
                        taken: sale.taken,
                        grant_no: model.grant_no,
                    };
                    assert!(flash.rebuild_sale(LANE, epoch, &image).await.expect("Redis answers"));
                    let buyers: Vec<_> = sale.records.clone().into_iter().collect();
                    assert!(
                        flash
                            .rebuild_buyers(LANE, epoch, sale_no, &buyers)
                            .await
                            .expect("Redis answers")
                    );
                }
            })
            .await;
        self.shadow.reopen(&self.rig, rebuild);
        self.gateway.adopt_lane(LANE, epoch, 0);
    }

    async fn step(&mut self, op: Op) {
        let next = self.shadow.lane.grant_no + 1;
        match op {
            Op::Reserve(requests) => self.reserve(&requests).await,
            Op::Grant(whats) => self.grants(whats).await,
            Op::Repeat { known, fresh } => {
                let known = known.min(next - 1);
                let mut grants = vec![(1, Grant::Units(1_000)); usize::try_from(known).expect("a few")];
                grants.extend(vec![(1, Grant::Open(OPEN)); fresh]);
                if !grants.is_empty() {
                    self.deliver(next - known, &grants).await;
                }
            }
            Op::Gap => self.deliver(next + 1, &[(1, Grant::Units(1))]).await,
            Op::Pass(ms) => {
                self.rig.granted[0] = next - 1;
                self.rig.pass(1, ms).await;
                self.compare(next, &[(1, Grant::Units(0))], None).await;
            }
            Op::Settle(before_last) => self.settle(before_last).await,
            Op::Recover { rebuild } => self.recover(rebuild).await,
        }
    }

    /// The lane equals the model, and so does a model that knows nothing but the queue.
    async fn check(&self, start: LaneModel) {
        assert_eq!(actual(&self.rig).await, self.shadow.lane);
        let mut from_queue = start;
        for entry in &self.rig.entries(LANE).await {
            if entry.epoch != from_queue.epoch {
                from_queue.reopen(entry.epoch, entry.prev);
            }
            from_queue.apply(entry);
        }
        assert_eq!(from_queue.sales, self.shadow.lane.sales);
    }
}

fn settings_at(url: &str) -> Settings {
    Settings {
        queue_max: QUEUE_MAX,
        ..Settings::new(url)
    }
}

#[test]
fn whatever_happens_the_lane_does_as_its_model() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
    };
    let url = runtime().block_on(async { servers::shared().await.redis() });
    let config = ProptestConfig {
        cases: 64,
        failure_persistence: None,
        max_shrink_iters: 500,
        ..ProptestConfig::default()
    };
    let played = TestRunner::new(config).run(&vec(op(), 1..30), |ops| {
        runtime().block_on(async {
            let mut case = Case::new(&url).await;
            let start = case.shadow.lane.clone();
            case.grants(vec![(1, What::Open(OPEN)), (2, What::Open(OPEN))]).await;
            case.grants(vec![(1, What::Units(12)), (2, What::Units(4))]).await;
            for op in ops {
                case.step(op).await;
            }
            case.check(start).await;
        });
        Ok(())
    });
    if let Err(failure) = played {
        panic!("{failure}");
    }
}
