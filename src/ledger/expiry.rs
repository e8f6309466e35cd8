//! Expiry: reservations whose time is over end, a batch at a time.
//!
//! A reservation expires only if its deadline had passed at the last beat of the pulse. So whatever stops between the
//! beat and the expiry (this process, Postgres, the machine), nothing expires for a deadline within the silence, and
//! the next beat writes that silence down before anything else expires. A cart expires whole, at the last of its
//! parts' deadlines.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::endings::{Ended, record};
use super::reservation::{ReservationRow, columns};
use super::stall::pulse;
use super::{Ledger, LedgerError};
use crate::domain::lane::LaneNo;
use crate::domain::reservation::Status;
use crate::domain::trace::TraceId;

/// What one run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpireRun {
    /// Reservations that expired.
    pub expired: usize,
    /// Reservations that were overdue but for a stall; they have a later deadline now.
    pub shifted: usize,
    /// There may be more.
    pub backlog: bool,
    /// Lanes that get units back.
    pub grants_for: Vec<LaneNo>,
}

#[derive(sqlx::FromRow)]
struct Overdue {
    #[sqlx(flatten)]
    row: ReservationRow,
    /// Overdue with its stalls too.
    over: bool,
    /// Its sale stands still.
    frozen: bool,
    beat_at: DateTime<Utc>,
}

/// How long a cart of which a part stands still is left alone, in seconds.
const STANDS_STILL: i64 = 5;

/// What tells an overdue row.
macro_rules! overdue {
    () => {
        "deadline(r.expires_at, r.created_at, r.sale_no, r.stall_no) <= (SELECT beat_at FROM pulse) AS over, \
         s.state IS NOT DISTINCT FROM 'frozen' AS frozen, (SELECT beat_at FROM pulse) AS beat_at"
    };
}

impl Ledger {
    /// Ends at most `max` reservations whose time is over. Those that another transaction holds are passed over: they
    /// are being ended, or come next time. Those of a frozen sale stand still.
    ///
    /// # Errors
    /// Postgres could not be asked.
    pub async fn expire_due(&self, max: i64) -> Result<ExpireRun, LedgerError> {
        let mut tx = self.begin().await?;
        pulse(&mut tx).await?;
        tx.commit().await?;
        let mut attempt = 0;
        loop {
            match self.expire_once(max).await {
                Err(error) => {
                    attempt += 1;
                    self.before_retry(error, attempt).await?;
                }
                done => return done,
            }
        }
    }

    async fn expire_once(&self, max: i64) -> Result<ExpireRun, LedgerError> {
        let mut tx = self.begin().await?;
        let overdue: Vec<Overdue> = sqlx::query_as(concat!(
            "-- expiry.due: stalls and pulse are of one snapshot, so a silence that ended before that beat is among them
             SELECT ",
            columns!(),
            ", ",
            overdue!(),
            "
             FROM inventory_reservation r LEFT JOIN sale s USING (sale_no)
             WHERE r.status = 'RESERVED' AND r.expires_at <= (SELECT beat_at FROM pulse)
                 AND s.state IS DISTINCT FROM 'frozen'
             ORDER BY r.expires_at LIMIT $1 FOR NO KEY UPDATE OF r SKIP LOCKED"
        ))
        .bind(max)
        .fetch_all(&mut *tx)
        .await?;
        let backlog = i64::try_from(overdue.len()).is_ok_and(|found| found >= max);
        let overdue = with_carts(&mut tx, overdue).await?;
        let (over, later): (Vec<Overdue>, Vec<Overdue>) = overdue.into_iter().partition(|found| found.over);
        if !later.is_empty() {
            shift(&mut tx, &later).await?;
        }
        let ended: Vec<Ended> = over.into_iter().map(|found| expired(found.row)).collect();
        let mut grants_for = BTreeSet::new();
        if !ended.is_empty() {
            let recorded = record(&mut tx, &ended).await?;
            grants_for.extend(recorded.given.iter().map(|given| given.lane));
        }
        tx.commit().await?;
        ended.iter().for_each(Ended::log);
        Ok(ExpireRun {
            expired: ended.len(),
            shifted: later.len(),
            backlog,
            grants_for: grants_for.into_iter().collect(),
        })
    }
}

