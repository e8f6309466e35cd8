//! Upkeep of what grows with time: partitions for the days to come, the cold tier for the days that are over, and keys
//! and stalls that nobody asks for any more.
//!
//! Reservations and events are never dropped. Every step is a transaction of its own and gives way to traffic: where a
//! lock can't be had at once, the step is left to the next run.

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};

use super::connection::Connection;
use super::{Ledger, LedgerError};
use crate::domain::time::Millis;

/// Days for which partitions are made in advance, so that a gateway without upkeep goes on for as long.
const DAYS_AHEAD: i64 = 3;
/// A day is cold when its last reservation ended this long ago.
const COLD_AFTER: TimeDelta = TimeDelta::hours(48);
/// Keys are kept at least this long after the request, and after the reservation's last change.
const KEYS_KEPT: TimeDelta = TimeDelta::hours(72);
/// Keys deleted by one statement: some 50 ms.
const KEYS_MAX: i64 = 5_000;
/// Longest wait for a lock under which a day is made or changes its tier; all traffic waits behind it.
const LOCK_WAIT_MAX: &str = "SET LOCAL lock_timeout = '250ms'";

/// What one run of the upkeep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upkeep {
    /// Days that went to the cold tier.
    pub archived: Vec<NaiveDate>,
    /// Keys that were purged.
    pub keys: u64,
    /// Stalls that no reservation needs any more.
    pub stalls: u64,
}

impl Ledger {
    /// Does what is due at `now`. Running it often, or in several gateways at once, changes nothing more.
    ///
    /// # Errors
    /// Postgres could not be asked.
    pub async fn upkeep(&self, now: Millis) -> Result<Upkeep, LedgerError> {
        let mut connection = self.pool.acquire().await?;
        let now = now.to_utc();
        for days in 0..=DAYS_AHEAD {
            let made = make(&mut connection, now + TimeDelta::days(days)).await;
            if let Err(error) = unless_locked(&mut connection, made).await? {
                tracing::warn!(days, %error, "the day so many days ahead is not made yet");
            }
        }
        let mut done = Upkeep::default();
        for day in hot_days(&mut connection).await? {
            if !is_over(&mut connection, day, now - COLD_AFTER).await? {
                continue;
            }
            let archived = archive(&mut connection, day).await;
            match unless_locked(&mut connection, archived).await? {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!(%day, "reservations went to the cold tier");
                    done.archived.push(day);
                }
                Err(error) => tracing::info!(%day, %error, "the day stays in the hot tier for this time"),
            }
        }
        loop {
            let keys = purge_keys(&mut connection, now - KEYS_KEPT).await?;
            done.keys += keys;
            if i64::try_from(keys).is_ok_and(|keys| keys < KEYS_MAX) {
                break;
            }
        }
        done.stalls = purge_stalls(&mut connection, now - KEYS_KEPT).await?;
        connection.keep();
        Ok(done)
    }
}

fn name_of(tier: &str, day: NaiveDate) -> String {
    format!("{tier}_{}", day.format("%Y_%m_%d"))
}

async fn hot_days(connection: &mut Connection) -> Result<Vec<NaiveDate>, LedgerError> {
    let names: Vec<String> = sqlx::query_scalar(
        "-- partition.hot_days
         SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'inventory_reservation'::regclass",
    )
    .fetch_all(connection)
    .await?;
    let day = |name: &String| NaiveDate::parse_from_str(name, "inventory_reservation_%Y_%m_%d").ok();
    let mut days: Vec<NaiveDate> = names.iter().filter_map(day).collect();
    days.sort_unstable();
    Ok(days)
}

/// Whether the day's last reservation ended before `before`. A day that has reservations in it has them at its end, so
/// younger days are not even looked at, and of one with an open reservation the index of these tells.
async fn is_over(connection: &mut Connection, day: NaiveDate, before: DateTime<Utc>) -> Result<bool, LedgerError> {
    if day.and_time(NaiveTime::MIN).and_utc() + TimeDelta::days(1) > before {
        return Ok(false);
    }
    let name = name_of("inventory_reservation", day);
    Ok(sqlx::query_scalar(&format!(
        "-- partition.is_over
         SELECT NOT EXISTS (SELECT FROM {name} WHERE status = 'RESERVED')
             AND NOT EXISTS (SELECT FROM {name} WHERE updated_at >= $1)"
    ))
    .bind(before)
    .fetch_one(connection)
    .await?)
}

/// What was done, or why not where the lock could not be had in time, since endings or a long look had it: the next run
/// tries again.
async fn unless_locked<T>(
    connection: &mut Connection,
    done: Result<T, LedgerError>,
) -> Result<Result<T, sqlx::Error>, LedgerError> {
    match done {
        Ok(done) => Ok(Ok(done)),
        Err(LedgerError::Retry(error)) => {
            connection.rollback().await?;
            Ok(Err(error))
        }
        Err(error) => Err(error),
    }
}

/// Makes the partitions of a day that has none.
async fn make(connection: &mut Connection, at: DateTime<Utc>) -> Result<(), LedgerError> {
    connection.begin().await?;
    sqlx::query(LOCK_WAIT_MAX).execute(&mut *connection).await?;
    sqlx::query("-- partition.ahead\nSELECT ensure_day($1)")
        .bind(at)
        .execute(&mut *connection)
        .await?;
    Ok(connection.commit().await?)
}

