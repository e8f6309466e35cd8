//! The grants that entries report as delivered, and the rows that they came from.

use std::collections::HashSet;

use sqlx::PgConnection;
use uuid::Uuid;

use super::carry::Work;
use crate::domain::entry::Body;
use crate::domain::grant::{Delivered, Grant};
use crate::domain::lane::LaneNo;
use crate::domain::reservation_id::IdKey;
use crate::ledger::LedgerError;

/// How far what was delivered is what the ledger had to deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// So many of the delivered grants, from the first, are the lane's oldest undelivered ones.
    pub(super) count: usize,
    /// Number of the last that was delivered; 0: none was.
    pub(super) last: i64,
    /// All of them are known.
    pub(super) all: bool,
}

/// Every delivered grant of the entries that count as wholes, with its number, in order.
pub(super) fn delivered<'a>(work: &Work<'a>) -> Vec<(i64, &'a Delivered)> {
    let mut found = Vec::new();
    for part in work.parts.iter().filter(|part| part.whole) {
        if let Body::Grant { first, delivered } = &part.entry.body {
            found.extend((*first..).zip(delivered));
        }
    }
    found
}

/// Deletes the rows of what was delivered, as far as they say the same under the same number, without a gap.
pub(super) async fn take_rows(
    tx: &mut PgConnection,
    lane: LaneNo,
    delivered: &[(i64, &Delivered)],
) -> Result<Known, LedgerError> {
    let last = delivered.last().map_or(0, |(number, _)| *number);
    if delivered.is_empty() {
        return Ok(Known {
            count: 0,
            last,
            all: true,
        });
    }
    let rows: Vec<(i64, Vec<u8>)> = sqlx::query_as(
        "-- apply.oldest_grants
         SELECT grant_no, body FROM lane_grant WHERE lane = $1 AND grant_no IS NOT NULL ORDER BY grant_no LIMIT $2",
    )
    .bind(lane.to_i16())
    .bind(i64::try_from(delivered.len()).expect("entries hold few grants"))
    .fetch_all(&mut *tx)
    .await?;
    let same = |((row_no, body), (number, delivered)): &(&(i64, Vec<u8>), &(i64, &Delivered))| {
        row_no == number && Grant::unpack(body).is_ok_and(|grant| grant == delivered.grant)
    };
    let count = rows.iter().zip(delivered).take_while(same).count();
    if count > 0 {
        let numbers: Vec<i64> = rows[..count].iter().map(|(number, _)| *number).collect();
        sqlx::query("-- apply.delivered\n DELETE FROM lane_grant WHERE lane = $1 AND grant_no = ANY($2)")
            .bind(lane.to_i16())
            .bind(&numbers)
            .execute(&mut *tx)
            .await?;
    }
    Ok(Known {
        count,
        last,
        all: count == delivered.len(),
    })
}

/// The reservations that the ledger has to look at: those taken anew, and those ended by grants that it does not know.
pub(super) fn subjects(
    lane: LaneNo,
    id_key: &IdKey,
    delivered: &[(i64, &Delivered)],
    known: Known,
) -> (HashSet<Uuid>, HashSet<Uuid>) {
    let (mut retaken, mut ended) = (HashSet::new(), HashSet::new());
    for (at, (_, delivered)) in delivered.iter().enumerate() {
        match &delivered.grant {
            Grant::Retake { place, .. } if at < known.count && delivered.outcome == 1 => {
                retaken.insert(id_key.seal(lane, *place).0);
            }
            Grant::End { place, .. } if at >= known.count => {
                ended.insert(id_key.seal(lane, *place).0);
            }
            _ => {}
        }
    }
    (retaken, ended)
}
