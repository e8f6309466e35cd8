//! A small model of a lane, in memory: what its entries say that it does.
//!
//! [`LaneModel::apply`] is all that changes it, so a lane that equals its model is a pure function of its queue.

use std::collections::BTreeMap;

use flashgate::domain::entry::{Body, Entry, Slip, SlipKeys};
use flashgate::domain::grant::Grant;
use flashgate::domain::lane::{Epoch, Nonce, Seq};
use flashgate::domain::record::{Live, RECORD_MAX, Record, Tombstone};
use flashgate::domain::reservation::Status;
use flashgate::domain::reservation_id::Place;
use flashgate::domain::sale::{LaneSettings, SaleState};
use flashgate::domain::time::Millis;
use fred::prelude::ClientLike;

use crate::support::flash::{LANE, OPENED, Rig, ask, raw};

/// A sale in the lane.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SaleModel {
    pub(crate) settings: LaneSettings,
    pub(crate) free: i64,
    pub(crate) taken: i64,
    pub(crate) records: BTreeMap<String, Record>,
}

/// The lane.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LaneModel {
    pub(crate) epoch: Epoch,
    pub(crate) seq: Seq,
    pub(crate) nonce: Nonce,
    pub(crate) time: Millis,
    pub(crate) total: u64,
    pub(crate) grant_no: i64,
    pub(crate) sales: BTreeMap<i32, SaleModel>,
}

impl SaleModel {
    pub(crate) fn new(settings: LaneSettings) -> Self {
        SaleModel {
            settings,
            free: 0,
            taken: 0,
            records: BTreeMap::new(),
        }
    }

    /// Takes a reservation's units.
    pub(crate) fn take(&mut self, slip: &Slip, place: Place) {
        self.free -= i64::from(slip.quantity);
        self.taken += i64::from(slip.quantity);
        self.records
            .entry(slip.buyer())
            .or_default()
            .live
            .push(Live::of(slip, place));
    }

    /// Does what a grant says; its outcome.
    pub(crate) fn grant(&mut self, grant: &Grant) -> u32 {
        match grant {
            Grant::Units(units) => self.free += i64::from(*units),
            Grant::Correct(delta) => self.free += i64::from(*delta),
            Grant::Open(settings) | Grant::Settings(settings) => self.settings = *settings,
            Grant::Drop => {}
            Grant::Take { units, .. } => {
                let taken = i64::from(*units).min(self.free).max(0);
                self.free -= taken;
                return u32::try_from(taken).expect("no more than was asked");
            }
            Grant::TakeWhole(units) if i64::from(*units) <= self.free => {
                self.free -= i64::from(*units);
                return *units;
            }
            Grant::TakeWhole(_) => return 0,
            Grant::End {
                place,
                quantity,
                status,
                buyer,
            } => {
                self.free += i64::from(*quantity);
                return u32::from(self.end(buyer, *place, *status));
            }
            Grant::Retake { .. } => return u32::from(self.retake(grant)),
            Grant::Record { buyer, old, new } => {
                let found = self.records.get(buyer).map(Record::pack).unwrap_or_default();
                if found != *old {
                    return 0;
                }
                self.put(buyer, Record::unpack(new).expect("tests write real records"));
            }
        }
        1
    }

    fn end(&mut self, buyer: &str, place: Place, status: Status) -> bool {
        let mut record = self.records.get(buyer).cloned().unwrap_or_default();
        let Some(at) = record.live.iter().position(|live| live.place == place) else {
            return false;
        };
        let ended = record.live.remove(at);
        if ended.explicit_key && status != Status::Rejected {
            if record.tombstones.len() == RECORD_MAX {
                record.tombstones.remove(0);
            }
            let (key, place) = (ended.key, ended.place);
            record.tombstones.push(Tombstone { key, place });
        }
        self.put(buyer, record);
        true
    }

    fn retake(&mut self, grant: &Grant) -> bool {
        let Grant::Retake {
            place,
            quantity,
            explicit_key,
            key,
            fingerprint,
            line,
            buyer,
        } = grant
        else {
            return false;
        };
        let record = self.records.entry(buyer.clone()).or_default();
        let line_held = record.live.iter().any(|live| live.line == line.head());
        let possible = self.free >= i64::from(*quantity) && record.live.len() < RECORD_MAX && !line_held;
        if possible {
            let keys = SlipKeys {
                explicit: *explicit_key,
                key: *key,
                line: *line,
                fingerprint: *fingerprint,
            };
            record.live.push(Live::new(buyer, &keys, *quantity, *place));
            self.free -= i64::from(*quantity);
            self.taken += i64::from(*quantity);
        }
        self.records.retain(|_, record| *record != Record::default());
        possible
    }

    fn put(&mut self, buyer: &str, record: Record) {
        self.records.insert(buyer.to_owned(), record);
        self.records.retain(|_, record| *record != Record::default());
    }
}

impl LaneModel {
    /// An empty lane, as the rig opens it.
    pub(crate) fn opened(rig: &Rig) -> Self {
        LaneModel {
            epoch: rig.epoch,
            seq: 0,
            nonce: rig.first_nonce(),
            time: OPENED,
            total: 0,
            grant_no: 0,
            sales: BTreeMap::new(),
        }
    }

    /// The same stock under a new epoch.
    pub(crate) fn reopen(&mut self, epoch: Epoch, nonce: Nonce) {
        (self.epoch, self.nonce) = (epoch, nonce);
        (self.seq, self.total) = (0, 0);
    }

