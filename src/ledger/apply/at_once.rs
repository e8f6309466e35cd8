//! Plain batches of several lanes, in one statement that is a transaction of its own.
//!
//! Nearly every batch of a lane is plain: reservations alone, new keys, nobody beyond a limit, counters as Redis has them.
//! The statement looks whether all of that is so by what is committed, and writes everything, or nothing. What is not plain
//! (grants, a replay, drift, poison) is left to the transaction that decides each reservation by itself. What changes
//! between the look and the writing is found by the compare-and-set of cursors and books and by constraints, and undoes
//! the statement. What users hold needs no second look: reservations of a buyer lie in one lane, and whatever makes some
//! moves its cursor. Balances are updated in the order in which others lock them; should that ever not be so, one of two
//! that meet gives way, and goes the other way.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::ask::{Ask, fault, read_asks};
use super::begin::{number, surely_sane};
use super::decide::Fate;
use super::held::{CLOCK_SLACK, held};
use super::store::made_row;
use super::{Batch, Done, Poison, check_chain, cursor_after};
use crate::domain::entry::{Accepted, Body, Entry};
use crate::domain::id::Item;
use crate::domain::lane::LaneNo;
use crate::ledger::claims::{Claimant, Claiming};
use crate::ledger::post::{Made, Reserving, made_rows, reserving};
use crate::ledger::sale_row::read_item;
use crate::ledger::{Ledger, LedgerError};

/// Stands in an entry for a sale that the lane does not have.
const NO_SALE: i32 = 0;

/// What never changes of a sale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaleIdentity {
    item: Item,
    created_at: DateTime<Utc>,
}

/// Sales by number.
pub type SaleIdentities = BTreeMap<i32, SaleIdentity>;

/// The sales of which these entries are reservations that a statement could make; `None`: some are more than that, or
/// not as they should be.
#[must_use]
pub fn plain_sales(entries: &[Entry]) -> Option<BTreeSet<i32>> {
    taken(entries, Utc::now()).map(|taken| taken.into_keys().collect())
}

/// A sale's units in a lane.
struct Taken {
    /// What Redis had free before the batch.
    free: i64,
    /// What it has given since.
    units: i64,
}

/// What entries took of each sale, where they are plain by themselves.
fn taken(entries: &[Entry], now: DateTime<Utc>) -> Option<BTreeMap<i32, Taken>> {
    let mut taken: BTreeMap<i32, Taken> = BTreeMap::new();
    for entry in entries {
        let Body::Reserve(slips) = &entry.body else { return None };
        if !surely_sane(entry, now) {
            return None;
        }
        let mut units = vec![0; entry.touched.len()];
        for accepted in slips {
            let Accepted { sale, slip } = accepted
                .as_ref()
                .ok()
                .filter(|accepted| fault(&accepted.slip).is_none())?;
            entry
                .touched
                .get(*sale)
                .filter(|of| of.hold_ms > 0 || slip.ttl_ms > 0)?;
            units[*sale] += i64::from(slip.quantity);
        }
        // A call may name sales that the lane does not have; it touched none of them.
        let touched = entry
            .touched
            .iter()
            .zip(units)
            .filter(|(touched, _)| touched.sale_no != NO_SALE);
        for (touched, units) in touched {
            let first = || Taken {
                free: touched.free + units,
                units: 0,
            };
            let taken = taken.entry(touched.sale_no).or_insert_with(first);
            taken.units += units;
            if touched.free != taken.free - taken.units {
                return None;
            }
        }
    }
    Some(taken)
}

/// A lane's batch, as far as it tells by itself whether it is plain.
struct Plain<'a> {
    batch: Batch<'a>,
    asks: Vec<Ask<'a>>,
    taken: BTreeMap<i32, Taken>,
}

impl<'a> Plain<'a> {
    fn of(batch: Batch<'a>, known: &'a HashSet<Uuid>, poison: &'a Poison) -> Option<Self> {
        let work = batch.work(known, poison, None);
        let taken = taken(batch.entries, work.now)?;
        let asks = read_asks(&work);
        let is_plain = |ask: &Ask<'_>| ask.claimant().is_some() && taken.contains_key(&ask.sale_no);
        asks.iter().all(is_plain).then_some(Plain { batch, asks, taken })
    }

