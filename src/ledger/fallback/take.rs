//! One transaction of a fallback: up to 128 requests, decided while their lanes are held.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::decide::{Held, decide};
use super::stock::Stocks;
use crate::domain::entry::{Accepted, Body, Entry, Slip, Touched};
use crate::domain::lane::{Epoch, LaneNo, Nonce, Seq};
use crate::domain::outcome::Decision;
use crate::domain::reservation_id::{CALL_MAX, IdKey, Place, ReservationId};
use crate::domain::sale::Sale;
use crate::domain::time::Millis;
use crate::ledger::apply::{Own, write_own};
use crate::ledger::claims::{Claimant, Keys};
use crate::ledger::connection::Connection;
use crate::ledger::retry::retried;
use crate::ledger::sale_row::{SaleRow, sale_columns};
use crate::ledger::{Ledger, LedgerError};

/// Lanes tell the time by Postgres' clock, give or take less than this.
const CLOCK_SLACK: TimeDelta = TimeDelta::days(1);

/// A request to reserve of a sale whose lane is aside.
#[derive(Clone, Debug)]
pub struct FallbackAsk {
    /// As the gateway knows it: which it is and where its buckets lie. What it allows is read anew.
    pub sale: Arc<Sale>,
    /// What is asked.
    pub slip: Slip,
    /// The user tries too often, and may again after this, in ms.
    pub rate_wait_ms: Option<u64>,
    /// Seals its id.
    pub id_key: IdKey,
    /// Fresh, for the id.
    pub nonce: Nonce,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FallbackAnswer {
    /// This; a reservation is durable.
    Decided(Decision),
    /// Nothing was taken: the units that may be there are kept back, or on the way.
    KeptBack,
    /// Nothing was taken: the sale does not want the ledger to serve it.
    Refuses,
    /// Nothing was looked at: the ledger does not decide for the lane, or not any more.
    NotAside,
}

/// A request and its place.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) ask: &'a FallbackAsk,
    pub(super) home: LaneNo,
    pub(super) claimant: Claimant,
    place: Place,
    /// Of the whole transaction.
    nonce: Nonce,
}

/// A sale as it is now.
#[derive(Debug)]
pub(super) struct OnSale {
    pub(super) sale: Sale,
    /// Its end is past.
    pub(super) is_over: bool,
    created_at: DateTime<Utc>,
}

/// The lanes that are held: for each the epoch of the fallback, and this transaction's number in it.
#[derive(Debug)]
pub(super) struct Aside(BTreeMap<LaneNo, (Epoch, Seq)>);

impl Ledger {
    /// Decides on these requests, in their order; the answers stand in the same.
    ///
    /// # Errors
    /// Postgres could not be asked: whether units were taken is not known, and a repeat finds out.
    pub async fn take_aside(&self, asks: &[FallbackAsk]) -> Result<Vec<FallbackAnswer>, LedgerError> {
        let mut answers = Vec::with_capacity(asks.len());
        for call in asks.chunks(CALL_MAX) {
            let more = retried!(self, self.take_aside_once(call))?;
            answers.extend(more);
        }
        Ok(answers)
    }

    async fn take_aside_once(&self, asks: &[FallbackAsk]) -> Result<Vec<FallbackAnswer>, LedgerError> {
        let mut tx = self.begin().await?;
        let aside = Aside::hold(&mut tx, asks).await?;
        let asked = aside.places(asks);
        if asked.iter().all(Option::is_none) {
            return Ok(vec![FallbackAnswer::NotAside; asks.len()]);
        }
        let (on_sale, now) = read_sales(&mut tx, asks).await?;
        let numbers: Vec<i32> = on_sale.keys().copied().collect();
        let mut stocks = Stocks::read(&mut tx, &aside, &numbers).await?;
        let claimants: Vec<Claimant> = asked.iter().flatten().map(|asked| asked.claimant).collect();
        let mut keys = Keys::claim(&mut tx, &claimants).await?;
        let mut held = read_held(&mut tx, &asked, &on_sale).await?;
        let mut refused: Vec<Option<FallbackAnswer>> = Vec::with_capacity(asks.len());
        let mut accepted = HashSet::new();
        for asked in &asked {
            let Some(asked) = asked else {
                refused.push(Some(FallbackAnswer::NotAside));
                continue;
            };
            let sale = on_sale.get(&asked.ask.sale.no);
            let sale = sale.ok_or_else(|| LedgerError::Broken(format!("no sale {}", asked.ask.sale.no)))?;
            let answer = decide(asked, sale, &keys, &mut held, &mut stocks);
            match &answer {
                None => {
                    keys.give(&asked.claimant);
                    accepted.insert(asked.claimant.id);
                }
                Some(_) => keys.refuse(&asked.claimant),
            }
            refused.push(answer);
        }
        keys.settle(&mut tx).await?;
        stocks.write_moves(&mut tx).await?;
        let own = write(&mut tx, &asked, &on_sale, &accepted, now).await?;
        tx.commit().await?;
        let answer = |(asked, refused): (&Option<Asked<'_>>, Option<FallbackAnswer>)| match (refused, asked) {
            (Some(answer), _) => Ok(answer),
            (None, Some(asked)) => own.get(&asked.claimant.id).map(reserved).ok_or_else(unwritten),
            (None, None) => Err(unwritten()),
        };
        asked.iter().zip(refused).map(answer).collect()
    }
}

