//! Grants: what the ledger has to say to lanes, from the ending that says it to the entry that has delivered it.
//!
//! Whoever has something to say inserts a grant without a number, in the transaction that made it true, and never waits
//! for the lane. The lane's owner numbers; the numbers of a lane have no gaps and follow the order of `grant_id`. For
//! an ended sale, units on their way are not delivered but go back to the balance.

mod look;

use std::collections::BTreeMap;
use uuid::Uuid;

use super::post::{Deltas, EventType, Movement, post};
use super::sale_row::read_item;
use super::{Ledger, LedgerError};
use crate::domain::grant::Grant;
use crate::domain::lane::{Epoch, LaneNo};
use crate::ledger::connection::Connection;

pub use look::{GrantLeft, InMotion, Motion, NumberedGrant};

/// A message to be sent.
#[derive(Clone, Debug)]
pub struct NewGrant {
    /// To which lane.
    pub lane: LaneNo,
    /// About which sale.
    pub sale_no: i32,
    /// What it says.
    pub grant: Grant,
    /// Of an `End` or a `Retake`.
    pub reservation_id: Option<Uuid>,
}

/// What came of numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbered {
    /// It is done; more than `max` may have waited.
    Done {
        /// Grants that now have a number.
        numbered: usize,
        /// Grants whose units went back to the balance.
        returned: usize,
    },
    /// The lane is another's, closed, or of another epoch.
    NotOwner,
}

#[derive(sqlx::FromRow)]
struct Waiting {
    grant_id: i64,
    sale_no: i32,
    units: i64,
    carries: bool,
}

#[derive(sqlx::FromRow)]
struct SaleEnd {
    sale_no: i32,
    sale_id: String,
    sku_id: String,
    location_id: String,
    ended: bool,
    ended_by: Option<String>,
    ended_trace: Option<Uuid>,
}

impl Ledger {
    /// Numbers the oldest `max` grants of a lane that have no number. Of sales that have ended, `units` and `end`
    /// grants are not numbered: their units return to the balance.
    ///
    /// # Errors
    /// Postgres can't be asked; `Retry` where it met another transaction.
    pub async fn number_grants(
        &self,
        lane: LaneNo,
        owner: Uuid,
        epoch: Epoch,
        max: i64,
    ) -> Result<Numbered, LedgerError> {
        let mut tx = self.begin().await?;
        let last: Option<i64> = sqlx::query_scalar(
            "-- grants.own
             SELECT grant_no FROM lane WHERE lane = $1 AND owner = $2 AND epoch = $3 AND state = 'open'
             FOR NO KEY UPDATE",
        )
        .bind(lane.to_i16())
        .bind(owner)
        .bind(i64::from(epoch))
        .fetch_optional(&mut *tx)
        .await?;
        let Some(last) = last else {
            return Ok(Numbered::NotOwner);
        };
        let waiting = read_waiting(&mut tx, lane, max).await?;
        if waiting.is_empty() {
            tx.rollback().await?;
            return Ok(Numbered::Done {
                numbered: 0,
                returned: 0,
            });
        }
        let sales = hold_sales(&mut tx, &waiting).await?;
        let ended = |grant: &&Waiting| grant.carries && sales.get(&grant.sale_no).is_some_and(|sale| sale.ended);
        let (back, on): (Vec<_>, Vec<_>) = waiting.iter().partition(ended);
        return_units(&mut tx, &back, &sales).await?;
        number(&mut tx, lane, last, &on).await?;
        tx.commit().await?;
        Ok(Numbered::Done {
            numbered: on.len(),
            returned: back.len(),
        })
    }

    /// Asks lane `from` for up to `units` units of a sale, for lane `to`; returns the grant that asks.
    ///
    /// # Errors
    /// Postgres can't be asked.
    pub async fn request_move(&self, sale_no: i32, from: LaneNo, to: LaneNo, units: u32) -> Result<i64, LedgerError> {
        let mut tx = self.begin().await?;
        let take = NewGrant {
            lane: from,
            sale_no,
            grant: Grant::Take {
                units,
                target: Some(to),
            },
            reservation_id: None,
        };
        let ids = add_grants(&mut tx, &[take]).await?;
        tx.commit().await?;
        let id = ids.first().copied();
        id.ok_or_else(|| LedgerError::Broken("a grant was inserted without an id".into()))
    }
}

/// Inserts grants without numbers, in this order; returns their ids in the same order. The last statement of a
/// transaction by the order of locks.
pub(super) async fn add_grants(tx: &mut Connection, grants: &[NewGrant]) -> Result<Vec<i64>, LedgerError> {
    if grants.is_empty() {
        return Ok(Vec::new());
    }
    Ok(sqlx::query_scalar(
        "-- grants.add
         INSERT INTO lane_grant (lane, sale_no, kind, units, reservation_id, buyer, body, target_lane)
         SELECT lane, sale_no, kind::grant_kind, units, reservation_id, buyer, body, target_lane
         FROM UNNEST($1::int2[], $2::int4[], $3::text[], $4::int8[], $5::uuid[], $6::text[], $7::bytea[], $8::int2[])
              WITH ORDINALITY AS g(lane, sale_no, kind, units, reservation_id, buyer, body, target_lane, place)
         ORDER BY place
         RETURNING grant_id",
    )
    .bind(grants.iter().map(|g| g.lane.to_i16()).collect::<Vec<_>>())
    .bind(grants.iter().map(|g| g.sale_no).collect::<Vec<_>>())
    .bind(grants.iter().map(|g| g.grant.kind()).collect::<Vec<_>>())
    .bind(grants.iter().map(|g| units(&g.grant)).collect::<Vec<_>>())
    .bind(grants.iter().map(|g| g.reservation_id).collect::<Vec<_>>())
    .bind(grants.iter().map(|g| buyer(&g.grant)).collect::<Vec<_>>())
    .bind(grants.iter().map(|g| g.grant.pack()).collect::<Vec<_>>())
    .bind(grants.iter().map(|g| target(&g.grant)).collect::<Vec<_>>())
    .fetch_all(&mut *tx)
    .await?)
}

