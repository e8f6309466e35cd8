//! A page of events, at the same cost wherever it lies.
//!
//! Each filter has an index that ends in the event's id, so a page reads its own rows: those after the cursor, as many
//! as it holds. Where only the tail of an index is asked for (a SKU at all its locations, a kind at all locations), its
//! few heads are walked side by side and merged. Days are partitions; a page looks at a few from its cursor on, and at
//! more only where they don't fill it.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;

use super::settled::newest;
use super::{After, Cursor, EventRow, Page, Wanted, columns};
use crate::domain::id::{LocationId, Sku};
use crate::ledger::post::EventType;
use crate::ledger::{Ledger, LedgerError};

/// Most that the time of a later event may lie before that of an earlier one: Postgres' clock was set back, or an
/// insert was held up between its id and its time.
const CLOCK_SLACK: TimeDelta = TimeDelta::hours(1);
/// Days that a page looks at first.
const DAYS_FIRST: i64 = 3;
/// How many times more it looks at, each time they don't fill it.
const DAYS_FACTOR: i64 = 8;

/// A wanted page, with everything that is asked of the tables.
struct Walk<'a> {
    wanted: &'a Wanted,
    /// Of the order or reservation; some: only these.
    orders: Option<Vec<String>>,
    limit: i64,
    after_id: i64,
    settled_id: i64,
    from: DateTime<Utc>,
    now: DateTime<Utc>,
}

impl Ledger {
    /// Up to `limit` events. None where `after` names an event that is not there.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn events(&self, wanted: &Wanted, limit: u16) -> Result<Option<Page>, LedgerError> {
        let mut connection = self.reads.primary().acquire().await?;
        let connection: &mut PgConnection = &mut connection;
        let Some(begin) = begin(connection, wanted.after).await? else {
            return Ok(None);
        };
        let newest = newest(connection).await?;
        let mut walk = Walk {
            wanted,
            orders: orders(connection, wanted).await?,
            limit: i64::from(limit.max(1)),
            after_id: begin.id,
            settled_id: self.settled_before(&newest),
            from: midnight(begin.at.to_utc() - CLOCK_SLACK),
            now: now(connection).await?,
        };
        // Deep pages lie in what was settled long ago, and wait for nobody.
        let mut rows = walk.run(connection).await?;
        if !walk.is_full(&rows) && walk.settled_id < newest.id {
            walk.settled_id = self.settle_events(connection, &newest).await?;
            rows = walk.run(connection).await?;
        }
        let is_full = walk.is_full(&rows);
        let events = rows.into_iter().map(EventRow::read).collect::<Result<Vec<_>, _>>()?;
        let next = events.last().filter(|_| is_full).map(super::Event::cursor);
        Ok(Some(Page { events, next }))
    }
}

