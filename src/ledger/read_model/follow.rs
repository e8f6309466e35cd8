//! The feed: carries what the ledger committed into the snapshot.
//!
//! Each run looks for events that it has not settled, and copies the balances that they name, all as one statement
//! sees them. So the snapshot goes from one state of the ledger to a later one, never to a mixture, and a run that is
//! repeated changes nothing. Events say only *which* balances changed: that some show up late, below ids that were
//! there before, is met by looking again until every transaction that could have drawn such an id has ended.
//!
//! One process at a time does it. Where the feed's row is missing the snapshot is made anew from the balances.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::low_stock::{LowStock, cross};
use super::{Ledger, LedgerError};
use crate::ledger::connection::Connection;

/// Most event ids that one run looks at while the snapshot is behind by minutes, so that it catches up in steps.
const IDS_MAX: i64 = 500_000;
/// Behind by more it takes steps; by less it looks at all there is, so that one long transaction can't hold it up.
const BEHIND_S: f64 = 60.0;
/// A transaction of ours is over by then: a statement may take 30 s, a pause within one 10 s.
const SETTLED_AFTER_S: f64 = 120.0;
/// A copy of everything takes longer than any other statement may.
const REBUILD_MAX: Duration = Duration::from_secs(900);
/// A run is of no use so soon after another's.
const PAUSE_MS: i64 = 100;

/// What a run of the feed did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    /// Another process is at it, or was a moment ago.
    Elsewhere,
    /// The snapshot is made anew, with so many balances.
    Rebuilt {
        /// Balances.
        balances: u64,
        /// SKUs that are low.
        low: Vec<LowStock>,
    },
    /// The snapshot has followed.
    Done {
        /// Balances that changed.
        balances: usize,
        /// SKUs that became low.
        low: Vec<LowStock>,
        /// There is more to catch up with.
        more: bool,
    },
}

#[derive(sqlx::FromRow)]
struct FeedRow {
    settled_id: i64,
    seen_id: i64,
    is_settled: bool,
    is_fresh: bool,
    is_behind: bool,
    last_id: i64,
}

#[derive(sqlx::FromRow)]
struct Copied {
    xmax: String,
    skus: Vec<String>,
    balances: i64,
}

impl Ledger {
    /// Brings the snapshot up to date.
    ///
    /// # Errors
    /// Postgres can't be asked; nothing was changed.
    pub async fn follow(&self) -> Result<Followed, LedgerError> {
        let mut tx = self.begin().await?;
        // What a crash takes is made again from the ledger, so nobody's disk has to be waited for.
        sqlx::query("SET LOCAL synchronous_commit = off")
            .execute(&mut *tx)
            .await?;
        let (is_ours, now): (bool, DateTime<Utc>) = sqlx::query_as(
            "-- snapshot.alone: the time before any look at the events, so that the snapshot is never newer than it says
             SELECT pg_try_advisory_xact_lock(hashtext('flashgate.snapshot')), clock_timestamp()",
        )
        .fetch_one(&mut *tx)
        .await?;
        if !is_ours {
            return Ok(Followed::Elsewhere);
        }
        let followed = match read_feed(&mut tx, now).await? {
            None => rebuild(&mut tx, now).await?,
            Some(feed) if feed.is_fresh => Followed::Elsewhere,
            Some(feed) => follow(&mut tx, &feed, now).await?,
        };
        tx.commit().await?;
        Ok(followed)
    }

    /// How far the snapshot is behind, in ms; none while it is made anew.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn snapshot_age_ms(&self) -> Result<Option<f64>, LedgerError> {
        Ok(sqlx::query_scalar(
            "-- snapshot.age
             SELECT (extract(epoch FROM clock_timestamp() - as_of) * 1000)::float8 FROM snapshot_feed",
        )
        .fetch_optional(&self.pool)
        .await?)
    }
}

async fn read_feed(tx: &mut Connection, now: DateTime<Utc>) -> Result<Option<FeedRow>, LedgerError> {
    Ok(sqlx::query_as(
        "-- snapshot.feed: ids that were drawn are below last_id, whether their transactions have ended or not
         SELECT settled_id, seen_id,
             seen_xmax <= pg_snapshot_xmin(pg_current_snapshot())
                 OR seen_at < $1 - make_interval(secs => $2) AS is_settled,
             as_of > $1 - $3 * interval '1 ms' AS is_fresh,
             as_of < $1 - make_interval(secs => $4) AS is_behind,
             (SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM inventory_event_id) AS last_id
         FROM snapshot_feed",
    )
    .bind(now)
    .bind(SETTLED_AFTER_S)
    .bind(PAUSE_MS)
    .bind(BEHIND_S)
    .fetch_optional(tx)
    .await?)
}

