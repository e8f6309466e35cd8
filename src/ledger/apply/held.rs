//! What users hold and have bought, where a sale limits it.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};

use crate::domain::lane::LaneNo;
use crate::domain::sale::Sale;
use crate::ledger::connection::Connection;
use crate::ledger::{Ledger, LedgerError};

/// Lanes tell the time by Postgres' clock, give or take less than this.
pub(super) const CLOCK_SLACK: TimeDelta = TimeDelta::days(1);

/// Units that users hold and have bought, per sale.
#[derive(Debug, Default)]
pub(super) struct Held<'a>(HashMap<i32, HashMap<&'a str, i64>>);

/// Units that a buyer holds and has bought of a sale, none of them before an instant: a buyer's reservations lie in the
/// home lane; one index probe per partition.
macro_rules! held {
    ($sale_no:literal, $lane:literal, $buyer:literal, $since:literal) => {
        held!(
            @ "r.sale_no = ", $sale_no, " AND r.lane = ", $lane,
            " AND coalesce('u:' || r.user_id, 'o:' || r.order_id) COLLATE \"C\" = ", $buyer,
            " AND r.status IN ('RESERVED', 'COMMITTED') AND r.created_at >= ", $since
        )
    };
    (@ $($those:literal),+) => {
        concat!(
            "coalesce((
                 SELECT sum(quantity)::int8 FROM (
                     SELECT quantity FROM inventory_reservation r WHERE ", $($those),+, "
                     UNION ALL
                     SELECT quantity FROM inventory_reservation_cold r WHERE ", $($those),+, "
                 ) owned), 0)"
        )
    };
}
pub(super) use held;

impl Ledger {
    /// Units that a buyer (`u:` and the user) holds and has bought of a sale, for who is told that there is a limit.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn held_by(&self, sale: &Sale, buyer: &str) -> Result<u32, LedgerError> {
        let units: i64 = sqlx::query_scalar(concat!(
            "-- sale.held_by: CLOCK_SLACK is the day
             SELECT ",
            held!("s.sale_no", "$2", "$3", "s.created_at - interval '1 day'"),
            " FROM sale s WHERE s.sale_no = $1"
        ))
        .bind(sale.no)
        .bind(sale.home(buyer).to_i16())
        .bind(buyer)
        .fetch_one(&self.pool)
        .await?;
        Ok(u32::try_from(units).unwrap_or(u32::MAX))
    }
}

impl<'a> Held<'a> {
    /// Reads what these users have of these sales, none of which is older than `since`.
    pub(super) async fn read(
        tx: &mut Connection,
        lane: LaneNo,
        mut users: Vec<(i32, &'a str)>,
        since: DateTime<Utc>,
    ) -> Result<Self, LedgerError> {
        if users.is_empty() {
            return Ok(Held::default());
        }
        users.sort_unstable();
        users.dedup();
        let units: Vec<i64> = sqlx::query_scalar(concat!(
            "-- apply.held: in the order asked
             SELECT ",
            held!("w.sale_no", "$3", "w.buyer", "$4"),
            "
             FROM UNNEST($1::int4[], $2::text[]) WITH ORDINALITY AS w(sale_no, buyer, place) ORDER BY place"
        ))
        .bind(users.iter().map(|(sale_no, _)| *sale_no).collect::<Vec<_>>())
        .bind(users.iter().map(|(_, user)| format!("u:{user}")).collect::<Vec<_>>())
        .bind(lane.to_i16())
        .bind(since - CLOCK_SLACK)
        .fetch_all(&mut *tx)
        .await?;
        let mut held = Held::default();
        for ((sale_no, user), units) in users.into_iter().zip(units) {
            held.0.entry(sale_no).or_default().insert(user, units);
        }
        Ok(held)
    }

    /// Whether so many units more pass the limit of a user, where there are both.
    pub(super) fn passes(&self, limit: Option<u32>, sale_no: i32, user: Option<&str>, units: i64) -> bool {
        let over = |(limit, user): (u32, &str)| self.units(sale_no, user) + units > i64::from(limit);
        limit.zip(user).is_some_and(over)
    }

    fn units(&self, sale_no: i32, user: &str) -> i64 {
        self.0
            .get(&sale_no)
            .and_then(|users| users.get(user))
            .copied()
            .unwrap_or(0)
    }

    pub(super) fn add(&mut self, sale_no: i32, user: Option<&str>, units: i64) {
        let users = self.0.get_mut(&sale_no).zip(user);
        if let Some(held) = users.and_then(|(users, user)| users.get_mut(user)) {
            *held += units;
        }
    }
}
