//! The model's mind: how a lane decides, written down once more, as plainly as possible.

use std::collections::BTreeMap;

use flashgate::domain::entry::{Accepted, Body, Entry, Slip, Touched};
use flashgate::domain::grant::{Delivered, Grant};
use flashgate::domain::lane::{Nonce, Seq};
use flashgate::domain::outcome::Decision;
use flashgate::domain::record::RECORD_MAX;
use flashgate::domain::reservation_id::{IdKey, Place};
use flashgate::domain::sale::SaleState;
use flashgate::domain::time::Millis;
use flashgate::flash::Delivery;

use crate::flash_model::{LaneModel, SaleModel};
use crate::support::flash::{Buy, LANE, Rig};

/// A lane in memory that answers.
pub(crate) struct Shadow {
    pub(crate) lane: LaneModel,
    /// Every reservation that was ever made.
    pub(crate) made: Vec<(Place, Slip)>,
    /// Tokens left, and when that was.
    rates: BTreeMap<(i32, String), (f64, Millis)>,
    /// Reservations up to each entry of this epoch.
    totals: Vec<u64>,
    /// The last durable entry, and reservations up to it.
    cursor: (Seq, u64),
    queue_max: u64,
    id_key: IdKey,
}

/// The grant that takes this reservation's units anew.
pub(crate) fn retake((place, slip): &(Place, Slip)) -> Grant {
    Grant::Retake {
        place: *place,
        quantity: slip.quantity,
        explicit_key: slip.explicit_key,
        key: slip.key,
        fingerprint: slip.fingerprint,
        line: slip.line,
        buyer: slip.buyer(),
    }
}

impl Shadow {
    pub(crate) fn new(rig: &Rig, queue_max: u64) -> Self {
        Shadow {
            lane: LaneModel::opened(rig),
            made: Vec::new(),
            rates: BTreeMap::new(),
            totals: vec![0],
            cursor: (0, 0),
            queue_max,
            id_key: rig.deployment.id_key.clone(),
        }
    }

    /// The answers to the requests of one call, and its entry.
    pub(crate) fn reserve(&mut self, requests: &[(i32, Buy)], nonce: Nonce) -> (Vec<Decision>, Option<Entry>) {
        let mut after = self.lane.clone();
        let (mut answers, mut accepted, mut sales) = (Vec::new(), Vec::new(), Vec::<i32>::new());
        for (sale_no, buy) in requests {
            if !sales.contains(sale_no) {
                sales.push(*sale_no);
            }
            let slip = buy.slip();
            let index = u8::try_from(accepted.len()).expect("a small call");
            let place = Place::new(after.epoch, after.seq + 1, index, nonce);
            let decided = match after.sales.get_mut(sale_no) {
                None => Err(Decision::NotLive(None)),
                Some(sale) => self.decide(*sale_no, sale, &slip, accepted.len()).map(|()| sale),
            };
            answers.push(match decided {
                Err(refusal) => refusal,
                Ok(sale) => {
                    sale.take(&slip, place);
                    let hold_ms = if slip.ttl_ms > 0 {
                        slip.ttl_ms
                    } else {
                        sale.settings.hold_ms
                    };
                    self.made.push((place, slip.clone()));
                    let sale = sales.iter().position(|no| no == sale_no).expect("it is listed");
                    accepted.push(Ok(Accepted { sale, slip }));
                    Decision::Reserved {
                        id: self.id_key.seal(LANE, place),
                        created_at: after.time,
                        expires_at: after.time.plus_ms(hold_ms.into()),
                    }
                }
            });
        }
        if accepted.is_empty() {
            return (answers, None);
        }
        let touched = |no: &i32| match after.sales.get(no) {
            Some(sale) => touched(*no, sale),
            None => Touched {
                sale_no: 0,
                free: 0,
                hold_ms: 0,
            },
        };
        let touched = sales.iter().map(touched).collect();
        let total = self.lane.total + u64::try_from(accepted.len()).expect("a small call");
        (
            answers,
            Some(self.write(nonce, self.lane.time, total, touched, Body::Reserve(accepted))),
        )
    }