/// The event after which the page begins; without one, the first day.
async fn begin(connection: &mut PgConnection, after: Option<After>) -> Result<Option<Cursor>, LedgerError> {
    let (id, at): (i64, Option<DateTime<Utc>>) = match after {
        Some(After::Page(cursor)) => return Ok(Some(cursor)),
        Some(After::Event(id)) => {
            let at = sqlx::query_scalar("-- events.at\nSELECT created_at FROM inventory_event WHERE event_id = $1")
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

async fn now(connection: &mut PgConnection) -> Result<DateTime<Utc>, LedgerError> {
    Ok(sqlx::query_scalar("-- events.now\nSELECT clock_timestamp()")
        .fetch_one(connection)
        .await?)
}

/// The orders whose events may be wanted; none: any.
async fn orders(connection: &mut PgConnection, wanted: &Wanted) -> Result<Option<Vec<String>>, LedgerError> {
    let Some(reservation) = wanted.reservation else {
        return Ok(wanted.order.as_ref().map(|order| vec![order.to_string()]));
    };
    let order: Option<String> = sqlx::query_scalar(
        "-- events.order_of
         SELECT order_id FROM inventory_reservation WHERE reservation_id = $1
         UNION ALL SELECT order_id FROM inventory_reservation_cold WHERE reservation_id = $1 LIMIT 1",
    )
    .bind(reservation.0)
    .fetch_optional(connection)
    .await?;
    let matches = |order: &String| wanted.order.as_ref().is_none_or(|wanted| wanted.as_str() == order);
    Ok(Some(order.into_iter().filter(matches).collect()))
}

fn midnight(at: DateTime<Utc>) -> DateTime<Utc> {
    at.date_naive().and_time(chrono::NaiveTime::MIN).and_utc()
}

impl Walk<'_> {
    fn is_full(&self, rows: &[EventRow]) -> bool {
        i64::try_from(rows.len()).is_ok_and(|rows| rows >= self.limit)
    }

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<EventRow>, LedgerError> {
        let mut days = DAYS_FIRST;
        loop {
            let until = self
                .from
                .checked_add_signed(TimeDelta::days(days))
                .unwrap_or(DateTime::<Utc>::MAX_UTC);
            let mut rows = self.read(connection, until).await?;
            if until > self.now + TimeDelta::days(1) {
                return Ok(rows);
            }
            // What is later than `until` may have a lower id than the last rows before it.
            let sure = rows.partition_point(|row| row.created_at < until - CLOCK_SLACK);
            rows.truncate(sure);
            if self.is_full(&rows) {
                return Ok(rows);
            }
            days = days.saturating_mul(DAYS_FACTOR);
        }
    }

    /// The wanted events of the days before `until`.
    async fn read(&self, connection: &mut PgConnection, until: DateTime<Utc>) -> Result<Vec<EventRow>, LedgerError> {
        Ok(sqlx::query_as(&self.wanted.statement())
            .bind(self.wanted.sku.as_ref().map(Sku::as_str))
            .bind(self.wanted.location.as_ref().map(LocationId::as_str))
            .bind(self.orders.as_ref())
            .bind(self.wanted.reservation.map(|id| id.0))
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

impl Wanted {
    /// The statement that reads a page, whose plan may be looked at. Its parameters: SKU, location, orders,
    /// reservation, kind; the id to come after and the last settled one; the first instant and the one past the last;
    /// rows.
    #[must_use]
    pub fn statement(&self) -> String {
        let (heads, matches) = self.heads();
        format!(
            concat!(
                "-- events.page: one walk along an index per head, each at most a page long, merged
                 SELECT ",
                columns!(),
                " FROM {heads} CROSS JOIN LATERAL (
                     SELECT * FROM inventory_event e
                     WHERE {matches} AND e.event_id > $6 AND e.event_id <= $7
                         AND e.created_at >= $8 AND e.created_at < $9
                         AND ($1::text IS NULL OR e.sku_id = $1) AND ($2::text IS NULL OR e.location_id = $2)
                         AND ($3::text[] IS NULL OR e.order_id = ANY($3))
                         AND ($4::uuid IS NULL OR e.reservation_id = $4)
                         AND ($5::text IS NULL OR e.event_type = $5::inventory_event_type)
                     ORDER BY e.event_id LIMIT $10
                 ) e ORDER BY e.event_id LIMIT $10"
            ),
            heads = heads,
            matches = matches,
        )
    }

    /// Where to begin in which index, and what belongs to a beginning.
    fn heads(&self) -> (&'static str, &'static str) {
        if self.order.is_some() || self.reservation.is_some() {
            return ("unnest($3::text[]) AS head(id)", "e.order_id = head.id");
        }
        match (&self.sku, &self.location, self.event_type) {
            (Some(_), Some(_), _) => ("(VALUES (1)) AS head", "e.sku_id = $1 AND e.location_id = $2"),
            (Some(_), None, _) => (
                "(SELECT sku_id, location_id FROM inventory_balance WHERE sku_id = $1) AS head",
                "e.sku_id = head.sku_id AND e.location_id = head.location_id",
            ),
            (None, Some(_), None) => (
                "unnest(enum_range(NULL::inventory_event_type)) AS head(kind)",
                "e.location_id = $2 AND e.event_type = head.kind",
            ),
            (None, Some(_), Some(_)) => (
                "(VALUES (1)) AS head",
                "e.location_id = $2 AND e.event_type = $5::inventory_event_type",
            ),
            (None, None, Some(_)) => (
                "location AS head",
                "e.location_id = head.location_id AND e.event_type = $5::inventory_event_type",
            ),
            (None, None, None) => ("(VALUES (1)) AS head", "true"),
        }
    }
}
