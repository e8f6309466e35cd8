//! What Postgres says of its disk and of its log.

use sqlx::PgPool;

use crate::Failure;

/// Bytes at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disk {
    /// All tables with their indexes.
    pub(crate) tables: f64,
    /// Of these: reservations, events, keys.
    pub(crate) parts: [f64; 3],
    /// The log, since the database was made.
    pub(crate) wal: f64,
}

/// # Errors
/// Postgres does not tell.
pub(crate) async fn read(pool: &PgPool) -> Result<Disk, Failure> {
    let sql = "-- bench.disk
        SELECT sum(bytes)::float8, sum(bytes) FILTER (WHERE name LIKE 'inventory_reservation%')::float8,
            sum(bytes) FILTER (WHERE name LIKE 'inventory_event%')::float8,
            sum(bytes) FILTER (WHERE name LIKE 'inventory_key%')::float8,
            pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8
        FROM (SELECT relname AS name, pg_total_relation_size(c.oid) AS bytes FROM pg_class c
            WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace) t";
    let (tables, reservations, events, keys, wal) = sqlx::query_as(sql).fetch_one(pool).await?;
    Ok(Disk {
        tables,
        parts: [reservations, events, keys],
        wal,
    })
}