async fn follow(tx: &mut Connection, feed: &FeedRow, now: DateTime<Utc>) -> Result<Followed, LedgerError> {
    // What can't grow any more is looked at once more, for what showed up since the last look.
    let settled_id = if feed.is_settled { feed.seen_id } else { feed.settled_id };
    let step = if feed.is_behind { IDS_MAX } else { i64::MAX };
    let until = feed.last_id.min(settled_id.saturating_add(step)).max(settled_id);
    let copied: Copied = sqlx::query_as(
        "-- snapshot.copy: one statement, so events and balances are seen as of one instant; whoever has drawn an id up
         -- to last_id, which was read before, has a lower number than this first write gives us
         WITH changed AS MATERIALIZED (
             SELECT DISTINCT sku_id, location_id FROM inventory_movement
             WHERE event_id > $1 AND event_id <= $2
               AND created_at > (SELECT as_of - interval '1 hour' FROM snapshot_feed)),
         copied AS (
             INSERT INTO inventory_snapshot AS n (sku_id, location_id, on_hand, reserved, unavailable, escrowed,
                 safety_stock, sold, damaged, returned, version, updated_at)
             SELECT sku_id, location_id, on_hand, reserved, unavailable, escrowed, safety_stock, sold, damaged,
                 returned, version, updated_at
             FROM changed JOIN inventory_balance USING (sku_id, location_id)
             ON CONFLICT (sku_id, location_id) DO UPDATE SET on_hand = excluded.on_hand, reserved = excluded.reserved,
                 unavailable = excluded.unavailable, escrowed = excluded.escrowed,
                 safety_stock = excluded.safety_stock, sold = excluded.sold, damaged = excluded.damaged,
                 returned = excluded.returned, version = excluded.version, updated_at = excluded.updated_at
             WHERE n.version <> excluded.version
             RETURNING sku_id)
         SELECT pg_current_xact_id()::text AS xmax, count(*) AS balances,
             coalesce(array_agg(DISTINCT sku_id), '{}') AS skus
         FROM copied",
    )
    .bind(feed.settled_id)
    .bind(until)
    .fetch_one(&mut *tx)
    .await?;
    let low = cross(tx, &copied.skus).await?;
    let more = until < feed.last_id;
    sqlx::query(
        "-- snapshot.followed: a new mark where the old one is settled
         UPDATE snapshot_feed SET settled_id = $1,
             seen_id = CASE WHEN $2 THEN $3 ELSE seen_id END,
             seen_xmax = CASE WHEN $2 THEN $4::xid8 ELSE seen_xmax END,
             seen_at = CASE WHEN $2 THEN $5 ELSE seen_at END,
             as_of = CASE WHEN $6 THEN as_of ELSE $5 END",
    )
    .bind(settled_id)
    .bind(feed.is_settled)
    .bind(until)
    .bind(&copied.xmax)
    .bind(now)
    .bind(more)
    .execute(tx)
    .await?;
    Ok(Followed::Done {
        balances: usize::try_from(copied.balances).unwrap_or_default(),
        low,
        more,
    })
}

/// Starts over: all balances, and events from a point behind which none can show up any more.
async fn rebuild(tx: &mut Connection, now: DateTime<Utc>) -> Result<Followed, LedgerError> {
    tx.allow(REBUILD_MAX).await?;
    sqlx::query(
        "-- snapshot.restart: what is older than any transaction can be is settled; the rest is looked at again
         INSERT INTO snapshot_feed (settled_id, seen_id, seen_xmax, seen_at, as_of)
         SELECT settled, settled, pg_current_xact_id(), $1, $1
         FROM (SELECT coalesce(
             (SELECT min(event_id) - 1 FROM inventory_movement WHERE created_at > $1 - make_interval(secs => $2)),
             (SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM inventory_event_id)) AS settled) AS start",
    )
    .bind(now)
    .bind(SETTLED_AFTER_S)
    .execute(&mut *tx)
    .await?;
    let balances = sqlx::query(
        "-- snapshot.rebuild: over what is there, so that readers see the old rows until the new ones are complete
         INSERT INTO inventory_snapshot (sku_id, location_id, on_hand, reserved, unavailable, escrowed, safety_stock,
             sold, damaged, returned, version, updated_at)
         SELECT sku_id, location_id, on_hand, reserved, unavailable, escrowed, safety_stock, sold, damaged, returned,
             version, updated_at
         FROM inventory_balance
         ON CONFLICT (sku_id, location_id) DO UPDATE SET on_hand = excluded.on_hand, reserved = excluded.reserved,
             unavailable = excluded.unavailable, escrowed = excluded.escrowed, safety_stock = excluded.safety_stock,
             sold = excluded.sold, damaged = excluded.damaged, returned = excluded.returned,
             version = excluded.version, updated_at = excluded.updated_at",
    )
    .execute(&mut *tx)
    .await?
    .rows_affected();
    let watched: Vec<String> =
        sqlx::query_scalar("-- low_stock.watched\nSELECT sku_id FROM sku WHERE low_stock_threshold IS NOT NULL")
            .fetch_all(&mut *tx)
            .await?;
    let low = cross(tx, &watched).await?;
    Ok(Followed::Rebuilt { balances, low })
}