pub(super) fn units(grant: &Grant) -> i64 {
    match grant {
        Grant::Units(units) | Grant::Take { units, .. } | Grant::TakeWhole(units) => (*units).into(),
        Grant::End { quantity, .. } | Grant::Retake { quantity, .. } => (*quantity).into(),
        Grant::Correct(delta) => (*delta).into(),
        Grant::Open(_) | Grant::Settings(_) | Grant::Drop | Grant::Record { .. } => 0,
    }
}

/// Postgres' text holds no NUL, which a buyer from a poisoned entry may.
fn buyer(grant: &Grant) -> Option<&str> {
    match grant {
        Grant::End { buyer, .. } | Grant::Retake { buyer, .. } | Grant::Record { buyer, .. } => {
            Some(buyer.as_str()).filter(|buyer| !buyer.contains('\0'))
        }
        _ => None,
    }
}

fn target(grant: &Grant) -> Option<i16> {
    match grant {
        Grant::Take { target, .. } => target.map(LaneNo::to_i16),
        _ => None,
    }
}

async fn read_waiting(tx: &mut Connection, lane: LaneNo, max: i64) -> Result<Vec<Waiting>, LedgerError> {
    Ok(sqlx::query_as(
        "-- grants.waiting
         SELECT grant_id, sale_no, units, kind IN ('units', 'end') AS carries FROM lane_grant
         WHERE lane = $1 AND grant_no IS NULL ORDER BY grant_id LIMIT $2",
    )
    .bind(lane.to_i16())
    .bind(max)
    .fetch_all(&mut *tx)
    .await?)
}

async fn hold_sales(tx: &mut Connection, waiting: &[Waiting]) -> Result<BTreeMap<i32, SaleEnd>, LedgerError> {
    let mut numbers: Vec<i32> = waiting.iter().map(|grant| grant.sale_no).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let sales: Vec<SaleEnd> = sqlx::query_as(
        "-- grants.hold_sales: a sale that is about to end has ended here, or ends after these grants have numbers
         SELECT sale_no, sale_id, sku_id, location_id, state = 'ended' AS ended, ended_by, ended_trace FROM sale WHERE sale_no = ANY($1)
         ORDER BY sale_no FOR SHARE",
    )
    .bind(&numbers)
    .fetch_all(&mut *tx)
    .await?;
    Ok(sales.into_iter().map(|sale| (sale.sale_no, sale)).collect())
}

async fn return_units(
    tx: &mut Connection,
    back: &[&Waiting],
    sales: &BTreeMap<i32, SaleEnd>,
) -> Result<(), LedgerError> {
    if back.is_empty() {
        return Ok(());
    }
    let mut by_sale: BTreeMap<i32, i64> = BTreeMap::new();
    for grant in back {
        *by_sale.entry(grant.sale_no).or_default() += grant.units;
    }
    let mut movements = Vec::with_capacity(by_sale.len());
    for (sale, units) in by_sale.into_iter().filter(|(_, units)| *units > 0) {
        let sale = &sales[&sale];
        movements.push(Movement {
            item: read_item(&sale.sku_id, &sale.location_id)?,
            event: EventType::Adjusted,
            quantity_delta: 0,
            deltas: Deltas {
                escrowed: -units,
                ..Deltas::default()
            },
            reason: Some("escrow_returned".into()),
            reference_id: Some(sale.sale_id.clone()),
            reservation_id: None,
            order_id: None,
            operator: sale.ended_by.clone(),
            trace_id: sale.ended_trace,
            metadata: None,
        });
    }
    post(tx, &movements).await?;
    let ids: Vec<i64> = back.iter().map(|grant| grant.grant_id).collect();
    sqlx::query("-- grants.returned\n DELETE FROM lane_grant WHERE grant_id = ANY($1) AND coalesce(grant_no, 0) = 0")
        .bind(&ids)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

async fn number(tx: &mut Connection, lane: LaneNo, last: i64, on: &[&Waiting]) -> Result<(), LedgerError> {
    if on.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = on.iter().map(|grant| grant.grant_id).collect();
    sqlx::query(
        "-- grants.number: by ids; planned for an empty queue, it might read the lane's, whole. They are sorted, so the
         -- bucket of an id is its place among them
         UPDATE lane_grant SET grant_no = $3 + width_bucket(grant_id, $2::int8[])
         WHERE grant_id = ANY($2) AND lane + 0 = $1",
    )
    .bind(lane.to_i16())
    .bind(&ids)
    .bind(last)
    .execute(&mut *tx)
    .await?;
    let count = i64::try_from(ids.len()).expect("at most max, which was an i64");
    sqlx::query("-- grants.last\n UPDATE lane SET grant_no = $2 WHERE lane = $1")
        .bind(lane.to_i16())
        .bind(last + count)
        .execute(&mut *tx)
        .await?;
    Ok(())
}
