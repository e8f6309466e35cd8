//! Plain batches of several lanes, in one statement that is a transaction of its own.
//!
//! Lanes that write what one sale sold wait for one another anyway, at its balance, each until the commit of the one
//! before. Nearly every batch of theirs is plain: new keys, nobody beyond a limit, counters as Redis has them. The
//! statement looks whether all of that is so by what is committed, and writes everything, or nothing. What is not plain
//! (grants, a replay, drift, poison, several sales, whose balances have to be locked in their order) is left to
//! the transaction that decides each reservation by itself. What changes between the look and the writing is found by the
//! compare-and-set of cursors and books and by constraints, and undoes the statement.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::ask::{Ask, read_asks};
use super::begin::{number, surely_sane};
use super::decide::Fate;
use super::held::{CLOCK_SLACK, held};
use super::store::{made_row, reserved};
use super::{Batch, Done, Poison, check_chain, cursor_after};
use crate::domain::entry::{Body, Entry};
use crate::domain::id::Item;
use crate::domain::lane::LaneNo;
use crate::ledger::claims::{Claimant, Claiming};
use crate::ledger::post::{Made, Movement, bind, made_rows, posting};
use crate::ledger::sale_row::read_item;
use crate::ledger::{Ledger, LedgerError};

/// What never changes of a sale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaleIdentity {
    item: Item,
    created_at: DateTime<Utc>,
}

/// The sale of which these entries are reservations and nothing else, where there is one.
#[must_use]
pub fn only_sale(entries: &[Entry]) -> Option<i32> {
    let mut sales = entries.iter().map(|entry| match (&entry.body, &entry.touched[..]) {
        (Body::Reserve(_), [touched]) => Some(touched.sale_no),
        _ => None,
    });
    let first = sales.next()??;
    sales.all(|sale_no| sale_no == Some(first)).then_some(first)
}

/// A lane's batch, as far as it tells by itself whether it is plain.
struct Plain<'a> {
    batch: Batch<'a>,
    asks: Vec<Ask<'a>>,
    /// What Redis had free before.
    free: i64,
    /// What it has given since.
    units: i64,
}

impl<'a> Plain<'a> {
    fn of(batch: Batch<'a>, sale_no: i32, known: &'a HashSet<Uuid>, poison: &'a Poison) -> Option<Self> {
        let work = batch.work(known, poison, None);
        if only_sale(batch.entries) != Some(sale_no) || !batch.entries.iter().all(|entry| surely_sane(entry, work.now))
        {
            return None;
        }
        let asks = read_asks(&work);
        if !asks.iter().all(|ask| ask.claimant().is_some() && ask.hold_ms.is_some()) {
            return None;
        }
        let mut taken = vec![0; batch.entries.len()];
        asks.iter().for_each(|ask| taken[ask.part] += ask.units());
        let free_after = |entry: &Entry| entry.touched[0].free;
        let free = free_after(batch.entries.first()?) + taken.first()?;
        let mut expected = free;
        for (entry, taken) in batch.entries.iter().zip(&taken) {
            expected -= taken;
            if free_after(entry) != expected {
                return None;
            }
        }
        let units = free - expected;
        Some(Plain {
            batch,
            asks,
            free,
            units,
        })
    }

    fn done(&self, sale_no: i32, settled: Option<i64>) -> Done {
        Done {
            cursor: cursor_after(&self.batch),
            reserved: self.asks.len(),
            refused: Vec::new(),
            drift: Vec::new(),
            grants_for: Vec::new(),
            settled: settled.map(|units| (sale_no, units)).into_iter().collect(),
        }
    }
}

/// A lane's book after the batch.
#[derive(sqlx::FromRow)]
struct BookedRow {
    lane: Option<i16>,
    settled: Option<i64>,
    undurable_max: Option<i64>,
}

