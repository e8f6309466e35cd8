//! A page of events, at the same cost wherever it lies, from the replica where one has it.
//!
//! What is asked of the tables stands in `statement`. Days are partitions; a page looks at a few from its cursor on, and
//! at more only where they don't fill it.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::settled::LOOK_EVERY;
use super::{After, Cursor, EventRow, Page, WALKED, Wanted};
use crate::domain::id::{LocationId, OrderId, Sku};
use crate::domain::time::Millis;
use crate::ledger::connection::Connection;
use crate::ledger::connections::Connections;
use crate::ledger::post::EventType;
use crate::ledger::{Ledger, LedgerError};

/// Most that the time of a later event may lie before that of an earlier one: Postgres' clock was set back, or an
/// insert was held up between its id and its time.
const CLOCK_SLACK: TimeDelta = TimeDelta::hours(1);
/// Days that a page looks at first.
const DAYS_FIRST: i64 = 3;
/// How many times more it looks at, each time they don't fill it.
const DAYS_FACTOR: i64 = 8;
/// Longest wait for a replica to replay what was settled just now; a primary that has nothing else to do writes its log
/// that often.
const REPLAY_WAIT: Duration = Duration::from_millis(500);

/// A wanted page, with everything that is asked of the tables.
struct Walk<'a> {
    wanted: &'a Wanted,
    /// Of the order, or of the cart; some: only these.
    reservations: Option<Vec<Uuid>>,
    limit: i64,
    after_id: i64,
    settled_id: i64,
    from: DateTime<Utc>,
    now: DateTime<Utc>,
}

/// An event on the way of a walk.
#[derive(sqlx::FromRow)]
struct Step {
    #[sqlx(flatten)]
    event: EventRow,
    /// The walk has stopped here, before this event.
    is_stop: bool,
}

