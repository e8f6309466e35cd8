//! The grants that entries report as delivered, and the rows that they came from.

use std::collections::HashSet;

use uuid::Uuid;

use super::carry::Work;
use crate::domain::entry::Body;
use crate::domain::grant::{Delivered, Grant};
use crate::domain::lane::LaneNo;
use crate::domain::reservation_id::IdKey;
use crate::ledger::LedgerError;
use crate::ledger::connection::Connection;

/// How far what was delivered is what the ledger had to deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// Of each delivered grant, whether it is the ledger's own: the first ones are the lane's oldest undelivered ones;
    /// where the lane will be rebuilt, so are those that say what a grant without a number says.
    pub(super) own: Vec<bool>,
    /// Number of the last that was delivered; 0: none was.
    pub(super) last: i64,
    /// All of them are known.
    pub(super) all: bool,
}

/// A grant that an entry reports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report<'a> {
    pub(super) number: i64,
    pub(super) sale_no: i32,
    pub(super) delivered: &'a Delivered,
}

/// Every delivered grant of the entries that count as wholes, in order.
pub(super) fn delivered<'a>(work: &Work<'a>) -> Vec<Report<'a>> {
    let mut found = Vec::new();
    for part in work.parts.iter().filter(|part| part.whole) {
        if let Body::Grant { first, delivered } = &part.entry.body {
            found.extend((*first..).zip(delivered).map(|(number, delivered)| Report {
                number,
                sale_no: part.entry.touched[delivered.sale].sale_no,
                delivered,
            }));
        }
    }
    found
}

/// Deletes the rows of what was delivered: as far as they say the same under the same number, without a gap; of a lane
/// that will be rebuilt, then also those without a number that say the same. A Postgres that fell back has forgotten
/// these numbers, and the units may be held already by reservations that are still to be carried.
pub(super) async fn take_rows(
    tx: &mut Connection,
    lane: LaneNo,
    rebuild: bool,
    reports: &[Report<'_>],
) -> Result<Known, LedgerError> {
    let last = reports.last().map_or(0, |report| report.number);
    let known = |own: Vec<bool>| Known {
        last,
        all: own.iter().all(|own| *own),
        own,
    };
    if reports.is_empty() {
        return Ok(known(Vec::new()));
    }
    let rows: Vec<(i64, Vec<u8>)> = sqlx::query_as(
        "-- apply.oldest_grants
         SELECT grant_no, body FROM lane_grant WHERE lane = $1 AND grant_no IS NOT NULL ORDER BY grant_no LIMIT $2",
    )
    .bind(lane.to_i16())
    .bind(i64::try_from(reports.len()).expect("entries hold few grants"))
    .fetch_all(&mut *tx)
    .await?;
    let same = |((row_no, body), report): &(&(i64, Vec<u8>), &Report<'_>)| {
        *row_no == report.number && Grant::unpack(body).is_ok_and(|grant| grant == report.delivered.grant)
    };
    let count = rows.iter().zip(reports).take_while(same).count();
    if count > 0 {
        let numbers: Vec<i64> = rows[..count].iter().map(|(number, _)| *number).collect();
        sqlx::query(
            "-- apply.delivered: the oldest of the lane, which the bounds find whatever the planner thinks of the list
             DELETE FROM lane_grant WHERE lane = $1 AND grant_no BETWEEN $3 AND $4 AND grant_no = ANY($2)",
        )
        .bind(lane.to_i16())
        .bind(&numbers)
        .bind(numbers.first())
        .bind(numbers.last())
        .execute(&mut *tx)
        .await?;
    }
    let mut own = vec![true; count];
    own.extend(match rebuild && count < reports.len() {
        true => take_waiting(tx, lane, &reports[count..]).await?,
        false => vec![false; reports.len() - count],
    });
    Ok(known(own))
}

/// Deletes the lane's rows without a number that say what these grants say, one for each; whether there was one.
async fn take_waiting(tx: &mut Connection, lane: LaneNo, reports: &[Report<'_>]) -> Result<Vec<bool>, LedgerError> {
    let mut rows: Vec<(i64, i32, Vec<u8>)> = sqlx::query_as(
        "-- apply.waiting_grants
         SELECT grant_id, sale_no, body FROM lane_grant WHERE lane = $1 AND grant_no IS NULL ORDER BY grant_id",
    )
    .bind(lane.to_i16())
    .fetch_all(&mut *tx)
    .await?;
    let (mut own, mut taken) = (Vec::with_capacity(reports.len()), Vec::new());
    for report in reports {
        let same = |(_, sale_no, body): &(i64, i32, Vec<u8>)| {
            *sale_no == report.sale_no && Grant::unpack(body).is_ok_and(|grant| grant == report.delivered.grant)
        };
        let found = rows.iter().position(same);
        taken.extend(found.map(|at| rows.remove(at).0));
        own.push(found.is_some());
    }
    if !taken.is_empty() {
        sqlx::query("-- apply.delivered_before\n DELETE FROM lane_grant WHERE grant_id = ANY($1)")
            .bind(&taken)
            .execute(&mut *tx)
            .await?;
    }
    Ok(own)
}

/// The reservations that the ledger has to look at: those taken anew, and those ended by grants that it does not know.
pub(super) fn subjects(
    lane: LaneNo,
    id_key: &IdKey,
    reports: &[Report<'_>],
    known: &Known,
) -> (HashSet<Uuid>, HashSet<Uuid>) {
    let (mut retaken, mut ended) = (HashSet::new(), HashSet::new());
    for (Report { delivered, .. }, own) in reports.iter().zip(&known.own) {
        match &delivered.grant {
            Grant::Retake { place, .. } if *own && delivered.outcome == 1 => {
                retaken.insert(id_key.seal(lane, *place).0);
            }
            Grant::End { place, .. } if !own => {
                ended.insert(id_key.seal(lane, *place).0);
            }
            _ => {}
        }
    }
    (retaken, ended)
}
