//! Expiry: reservations whose time is over end, a batch at a time.
//!
//! A reservation expires only if its deadline had passed at the last beat of the pulse. So whatever stops between the
//! beat and the expiry (this process, Postgres, the machine), nothing expires for a deadline within the silence, and
//! the next beat writes that silence down before anything else expires. A cart expires whole, at the last of its
//! parts' deadlines.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::connection::Connection;
use super::endings::{Ended, record};
use super::reservation::{ReservationRow, columns, due};
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

/// Where the next step goes on along what is due. Reservations of a frozen sale stay where they are, overdue; to pass all
/// of them at each step would cost the other sales theirs.
#[derive(Debug, Default)]
pub(super) struct DueWalk(Mutex<Option<Walked>>);

#[derive(Clone, Copy, Debug)]
struct Walked {
    /// The last deadline that was met.
    to: DateTime<Utc>,
    /// When the walk begins at its beginning again.
    until: Instant,
}

/// Whoever walks for less long, or meets nobody, begins at the beginning each time; a longer walk costs no more than one
/// part in so many of the time.
const WHOLE_QUICK: Duration = Duration::from_millis(250);
const WHOLE_SHARE: u32 = 10;

impl DueWalk {
    /// Nothing before this need be looked at; `None`: begin at the beginning.
    fn from(&self, now: Instant) -> Option<DateTime<Utc>> {
        let walked = *self.0.lock().expect("nobody panics while holding it");
        walked.filter(|walked| now < walked.until).map(|walked| walked.to)
    }

    /// A step that began at `began` met this deadline last.
    fn tell(&self, from: Option<DateTime<Utc>>, began: Instant, now: Instant, last: Option<DateTime<Utc>>) {
        let mut walked = self.0.lock().expect("nobody panics while holding it");
        match (from, last) {
            (None, Some(to)) if now - began > WHOLE_QUICK => {
                let until = now + (now - began) * WHOLE_SHARE;
                *walked = Some(Walked { to, until });
            }
            (None, _) => *walked = None,
            (Some(_), last) => {
                if let (Some(walked), Some(to)) = (walked.as_mut(), last) {
                    walked.to = to;
                }
            }
        }
    }
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
    expires_at: DateTime<Utc>,
}

/// How long a cart of which a part stands still is left alone, in seconds.
const STANDS_STILL: i64 = 5;

/// What tells an overdue row.
macro_rules! overdue {
    () => {
        concat!(
            due!(),
            " <= (SELECT beat_at FROM pulse) AS over, s.state IS NOT DISTINCT FROM 'frozen' AS frozen, \
             (SELECT beat_at FROM pulse) AS beat_at, r.expires_at"
        )
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
        let began = Instant::now();
        let from = self.due.from(began);
        let overdue: Vec<Overdue> = sqlx::query_as(concat!(
            "-- expiry.due: stalls and pulse are of one snapshot, so a silence that ended before that beat is among them
             SELECT ",
            columns!(),
            ", ",
            overdue!(),
            "
             FROM inventory_reservation r LEFT JOIN sale s USING (sale_no)
             WHERE r.status = 'RESERVED' AND r.expires_at <= (SELECT beat_at FROM pulse)
                 AND r.expires_at >= $2 AND s.state IS DISTINCT FROM 'frozen'
             ORDER BY r.expires_at LIMIT $1 FOR NO KEY UPDATE OF r SKIP LOCKED"
        ))
        .bind(max)
        .bind(from.unwrap_or(DateTime::UNIX_EPOCH))
        .fetch_all(&mut *tx)
        .await?;
        self.due
            .tell(from, began, Instant::now(), overdue.last().map(|last| last.expires_at));
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
async fn with_carts(tx: &mut Connection, overdue: Vec<Overdue>) -> Result<Vec<Overdue>, LedgerError> {
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
async fn shift(tx: &mut Connection, later: &[Overdue]) -> Result<(), LedgerError> {
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

#[cfg(test)]
mod tests {
    use super::{DueWalk, WHOLE_QUICK};
    use chrono::{DateTime, TimeDelta, Utc};
    use std::time::{Duration, Instant};

    #[test]
    fn what_took_long_is_not_walked_again_at_once() {
        let (walk, began) = (DueWalk::default(), Instant::now());
        let (first, second) = (DateTime::UNIX_EPOCH, DateTime::UNIX_EPOCH + TimeDelta::seconds(1));
        let after = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(walk.from(began), None);
        walk.tell(None, began, after(2), Some(first));
        assert_eq!(walk.from(after(3)), Some(first));
        walk.tell(Some(first), after(3), after(4), Some(second));
        walk.tell(Some(second), after(4), after(5), None);
        assert_eq!(walk.from(after(21)), Some(second));
        assert_eq!(
            walk.from(after(22)),
            None::<DateTime<Utc>>,
            "ten times as long as it took"
        );
    }

    #[test]
    fn where_nothing_is_due_or_it_is_quick_the_walk_begins_anew() {
        let (walk, began) = (DueWalk::default(), Instant::now());
        walk.tell(None, began, began + Duration::from_secs(2), None);
        assert_eq!(walk.from(began + Duration::from_secs(3)), None);
        walk.tell(None, began, began + WHOLE_QUICK, Some(DateTime::UNIX_EPOCH));
        assert_eq!(walk.from(began + WHOLE_QUICK), None, "quick as it was");
    }
}