impl Ledger {
    /// What [`apply_at_once`](Self::apply_at_once) has to know of a sale; none: there is no such sale.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn sale_identity(&self, sale_no: i32) -> Result<Option<SaleIdentity>, LedgerError> {
        let row: Option<(String, String, DateTime<Utc>)> = sqlx::query_as(
            "-- apply.sale_identity
             SELECT sku_id, location_id, created_at FROM sale WHERE sale_no = $1",
        )
        .bind(sale_no)
        .fetch_optional(&self.pool)
        .await?;
        let identity = |(sku, location, created_at): (String, String, _)| {
            let item = read_item(&sku, &location)?;
            Ok(SaleIdentity { item, created_at })
        };
        row.map(identity).transpose()
    }

    /// Makes batches of one owner's lanes durable that reserve units of this sale alone, all of them or none. The answers
    /// stand in their order; `None`: they are not plain, and nothing was written.
    ///
    /// # Errors
    /// `Unavailable`: it may have been written; the cursors say. `Broken`: entries do not follow their `from`.
    pub async fn apply_at_once(
        &self,
        sale_no: i32,
        sale: &SaleIdentity,
        batches: &[Batch<'_>],
    ) -> Result<Option<Vec<Done>>, LedgerError> {
        batches.iter().try_for_each(check_chain)?;
        let (known, poison) = (HashSet::new(), Poison::default());
        let plain = batches.iter().map(|batch| Plain::of(*batch, sale_no, &known, &poison));
        let Some(mut plain) = plain.collect::<Option<Vec<_>>>().filter(|plain| !plain.is_empty()) else {
            return Ok(None);
        };
        // As everybody who locks several does.
        plain.sort_unstable_by_key(|plain| plain.batch.lane);
        let Some(settled) = self.write_plain(sale_no, sale, &plain).await? else {
            return Ok(None);
        };
        let mut done: HashMap<LaneNo, Done> = HashMap::with_capacity(plain.len());
        for plain in &plain {
            let settled = settled.get(&plain.batch.lane.to_i16()).copied().flatten();
            done.insert(plain.batch.lane, plain.done(sale_no, settled));
        }
        Ok(batches.iter().map(|batch| done.remove(&batch.lane)).collect())
    }

    /// Of each lane, what it has taken up to its cursor, where the sale bounds what it owes; `None`: nothing was written.
    async fn write_plain<'a>(
        &self,
        sale_no: i32,
        sale: &SaleIdentity,
        plain: &'a [Plain<'a>],
    ) -> Result<Option<HashMap<i16, Option<i64>>>, LedgerError> {
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
        let keys = claiming.columns();
        let row = |(lane, ask): (LaneNo, &'a Ask<'a>)| {
            let hold_ms = ask.hold_ms?.into();
            Some(made_row(lane, ask, Fate::Reserved, &sale.item, hold_ms))
        };
        let made = Made(asks().filter_map(row).collect());
        let movements: Vec<Movement> = asks().filter_map(|(_, ask)| reserved(ask, &sale.item)).collect();
        let mut buyers: BTreeMap<(LaneNo, &str), i64> = BTreeMap::new();
        for (lane, ask) in asks() {
            if let Some((_, user)) = ask.user() {
                *buyers.entry((lane, user)).or_default() += ask.units();
            }
        }
        let counted = |pick: fn(&Batch<'_>) -> u64| -> Result<Vec<i64>, LedgerError> {
            plain.iter().map(|plain| number(pick(&plain.batch))).collect()
        };
        let of_lane = |pick: fn(&Plain<'_>) -> i64| plain.iter().map(pick).collect::<Vec<i64>>();
        let lanes: Vec<i16> = plain.iter().map(|plain| plain.batch.lane.to_i16()).collect();
        let posting = sqlx::query_as(concat!(
            posting!(
                "-- apply.at_once",
                concat!(
                    "asked AS MATERIALIZED (
             SELECT * FROM UNNEST($57::int2[], $58::int8[], $59::int8[], $60::int8[], $61::int8[], $62::int8[], $63::int8[],
                                  $64::int8[], $65::int8[])
                           AS a(lane, epoch, from_seq, from_nonce, to_seq, to_nonce, to_total, free, units)
         ), clock AS MATERIALIZED (
             SELECT NOT EXISTS (SELECT FROM inventory_key WHERE key_hash = ANY($53::uuid[]))
                 AND EXISTS (
                     SELECT FROM sale
                     WHERE sale_no = $67 AND sku_id = ($1::text[])[1] AND location_id = ($2::text[])[1] AND created_at = $68
                 ) AND NOT EXISTS (
                     SELECT FROM asked a LEFT JOIN sale_bucket b ON b.sale_no = $67 AND b.lane = a.lane
                     WHERE b.counter + b.drift IS DISTINCT FROM a.free OR b.counter < a.units
                 ) AND NOT EXISTS (
                     SELECT FROM UNNEST($69::int2[], $70::text[], $71::int8[]) AS w(lane, buyer, units)
                     JOIN sale_bucket b ON b.sale_no = $67 AND b.lane = w.lane
                     WHERE b.per_user_limit IS NOT NULL AND w.units + ",
                    held!("$67", "w.lane", "w.buyer", "$72"),
                    " > b.per_user_limit
                 ) AS go, clock_timestamp() AS now, 0::int8 AS stall_no
         ), moved AS (
             UPDATE lane l SET cursor_seq = a.to_seq, cursor_nonce = a.to_nonce, cursor_total = a.to_total,
                 cursor_at = clock_timestamp()
             FROM asked a, clock
             WHERE go AND l.lane = a.lane AND l.owner = $66 AND l.epoch = a.epoch AND l.cursor_epoch = a.epoch
               AND l.cursor_seq = a.from_seq AND l.cursor_nonce = a.from_nonce AND l.state = 'open'
             RETURNING 1
         ), claimed AS (
             INSERT INTO inventory_key (key_hash, subject_id, fingerprint, derived)
             SELECT key.* FROM UNNEST($53::uuid[], $54::uuid[], $55::int8[], $56::bool[]) AS key, clock
             WHERE go AND (SELECT count(*) FROM moved) = cardinality($57::int2[])
             RETURNING 1
         ), ",
                    made_rows!(
                        "AND (SELECT count(*) FROM claimed) = cardinality($53::uuid[])", after posting
                    ),
                    ", "
                ),
                ", clock WHERE go AND (SELECT count(*) FROM made) = cardinality($35::uuid[])"
            ),
            ", booked AS (
             UPDATE sale_bucket b SET counter = b.counter - a.units, durable = b.durable + a.units
             FROM asked a
             WHERE b.sale_no = $67 AND b.lane = a.lane AND b.counter + b.drift = a.free
               AND (SELECT count(*) FROM event) = cardinality($35::uuid[])
             RETURNING b.lane, b.durable + b.rejected AS settled, b.undurable_max
         )
         SELECT lane, settled, undurable_max, CASE WHEN (SELECT count(*) FROM booked) < cardinality($57::int2[])
             THEN start_over('a lane or a book has changed meanwhile') END
         FROM clock LEFT JOIN booked ON true WHERE go"
        ));
        let posting = made
            .bind(bind(posting, &movements))
            .bind(keys.hashes)
            .bind(keys.subjects)
            .bind(keys.fingerprints)
            .bind(keys.derived)
            .bind(lanes)
            .bind(of_lane(|plain| plain.batch.from.epoch.into()))
            .bind(counted(|batch| batch.from.seq)?)
            .bind(of_lane(|plain| plain.batch.from.nonce.to_i64()))
            .bind(counted(|batch| cursor_after(batch).seq)?)
            .bind(of_lane(|plain| cursor_after(&plain.batch).nonce.to_i64()))
            .bind(counted(|batch| cursor_after(batch).total)?)
            .bind(of_lane(|plain| plain.free))
            .bind(of_lane(|plain| plain.units))
            .bind(plain.first().map(|plain| plain.batch.owner))
            .bind(sale_no)
            .bind(sale.created_at)
            .bind(buyers.keys().map(|(lane, _)| lane.to_i16()).collect::<Vec<_>>())
            .bind(buyers.keys().map(|(_, user)| format!("u:{user}")).collect::<Vec<_>>())
            .bind(buyers.values().copied().collect::<Vec<_>>())
            .bind(sale.created_at - CLOCK_SLACK);
        let rows: Vec<BookedRow> = match posting.fetch_all(&self.pool).await.map_err(LedgerError::from) {
            Ok(rows) => rows,
            // Somebody else got a key or a lane between the look and the writing, or one row can't be stored.
            Err(LedgerError::Retry(_) | LedgerError::Data { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let settled = |row: &BookedRow| row.settled.filter(|_| row.undurable_max.is_some_and(|max| max > 0));
        let of_row = |row: &BookedRow| Some((row.lane?, settled(row)));
        let settled: HashMap<i16, Option<i64>> = rows.iter().filter_map(of_row).collect();
        Ok((!settled.is_empty()).then_some(settled))
    }
}