fn reserved(own: &Own) -> FallbackAnswer {
    FallbackAnswer::Decided(Decision::Reserved {
        id: ReservationId(own.id),
        created_at: own.at.into(),
        expires_at: own.expires_at.into(),
    })
}

fn unwritten() -> LedgerError {
    LedgerError::Broken("a reservation was decided and not written".into())
}

impl Aside {
    /// Holds all lanes of these requests' sales that are aside, and counts this transaction in each.
    async fn hold(tx: &mut Connection, asks: &[FallbackAsk]) -> Result<Self, LedgerError> {
        let mut lanes: Vec<i16> = asks
            .iter()
            .flat_map(|ask| ask.sale.lanes.iter().map(|lane| lane.to_i16()))
            .collect();
        lanes.sort_unstable();
        lanes.dedup();
        let held: Vec<i16> = sqlx::query_scalar(
            "-- fallback.hold: whoever raises the epoch waits for us, and we see nothing aside after them
             SELECT lane FROM lane WHERE lane = ANY($1) AND state = 'closed' AND fallback_epoch = epoch
             ORDER BY lane FOR NO KEY UPDATE",
        )
        .bind(&lanes)
        .fetch_all(&mut *tx)
        .await?;
        let rows: Vec<(i16, i64, i64)> = sqlx::query_as(
            "-- fallback.count: by a statement of its own, as in recovery.close
             UPDATE lane SET fallback_seq = fallback_seq + 1 WHERE lane = ANY($1)
             RETURNING lane, epoch, fallback_seq",
        )
        .bind(&held)
        .fetch_all(tx)
        .await?;
        let read = |(lane, epoch, seq): (i16, i64, i64)| {
            let broken = |_| LedgerError::Broken(format!("lane {lane} is aside at {epoch}-{seq}"));
            let epoch = Epoch::try_from(epoch).map_err(broken)?;
            Ok((LaneNo::from_i16(lane), (epoch, Seq::try_from(seq).map_err(broken)?)))
        };
        Ok(Aside(rows.into_iter().map(read).collect::<Result<_, LedgerError>>()?))
    }

    pub(super) fn holds(&self, lane: LaneNo) -> bool {
        self.0.contains_key(&lane)
    }

    /// Gives each request whose home is held a place there.
    fn places<'a>(&self, asks: &'a [FallbackAsk]) -> Vec<Option<Asked<'a>>> {
        let nonce = asks.first().map(|ask| ask.nonce).unwrap_or_default();
        let mut next: BTreeMap<LaneNo, u8> = BTreeMap::new();
        let mut place = |ask: &'a FallbackAsk| {
            let home = ask.sale.home(&ask.slip.buyer());
            let (epoch, seq) = *self.0.get(&home)?;
            let index = next.entry(home).or_default();
            let place = Place::new(epoch, seq, *index, nonce);
            *index += 1;
            let claimant = Claimant {
                id: ask.id_key.seal(home, place).0,
                key: ask.slip.key,
                line: ask.slip.line,
                fingerprint: ask.slip.fingerprint.to_i64(),
                explicit: ask.slip.explicit_key,
            };
            Some(Asked {
                ask,
                home,
                claimant,
                place,
                nonce,
            })
        };
        asks.iter().map(&mut place).collect()
    }
}

#[derive(sqlx::FromRow)]
struct OnSaleRow {
    #[sqlx(flatten)]
    sale: SaleRow,
    is_over: bool,
    created_at: DateTime<Utc>,
    now: DateTime<Utc>,
}

/// The sales as they are, and the instant. They stay so until the commit: who changes one waits, and what is changed is
/// in force from then on.
async fn read_sales(
    tx: &mut Connection,
    asks: &[FallbackAsk],
) -> Result<(BTreeMap<i32, OnSale>, DateTime<Utc>), LedgerError> {
    let mut numbers: Vec<i32> = asks.iter().map(|ask| ask.sale.no).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let rows: Vec<OnSaleRow> = sqlx::query_as(concat!(
        "-- fallback.hold_sales\nSELECT ",
        sale_columns!(),
        ", coalesce(s.ends_at <= clock_timestamp(), false) AS is_over, s.created_at, clock_timestamp() AS now
         FROM sale s WHERE sale_no = ANY($1) ORDER BY sale_no FOR SHARE"
    ))
    .bind(&numbers)
    .fetch_all(tx)
    .await?;
    let now = rows.iter().map(|row| row.now).max().unwrap_or_default();
    let read = |row: OnSaleRow| {
        let sale = row.sale.read()?;
        let (is_over, created_at) = (row.is_over, row.created_at);
        Ok((
            sale.no,
            OnSale {
                sale,
                is_over,
                created_at,
            },
        ))
    };
    Ok((rows.into_iter().map(read).collect::<Result<_, LedgerError>>()?, now))
}