/// The overdue rows, carts whole. A cart of which somebody holds a part is left out; one whose time is not over yet, or
/// of which a part stands still, gets the latest deadline of its parts.
async fn with_carts(tx: &mut sqlx::PgConnection, overdue: Vec<Overdue>) -> Result<Vec<Overdue>, LedgerError> {
    let (parts, mut whole): (Vec<Overdue>, Vec<Overdue>) =
        overdue.into_iter().partition(|found| found.row.cart_id.is_some());
    let carts: BTreeSet<Uuid> = parts.iter().filter_map(|part| part.row.cart_id).collect();
    if carts.is_empty() {
        return Ok(whole);
    }
    let carts: Vec<Uuid> = carts.into_iter().collect();
    // Both by the word, so that nobody looks for a cart's parts among all that are reserved, which have an index. Counted
    // first: whatever changes until the rows are locked, the numbers differ then, and the cart is left out.
    let open: Vec<(Uuid, i64)> = sqlx::query_as(
        "-- expiry.open_parts: all of a cart's, but where a late payment has taken only some again
         SELECT cart_id, count(*) FROM inventory_reservation
         WHERE cart_id = ANY($1) AND status::text = 'RESERVED' GROUP BY cart_id",
    )
    .bind(&carts)
    .fetch_all(&mut *tx)
    .await?;
    let open: HashMap<Uuid, i64> = open.into_iter().collect();
    let parts: Vec<Overdue> = sqlx::query_as(concat!(
        "-- expiry.carts\nSELECT ",
        columns!(),
        ", ",
        overdue!(),
        " FROM inventory_reservation r LEFT JOIN sale s USING (sale_no)
          WHERE r.cart_id = ANY($1) AND r.status::text = 'RESERVED'
          ORDER BY r.reservation_id FOR NO KEY UPDATE OF r SKIP LOCKED"
    ))
    .bind(&carts)
    .fetch_all(&mut *tx)
    .await?;
    let mut by_cart: BTreeMap<Option<Uuid>, Vec<Overdue>> = BTreeMap::new();
    for part in parts {
        by_cart.entry(part.row.cart_id).or_default().push(part);
    }
    for (cart, mut parts) in by_cart {
        let held = cart.and_then(|cart| open.get(&cart));
        if held.map(|held| usize::try_from(*held)) != Some(Ok(parts.len())) {
            continue;
        }
        let still = parts.iter().any(|part| part.frozen);
        let over = !still && parts.iter().all(|part| part.over);
        let mut due = parts.iter().map(|part| part.row.due).max().unwrap_or_default();
        if still {
            due = due.max(parts[0].beat_at + TimeDelta::seconds(STANDS_STILL));
        }
        for part in &mut parts {
            part.over = over;
            if !over {
                part.row.due = due;
            }
        }
        whole.extend(parts.into_iter().filter(|part| !part.frozen));
    }
    Ok(whole)
}

/// An expiry belongs to the trace that made the reservation.
fn expired(row: ReservationRow) -> Ended {
    Ended {
        status: Status::Expired,
        detail: None,
        trace: TraceId::from_uuid(row.trace_id),
        operator: None,
        row,
    }
}

/// Writes the stalls into the deadlines, so that they are looked at again only when they may be over.
async fn shift(tx: &mut sqlx::PgConnection, later: &[Overdue]) -> Result<(), LedgerError> {
    let column = |pick: fn(&ReservationRow) -> DateTime<Utc>| later.iter().map(|l| pick(&l.row)).collect::<Vec<_>>();
    sqlx::query(
        "-- expiry.shift
         UPDATE inventory_reservation r SET expires_at = l.due, stall_no = l.stalls
         FROM UNNEST($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::int8[])
              AS l(reservation_id, created_at, due, stalls)
         WHERE r.reservation_id = l.reservation_id AND r.created_at = l.created_at",
    )
    .bind(later.iter().map(|l| l.row.reservation_id).collect::<Vec<Uuid>>())
    .bind(column(|row| row.created_at))
    .bind(column(|row| row.due))
    .bind(later.iter().map(|l| l.row.stalls).collect::<Vec<_>>())
    .execute(&mut *tx)
    .await?;
    Ok(())
}
