//! Recovery's half in Postgres: the lock of the one who recovers, new epochs, and what becomes of surviving entries.
//!
//! A recovery closes lanes here first ([`Ledger::raise_epoch`]), so that nothing of an older epoch is written any more,
//! then in Redis, and brings both to the same point: [`Ledger::settle_lane`] takes over what the queue still holds and
//! sets the cursor to (epoch, 0, nonce), all in one transaction, and the lane is rebuilt from what it returns.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::apply::{Carried, POISON_MAX, Part, Poison, Trial, Work, carry, reservation_ids};
use super::connection::Connection;
use super::sale_row::{SaleRow, sale_columns};
use super::{Ledger, LedgerError};
use crate::domain::entry::{Body, Entry};
use crate::domain::lane::{Epoch, LaneNo, Nonce};
use crate::domain::reservation_id::{IdKey, Place};
use crate::domain::sale::Sale;

/// Advisory lock of whoever recovers.
pub(super) const RECOVERY: i64 = 0x666c_6173_6867_0001;
/// Advisory lock of whoever draws an epoch.
const EPOCH: i64 = 0x666c_6173_6867_0002;
/// Ids looked up per statement.
const KNOWN_STEP: usize = 10_000;

/// Whoever has it recovers; everyone else waits. It ends with the connection under it, so when it is dropped.
#[derive(Debug)]
pub struct RecoveryLock {
    connection: Connection,
}

impl RecoveryLock {
    /// Gives the lock back; dropping it does so too, a little later.
    pub async fn release(self) {
        // The server ends the session, and with it the lock, however the goodbye fares.
        self.connection.close().await;
    }
}

/// What came of settling a lane.
#[derive(Clone, Debug, PartialEq)]
pub enum Settled {
    /// The lane is at another epoch, or open: another recovery got there first. Nothing was written.
    Superseded,
    /// The ledger has what the queue had, and the lane's cursor stands at (epoch, 0, nonce).
    Done(LaneImage),
}

/// A lane as it is to be rebuilt.
#[derive(Clone, Debug, PartialEq)]
pub struct LaneImage {
    /// Surviving reservations that the ledger lacked and now has.
    pub applied: usize,
    /// Surviving reservations that it refused.
    pub refused: usize,
    /// Of these, those that it could not store.
    pub quarantined: usize,
    /// The lane's sales.
    pub sales: Vec<LaneSale>,
    /// Last number of a grant that counts as delivered.
    pub grant_no: i64,
}

/// A sale as a rebuilt lane has it.
#[derive(Clone, Debug, PartialEq)]
pub struct LaneSale {
    /// Its settings are those of now.
    pub sale: Sale,
    /// Units free.
    pub counter: i64,
    /// Units taken, cumulative, whatever became of them.
    pub taken: i64,
}

impl Ledger {
    /// Waits for the lock of the one who recovers, no longer than a statement may take.
    ///
    /// # Errors
    /// `Unavailable`: another one still recovers, or Postgres can't be asked.
    pub async fn recovery_lock(&self) -> Result<RecoveryLock, LedgerError> {
        // Out of the pool, so that no other work rides on it and the lock can't outlive us in a pooled session.
        let mut connection = self.pool.acquire().await?.detach();
        sqlx::query("-- recovery.lock\n SELECT pg_advisory_lock($1)")
            .bind(RECOVERY)
            .execute(&mut connection)
            .await?;
        Ok(RecoveryLock { connection })
    }

    /// Draws an epoch greater than `above`, than all of the lane rows and than all drawn before, and closes these lanes
    /// under it.
    ///
    /// # Errors
    /// Postgres can't be asked; `Retry` where it met another transaction.
    pub async fn raise_epoch(&self, lanes: &[LaneNo], above: Epoch) -> Result<Epoch, LedgerError> {
        let mut tx = self.begin().await?;
        let epoch = draw_epoch(&mut tx, above).await?;
        let lanes: Vec<i16> = lanes.iter().map(|lane| lane.to_i16()).collect();
        sqlx::query("-- recovery.lock_lanes\n SELECT FROM lane WHERE lane = ANY($1) ORDER BY lane FOR NO KEY UPDATE")
            .bind(&lanes)
            .execute(&mut *tx)
            .await?;
        // By another statement, as in `post::statement`.
        let close =
            "-- recovery.close\n UPDATE lane SET epoch = $2, state = 'closed' WHERE lane = ANY($1) AND epoch < $2";
        sqlx::query(close).bind(lanes).bind(epoch).execute(&mut *tx).await?;
        tx.commit().await?;
        Epoch::try_from(epoch).map_err(|_| LedgerError::Broken(format!("epoch {epoch}")))
    }

    /// Takes over what a closed lane's queue still holds, `survivors` in the order of the stream, and sets its cursor to
    /// (epoch, 0, `nonce`). Entries that follow the cursor count as wholes, as if they had been written in time; of all
    /// others, the reservations that the ledger lacks, as far as units, limits, keys and orders allow.
    ///
    /// # Errors
    /// Postgres can't be asked, or can't store the survivors.
    pub async fn settle_lane(
        &self,
        lane: LaneNo,
        epoch: Epoch,
        nonce: Nonce,
        survivors: &[Entry],
        id_key: &IdKey,
    ) -> Result<Settled, LedgerError> {
        let settle = Settle {
            lane,
            epoch,
            nonce,
            survivors,
            id_key,
        };
        self.cured(&settle).await
    }