/// What the users of these requests hold and have bought.
async fn read_held<'a>(
    tx: &mut Connection,
    asked: &[Option<Asked<'a>>],
    on_sale: &BTreeMap<i32, OnSale>,
) -> Result<Held<'a>, LedgerError> {
    let mut wanted: BTreeMap<(i32, &str), (LaneNo, DateTime<Utc>)> = BTreeMap::new();
    for asked in asked.iter().flatten() {
        if let Some((user, sale)) = asked.ask.slip.user.as_deref().zip(on_sale.get(&asked.ask.sale.no)) {
            wanted.insert((sale.sale.no, user), (asked.home, sale.created_at - CLOCK_SLACK));
        }
    }
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let found: Vec<(i64, i64)> = sqlx::query_as(
        "-- fallback.held: as apply.held; one index probe per user and partition, in the order asked
         SELECT owned.reservations, owned.units
         FROM UNNEST($1::int4[], $2::text[], $3::int2[], $4::timestamptz[]) WITH ORDINALITY
              AS w(sale_no, buyer, lane, since, place),
             LATERAL (
                 SELECT count(*) AS reservations, coalesce(sum(quantity), 0)::int8 AS units FROM (
                     SELECT quantity FROM inventory_reservation r
                     WHERE r.sale_no = w.sale_no AND r.lane = w.lane
                       AND coalesce('u:' || r.user_id, 'o:' || r.order_id) COLLATE \"C\" = w.buyer
                       AND r.status IN ('RESERVED', 'COMMITTED') AND r.created_at >= w.since
                     UNION ALL
                     SELECT quantity FROM inventory_reservation_cold r
                     WHERE r.sale_no = w.sale_no AND r.lane = w.lane
                       AND coalesce('u:' || r.user_id, 'o:' || r.order_id) COLLATE \"C\" = w.buyer
                       AND r.status IN ('RESERVED', 'COMMITTED') AND r.created_at >= w.since
                 ) o
             ) owned
         ORDER BY w.place",
    )
    .bind(wanted.keys().map(|(sale_no, _)| *sale_no).collect::<Vec<_>>())
    .bind(wanted.keys().map(|(_, user)| format!("u:{user}")).collect::<Vec<_>>())
    .bind(wanted.values().map(|(lane, _)| lane.to_i16()).collect::<Vec<_>>())
    .bind(wanted.values().map(|(_, since)| *since).collect::<Vec<_>>())
    .fetch_all(tx)
    .await?;
    Ok(wanted.into_keys().zip(found).collect())
}

/// Writes what was accepted, lane by lane, under ids that name the lane and this transaction in it.
async fn write(
    tx: &mut Connection,
    asked: &[Option<Asked<'_>>],
    on_sale: &BTreeMap<i32, OnSale>,
    accepted: &HashSet<Uuid>,
    now: DateTime<Utc>,
) -> Result<HashMap<Uuid, Own>, LedgerError> {
    let mut lanes: BTreeMap<LaneNo, Vec<&Asked<'_>>> = BTreeMap::new();
    for asked in asked.iter().flatten() {
        lanes.entry(asked.home).or_default().push(asked);
    }
    let mut written = HashMap::new();
    for (lane, asked) in lanes {
        let Some(first) = asked.iter().find(|asked| accepted.contains(&asked.claimant.id)) else {
            continue;
        };
        let entry = entry(&asked, on_sale, now);
        let own = write_own(tx, lane, &first.ask.id_key, &entry, accepted, now).await?;
        written.extend(own.into_iter().map(|own| (own.id, own)));
    }
    Ok(written)
}

/// The requests of one lane as a writer would find them in its queue, had Redis accepted them all.
fn entry(asked: &[&Asked<'_>], on_sale: &BTreeMap<i32, OnSale>, now: DateTime<Utc>) -> Entry {
    let mut touched: Vec<Touched> = Vec::new();
    let mut slips = Vec::with_capacity(asked.len());
    for asked in asked {
        let sale_no = asked.ask.sale.no;
        let sale = touched.iter().position(|of| of.sale_no == sale_no).unwrap_or_else(|| {
            touched.push(Touched {
                sale_no,
                free: 0,
                hold_ms: on_sale.get(&sale_no).map_or(0, |of| of.sale.hold_ms),
            });
            touched.len() - 1
        });
        let slip = asked.ask.slip.clone();
        slips.push(Ok(Accepted { sale, slip }));
    }
    let Place { epoch, seq, .. } = asked[0].place;
    let nonce = asked[0].nonce;
    Entry {
        epoch,
        seq,
        nonce,
        prev: nonce,
        at: Millis::from(now),
        total: 0,
        touched,
        body: Body::Reserve(slips),
    }
}