/// Moves a day from the hot tier to the cold one; returns whether it did.
async fn archive(connection: &mut Connection, day: NaiveDate) -> Result<bool, LedgerError> {
    let hot = name_of("inventory_reservation", day);
    let cold = name_of("inventory_reservation_cold", day);
    let from = day.and_time(NaiveTime::MIN).and_utc();
    let until = from + TimeDelta::days(1);
    prove(connection, &hot, from, until).await?;
    connection.begin().await?;
    sqlx::query(LOCK_WAIT_MAX).execute(&mut *connection).await?;
    let known: bool = sqlx::query_scalar("-- partition.is_cold\nSELECT to_regclass($1) IS NOT NULL")
        .bind(&cold)
        .fetch_one(&mut *connection)
        .await?;
    sqlx::query(&format!(
        "-- partition.detach\nALTER TABLE inventory_reservation DETACH PARTITION {hot}"
    ))
    .execute(&mut *connection)
    .await?;
    // Under the lock nobody adds a reservation or brings one back; the index of open ones answers at once.
    let open: bool = sqlx::query_scalar(&format!(
        "-- partition.open\nSELECT EXISTS (SELECT FROM {hot} WHERE status = 'RESERVED')"
    ))
    .fetch_one(&mut *connection)
    .await?;
    if open {
        connection.rollback().await?;
        return Ok(false);
    }
    if known {
        // A reservation that came late, after a long outage, had made the day hot again.
        sqlx::query(&format!("-- partition.join\nINSERT INTO {cold} SELECT * FROM {hot}"))
            .execute(&mut *connection)
            .await?;
        sqlx::query(&format!("-- partition.drop\nDROP TABLE {hot}"))
            .execute(&mut *connection)
            .await?;
    } else {
        for step in [
            format!("ALTER TABLE {hot} RENAME TO {cold}"),
            format!(
                "ALTER TABLE inventory_reservation_cold ATTACH PARTITION {cold} FOR VALUES FROM ('{from}') TO ('{until}')"
            ),
            format!("ALTER TABLE {cold} DROP CONSTRAINT in_its_day"),
        ] {
            sqlx::query(&step).execute(&mut *connection).await?;
        }
    }
    connection.commit().await?;
    Ok(true)
}

/// Proves, while traffic goes on, that all rows are of their day: so the cold tier takes the table without reading it,
/// which it would do while everything waits.
async fn prove(
    connection: &mut Connection,
    table: &str,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<(), LedgerError> {
    connection.begin().await?;
    sqlx::query(LOCK_WAIT_MAX).execute(&mut *connection).await?;
    sqlx::query(&format!(
        "ALTER TABLE {table} DROP CONSTRAINT IF EXISTS in_its_day,
             ADD CONSTRAINT in_its_day CHECK (created_at >= '{from}' AND created_at < '{until}') NOT VALID"
    ))
    .execute(&mut *connection)
    .await?;
    connection.commit().await?;
    sqlx::query(&format!("ALTER TABLE {table} VALIDATE CONSTRAINT in_its_day"))
        .execute(connection)
        .await?;
    Ok(())
}

/// Deletes keys of requests made before `before`, but for those whose reservation is open or changed since.
async fn purge_keys(connection: &mut Connection, before: DateTime<Utc>) -> Result<u64, LedgerError> {
    Ok(sqlx::query(
        "-- key.purge: derived keys must outlive their open reservation, and a commit by as long as any key is kept. Of cold
         -- days, which may be hundreds, those are asked in which something can have changed since: see key.earlier
         DELETE FROM inventory_key WHERE key_hash = ANY (ARRAY(
             SELECT k.key_hash FROM inventory_key k WHERE k.created_at < $1
                 AND NOT EXISTS (SELECT FROM inventory_reservation r WHERE r.reservation_id = k.subject_id
                                 AND (r.status = 'RESERVED' OR r.updated_at >= $1))
                 AND NOT EXISTS (SELECT FROM inventory_reservation_cold r WHERE r.reservation_id = k.subject_id
                                 AND r.created_at > now() - interval '45 days' AND r.updated_at >= $1)
                 AND NOT EXISTS (SELECT FROM inventory_reservation r WHERE r.cart_id = k.subject_id
                                 AND (r.status = 'RESERVED' OR r.updated_at >= $1))
                 AND NOT EXISTS (SELECT FROM inventory_reservation_cold r WHERE r.cart_id = k.subject_id
                                 AND r.created_at > now() - interval '45 days' AND r.updated_at >= $1)
             LIMIT $2 FOR UPDATE SKIP LOCKED))",
    )
    .bind(before)
    .bind(KEYS_MAX)
    .execute(connection)
    .await?
    .rows_affected())
}

/// Deletes stalls that ended before `before` and before every open reservation was made. Ended ones have their
/// deadline written down, stalls included.
async fn purge_stalls(connection: &mut Connection, before: DateTime<Utc>) -> Result<u64, LedgerError> {
    Ok(sqlx::query(
        "-- stall.purge
         DELETE FROM stall WHERE until_at < $1 AND until_at < coalesce(
             (SELECT min(created_at) FROM inventory_reservation WHERE status = 'RESERVED'), 'infinity')",
    )
    .bind(before)
    .execute(connection)
    .await?
    .rows_affected())
}