    /// Opens the lane here, after it was rebuilt. False: another recovery got there first.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn open_lane(&self, lane: LaneNo, epoch: Epoch) -> Result<bool, LedgerError> {
        let done = sqlx::query(
            "-- recovery.open
             UPDATE lane SET state = 'open' WHERE lane = $1 AND epoch = $2 AND cursor_epoch = $2",
        )
        .bind(lane.to_i16())
        .bind(i64::from(epoch))
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }
}

/// Draws an epoch greater than `above`, than all of the lane rows and than all drawn before.
pub(super) async fn draw_epoch(tx: &mut Connection, above: Epoch) -> Result<i64, LedgerError> {
    sqlx::query("-- recovery.lock_epoch\n SELECT pg_advisory_xact_lock($1)")
        .bind(EPOCH)
        .execute(&mut *tx)
        .await?;
    Ok(sqlx::query_scalar(
        "-- recovery.draw_epoch: under the lock, so that nobody draws between the look and the leap
         SELECT setval('lane_epoch', greatest(nextval('lane_epoch'), $1 + 1, (SELECT max(epoch) + 1 FROM lane)))",
    )
    .bind(i64::from(above))
    .fetch_one(&mut *tx)
    .await?)
}

struct Settle<'a> {
    lane: LaneNo,
    epoch: Epoch,
    nonce: Nonce,
    survivors: &'a [Entry],
    id_key: &'a IdKey,
}

#[derive(sqlx::FromRow)]
struct Held {
    cursor_seq: i64,
    cursor_nonce: i64,
    grant_no: i64,
    now: DateTime<Utc>,
}

impl Trial for Settle<'_> {
    type Answer = Settled;

    fn ids(&self) -> Vec<(Uuid, DateTime<Utc>)> {
        reservation_ids(self.lane, self.id_key, self.survivors)
    }

    /// What is left of a queue may be many batches long.
    fn poison_max(&self, all: usize) -> usize {
        POISON_MAX.max(all / 100)
    }

    fn poisoned(&self, _: usize, error: LedgerError) -> Result<Settled, LedgerError> {
        Err(error)
    }

    async fn attempt(
        &self,
        ledger: &Ledger,
        poison: &Poison,
        only: Option<&HashSet<Uuid>>,
    ) -> Result<Settled, LedgerError> {
        let mut tx = ledger.begin().await?;
        let Some(held) = self.hold(&mut tx).await? else {
            tx.rollback().await?;
            return Ok(Settled::Superseded);
        };
        let (parts, doubtful) = sort(self.survivors, &held);
        let known = self.known(&mut tx, &doubtful).await?;
        let work = Work {
            lane: self.lane,
            id_key: self.id_key,
            parts,
            rebuild: true,
            known: &known,
            poison,
            only,
            now: held.now,
            grant_no: held.grant_no,
        };
        let Carried::Done(tally) = carry(&mut tx, &work).await? else {
            return Err(LedgerError::Broken("a recovery was refused as a batch".into()));
        };
        self.set_cursor(&mut tx).await?;
        let sales = self.sales(&mut tx).await?;
        self.set_bounds(&mut tx, &sales).await?;
        let image = LaneImage {
            applied: tally.reserved,
            refused: tally.refused.len(),
            quarantined: tally.refused.iter().filter(|refused| refused.is_poison()).count(),
            sales,
            grant_no: self.last_delivered(&mut tx).await?,
        };
        match only {
            None => tx.commit().await?,
            Some(_) => tx.rollback().await?,
        }
        Ok(Settled::Done(image))
    }
}