    /// The answer to a request that is refused.
    fn decide(&mut self, sale_no: i32, sale: &SaleModel, slip: &Slip, accepted: usize) -> Result<(), Decision> {
        let settings = &sale.settings;
        let record = sale.records.get(&slip.buyer()).cloned().unwrap_or_default();
        let id = |place| self.id_key.seal(LANE, place);
        if let Some(live) = record.live.iter().find(|live| live.key == slip.key.head()) {
            let same = live.fingerprint == slip.fingerprint.0;
            return Err(if same {
                Decision::Replayed(id(live.place))
            } else {
                Decision::KeyReused
            });
        }
        if let Some(tombstone) = record
            .tombstones
            .iter()
            .find(|tombstone| tombstone.key == slip.key.head())
        {
            return Err(Decision::Ended(id(tombstone.place)));
        }
        let ends_at = i64::try_from(settings.ends_at_ms).expect("a time");
        let over = ends_at > 0 && self.lane.time.0 >= ends_at;
        let state = if over { SaleState::Ended } else { settings.state };
        if state != SaleState::Live {
            return Err(Decision::NotLive(Some(state)));
        }
        let limit = settings.per_user_limit;
        if (limit > 0 || settings.rate_milli > 0) && slip.user.is_none() {
            return Err(Decision::UserRequired);
        }
        if slip.ttl_ms > settings.hold_max_ms {
            let hold_max_ms = settings.hold_max_ms;
            return Err(Decision::TtlTooLong { hold_max_ms });
        }
        if let Some(live) = record.live.iter().find(|live| live.line == slip.line.head()) {
            return Err(Decision::OrderAlreadyReserved(id(live.place)));
        }
        let wait = self.rate_wait(sale_no, sale, &slip.buyer());
        if wait > 0 {
            return Err(Decision::RateLimited { retry_after_ms: wait });
        }
        let held: u32 = record.live.iter().map(|live| live.units).sum();
        if record.live.len() >= RECORD_MAX || (limit > 0 && held + slip.quantity > limit) {
            let limit = if limit > 0 { limit } else { held };
            return Err(Decision::UserLimit { limit, held });
        }
        if sale.free < slip.quantity.into() {
            return Err(Decision::Insufficient {
                available: sale.free.max(0),
            });
        }
        let waiting = self.lane.total - self.cursor.1 + u64::try_from(accepted).expect("a small call");
        if waiting >= self.queue_max {
            return Err(Decision::QueueFull);
        }
        Ok(())
    }

    fn rate_wait(&mut self, sale_no: i32, sale: &SaleModel, buyer: &str) -> u64 {
        let (rate, burst) = (f64::from(sale.settings.rate_milli), f64::from(sale.settings.rate_burst));
        if rate == 0.0 {
            return 0;
        }
        let now = self.lane.time;
        let bucket = self.rates.entry((sale_no, buyer.to_owned())).or_insert((burst, now));
        let passed_ms = f64::from(i32::try_from((now.0 - bucket.1.0).max(0)).expect("tests are short"));
        let tokens = burst.min(bucket.0 + passed_ms * rate / 1_000_000.0);
        let at = now.max(bucket.1);
        *bucket = if tokens >= 1.0 {
            (tokens - 1.0, at)
        } else {
            (tokens, at)
        };
        if tokens >= 1.0 {
            return 0;
        }
        let wait = ((1.0 - tokens) * 1_000_000.0 / rate).ceil();
        format!("{wait:.0}").parse().expect("a whole number")
    }

    /// What comes of a delivery, and its entry.
    pub(crate) fn grant(
        &mut self,
        first: i64,
        grants: &[(i32, Grant)],
        at: Millis,
        nonce: Nonce,
    ) -> (Delivery, Option<Entry>) {
        let next = self.lane.grant_no + 1;
        if first > next {
            return (Delivery::Gap(next - 1), None);
        }
        let known = usize::try_from(next - first).expect("a few");
        if known >= grants.len() {
            return (Delivery::InForce(next - 1), None);
        }
        let mut sales = Vec::<i32>::new();
        for (no, _) in grants {
            if !sales.contains(no) {
                sales.push(*no);
            }
        }
        let mut after = self.lane.clone();
        let mut delivered = Vec::new();
        for (no, grant) in &grants[known..] {
            if let Grant::Open(settings) = grant {
                after.sales.entry(*no).or_insert(SaleModel::new(*settings));
            }
            delivered.push(Delivered {
                sale: sales.iter().position(|sale| sale == no).expect("it is listed"),
                grant: grant.clone(),
                outcome: after.sales.get_mut(no).map_or(1, |sale| sale.grant(grant)),
            });
            if *grant == Grant::Drop {
                self.rates.retain(|(of, _), _| of != no);
            }
        }
        let unknown = |no: i32| Touched {
            sale_no: no,
            free: 0,
            hold_ms: 0,
        };
        let touched = sales
            .iter()
            .map(|no| after.sales.get(no).map_or(unknown(*no), |sale| touched(*no, sale)));
        let touched = touched.collect();
        let body = Body::Grant { first: next, delivered };
        let entry = self.write(nonce, at, self.lane.total, touched, body);
        (Delivery::InForce(self.lane.grant_no), Some(entry))
    }

    fn write(&mut self, nonce: Nonce, at: Millis, total: u64, touched: Vec<Touched>, body: Body) -> Entry {
        let entry = Entry {
            epoch: self.lane.epoch,
            seq: self.lane.seq + 1,
            nonce,
            prev: self.lane.nonce,
            at,
            total,
            touched,
            body,
        };
        self.lane.apply(&entry);
        self.totals.push(total);
        entry
    }

    /// Settles up to this entry, unless that was done; the reservations up to it.
    pub(crate) fn settle(&mut self, seq: Seq) -> u64 {
        let total = self.totals[usize::try_from(seq).expect("a few")];
        self.cursor = self.cursor.max((seq, total));
        total
    }

    /// The same stock under the rig's epoch; rates are forgotten where the sales were written anew.
    pub(crate) fn reopen(&mut self, rig: &Rig, rebuilt: bool) {
        self.lane.reopen(rig.epoch, rig.first_nonce());
        (self.totals, self.cursor) = (vec![0], (0, 0));
        if rebuilt {
            self.rates.clear();
        }
    }
}

fn touched(sale_no: i32, sale: &SaleModel) -> Touched {
    Touched {
        sale_no,
        free: sale.free,
        hold_ms: sale.settings.hold_ms,
    }
}
