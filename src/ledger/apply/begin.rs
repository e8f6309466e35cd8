//! How a writer's transaction begins: in one statement.

use chrono::{DateTime, TimeDelta, Utc};

use super::ask::Ask;
use super::book::{Books, books};
use super::carry::{Work, recalls};
use super::{Batch, cursor_after};
use crate::domain::entry::{Body, Entry};
use crate::domain::grant::{Delivered, Grant};
use crate::ledger::LedgerError;
use crate::ledger::claims::{Claimant, Claiming, claim_keys};
use crate::ledger::connection::Connection;

/// What is surely a sane time whatever Postgres' clock says, which is ours give or take some seconds.
const SURELY_SANE: TimeDelta = TimeDelta::hours(12);

/// The lane is ours until the commit.
pub(super) struct Begun {
    /// Last number given to a grant of the lane.
    pub(super) grant_no: i64,
    /// The instant.
    pub(super) now: DateTime<Utc>,
    pub(super) books: Books,
    /// The keys, and how many of them were new; none: they are still to be claimed.
    pub(super) keys: Option<(Claiming, usize)>,
}

#[derive(sqlx::FromRow)]
struct Row {
    grant_no: i64,
    now: DateTime<Utc>,
    claimed: i64,
}

/// Moves the cursor, reads the books of these sales and claims these keys; `None`: the lane is another's, and nothing was
/// done. The books are as they were before the lane was locked: whoever changes them changes the lane's epoch or cursor
/// too, but for a late payment of an ended sale, which adds to what the books add to.
pub(super) async fn begin(
    tx: &mut Connection,
    batch: &Batch<'_>,
    sales: &[i32],
    claiming: Option<Claiming>,
) -> Result<Option<Begun>, LedgerError> {
    let to = cursor_after(batch);
    let keys = claiming.as_ref().map(Claiming::columns).unwrap_or_default();
    let rows = sqlx::query(concat!(
        "-- apply.begin: whoever names the cursor holds the lane until the commit
         WITH moved AS (
             UPDATE lane SET cursor_seq = $6, cursor_nonce = $7, cursor_total = $8, cursor_at = clock_timestamp()
             WHERE lane = $1 AND owner = $2 AND epoch = $3 AND cursor_epoch = $3 AND cursor_seq = $4
               AND cursor_nonce = $5 AND state = 'open'
             RETURNING grant_no, cursor_at
         ), claimed AS (
             ",
        claim_keys!("$10", "$11", "$12", "$13", ", moved"),
        " RETURNING 1
         ), book AS (
             ",
        books!("$1", "$9"),
        "
         )
         SELECT grant_no, cursor_at AS now, claimed, book.*
         FROM moved CROSS JOIN (SELECT count(*) AS claimed FROM claimed) AS keys LEFT JOIN book ON true"
    ))
    .bind(batch.lane.to_i16())
    .bind(batch.owner)
    .bind(i64::from(batch.from.epoch))
    .bind(number(batch.from.seq)?)
    .bind(batch.from.nonce.to_i64())
    .bind(number(to.seq)?)
    .bind(to.nonce.to_i64())
    .bind(number(to.total)?)
    .bind(sales)
    .bind(keys.hashes)
    .bind(keys.subjects)
    .bind(keys.fingerprints)
    .bind(keys.derived)
    .fetch_all(&mut *tx)
    .await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let Row { grant_no, now, claimed } = sqlx::FromRow::from_row(first)?;
    let claimed = usize::try_from(claimed).expect("no more rows than claims");
    Ok(Some(Begun {
        grant_no,
        now,
        books: Books::of(&rows)?,
        keys: claiming.map(|claiming| (claiming, claimed)),
    }))
}

/// Of a cursor.
pub(super) fn number(value: u64) -> Result<i64, LedgerError> {
    i64::try_from(value).map_err(|_| LedgerError::Broken(format!("a cursor at {value}")))
}

/// Whether an entry's time is sane, by our time and Postgres' alike.
pub(super) fn surely_sane(entry: &Entry, now: DateTime<Utc>) -> bool {
    (now - SURELY_SANE..now + SURELY_SANE).contains(&entry.at.to_utc())
}

/// The keys of the asks, where they are all that the batch claims and nothing is to be locked before them.
pub(super) fn claims_ahead(work: &Work<'_>, asks: &[Ask<'_>]) -> Option<Claiming> {
    let first = |Delivered { grant, .. }: &Delivered| recalls(grant) || matches!(grant, Grant::Retake { .. });
    let can_wait = |body: &Body| match body {
        Body::Reserve(_) => true,
        Body::Grant { delivered, .. } => !delivered.iter().any(first),
    };
    let mut entries = work.parts.iter().map(|part| part.entry);
    let plain = entries.all(|entry| can_wait(&entry.body) && surely_sane(entry, work.now));
    let claimants: Vec<Claimant> = asks.iter().filter_map(Ask::claimant).collect();
    plain.then(|| Claiming::of(&claimants))
}