    fn done(&self, settled: Vec<(i32, i64)>) -> Done {
        Done {
            cursor: cursor_after(&self.batch),
            reserved: self.asks.len(),
            refused: Vec::new(),
            drift: Vec::new(),
            grants_for: Vec::new(),
            settled,
        }
    }
}

/// A lane's book of a sale after the batch.
#[derive(sqlx::FromRow)]
struct BookedRow {
    lane: Option<i16>,
    sale_no: Option<i32>,
    settled: Option<i64>,
    undurable_max: Option<i64>,
}

/// Of lanes, what they have taken up to their cursors of sales that bound what they owe.
type Settled = HashMap<i16, Vec<(i32, i64)>>;

impl Ledger {
    /// What [`apply_at_once`](Self::apply_at_once) has to know of these sales; those that there are not are left out.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn sale_identities(&self, sales: &[i32]) -> Result<SaleIdentities, LedgerError> {
        let rows: Vec<(i32, String, String, DateTime<Utc>)> = sqlx::query_as(
            "-- apply.sale_identities
             SELECT sale_no, sku_id, location_id, created_at FROM sale WHERE sale_no = ANY($1)",
        )
        .bind(sales)
        .fetch_all(&self.pool)
        .await?;
        let identity = |(sale_no, sku, location, created_at): (i32, String, String, _)| {
            let item = read_item(&sku, &location)?;
            Ok((sale_no, SaleIdentity { item, created_at }))
        };
        rows.into_iter().map(identity).collect()
    }

    /// Makes batches of one owner's lanes durable that reserve units of these sales and do nothing else, all of them or
    /// none. The answers stand in their order; `None`: they are not plain, and nothing was written.
    ///
    /// # Errors
    /// `Unavailable`: it may have been written; the cursors say. `Broken`: entries do not follow their `from`.
    pub async fn apply_at_once(
        &self,
        sales: &SaleIdentities,
        batches: &[Batch<'_>],
    ) -> Result<Option<Vec<Done>>, LedgerError> {
        batches.iter().try_for_each(check_chain)?;
        let (known, poison) = (HashSet::new(), Poison::default());
        let plain = batches.iter().map(|batch| Plain::of(*batch, &known, &poison));
        let Some(mut plain) = plain.collect::<Option<Vec<_>>>().filter(|plain| !plain.is_empty()) else {
            return Ok(None);
        };
        if !plain
            .iter()
            .flat_map(|plain| plain.taken.keys())
            .all(|sale_no| sales.contains_key(sale_no))
        {
            return Ok(None);
        }
        // As everybody who locks several does.
        plain.sort_unstable_by_key(|plain| plain.batch.lane);
        let Some(mut settled) = self.write_plain(sales, &plain).await? else {
            return Ok(None);
        };
        let mut done: HashMap<LaneNo, Done> = HashMap::with_capacity(plain.len());
        for plain in &plain {
            let settled = settled.remove(&plain.batch.lane.to_i16()).unwrap_or_default();
            done.insert(plain.batch.lane, plain.done(settled));
        }
        Ok(batches.iter().map(|batch| done.remove(&batch.lane)).collect())
    }

    /// `None`: nothing was written.
    async fn write_plain<'a>(
        &self,
        sales: &'a SaleIdentities,
        plain: &'a [Plain<'a>],
    ) -> Result<Option<Settled>, LedgerError> {
        let asks = || {
            plain
                .iter()
                .flat_map(|plain| plain.asks.iter().map(|ask| (plain.batch.lane, ask)))
        };
        let claimants: Vec<Claimant> = asks().filter_map(|(_, ask)| ask.claimant()).collect();
        let claiming = Claiming::of(&claimants);
        if !claiming.each_is_claimed_once() {
            return Ok(None);
        }
        let row = |(lane, ask): (LaneNo, &'a Ask<'a>)| {
            let (sale, hold_ms) = (sales.get(&ask.sale_no)?, ask.hold_ms?);
            Some(made_row(lane, ask, Fate::Reserved, &sale.item, hold_ms.into()))
        };
        let reserving = Reserving {
            made: Made(asks().filter_map(row).collect()),
            keys: claiming.columns(),
        };
        if reserving.made.0.len() != claimants.len() {
            return Ok(None);
        }
        let mut buyers: BTreeMap<(i32, LaneNo, &str), i64> = BTreeMap::new();
        for (lane, ask) in asks() {
            if let Some((sale_no, user)) = ask.user() {
                *buyers.entry((sale_no, lane, user)).or_default() += ask.units();
            }
        }
        let named: BTreeSet<i32> = plain.iter().flat_map(|plain| plain.taken.keys().copied()).collect();
        let named: Vec<(i32, &SaleIdentity)> = named.into_iter().filter_map(|no| Some((no, sales.get(&no)?))).collect();
        let since = named.iter().map(|(_, sale)| sale.created_at - CLOCK_SLACK).min();
        let lane_of = |plain: &Plain<'_>| plain.batch.lane.to_i16();
        let books: Vec<(i16, i32, &Taken)> = plain
            .iter()
            .flat_map(|plain| plain.taken.iter().map(move |(no, taken)| (lane_of(plain), *no, taken)))
            .collect();
        let counted = |pick: fn(&Batch<'_>) -> u64| -> Result<Vec<i64>, LedgerError> {
            plain.iter().map(|plain| number(pick(&plain.batch))).collect()
        };
        let of_lane = |pick: fn(&Batch<'_>) -> i64| plain.iter().map(|plain| pick(&plain.batch)).collect::<Vec<i64>>();
        let posting = reserving.bind(sqlx::query_as(concat!(
            reserving!(
                "-- apply.at_once: what is looked for is looked for one by one, since whatever is known of the tables when
                 -- this is planned, they grow",
                concat!(
                    "asked AS MATERIALIZED (
             SELECT * FROM UNNEST($27::int2[], $28::int8[], $29::int8[], $30::int8[], $31::int8[], $32::int8[], $33::int8[])
                           AS a(lane, epoch, from_seq, from_nonce, to_seq, to_nonce, to_total)
         ), clock AS MATERIALIZED (
             SELECT NOT EXISTS (SELECT FROM inventory_key WHERE key_hash = ANY($23::uuid[]))
                 AND NOT EXISTS (
                     SELECT FROM UNNEST($35::int4[], $36::text[], $37::text[], $38::timestamptz[])
                                 AS n(sale_no, sku_id, location_id, created_at)
                     WHERE NOT coalesce((
                         SELECT (s.sku_id, s.location_id, s.created_at) = (n.sku_id, n.location_id, n.created_at)
                         FROM sale s WHERE s.sale_no = n.sale_no), false)
                 ) AND NOT EXISTS (
                     SELECT FROM UNNEST($39::int2[], $40::int4[], $41::int8[], $42::int8[])
                                 AS k(lane, sale_no, free, units)
                     WHERE NOT coalesce((
                         SELECT b.counter + b.drift = k.free AND b.counter >= k.units
                         FROM sale_bucket b WHERE b.sale_no = k.sale_no AND b.lane = k.lane), false)
                 ) AND NOT EXISTS (
                     SELECT FROM UNNEST($43::int4[], $44::int2[], $45::text[], $46::int8[])
                                 AS w(sale_no, lane, buyer, units),
                         LATERAL (
                             SELECT b.per_user_limit FROM sale_bucket b
                             WHERE b.sale_no = w.sale_no AND b.lane = w.lane AND b.per_user_limit IS NOT NULL OFFSET 0
                         ) b
                     WHERE w.units + ",
                    held!("w.sale_no", "w.lane", "w.buyer", "$47"),
                    " > b.per_user_limit
                 ) AS go, clock_timestamp() AS now, 0::int8 AS stall_no
         ), moved AS (
             UPDATE lane l SET cursor_seq = a.to_seq, cursor_nonce = a.to_nonce, cursor_total = a.to_total,
                 cursor_at = clock_timestamp()
             FROM asked a, clock
             WHERE go AND l.lane = a.lane AND l.owner = $34 AND l.epoch = a.epoch AND l.cursor_epoch = a.epoch
               AND l.cursor_seq = a.from_seq AND l.cursor_nonce = a.from_nonce AND l.state = 'open'
             RETURNING 1
         )"
                ),
                "AND (SELECT count(*) FROM moved) = cardinality($27::int2[])",
                from escrow
            ),
            ", booked AS (
             INSERT INTO sale_bucket AS b (sale_no, lane, counter, durable)
             SELECT k.sale_no, k.lane, k.free, k.units
             FROM UNNEST($39::int2[], $40::int4[], $41::int8[], $42::int8[]) AS k(lane, sale_no, free, units)
             WHERE (SELECT count(*) FROM event) = cardinality($1::uuid[])
             ON CONFLICT (sale_no, lane) DO UPDATE SET counter = b.counter - excluded.durable,
                 durable = b.durable + excluded.durable
             WHERE b.counter + b.drift = excluded.counter
             RETURNING b.lane, b.sale_no, b.durable + b.rejected AS settled, b.undurable_max
         )
         SELECT lane, sale_no, settled, undurable_max, CASE WHEN (SELECT count(*) FROM booked) < cardinality($39::int2[])
             THEN start_over('a lane or a book has changed meanwhile') END
         FROM clock LEFT JOIN booked ON true WHERE go"
        )));
        let posting = posting
            .bind(plain.iter().map(lane_of).collect::<Vec<_>>())
            .bind(of_lane(|batch| batch.from.epoch.into()))
            .bind(counted(|batch| batch.from.seq)?)
            .bind(of_lane(|batch| batch.from.nonce.to_i64()))
            .bind(counted(|batch| cursor_after(batch).seq)?)
            .bind(of_lane(|batch| cursor_after(batch).nonce.to_i64()))
            .bind(counted(|batch| cursor_after(batch).total)?)
            .bind(plain.first().map(|plain| plain.batch.owner))
            .bind(named.iter().map(|(no, _)| *no).collect::<Vec<_>>())
            .bind(named.iter().map(|(_, sale)| sale.item.sku.as_str()).collect::<Vec<_>>())
            .bind(
                named
                    .iter()
                    .map(|(_, sale)| sale.item.location.as_str())
                    .collect::<Vec<_>>(),
            )
            .bind(named.iter().map(|(_, sale)| sale.created_at).collect::<Vec<_>>())
            .bind(books.iter().map(|(lane, ..)| *lane).collect::<Vec<_>>())
            .bind(books.iter().map(|(_, no, _)| *no).collect::<Vec<_>>())
            .bind(books.iter().map(|(.., taken)| taken.free).collect::<Vec<_>>())
            .bind(books.iter().map(|(.., taken)| taken.units).collect::<Vec<_>>())
            .bind(buyers.keys().map(|(no, ..)| *no).collect::<Vec<_>>())
            .bind(buyers.keys().map(|(_, lane, _)| lane.to_i16()).collect::<Vec<_>>())
            .bind(buyers.keys().map(|(.., user)| format!("u:{user}")).collect::<Vec<_>>())
            .bind(buyers.values().copied().collect::<Vec<_>>())
            .bind(since);
        let rows: Vec<BookedRow> = match posting.fetch_all(&self.pool).await.map_err(LedgerError::from) {
            Ok(rows) => rows,
            // Somebody else got a key or a lane between the look and the writing, or one row can't be stored.
            Err(LedgerError::Retry(_) | LedgerError::Data { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut settled = Settled::new();
        for row in &rows {
            if let (Some(lane), Some(sale_no), Some(units)) = (row.lane, row.sale_no, row.settled) {
                let bounds = row.undurable_max.is_some_and(|max| max > 0);
                settled
                    .entry(lane)
                    .or_default()
                    .extend(bounds.then_some((sale_no, units)));
            }
        }
        Ok((!settled.is_empty()).then_some(settled))
    }
}
