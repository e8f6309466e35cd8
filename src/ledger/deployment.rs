//! What all gateways of one database agree on: its tables, its namespace in Redis, the key of its ids, its lanes.
//!
//! [`Ledger::migrate`] may run anywhere, any number of times, several at once; whoever comes second finds the work
//! done. The number of lanes is decided by the first and kept.

use chrono::{DateTime, Utc};
use sqlx::migrate::{MigrateError, Migrator};

use super::{Ledger, LedgerError};
use crate::domain::reservation_id::IdKey;
use crate::domain::time::Millis;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// What all gateways of one database agree on.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// Prefix of every Redis key of this database.
    pub namespace: String,
    /// Seals the ids of reservations.
    pub id_key: IdKey,
    /// Number of lanes.
    pub lanes: u16,
}

impl Ledger {
    /// Makes or completes the tables, the deployment's row, its lanes, and the partitions of today and tomorrow.
    ///
    /// # Errors
    /// `Broken` where the database was made with another number of lanes, or with migrations that are not ours.
    pub async fn migrate(&self, lanes: u16) -> Result<(), LedgerError> {
        MIGRATIONS
            .run(self.pool.acquire().await?.raw())
            .await
            .map_err(|error| match error {
                MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => source.into(),
                other => LedgerError::Broken(other.to_string()),
            })?;
        let mut tx = self.begin().await?;
        sqlx::query(
            "-- deployment.create: two random uuids give 244 random bits
             INSERT INTO deployment (namespace, id_secret, lanes)
             VALUES (substr(md5(gen_random_uuid()::text), 1, 8),
                     uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()), $1)
             ON CONFLICT DO NOTHING",
        )
        .bind(i32::from(lanes))
        .execute(&mut *tx)
        .await?;
        let found: i32 = sqlx::query_scalar("-- deployment.lanes\n SELECT lanes FROM deployment")
            .fetch_one(&mut *tx)
            .await?;
        if found != i32::from(lanes) {
            return Err(LedgerError::Broken(format!(
                "this database was made with {found} lanes, which can't change; {lanes} were asked for"
            )));
        }
        sqlx::query(
            "-- lane.create
             INSERT INTO lane (lane) SELECT generate_series(0, $1 - 1) ON CONFLICT DO NOTHING",
        )
        .bind(i32::from(lanes))
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "-- deployment.days
             SELECT ensure_day(clock_timestamp()), ensure_day(clock_timestamp() + interval '1 day')",
        )
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }

    /// Whether all our migrations are in, and the deployment's row.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn is_migrated(&self) -> Result<bool, LedgerError> {
        let there: bool = sqlx::query_scalar(
            "-- deployment.tables
             SELECT to_regclass('deployment') IS NOT NULL AND to_regclass('_sqlx_migrations') IS NOT NULL",
        )
        .fetch_one(&self.pool)
        .await?;
        if !there {
            return Ok(false);
        }
        let newest = MIGRATIONS.iter().map(|migration| migration.version).max();
        Ok(sqlx::query_scalar(
            "-- deployment.is_migrated
             SELECT EXISTS (SELECT 1 FROM deployment)
                AND EXISTS (SELECT 1 FROM _sqlx_migrations WHERE version >= $1 AND success)",
        )
        .bind(newest)
        .fetch_one(&self.pool)
        .await?)
    }

    /// What all gateways of this database agree on.
    ///
    /// # Errors
    /// The database is not migrated, or can't be asked.
    pub async fn deployment(&self) -> Result<Deployment, LedgerError> {
        let (namespace, secret, lanes): (String, Vec<u8>, i32) =
            sqlx::query_as("-- deployment.read\n SELECT namespace, id_secret, lanes FROM deployment")
                .fetch_one(&self.pool)
                .await?;
        let secret = secret
            .try_into()
            .map_err(|_| LedgerError::Broken("the id secret is not 32 bytes".into()))?;
        let lanes = u16::try_from(lanes).map_err(|_| LedgerError::Broken(format!("{lanes} lanes")))?;
        Ok(Deployment {
            namespace,
            id_key: IdKey(secret),
            lanes,
        })
    }

    /// The instant by the one clock: Postgres'.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn now(&self) -> Result<Millis, LedgerError> {
        let now: DateTime<Utc> = sqlx::query_scalar("-- ledger.now\n SELECT clock_timestamp()")
            .fetch_one(&self.pool)
            .await?;
        Ok(now.into())
    }

    /// Answers if Postgres does.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn ping(&self) -> Result<(), LedgerError> {
        sqlx::query("-- ledger.ping\n SELECT 1").execute(&self.pool).await?;
        Ok(())
    }
}