    /// Does what the entry says.
    ///
    /// # Panics
    /// The entry does not follow the one before, or what it tells of itself is not what comes of it.
    pub(crate) fn apply(&mut self, entry: &Entry) {
        assert_eq!(
            (entry.epoch, entry.seq),
            (self.epoch, self.seq + 1),
            "ids are consecutive"
        );
        assert_eq!(entry.prev, self.nonce, "each names the one before");
        assert!(entry.at >= self.time, "time never runs back");
        (self.seq, self.nonce, self.time) = (entry.seq, entry.nonce, entry.at);
        match &entry.body {
            Body::Reserve(slips) => {
                for (index, accepted) in (0u8..).zip(slips) {
                    let accepted = accepted.as_ref().expect("every slip can be read");
                    let sale_no = entry.touched[accepted.sale].sale_no;
                    let sale = self.sales.get_mut(&sale_no).expect("only known sales sell");
                    sale.take(&accepted.slip, Place::new(entry.epoch, entry.seq, index, entry.nonce));
                    self.total += 1;
                }
            }
            Body::Grant { first, delivered } => {
                assert_eq!(*first, self.grant_no + 1, "grants are consecutive");
                for (done, no) in delivered.iter().zip(*first..) {
                    let sale_no = entry.touched[done.sale].sale_no;
                    if let Grant::Open(settings) = &done.grant {
                        self.sales.entry(sale_no).or_insert(SaleModel::new(*settings));
                    }
                    if let Some(sale) = self.sales.get_mut(&sale_no) {
                        assert_eq!(sale.grant(&done.grant), done.outcome, "{done:?}");
                    }
                    if done.grant == Grant::Drop {
                        self.sales.remove(&sale_no);
                    }
                    self.grant_no = no;
                }
            }
        }
        assert_eq!(entry.total, self.total);
        for touched in &entry.touched {
            if let Some(sale) = self.sales.get(&touched.sale_no) {
                let told = (touched.free, touched.hold_ms);
                assert_eq!(told, (sale.free, sale.settings.hold_ms), "sale {}", touched.sale_no);
            }
        }
    }
}

/// The lane as it is in Redis.
pub(crate) async fn actual(rig: &Rig) -> LaneModel {
    let meta = rig.flash.lane_meta(LANE).await.expect("Redis answers").expect("a lane");
    let mut sales = BTreeMap::new();
    for sale_no in rig.flash.lane_sales(LANE).await.expect("Redis answers") {
        sales.insert(sale_no, actual_sale(rig, sale_no).await);
    }
    LaneModel {
        epoch: meta.epoch,
        seq: meta.seq,
        nonce: meta.nonce,
        time: Millis(meta_time(rig).await),
        total: meta.total,
        grant_no: meta.grant_no,
        sales,
    }
}

fn key(rig: &Rig, rest: &str) -> String {
    format!("fg:{{{}-{LANE}}}:{rest}", rig.deployment.namespace)
}

async fn meta_time(rig: &Rig) -> i64 {
    numbers(rig, &key(rig, "meta"), &["time"]).await[0]
}

async fn numbers(rig: &Rig, key: &str, fields: &[&str]) -> Vec<i64> {
    let client = raw(&rig.url).await;
    let values = ask(&client, "HMGET", &[&[key], fields].concat()).await;
    client.quit().await.expect("it leaves");
    let number = |value: Vec<u8>| String::from_utf8(value).ok().and_then(|text| text.parse().ok());
    values.into_iter().map(|value| number(value).unwrap_or(-1)).collect()
}

async fn actual_sale(rig: &Rig, sale_no: i32) -> SaleModel {
    let (mut buyers, mut at) = (Vec::new(), None);
    loop {
        let (step, next) = rig.flash.scan_buyers(LANE, sale_no, at).await.expect("Redis answers");
        buyers.extend(step);
        at = next;
        if at.is_none() {
            break;
        }
    }
    let view = rig
        .flash
        .look(LANE, &[sale_no], (0, 0), 1, &buyers)
        .await
        .expect("Redis answers");
    let figures = rig.flash.lane_figures(sale_no, &[LANE]).await.expect("Redis answers");
    assert_eq!(view.free, [Some(figures[0].free)]);
    let records = view
        .records
        .iter()
        .map(|record| Record::unpack(record).expect("a record"));
    let fields = ["limit", "rate", "burst", "hold", "hold_max", "ends"];
    let sale = key(rig, &format!("sale:{sale_no}"));
    let numbers = numbers(rig, &sale, &fields).await;
    let small = |at: usize| u32::try_from(numbers[at]).expect("a setting");
    let client = raw(&rig.url).await;
    let state = ask(&client, "HGET", &[&sale, "state"]).await.concat();
    client.quit().await.expect("it leaves");
    SaleModel {
        settings: LaneSettings {
            state: SaleState::parse(&String::from_utf8(state).expect("a word")).expect("a state"),
            per_user_limit: small(0),
            rate_milli: small(1),
            rate_burst: small(2),
            hold_ms: small(3),
            hold_max_ms: small(4),
            ends_at_ms: u64::try_from(numbers[5]).expect("a time"),
            undurable_max: 0,
        },
        free: figures[0].free,
        taken: figures[0].taken,
        records: buyers.into_iter().zip(records).collect(),
    }
}
