//! What has happened to items since an instant: what the first event has found is what was there.
//!
//! It is looked for before the balances are locked, for buyers of a hot item wait for that lock. The events of one item
//! are made one after the other, under its balance's lock, so the first one that is there stays the first. Where there is
//! none yet it is looked for again, under the lock.

use chrono::{DateTime, NaiveTime, TimeDelta, Utc};

use crate::domain::id::{LocationId, Sku};
use crate::domain::time::Millis;
use crate::ledger::connection::Connection;
use crate::ledger::events::WALKED;
use crate::ledger::{Ledger, LedgerError};

/// An event draws its id and its time one right after the other, so of two whose times lie further apart than this the
/// later one has the greater id. Where the clock was set back in between, a time that was there twice may mean either.
const DRAWN_WITHIN: TimeDelta = TimeDelta::seconds(5);
/// Ids that are not worth another look.
const NEAR: i64 = 1_000;

/// What is known of items since an instant, without their locks.
#[derive(Clone, Debug)]
pub(in crate::ledger::recon) struct Since {
    /// Everything from here on came after it: an instant of the API is a whole millisecond.
    pub(super) from: DateTime<Utc>,
    /// An id that all of that is beyond.
    pub(super) after_id: i64,
    /// Those that have moved, …
    pub(super) moved: Vec<String>,
    /// … and what was on hand of them before they did.
    pub(super) on_hand: Vec<i64>,
}

impl Ledger {
    /// What has happened to these items after `at`.
    pub(in crate::ledger::recon) async fn since(
        &self,
        at: Millis,
        location: &LocationId,
        skus: impl Iterator<Item = &Sku> + Send,
    ) -> Result<Since, LedgerError> {
        let skus: Vec<&str> = skus.map(Sku::as_str).collect();
        let from = at.plus_ms(1).to_utc();
        let mut connection = self.pool.acquire().await?;
        let after_id = id_before(&mut connection, from).await?;
        connection.begin().await?;
        sqlx::query(WALKED).execute(&mut connection).await?;
        let first: Vec<(String, i64)> = sqlx::query_as(
            "-- since.first: a walk along event_by_item each
             SELECT w.sku_id, e.on_hand FROM UNNEST($1::text[]) AS w(sku_id) CROSS JOIN LATERAL (
                 SELECT on_hand - on_hand_delta AS on_hand FROM inventory_movement e
                 WHERE e.sku_id = w.sku_id AND e.location_id = $2 AND e.event_id > $3 AND e.created_at >= $4
                 ORDER BY e.event_id LIMIT 1) e",
        )
        .bind(&skus)
        .bind(location.as_str())
        .bind(after_id)
        .bind(from)
        .fetch_all(&mut connection)
        .await?;
        connection.rollback().await?;
        connection.keep();
        let (moved, on_hand) = first.into_iter().unzip();
        Ok(Since {
            from,
            after_id,
            moved,
            on_hand,
        })
    }
}

/// An id that all events from then on are beyond, and few events before: found by halving, since nothing is indexed by
/// time alone.
async fn id_before(connection: &mut Connection, from: DateTime<Utc>) -> Result<i64, LedgerError> {
    let surely = from - DRAWN_WITHIN;
    let midnight = surely.date_naive().and_time(NaiveTime::MIN).and_utc();
    let last: i64 = sqlx::query_scalar("-- since.last\nSELECT last_value FROM inventory_event_id")
        .fetch_one(&mut *connection)
        .await?;
    let (mut before, mut beyond) = (0, last);
    while beyond - before > NEAR {
        let middle = before + (beyond - before) / 2;
        let next: Option<(i64, DateTime<Utc>)> = sqlx::query_as(
            "-- since.next: only days on which it may lie
             SELECT event_id, created_at FROM inventory_movement
             WHERE event_id > $1 AND event_id <= $2 AND created_at >= $3 ORDER BY event_id LIMIT 1",
        )
        .bind(middle)
        .bind(beyond)
        .bind(midnight)
        .fetch_optional(&mut *connection)
        .await?;
        match next {
            Some((id, created_at)) if created_at < surely => before = id,
            _ => beyond = middle,
        }
    }
    Ok(before)
}