impl Settle<'_> {
    async fn hold(&self, tx: &mut Connection) -> Result<Option<Held>, LedgerError> {
        Ok(sqlx::query_as(
            "-- recovery.hold
             SELECT cursor_seq, cursor_nonce, grant_no, clock_timestamp() AS now FROM lane
             WHERE lane = $1 AND epoch = $2 AND state = 'closed' FOR NO KEY UPDATE",
        )
        .bind(self.lane.to_i16())
        .bind(i64::from(self.epoch))
        .fetch_optional(&mut *tx)
        .await?)
    }

    /// The reservations of these entries that the ledger has.
    async fn known(&self, tx: &mut Connection, entries: &[&Entry]) -> Result<HashSet<Uuid>, LedgerError> {
        let mut ids = Vec::new();
        for entry in entries {
            let Body::Reserve(slips) = &entry.body else { continue };
            for (index, _) in (0u8..).zip(slips) {
                let place = Place::new(entry.epoch, entry.seq, index, entry.nonce);
                ids.push(self.id_key.seal(self.lane, place).0);
            }
        }
        let mut known = HashSet::new();
        for step in ids.chunks(KNOWN_STEP) {
            let found: Vec<Uuid> = sqlx::query_scalar(
                "-- recovery.known
                 SELECT reservation_id FROM inventory_reservation WHERE reservation_id = ANY($1)
                 UNION ALL
                 SELECT reservation_id FROM inventory_reservation_cold WHERE reservation_id = ANY($1)",
            )
            .bind(step)
            .fetch_all(&mut *tx)
            .await?;
            known.extend(found);
        }
        Ok(known)
    }

    /// The lane's counters become ours, and its settings those of now.
    async fn set_cursor(&self, tx: &mut Connection) -> Result<(), LedgerError> {
        sqlx::query(
            "-- recovery.set_cursor
             UPDATE lane SET cursor_epoch = $2, cursor_seq = 0, cursor_nonce = $3, cursor_total = 0,
                 cursor_at = clock_timestamp()
             WHERE lane = $1",
        )
        .bind(self.lane.to_i16())
        .bind(i64::from(self.epoch))
        .bind(self.nonce.to_i64())
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "-- recovery.reset_buckets
             UPDATE sale_bucket b SET drift = 0, per_user_limit = s.per_user_limit
             FROM sale s WHERE b.lane = $1 AND s.sale_no = b.sale_no AND NOT s.drained",
        )
        .bind(self.lane.to_i16())
        .execute(&mut *tx)
        .await?;
        Ok(())
    }

    /// What the lane's sales may owe the ledger is what the rebuilt lane will have.
    async fn set_bounds(&self, tx: &mut Connection, sales: &[LaneSale]) -> Result<(), LedgerError> {
        sqlx::query(
            "-- recovery.set_bounds
             UPDATE sale_bucket b SET undurable_max = w.undurable_max
             FROM UNNEST($2::int4[], $3::int8[]) AS w(sale_no, undurable_max)
             WHERE b.lane = $1 AND b.sale_no = w.sale_no",
        )
        .bind(self.lane.to_i16())
        .bind(sales.iter().map(|of| of.sale.no).collect::<Vec<_>>())
        .bind(
            sales
                .iter()
                .map(|of| i64::from(of.sale.lane_undurable_max()))
                .collect::<Vec<_>>(),
        )
        .execute(tx)
        .await?;
        Ok(())
    }

    async fn sales(&self, tx: &mut Connection) -> Result<Vec<LaneSale>, LedgerError> {
        let rows: Vec<Bucket> = sqlx::query_as(concat!(
            "-- recovery.sales: a sale whose opening is still to be delivered is not there yet\nSELECT ",
            sale_columns!(),
            ", b.counter, b.durable + b.rejected AS taken
             FROM sale_bucket b JOIN sale s USING (sale_no)
             WHERE b.lane = $1 AND NOT s.drained AND NOT EXISTS (
                 SELECT 1 FROM lane_grant g WHERE g.lane = $1 AND g.sale_no = b.sale_no AND g.kind = 'open')
             ORDER BY b.sale_no"
        ))
        .bind(self.lane.to_i16())
        .fetch_all(&mut *tx)
        .await?;
        let read = |row: Bucket| {
            Ok(LaneSale {
                sale: row.sale.read()?,
                counter: row.counter,
                taken: row.taken,
            })
        };
        rows.into_iter().map(read).collect()
    }

    async fn last_delivered(&self, tx: &mut Connection) -> Result<i64, LedgerError> {
        Ok(sqlx::query_scalar(
            "-- recovery.last_delivered
             SELECT coalesce((SELECT min(grant_no) - 1 FROM lane_grant WHERE lane = $1), grant_no)
             FROM lane WHERE lane = $1",
        )
        .bind(self.lane.to_i16())
        .fetch_one(&mut *tx)
        .await?)
    }
}

#[derive(sqlx::FromRow)]
struct Bucket {
    #[sqlx(flatten)]
    sale: SaleRow,
    counter: i64,
    taken: i64,
}

/// Sorts survivors into what is to be carried: first the entries that follow the cursor, as wholes, then those of which
/// it is not known whether the ledger has them, which are also returned apart. Entries up to the cursor, back along the
/// chain, are in the ledger.
fn sort<'a>(survivors: &'a [Entry], held: &Held) -> (Vec<Part<'a>>, Vec<&'a Entry>) {
    let (mut at, mut seq) = (Nonce::from_i64(held.cursor_nonce), held.cursor_seq);
    let mut back = at;
    let mut applied = HashSet::new();
    for (place, entry) in survivors.iter().enumerate().rev() {
        if entry.nonce == back {
            applied.insert(place);
            back = entry.prev;
        }
    }
    let (mut parts, mut doubtful) = (Vec::new(), Vec::new());
    for (place, entry) in survivors.iter().enumerate() {
        if applied.contains(&place) {
            continue;
        }
        if entry.prev == at && i64::try_from(entry.seq) == Ok(seq + 1) {
            (at, seq) = (entry.nonce, seq + 1);
            parts.push(Part { entry, whole: true });
        } else {
            doubtful.push(entry);
        }
    }
    parts.extend(doubtful.iter().map(|entry| Part { entry, whole: false }));
    (parts, doubtful)
}