impl Ledger {
    /// Up to `limit` events. None where `after` names an event that is not there.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn events(&self, wanted: &Wanted, limit: u16) -> Result<Option<Page>, LedgerError> {
        if let Some(replica) = self.reads.replica() {
            match self.events_of_replica(replica, wanted, limit).await {
                Ok(Some(page)) => return Ok(Some(page)),
                // It is behind, or is none.
                Ok(None) => {}
                Err(error) => self.reads.rest(&error),
            }
        }
        let mut primary = self.reads.primary().acquire().await?;
        // Deep pages lie in what was settled long ago, and wait for nobody.
        let known = self.settled();
        let mut page = None;
        if known.end.is_some() {
            page = read(&mut primary, wanted, limit, known.end).await?;
            if page.as_ref().is_none_or(|page| page.next.is_some()) {
                primary.keep();
                return Ok(page);
            }
        }
        let settled = self.settle_events(&mut primary).await?;
        if page.is_some() && settled == known {
            primary.keep();
            return Ok(page);
        }
        let page = read(&mut primary, wanted, limit, settled.end).await?;
        primary.keep();
        Ok(page)
    }

    /// The page as the replica has it; none where it has not got that far.
    async fn events_of_replica(
        &self,
        replica: &Connections,
        wanted: &Wanted,
        limit: u16,
    ) -> Result<Option<Page>, LedgerError> {
        let mut connection = replica.acquire().await?;
        let known = self.settled();
        let mut page = None;
        if known.end.is_some() {
            if known.is_at(&mut connection).await? != Some(true) {
                connection.keep();
                return Ok(None);
            }
            page = read(&mut connection, wanted, limit, known.end).await?;
            if page.as_ref().is_none_or(|page| page.next.is_some()) {
                connection.keep();
                return Ok(page);
            }
        }
        // Nobody waits for a connection while we wait for somebody else.
        connection.keep();
        // At its end the ledger may have grown, and how far it is settled is for the primary to say: a small question.
        let asked = async {
            let mut primary = self.reads.primary().acquire().await?;
            let settled = self.settle_events(&mut primary).await?;
            primary.keep();
            Ok::<_, LedgerError>(settled)
        };
        let settled = match asked.await {
            Ok(settled) => settled,
            Err(error) => {
                tracing::debug!(%error, "a page ends at what was settled before: the primary does not answer");
                return Ok(page);
            }
        };
        if settled == known {
            return Ok(page);
        }
        let deadline = Instant::now() + REPLAY_WAIT;
        loop {
            let mut connection = replica.acquire().await?;
            let is_there = settled.end.is_none() || settled.is_at(&mut connection).await? == Some(true);
            if is_there {
                page = read(&mut connection, wanted, limit, settled.end).await?;
            }
            connection.keep();
            if is_there {
                return Ok(page);
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// The page, of what is settled. None where `after` names an event that is not there.
async fn read(
    connection: &mut Connection,
    wanted: &Wanted,
    limit: u16,
    settled: Option<Cursor>,
) -> Result<Option<Page>, LedgerError> {
    let Some(begin) = begin(connection, wanted.after).await? else {
        return Ok(None);
    };
    let reservations = whose(connection, wanted).await?;
    let walk = Walk {
        wanted,
        reservations,
        limit: i64::from(limit.max(1)),
        after_id: begin.id,
        settled_id: settled.map_or(0, |settled| settled.id),
        from: midnight(begin.at.to_utc() - CLOCK_SLACK),
        now: now(connection).await?,
    };
    connection.begin().await?;
    sqlx::query(WALKED).execute(&mut *connection).await?;
    let mut steps = walk.run(connection).await?;
    connection.rollback().await?;
    let is_full = walk.is_full(&steps);
    let stop = steps.iter().position(|step| step.is_stop);
    let stopped = stop.map(|stop| steps.drain(stop..).next()).unwrap_or_default();
    let events = steps
        .into_iter()
        .map(|step| step.event.read())
        .collect::<Result<Vec<_>, _>>()?;
    let last = events.last().map(super::Event::cursor);
    let next = match stopped {
        Some(step) => Some(step.event.before()),
        None => last.filter(|_| is_full),
    };
    let begun = wanted.after.map(|_| begin);
    let furthest = [settled, last, begun].into_iter().flatten().max_by_key(|end| end.id);
    Ok(Some(Page {
        events,
        next,
        resume: next.or(furthest),
    }))
}

/// The event after which the page begins; without one, the first day.
async fn begin(connection: &mut Connection, after: Option<After>) -> Result<Option<Cursor>, LedgerError> {
    let (id, at): (i64, Option<DateTime<Utc>>) = match after {
        Some(After::Page(cursor)) => return Ok(Some(cursor)),
        Some(After::Event(id)) => {
            let at = sqlx::query_scalar("-- events.at\nSELECT created_at FROM inventory_movement WHERE event_id = $1")
                .bind(id)
                .fetch_optional(connection)
                .await?;
            (id, at)
        }
        None => {
            let at = sqlx::query_scalar(
                "-- events.first_day: by the names that ensure_day gives
                 SELECT coalesce(min(to_date(right(inhrelid::regclass::text, 10), 'YYYY_MM_DD')::timestamp
                     AT TIME ZONE 'UTC'), now())
                 FROM pg_inherits WHERE inhparent = 'inventory_event'::regclass",
            )
            .fetch_one(connection)
            .await?;
            (0, Some(at))
        }
    };
    Ok(at.map(|at| Cursor { id, at: at.into() }))
}

async fn now(connection: &mut Connection) -> Result<DateTime<Utc>, LedgerError> {
    Ok(sqlx::query_scalar("-- events.now\nSELECT clock_timestamp()")
        .fetch_one(connection)
        .await?)
}

/// The reservations whose events may be wanted; none: any. A cart's id stands for its parts.
async fn whose(connection: &mut Connection, wanted: &Wanted) -> Result<Option<Vec<Uuid>>, LedgerError> {
    let order = wanted.order.as_ref().map(OrderId::as_str);
    let rows = match (wanted.reservation, order) {
        (None, None) => return Ok(None),
        (None, Some(order)) => sqlx::query_scalar(
            "-- events.rows_of_order
             SELECT reservation_id FROM inventory_reservation WHERE order_id = $1
             UNION SELECT reservation_id FROM inventory_reservation_cold WHERE order_id = $1",
        )
        .bind(order),
        (Some(reservation), order) => sqlx::query_scalar(
            "-- events.rows_of: a reservation's own row, or a cart's parts
             SELECT reservation_id FROM (
                 SELECT order_id, reservation_id FROM inventory_reservation WHERE reservation_id = $1
                 UNION SELECT order_id, reservation_id FROM inventory_reservation WHERE cart_id = $1
                 UNION SELECT order_id, reservation_id FROM inventory_reservation_cold WHERE reservation_id = $1
                 UNION SELECT order_id, reservation_id FROM inventory_reservation_cold WHERE cart_id = $1) r
             WHERE $2::text IS NULL OR order_id = $2",
        )
        .bind(reservation.0)
        .bind(order),
    };
    Ok(Some(rows.fetch_all(connection).await?))
}

fn midnight(at: DateTime<Utc>) -> DateTime<Utc> {
    at.date_naive().and_time(chrono::NaiveTime::MIN).and_utc()
}

impl Walk<'_> {
    fn is_full(&self, steps: &[Step]) -> bool {
        i64::try_from(steps.len()).is_ok_and(|steps| steps >= self.limit)
    }

    async fn run(&self, connection: &mut Connection) -> Result<Vec<Step>, LedgerError> {
        let mut days = DAYS_FIRST;
        loop {
            let until = self
                .from
                .checked_add_signed(TimeDelta::days(days))
                .unwrap_or(DateTime::<Utc>::MAX_UTC);
            let mut steps = self.read(connection, until).await?;
            if until > self.now + TimeDelta::days(1) {
                return Ok(steps);
            }
            // What is later than `until` may have a lower id than the last rows before it.
            let sure = steps.partition_point(|step| step.event.created_at < until - CLOCK_SLACK);
            steps.truncate(sure);
            if self.is_full(&steps) || steps.iter().any(|step| step.is_stop) {
                return Ok(steps);
            }
            days = days.saturating_mul(DAYS_FACTOR);
        }
    }

    /// The wanted events of the days before `until`, and where the walk stopped.
    async fn read(&self, connection: &mut Connection, until: DateTime<Utc>) -> Result<Vec<Step>, LedgerError> {
        Ok(sqlx::query_as(&self.wanted.statement())
            .bind(self.wanted.sku.as_ref().map(Sku::as_str))
            .bind(self.wanted.location.as_ref().map(LocationId::as_str))
            .bind(self.reservations.as_ref())
            .bind(self.wanted.event_type.map(EventType::as_str))
            .bind(self.after_id)
            .bind(self.settled_id)
            .bind(self.from)
            .bind(until)
            .bind(self.limit)
            .fetch_all(connection)
            .await?)
    }
}

impl EventRow {
    /// What comes after this has it first.
    fn before(&self) -> Cursor {
        Cursor {
            id: self.event_id - 1,
            at: Millis::from(self.created_at),
        }
    }
}
